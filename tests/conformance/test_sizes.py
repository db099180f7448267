# SPDX-License-Identifier: Apache-2.0
"""Sizes at which something changes: nothing, one byte, one FPDU, 64 KiB, 2^31, beyond 2^32."""

import ctypes
import mmap
import os
import resource

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import ALL, LIMIT, pattern

# FPDUs follow the MSS of loopback, 65483 bytes at most in multiples of eight: 65480, of which two
# are MPA's length, four its CRC, and 14 or 18 the tagged or untagged header.
TAGGED = 65460
UNTAGGED = 65456

SIZES = [
    0,
    1,
    2,
    3,
    4,
    5,
    UNTAGGED - 1,
    UNTAGGED,
    UNTAGGED + 1,
    TAGGED - 1,
    TAGGED,
    TAGGED + 1,
    (1 << 16) - 1,
    1 << 16,
    (1 << 16) + 1,
    2 * TAGGED,
    2 * UNTAGGED + 1,
    1_000_003,
]


@pytest.fixture(params=[False, True], ids=["no-crc", "crc"])
def sized_ends(request, make_ends):
    return make_ends().connect(active_options={"crc": request.param})


def test_send_of_every_size(sized_ends):
    ends = sized_ends
    ends.near.memory("source", SIZES[-1], seed=1)
    ends.far.memory("sink", SIZES[-1])

    for size in SIZES:
        ends.far.store("sink", bytes(size))
        ends.far.receive("sink")
        ends.near.send(("source", 0, size))

        assert ends.far.received().bytes_transferred == size
        assert ends.far.content("sink", 0, size) == pattern(SIZES[-1], 1)[:size]
        ends.near.completion()


def test_write_of_every_size(sized_ends):
    ends = sized_ends
    ends.near.memory("source", SIZES[-1], seed=2)
    target = ends.far.memory("target", SIZES[-1] + 2)

    for size in SIZES:
        ends.far.store("target", bytes(size + 2))
        ends.far.receive()
        ends.near.write((target.address + 1, target.token), ("source", 0, size))
        ends.near.send()

        assert ends.far.received().status == nd.Status.SUCCESS
        expected = b"\0" + pattern(SIZES[-1], 2)[:size] + b"\0"
        assert ends.far.content("target", 0, size + 2) == expected
        ends.near.completions("initiator", 2)


def test_read_of_every_size(sized_ends):
    ends = sized_ends
    target = ends.far.memory("target", SIZES[-1], seed=3)
    ends.near.memory("sink", SIZES[-1] + 2)

    for size in SIZES:
        ends.near.store("sink", bytes(size + 2))
        ends.near.read(target, ("sink", 1, size))

        assert ends.near.completion().status == nd.Status.SUCCESS
        expected = b"\0" + pattern(SIZES[-1], 3)[:size] + b"\0"
        assert ends.near.content("sink", 0, size + 2) == expected


class Sparse:
    """Anonymous memory of any size of which only touched pages exist."""

    def __init__(self, nbytes):
        # MAP_NORESERVE: a mapping larger than the machine is no promise.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
        self._map = mmap.mmap(-1, nbytes, flags=flags)
        self.array = np.frombuffer(self._map, np.uint8)


class Repeated(Sparse):
    """Memory in which all whole periods but the first show the same pages."""

    PERIOD = 1 << 24

    def __init__(self, nbytes, behind=0):
        super().__init__(nbytes + behind)
        descriptor = os.memfd_create("repeated")
        os.ftruncate(descriptor, self.PERIOD)
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        for at in range(self.PERIOD, nbytes - self.PERIOD + 1, self.PERIOD):
            place = self.array.ctypes.data + at
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            flags = mmap.MAP_SHARED | 0x10  # MAP_FIXED
            assert libc.mmap(place, self.PERIOD, protection, flags, descriptor, 0) == place
        os.close(descriptor)


