# SPDX-License-Identifier: Apache-2.0
"""Memory that a peer writes to by offset, outside the stream: riomap, riowrite, riounmap."""

import errno
import select
import time

import numpy as np
import pytest

import ndverbs as nd
from ndverbs.socket_options import RDMA_IOMAPSIZE, SOL_RDMA
from stream.sockets import LIMIT, connected, fill, read_exactly


@pytest.fixture
def mappable(adapter, host):
    """Connect two ends that have room for two mappings of each other's."""
    with connected(adapter, host, RDMA_IOMAPSIZE=2) as pair:
        yield pair


def eventually(call, refusal):
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            return call()
        except refusal:
            assert time.monotonic() < deadline


def told(sender, receiver):
    """Send a message: what was done before it is visible to its receiver."""
    sender.sendall(b"!")
    assert read_exactly(receiver, 1) == b"!"


def raises(code):
    return pytest.raises(OSError, check=lambda error: error.errno == code)


def test_a_peer_writes_into_mapped_memory_by_offset(mappable):
    near, far = mappable

    memory = np.zeros(100_000, np.uint8)
    assert near.riomap(memory, 5000) == 5000

    told(near, far)
    assert far.riowrite(b"by offset", 5010) == 9

    large = np.arange(90_000, dtype=np.uint32).astype(np.uint8)
    assert far.riowrite(large, 5000 + 10_000) == 90_000

    told(far, near)
    assert bytes(memory[10:19]) == b"by offset"
    assert np.array_equal(memory[10_000:], large)
    assert not memory[19:10_000].any()


def test_a_mapping_without_an_offset_has_its_address(mappable):
    near, far = mappable
    memory = np.zeros(64, np.uint8)

    offset = near.riomap(memory)
    assert offset == memory.ctypes.data

    told(near, far)
    far.riowrite(b"x", offset + 63)
    told(far, near)
    assert memory[63] == ord("x")


def test_a_write_spans_mappings_that_follow_each_other(mappable):
    near, far = mappable
    first, second = np.zeros(10, np.uint8), np.zeros(10, np.uint8)
    near.riomap(second, 10)
    near.riomap(first, 0)

    told(near, far)
    assert far.riowrite(b"0123456789", 5) == 10

    told(far, near)
    assert bytes(first[5:]) + bytes(second[:5]) == b"0123456789"


def test_writes_and_the_stream_keep_their_order(mappable):
    near, far = mappable
    memory = np.zeros(1, np.uint8)
    near.riomap(memory, 0)
    told(near, far)
    for number in range(1, 200):
        far.riowrite(bytes([number]), 0)
        far.sendall(bytes([number]))
        assert read_exactly(near, 1)[0] == number == memory[0]
        told(near, far)


def test_a_write_where_nothing_is_mapped_raises_and_writes_nothing(mappable):
    near, far = mappable
    memory = np.zeros(10, np.uint8)
    near.riomap(memory, 0)
    told(near, far)
    for data, offset in ((b"x", 10), (b"12345678901", 0), (b"x", 1 << 63)):
        with raises(errno.EFAULT):
            far.riowrite(data, offset)

    told(far, near)

    assert not memory.any()


def test_offsets_that_do_not_fit_64_bits_are_refused(mappable):
    near, far = mappable
    memory = np.zeros(16, np.uint8)
    near.riomap(memory[:8], 2**64 - 9)
    near.riomap(memory[8:], 0)
    told(near, far)
    with raises(errno.EINVAL):
        near.riomap(np.zeros(16, np.uint8), 2**64 - 8)
    with raises(errno.EFAULT):
        far.riowrite(b"0123456789", 2**64 - 9)

    told(far, near)

    assert not memory.any()


def test_an_array_cannot_be_resized_while_a_view_of_it_is_mapped(mappable):
    near, _ = mappable
    memory = np.zeros(64, np.uint8)
    part = memory[8:16]
    near.riomap(part)

    with pytest.raises(ValueError, match="resize"):
        memory.resize(10**6, refcheck=False)

    near.riounmap(part)
    del part
    memory.resize(10**6, refcheck=False)


