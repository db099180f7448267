# SPDX-License-Identifier: Apache-2.0
"""How comms end: in order, at once, by the peer, by a call that fails, and by being dropped."""

import asyncio
import gc
import logging
import weakref

import numpy as np
import pytest
from distributed.comm import CommClosedError, connect, listen
from distributed.protocol import to_serialize


async def until_closed(comm):
    while not comm.closed():
        await asyncio.sleep(0)


def test_both_ends_of_a_closed_comm_refuse(with_pair):
    async def body(a, b):
        await a.close()
        assert a.closed()
        for call in (a.read, b.read):
            with pytest.raises(CommClosedError):
                await call()
        await until_closed(b)
        for end in (a, b):
            with pytest.raises(CommClosedError):
                await end.write({})
        await a.close()
        await b.close()

    with_pair(body)


def test_a_read_that_waits_ends_when_either_end_closes(with_pair):
    async def body(a, b):
        reading = [asyncio.create_task(each.read()) for each in (a, b)]
        await asyncio.sleep(0)
        await a.close()
        for task in reading:
            with pytest.raises(CommClosedError):
                await task

    with_pair(body)


def test_a_read_that_waits_ends_when_the_peer_aborts(with_pair):
    async def body(a, b):
        reading = asyncio.create_task(b.read())
        await asyncio.sleep(0)
        a.abort()
        with pytest.raises(CommClosedError):
            await reading
        assert b.closed()

    with_pair(body)


@pytest.mark.parametrize("size", [10, 100_000, 32 << 20])
def test_what_was_written_before_close_arrives(with_pair, size):
    async def body(a, b):
        for i in range(3):
            await a.write({"i": i, "x": to_serialize(np.full(size, i, np.uint8))})
        closing = asyncio.ensure_future(a.close())
        got = [await b.read() for _ in range(3)]
        with pytest.raises(CommClosedError):
            await b.read()
        await closing
        return [(message["i"], int(message["x"][-1])) for message in got]

    assert with_pair(body) == [(0, 0), (1, 1), (2, 2)]


def test_messages_are_read_after_the_peer_has_gone(with_pair):
    async def body(a, b):
        await a.write("first")
        await a.write("second")
        await a.close()
        got = [await b.read(), await b.read()]
        with pytest.raises(CommClosedError):
            await b.read()
        return got

    assert with_pair(body) == ["first", "second"]


def test_closed_turns_true_although_none_reads(with_pair):
    async def body(a, b):
        await a.close()
        await until_closed(b)

    with_pair(body)


def test_a_write_does_not_wait_for_the_reader(with_pair):
    async def body(a, b):
        arrays = [np.full(1 << 20, i, np.uint8) for i in range(64)]
        for array in arrays:
            await a.write(to_serialize(array))
        for i in range(200):
            await a.write({"small": i, "x": b"x" * 10_000})
        got = [int((await b.read())[-1]) for _ in arrays]
        assert got == list(range(64))
        assert [(await b.read())["small"] for _ in range(200)] == list(range(200))

    with_pair(body)


def test_a_cancelled_read_aborts(with_pair):
    async def body(a, b):
        reading = asyncio.create_task(a.read())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert a.closed()
        with pytest.raises(CommClosedError):
            await b.read()

    with_pair(body)


def test_a_read_that_is_dropped_aborts(with_pair):
    async def body(a, b):
        reading = a.read()
        reading.send(None)
        reading.close()
        assert a.closed()
        with pytest.raises(CommClosedError):
            await b.read()

    with_pair(body)


class StrangeError(BaseException):
    """What no handler of exceptions expects."""


@pytest.mark.parametrize("kind", [BufferError, StrangeError])
def test_a_write_that_fails_aborts(with_pair, monkeypatch, kind):
    def fail(*_):
        raise kind

    async def body(a, b):
        if a.local_address.startswith("tcp"):
            monkeypatch.setattr(a.stream, "write", fail)
        else:
            monkeypatch.setattr(type(a.connection), "send", fail)
        with pytest.raises(kind):
            await a.write("x")
        assert a.closed()

    with_pair(body)


def test_a_comm_that_is_dropped_warns_and_frees_its_peer(protocol, in_loop, caplog):
    caplog.set_level(logging.WARNING, "distributed.comm")

    async def body():
        accepted = asyncio.get_running_loop().create_future()

        async def handle(comm):
            accepted.set_result(comm)

        async with listen(f"{protocol}://127.0.0.1", handle) as listener:
            comm = await connect(listener.contact_address)
            peer = await accepted
        dropped = weakref.ref(comm)
        del comm
        gc.collect()
        assert dropped() is None
        with pytest.raises(CommClosedError):
            await peer.read()
        peer.abort()

    if protocol == "ndverbs":
        with pytest.warns(ResourceWarning, match="unclosed <Connection"):
            in_loop(body())
    else:
        in_loop(body())
    assert "Closing dangling" in caplog.text


def test_the_text_of_a_comm_has_its_addresses_and_its_end(with_pair):
    async def body(a, b):
        assert a.local_address in repr(b)
        assert b.local_address in repr(a)
        assert "closed" not in repr(a) + repr(b)
        await a.close()
        await b.close()
        assert "(closed)" in repr(a)
        assert "(closed)" in repr(b)
        assert a.local_address in repr(b)

    with_pair(body)