@pytest.mark.slow
@pytest.mark.parametrize("nbytes", [(1 << 31) - 1, 1 << 31, (1 << 31) + 1])
def test_one_request_of_2_to_the_31(pair, nbytes):
    period = Repeated.PERIOD
    source, sink = Repeated(nbytes), Repeated(nbytes, behind=4096)
    first, middle = pattern(period, 1), pattern(period, 2)
    source.array[:period] = np.frombuffer(first, np.uint8)
    source.array[period : 2 * period] = np.frombuffer(middle, np.uint8)
    tail = nbytes % period
    if tail:
        source.array[-tail:] = np.frombuffer(pattern(tail, 3), np.uint8)
    with (
        pair.near.pd.register(source.array, nd.Access.LOCAL_READ) as local,
        pair.far.pd.register(sink.array, ALL) as target,
    ):
        pair.far.receive()

        pair.near.qp.write(local, target.remote())
        pair.near.send()

        # The far end is served by the progress thread and by this wait.
        assert pair.far.completion("receive", 100).status == nd.Status.SUCCESS
    assert sink.array[:period].tobytes() == first
    assert sink.array[period : 2 * period].tobytes() == middle
    assert sink.array[nbytes - tail : nbytes].tobytes() == (pattern(tail, 3) if tail else b"")
    assert not sink.array[nbytes:].any()


def test_request_longer_than_the_adapter_allows_is_refused_at_the_call(pair):
    limit = pair.adapter.info.max_transfer_length
    memory = Sparse(limit + 1)
    region = pair.near.pd.register(memory.array, nd.Access.LOCAL_WRITE)
    srq = pair.near.pd.create_srq(1, max_sge=1)

    for call in (
        lambda: pair.near.qp.write(region, (0, 0)),
        lambda: pair.near.qp.read(region, (0, 0)),
        lambda: pair.near.qp.send(region),
        lambda: pair.near.qp.send_and_invalidate(region, 1),
        lambda: pair.near.qp.receive(region),
        lambda: srq.receive(region),
    ):
        with pytest.raises(nd.RdmaError) as caught:
            call()
        assert caught.value.status == nd.Status.BUFFER_OVERFLOW
        assert str(limit) in str(caught.value)
    assert pair.near.qp.state == "connected"
    region.close()


def test_offsets_beyond_2_to_the_32(pair):
    size = (1 << 32) + (1 << 20)
    memory = Sparse(size)
    region = pair.far.pd.register(memory.array, ALL)
    remote = region.remote()
    places = [(1 << 32) - 50, (1 << 32), size - 100]
    pair.near.memory("local", 100, seed=1)
    pair.near.memory("back", 100)
    pair.far.receive()

    for place in places:
        pair.near.write((remote.address + place, remote.token), "local")
    pair.near.read((remote.address + places[2], remote.token), "back")
    pair.near.send()

    assert pair.far.received().status == nd.Status.SUCCESS
    assert memory.array[places[2] : places[2] + 100].tobytes() == pattern(100, 1)
    assert memory.array[places[1] : places[1] + 100].tobytes() == pattern(100, 1)
    assert memory.array[places[0] : places[0] + 50].tobytes() == pattern(100, 1)[:50]
    assert not memory.array[places[0] - 10 : places[0]].any()
    pair.near.completions("initiator", 5)
    assert pair.near.content("back") == pattern(100, 1)
    region.close()


def test_local_offsets_beyond_2_to_the_32(pair):
    size = (1 << 32) + (1 << 20)
    memory = Sparse(size)
    memory.array[-100:] = np.frombuffer(pattern(100, 3), np.uint8)
    region = pair.near.pd.register(memory.array, nd.Access.LOCAL_WRITE)
    pair.far.memory("sink", 100)
    pair.far.receive("sink")

    pair.near.qp.send(memory.array[-100:])

    assert pair.far.received().bytes_transferred == 100
    assert pair.far.content("sink") == pattern(100, 3)
    region.close()


def test_write_one_byte_beyond_a_sparse_region_is_refused(pair):
    memory = Sparse((1 << 32) + 4096)
    region = pair.far.pd.register(memory.array, ALL)
    remote = region.remote()
    pair.near.memory("local", 2)

    pair.near.write((remote.address + (1 << 32) + 4095, remote.token), "local")

    pair.far.receive()
    assert pair.far.completion("receive").status == nd.Status.CANCELLED
    assert memory.array[(1 << 32) + 4095] == 0
    region.close()


def test_receiver_of_much_memory_keeps_no_copy(connect_pair):
    size = 64 << 20
    pair = connect_pair()
    target = pair.far.memory("target", size, seed=1)
    pair.near.memory("source", size, seed=2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    step = min(size, pair.adapter.info.max_transfer_length)
    for at in range(0, size, step):
        pair.near.write((target.address + at, target.token), ("source", at, step))
    pair.far.receive()
    pair.near.send()

    assert pair.far.completion("receive", 2 * LIMIT).status == nd.Status.SUCCESS
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kib < 8 << 10
