# SPDX-License-Identifier: Apache-2.0
"""A loop that waits for a socket hears when the socket's adapter is closed."""

import asyncio
import select

import pytest

import ndverbs as nd
from stream.sockets import LIMIT, Background


@pytest.fixture
def ending(provider):
    """Open an adapter that the test closes."""
    with nd.Adapter.open(provider) as opened:
        yield opened


def run(coroutine):
    async def limited():
        async with asyncio.timeout(LIMIT):
            return await coroutine

    return asyncio.run(limited())


async def close_while_it_waits(adapter, waiting):
    task = asyncio.ensure_future(waiting)
    await asyncio.sleep(0)
    await asyncio.get_running_loop().run_in_executor(None, adapter.close)
    with pytest.raises(nd.ClosedError):
        await task


def test_a_reader_hears_that_its_adapter_was_closed(ending, server, host):
    async def main():
        reader, writer = await nd.open_connection(*server.getsockname(), adapter=ending)
        far, _ = server.accept()
        with far:
            await close_while_it_waits(ending, reader.read())
        with pytest.raises(nd.ClosedError):
            await writer.wait_closed()

    run(main())


def test_a_receive_in_a_loop_hears_that_its_adapter_was_closed(ending, server):
    async def main():
        with nd.create_connection(server.getsockname(), adapter=ending) as near:
            far, _ = server.accept()
            near.setblocking(False)
            with far:
                receiving = asyncio.get_running_loop().sock_recv(near, 10)
                await close_while_it_waits(ending, receiving)

    run(main())


def test_an_accept_in_a_loop_hears_that_its_adapter_was_closed(ending, host):
    async def main():
        with nd.create_server((host, 0), adapter=ending) as server:
            server.setblocking(False)
            accepting = asyncio.get_running_loop().sock_accept(server)
            await close_while_it_waits(ending, accepting)

    run(main())


def test_a_connect_in_a_loop_hears_that_its_adapter_was_closed(ending, adapter, host):
    async def main():
        with adapter.create_listener() as silent, nd.Socket(adapter=ending) as near:
            silent.listen((host, 0))
            near.setblocking(False)
            connecting = asyncio.get_running_loop().sock_connect(near, silent.local_address)
            await close_while_it_waits(ending, connecting)

    run(main())


def test_a_server_is_not_told_for_ever_and_can_be_closed(ending, host):
    async def main():
        told = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        server = await nd.start_server(lambda *_: None, host, 0, adapter=ending)
        await loop.run_in_executor(None, ending.close)
        while not told:
            await asyncio.sleep(0)
        assert {type(one) for one in told} == {nd.ClosedError}
        for _ in range(10):  # the first look behind the close is the last
            await asyncio.sleep(0)
        told.clear()
        for _ in range(100):
            await asyncio.sleep(0)
        assert told == []
        server.close()
        await server.wait_closed()

    run(main())


def test_select_wakes_when_the_adapter_is_closed(ending, server):
    with nd.create_connection(server.getsockname(), adapter=ending) as near:
        far, _ = server.accept()
        with far:
            waiting = Background(select.select, [near], [], [], LIMIT)
            ending.close()
            assert waiting.result()[0] == [near]
            with pytest.raises(nd.ClosedError):
                near.recv(1)
            assert near.fileno() >= 0

        near.close()

        assert near.fileno() == -1
