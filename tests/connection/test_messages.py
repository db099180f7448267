# SPDX-License-Identifier: Apache-2.0
"""Messages of every size and kind, their order, and who holds what of them."""

import gc
import threading
import weakref

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT
from ndverbs.connection import _parts, _wire


@pytest.mark.parametrize("size", [0, 1, 255, 256, 4071, 4072, 16383, 16384, 100_000, 5 << 20])
def test_bytes_of_any_size_arrive_as_bytes(ends, size):
    near, far = ends
    data = np.random.default_rng(size).bytes(size)
    request = near.send(data)
    found = far.receive(LIMIT)
    assert type(found) is bytes
    assert found == data
    assert request.result(LIMIT) is None


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (3, 5), (300, 50), (40, 50, 60)])
def test_an_array_arrives_with_dtype_and_shape(ends, shape, order):
    near, far = ends
    array = np.array(np.arange(np.prod(shape, dtype=int)).reshape(shape), ">f8", order=order)
    near.send(array)
    found = far.receive(LIMIT)
    assert found.dtype == array.dtype
    assert found.flags.writeable
    assert found.flags.aligned
    assert found.shape == shape
    assert found.flags.f_contiguous == array.flags.f_contiguous
    np.testing.assert_array_equal(found, array)


def test_structured_and_datetime_arrays_arrive_as_they_are(ends):
    near, far = ends
    for array in (
        np.array([(1, 2.5), (3, 4.5)], dtype=[("a", "<i4"), ("b", "<f8")]),
        np.arange("2024-01", "2024-05", dtype="datetime64[M]"),
    ):
        near.send(array)
        found = far.receive(LIMIT)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("value", [np.float64(2.5), np.int16(-3), np.datetime64("2026-11-30")])
def test_a_scalar_of_numpy_arrives_as_an_array_without_axes(ends, value):
    near, far = ends
    near.send(value)
    found = far.receive(LIMIT)
    assert found.shape == ()
    assert found.dtype == value.dtype
    assert found[()] == value


def test_a_masked_array_is_refused_because_its_mask_would_be_lost(ends):
    near, far = ends
    masked = np.ma.masked_array([1, 2, 3], mask=[0, 1, 0])
    with pytest.raises(BufferError, match="has a mask"):
        near.send(masked)
    near.send([masked.data, masked.mask])
    data, mask = far.receive(LIMIT)
    np.testing.assert_array_equal(np.ma.masked_array(data, mask), masked)


def test_other_buffers_arrive_as_writable_memoryviews(ends):
    near, far = ends
    for data in (bytearray(b"abc"), memoryview(b"abc"), bytearray(100_000)):
        near.send(data)
        found = far.receive(LIMIT)
        assert type(found) is memoryview
        assert not found.readonly
        assert found == data


def test_a_list_arrives_as_a_list_of_its_parts(ends):
    near, far = ends
    parts = [b"", b"head", bytearray(20_000), np.arange(10), np.zeros((100, 100)), b"x" * 50_000]
    near.send(parts)
    found = far.receive(LIMIT)
    assert [type(part) for part in found] == [
        bytes,
        bytes,
        memoryview,
        np.ndarray,
        np.ndarray,
        bytes,
    ]
    assert [bytes(part) for part in found] == [bytes(part) for part in parts]
    near.send([])
    assert far.receive(LIMIT) == []
    near.send([b"one"])
    assert far.receive(LIMIT) == [b"one"]


def test_hundreds_of_small_parts_are_one_message(ends):
    near, far = ends
    parts = [bytes([i % 256]) * i for i in range(900)]  # more than one message may carry
    near.send(parts)
    assert far.receive(LIMIT) == parts


def test_messages_of_all_sizes_keep_their_order(ends, scaled):
    near, far = ends
    rng = np.random.default_rng(5)
    messages = [rng.bytes(int(10 ** rng.uniform(0, 5.5))) for _ in range(scaled(200))]
    requests = [near.send(message) for message in messages]
    assert [far.receive(LIMIT) for _ in messages] == messages
    for request in requests:
        request.result(LIMIT)
    assert near.unsent_bytes == 0


