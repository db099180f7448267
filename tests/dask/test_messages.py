# SPDX-License-Identifier: Apache-2.0
"""Messages of comms: they arrive as they were written, whatever their frames are."""

import asyncio
import pickle

import numpy as np
import pytest
from distributed.comm import CommClosedError
from distributed.protocol import Serialized, deserialize, serialize, to_serialize
from distributed.protocol.utils_test import get_host_array

LARGE = 16 << 10


def noise(nbytes, seed=0):
    return np.random.default_rng(seed).integers(0, 256, nbytes, dtype=np.uint8)


@pytest.mark.parametrize(
    "message",
    [
        None,
        {"op": "ping", "n": 7, "x": (1.5, "ü", b"bytes", True)},
        {"x": b"a" * 200},
        {"x": b"b" * 5000},
        {"x": b"c" * 100_000},
        {"x": b"d" * (1 << 20)},
        tuple({"op": "a", "i": i} for i in range(500)),
    ],
    ids=["none", "tiny", "200", "5000", "100000", "MiB", "batch"],
)
def test_a_message_comes_back(with_pair, message):
    async def body(a, b):
        assert await a.write(message) > 0
        got = await b.read()
        await b.write(got)
        return await a.read()

    assert with_pair(body) == message


@pytest.mark.parametrize("size", [0, 1, 100, LARGE - 1, LARGE, 200_001, 3 << 20])
def test_an_array_arrives_writable_in_memory_of_its_own(with_pair, size):
    array = noise(size)

    async def body(a, b):
        await a.write({"first": to_serialize(array), "second": to_serialize(array[::-1].copy())})
        message = await b.read()
        return message["first"], message["second"]

    first, second = with_pair(body)
    np.testing.assert_array_equal(first, array)
    np.testing.assert_array_equal(second, array[::-1])
    assert first.flags.writeable
    assert second.flags.writeable
    if size:
        assert get_host_array(first) is not get_host_array(second)


def test_a_frame_beyond_the_size_of_a_shard_arrives(with_pair):
    size = (64 << 20) + 8

    async def body(a, b):
        await a.write({"x": to_serialize(np.arange(size // 8))})
        return (await b.read())["x"]

    np.testing.assert_array_equal(with_pair(body), np.arange(size // 8))


def test_arrays_of_one_comm_keep_their_memory(with_pair):
    async def body(a, b):
        kept = []
        for i in range(5):
            await a.write(to_serialize(np.full(100_000, i, np.uint8)))
            kept.append(await b.read())
        return [int(array[-1]) for array in kept]

    assert with_pair(body) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(60_000.0).reshape(200, 300)),
        np.arange(60_000.0).reshape(200, 300)[::2, ::3],
        np.zeros((0, 5)),
        np.array(3.5),
        np.arange("2026-01", "2030-01", dtype="datetime64[D]"),
        np.array([("a", 1), ("b", 2)] * 5000, dtype=[("name", "U8"), ("n", "i8")]),
        np.array(["some", "objects", None] * 5000, dtype=object),
    ],
    ids=["fortran", "strided", "empty", "scalar", "dates", "records", "objects"],
)
def test_any_array_arrives(with_pair, array):
    async def body(a, b):
        await a.write({"x": to_serialize(array)})
        return (await b.read())["x"]

    got = with_pair(body)
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


def test_read_only_memory_is_sent_as_it_is(with_pair):
    array = noise(100_000)
    array.flags.writeable = False

    async def body(a, b):
        await a.write({"x": to_serialize(array), "y": to_serialize(bytes(100_000))})
        return await b.read()

    message = with_pair(body)
    np.testing.assert_array_equal(message["x"], array)
    assert message["y"] == bytes(100_000)


@pytest.mark.parametrize(("count", "size"), [(300, 10), (3000, 10), (300, 5000), (4200, LARGE)])
def test_messages_of_many_frames_arrive(with_pair, count, size):
    frames = [noise(size, seed=i % 7) for i in range(count)]

    async def body(a, b):
        await a.write({"x": [to_serialize(frame) for frame in frames]})
        await a.write("behind")
        return await b.read(), await b.read()

    message, behind = with_pair(body)
    assert len(message["x"]) == count
    assert all(np.array_equal(got, frame) for got, frame in zip(message["x"], frames, strict=True))
    assert behind == "behind"


class Opaque(list):
    """A list that pickle takes whole, with its arrays out of band."""


def test_pickled_buffers_do_not_share_memory(with_pair):
    async def body(a, b):
        await a.write({"x": to_serialize(Opaque([np.array([1, 2]), np.array([3, 4])]))})
        return (await b.read())["x"]

    first, second = with_pair(body)
    assert first.tolist() == [1, 2]
    assert second.tolist() == [3, 4]
    assert get_host_array(first) is not get_host_array(second)


def test_messages_arrive_in_their_order(with_pair):
    sizes = [10, 50_000, 300, 1 << 20, 0, 20_000] * 10

    async def write_all(a):
        for i, size in enumerate(sizes):
            await a.write({"i": i, "x": to_serialize(noise(size))})

    async def body(a, b):
        writing = asyncio.create_task(write_all(a))
        got = [await b.read() for _ in sizes]
        await writing
        return [(message["i"], len(message["x"])) for message in got]

    assert with_pair(body) == list(enumerate(sizes))


def test_both_ends_write_large_messages_at_once(with_pair):
    async def talk(mine, n):
        for i in range(10):
            await mine.write({"i": i, "x": to_serialize(np.full(1 << 18, n))})
        return [(await mine.read())["x"][-1] for _ in range(10)]

    async def body(a, b):
        return await asyncio.gather(talk(a, 1), talk(b, 2))

    assert with_pair(body) == [[2] * 10, [1] * 10]


@pytest.mark.parametrize("is_deserialized", [True, False])
def test_what_is_serialized_stays_so_where_that_is_asked_for(with_pair, is_deserialized):
    data = bytes(noise(1 << 20)) * 4

    async def body(a, b):
        await a.write(
            {"x": b"abc", "to": [to_serialize(data)], "done": Serialized(*serialize(data))}
        )
        # Once there and back: what one side did not open, the other can.
        await b.write(await b.read())
        return await a.read()

    got = with_pair(body, deserialize=is_deserialized)
    (to,), done = got["to"], got["done"]
    if not is_deserialized:
        assert isinstance(to, Serialized)
        to, done = (deserialize(each.header, each.frames) for each in (to, done))
    assert (got["x"], to, done) == (b"abc", data, data)


def _raise_eof_error():
    raise EOFError


class Truncated:
    """What cannot be made of its bytes."""

    def __reduce__(self):
        return _raise_eof_error, ()


def test_a_truncated_message_ends_the_comm(with_pair):
    async def body(a, b):
        await a.write({"x": to_serialize(Truncated())})
        with pytest.raises(CommClosedError):
            await b.read()
        assert b.closed()
        with pytest.raises(CommClosedError):
            await a.read()

    with_pair(body)


def test_a_message_that_cannot_be_serialized_ends_nothing(with_pair):
    async def body(a, b):
        with pytest.raises((TypeError, pickle.PicklingError, AttributeError)):
            await a.write({"x": to_serialize(lock())}, on_error="raise")
        await a.write("fine")
        return await b.read()

    def lock():
        import threading

        return threading.Lock()

    assert with_pair(body) == "fine"