def test_a_mapping_takes_an_entry_of_the_peers_until_it_ends(mappable):
    near, far = mappable
    memory = np.zeros((3, 10), np.uint8)
    near.riomap(memory[0], 0)
    near.riomap(memory[1], 10)
    with raises(errno.ENOBUFS):
        near.riomap(memory[2], 20)

    near.riounmap(memory[0])
    assert near.riomap(memory[2], 20) == 20

    told(near, far)
    far.riowrite(b"new", 20)
    told(far, near)
    assert bytes(memory[2, :3]) == b"new"


def test_a_peer_has_no_room_for_mappings_unless_it_was_asked_for(ends):
    near, _ = ends
    with raises(errno.ENOBUFS):
        near.riomap(bytearray(10))


def test_a_write_into_an_ended_mapping_ends_the_connection_and_changes_nothing(mappable):
    near, far = mappable
    memory = np.zeros(10, np.uint8)
    near.riomap(memory, 0)
    told(near, far)
    near.riounmap(memory)

    def write_late():
        far.riowrite(b"late", 0)
        far.recv(1)

    with pytest.raises(ConnectionError):
        write_late()
    with pytest.raises(ConnectionError):
        near.recv(1)
    assert not memory.any()


def test_a_write_that_cannot_go_on_ends_with_the_timeout_and_may_be_done_again(adapter, host):
    options = {"RDMA_IOMAPSIZE": 1, "SO_RCVBUF": 16384, "SO_SNDBUF": 8192}
    with connected(adapter, host, **options) as (near, far):
        memory = np.zeros(10, np.uint8)
        near.riomap(memory, 0)
        told(near, far)
        far.setblocking(False)
        sent = fill(far)  # what it sends goes before

        while select.select([], [far], [], 0.2)[1]:
            sent += fill(far)
        with pytest.raises(BlockingIOError):
            far.riowrite(b"too early", 0)

        far.settimeout(0.05)
        with pytest.raises(TimeoutError):
            far.riowrite(b"too early", 0)

        far.settimeout(LIMIT)
        assert len(read_exactly(near, sent)) == sent
        assert far.riowrite(b"again", 0) == 5

        told(far, near)
        assert bytes(memory) == b"again" + bytes(5)


def test_only_writable_memory_is_mapped_and_only_mapped_memory_unmapped(mappable):
    near, _ = mappable
    with pytest.raises((BufferError, TypeError, ValueError)):
        near.riomap(b"read only")

    with raises(errno.EINVAL):
        near.riomap(bytearray())
    with raises(errno.EINVAL):
        near.riounmap(bytearray(10))


def test_a_socket_that_is_not_connected_maps_nothing(adapter):
    with nd.Socket(adapter=adapter) as sock, raises(errno.ENOTCONN):
        sock.riomap(bytearray(10))


def test_mapped_memory_is_free_again_when_the_socket_is_closed(adapter, host):
    memory = bytearray(10)
    with connected(adapter, host, RDMA_IOMAPSIZE=1) as (near, _):
        near.riomap(memory, 0)
        with pytest.raises(BufferError):
            memory.append(1)

    def append():
        adapter.create_pd().close()  # a buffer is given back in the next call of the library
        memory.append(1)

    # The connection ends in the background, and lets go of the memory then.
    eventually(append, BufferError)


@pytest.mark.parametrize(("asked", "had"), [(0, 0), (128, 128), (200, 128), (300, 256)])
def test_the_number_of_entries_is_what_the_wire_can_say(adapter, asked, had):
    with nd.Socket(adapter=adapter) as sock:
        sock.setsockopt(SOL_RDMA, RDMA_IOMAPSIZE, asked)
        assert sock.getsockopt(SOL_RDMA, RDMA_IOMAPSIZE) == had
        with raises(errno.EINVAL):
            sock.setsockopt(SOL_RDMA, RDMA_IOMAPSIZE, 1 << 15)