def test_send_does_not_wait_for_the_peer(ends):
    near, far = ends
    requests = [near.send(bytes([i % 256]) * 10_000) for i in range(1000)]
    assert near.unsent_bytes > 5_000_000
    assert not requests[-1].done()
    for i in range(1000):
        assert far.receive(LIMIT) == bytes([i % 256]) * 10_000
    requests[-1].result(LIMIT)


def test_both_ends_flood_each_other_and_read_afterwards(ends):
    near, far = ends
    for i in range(500):
        near.send(b"n" * 5000 + i.to_bytes(2, "little"))
        far.send(b"f" * 5000 + i.to_bytes(2, "little"))
    for i in range(500):
        assert near.receive(LIMIT)[5000:] == i.to_bytes(2, "little")
        assert far.receive(LIMIT)[5000:] == i.to_bytes(2, "little")


def test_a_large_part_stays_with_its_sender_until_it_is_received(ends):
    near, far = ends
    array = np.zeros(1 << 20, np.uint8)
    request = near.send(array)
    with pytest.raises(TimeoutError):
        request.result(0.05)
    array[:] = 7  # it is lent, not copied
    assert far.receive(LIMIT)[-1] == 7
    request.result(LIMIT)


def test_the_memory_of_a_part_is_free_when_its_request_ends(ends):
    near, far = ends
    array = np.zeros(1 << 20, np.uint8)
    kept = weakref.ref(array)
    request = near.send(array)
    del array
    gc.collect()
    assert kept() is not None
    far.receive(LIMIT)
    request.result(LIMIT)
    gc.collect()
    assert kept() is None


def test_received_memory_is_aligned_and_used_again(ends):
    near, far = ends
    addresses = set()
    for _ in range(4):
        near.send(np.zeros(1 << 20, np.uint8))
        found = far.receive(LIMIT)
        addresses.add(found.ctypes.data)
        assert found.ctypes.data % 64 == 0
        del found
    assert len(addresses) < 4
    assert far.stats()["pooled_bytes"] >= 1 << 20


def test_memory_that_is_kept_goes_although_none_is_received(ends, monkeypatch):
    monkeypatch.setattr("ndverbs.connection._memory.Pool.KEPT_S", 0.01)
    near, far = ends
    near.send(memoryview(np.zeros(1 << 20, np.uint8)))
    received = far.receive(LIMIT)
    memory = received.obj.base.obj  # of the pool
    has_gone = threading.Event()
    weakref.finalize(memory, has_gone.set)
    del received, memory
    assert has_gone.wait(LIMIT)
    assert far.stats()["pooled_bytes"] == 0


def test_an_array_over_a_received_buffer_keeps_its_memory(ends):
    near, far = ends
    near.send(memoryview(np.full(1 << 20, 1, np.uint8)))
    array = np.ndarray(1 << 20, np.uint8, buffer=far.receive(LIMIT))

    near.send(memoryview(np.full(1 << 20, 2, np.uint8)))
    other = far.receive(LIMIT)

    assert (array[-1], other[-1]) == (1, 2)


def test_the_program_says_where_the_parts_go(ends):
    near, far = ends
    seen = []
    target = np.zeros(100_000, np.uint8), bytearray(3)

    def allocate(sizes):
        seen.append(sizes)
        return list(target)

    near.send([np.full(100_000, 9, np.uint8), b"abc"])
    found = far.receive(LIMIT, allocate=allocate)
    assert seen == [[100_000, 3]]
    assert found[0] is target[0]
    assert (target[0] == 9).all()
    assert target[1] == b"abc"


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (lambda sizes: [], ValueError),
        (lambda sizes: bytearray(sizes[0] + 1), ValueError),
        (lambda sizes: bytes(sizes[0]), (ValueError, BufferError)),
        (lambda sizes: 1 / 0, ZeroDivisionError),
    ],
)
def test_a_message_is_kept_when_there_is_no_memory_for_it(ends, given, kind):
    near, far = ends
    near.send(b"x" * 50_000)
    with pytest.raises(kind):
        far.receive(LIMIT, allocate=given)
    assert far.receive(LIMIT) == b"x" * 50_000


def test_remote_buffers_travel_alone_and_by_name(ends):
    near, far = ends
    with near.register(np.zeros((4, 5)), nd.Access.REMOTE_READ) as region:
        near.send(region.remote())
        assert far.receive_buffer(LIMIT) == region.remote()
        near.send({"a": region.remote(), "b": region.remote()[1]})
        assert far.receive_buffers(LIMIT) == {"a": region.remote(), "b": region.remote()[1]}
        near.send([b"take", region.remote()])
        assert far.receive(LIMIT) == [b"take", region.remote()]


@pytest.mark.parametrize("call", ["receive", "receive_buffer", "receive_buffers"])
def test_a_receive_that_ends_by_its_time_says_that_no_message_is_lost(ends, call):
    near, far = ends
    with pytest.raises(nd.RdmaTimeoutError, match=f"{call}: no message within 0 s; no message is"):
        getattr(far, call)(0)
    near.send(b"late")
    assert far.receive(LIMIT) == b"late"


def test_a_message_of_another_kind_stays_for_receive(ends):
    near, far = ends
    near.send(b"bytes")
    for wrong in (far.receive_buffer, far.receive_buffers):
        with pytest.raises(nd.RdmaError, match="the next message is not") as failure:
            wrong(LIMIT)
        assert failure.value.status is nd.Status.INVALID_DEVICE_REQUEST
    assert far.receive(LIMIT) == b"bytes"


@pytest.mark.parametrize("value", [None, 5, "text", {"a": b"b"}, {1: 2}, [None]])
def test_what_has_no_bytes_is_refused_before_anything_is_sent(ends, value):
    near, far = ends
    with pytest.raises(TypeError):
        near.send(value)
    near.send(b"next")
    assert far.receive(LIMIT) == b"next"


def test_a_region_or_a_remote_buffer_in_place_of_an_array_is_refused_with_a_remedy(ends):
    near, _ = ends
    array = np.zeros(8)
    with near.register(array, nd.Access.REMOTE_WRITE) as region:
        with pytest.raises(TypeError, match=r"send: MemoryRegion is no memory; .* remote\(\)"):
            near.send(region)
        with pytest.raises(TypeError, match=r"write: RemoteBuffer is no memory; .* this process"):
            near.write(region.remote(), array)


def test_arrays_that_cannot_travel_are_refused_with_a_remedy(ends):
    near, _ = ends
    with pytest.raises(BufferError, match="Python objects"):
        near.send(np.array([None, object()]))
    with pytest.raises(BufferError, match=r"np\.ascontiguousarray"):
        near.send(np.zeros((10, 10))[:, ::2])


def test_a_lent_part_ends_with_the_connection(ends):
    near, far = ends
    request = near.send(np.zeros(1 << 20, np.uint8))
    far.abort()
    with pytest.raises(ConnectionError):
        request.result(LIMIT)


@pytest.mark.parametrize(
    ("description", "nbytes"),
    [
        (b"C" + b"[" * 60_000 + b"]'<f8'", 8),
        (b"C[" + b"1," * 99 + b"1]'<f8'", 8),
        (b"C[0,99999999999999999999999999]'<f8'", 0),
        (b"\xff[1]'<f8'", 8),
        (b"C[true]'<f8'", 8),
        (b"C[2]'<f8'", 8),
    ],
)
def test_an_array_that_is_none_breaks_the_protocol(description, nbytes):
    part = _wire.Part(nbytes, _wire.ARRAY, description)
    with pytest.raises(_wire.WireError):
        _parts.value_of(part, memoryview(bytes(nbytes)))
