# SPDX-License-Identifier: Apache-2.0
"""asyncio's streams over RDMA: the contract of StreamReader and StreamWriter."""

import asyncio
import random
import socket

import pytest

import ndverbs as nd
from ndverbs import wsk

LIMIT = 60


def run(coroutine):
    async def limited():
        async with asyncio.timeout(LIMIT):
            return await coroutine

    return asyncio.run(limited())


class Server:
    """A server that is left when its handlers have served `clients` connections and ended."""

    def __init__(self, handler, host, adapter, clients=1):
        self._handler = handler
        self._where = host, adapter
        self._left = clients
        self._is_done = asyncio.Event()
        if clients == 0:
            self._is_done.set()

    async def __aenter__(self):
        host, adapter = self._where
        self._server = await nd.start_server(self._run, host, 0, adapter=adapter)
        self.address = self._server.sockets[0].getsockname()
        return self

    async def _run(self, reader, writer):
        try:
            await self._handler(reader, writer)
            writer.close()
            await writer.wait_closed()
        finally:
            self._left -= 1
            if self._left == 0:
                self._is_done.set()

    async def __aexit__(self, failure, *_):
        if failure is None:
            await self._is_done.wait()
        self._server.close()
        await self._server.wait_closed()
        await asyncio.sleep(0)


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def close(writer):
    writer.close()
    await writer.wait_closed()


def test_lines_go_there_and_back(adapter, host):
    async def main():
        async with Server(echo, host, adapter) as server:
            reader, writer = await nd.open_connection(*server.address, adapter=adapter)
            writer.writelines([b"one\n", b"two\n"])
            assert await reader.readline() == b"one\n"
            assert await reader.readuntil(b"o\n") == b"two\n"
            await close(writer)

    run(main())


def test_an_address_may_be_one_string(adapter, host):
    async def main():
        async with Server(echo, host, adapter) as server:
            address = "{}:{}".format(*server.address)
            _, writer = await nd.open_connection(address, adapter=adapter)
            assert writer.get_extra_info("peername") == server.address
            await close(writer)

    run(main())


def test_the_end_of_the_stream_is_seen_on_both_sides(adapter, host):
    async def answer(reader, writer):
        assert await reader.read() == b"all of it"
        writer.write(b"answer")

    async def main():
        async with Server(answer, host, adapter) as server:
            reader, writer = await nd.open_connection(*server.address, adapter=adapter)
            writer.write(b"all of it")
            assert writer.can_write_eof()
            writer.write_eof()
            assert await reader.read() == b"answer"
            assert reader.at_eof()
            await close(writer)

    run(main())


def test_readexactly_says_what_it_got_before_the_end(adapter, host):
    async def answer(_, writer):
        writer.write(b"abc")

    async def main():
        async with Server(answer, host, adapter) as server:
            reader, writer = await nd.open_connection(*server.address, adapter=adapter)
            with pytest.raises(asyncio.IncompleteReadError) as caught:
                await reader.readexactly(10)
            assert caught.value.partial == b"abc"
            await close(writer)

    run(main())


def test_large_data_goes_both_ways_with_drain(adapter, host):
    data = random.Random(1).randbytes(8_000_000)

    async def main():
        async with Server(echo, host, adapter) as server:
            reader, writer = await nd.open_connection(*server.address, adapter=adapter)

            async def send():
                for at in range(0, len(data), 100_000):
                    writer.write(data[at : at + 100_000])
                    await writer.drain()
                writer.write_eof()

            _, received = await asyncio.gather(send(), reader.read())
            assert received == data
            await close(writer)

    run(main())


def test_a_slow_reader_makes_drain_wait(adapter, host):
    may_read = asyncio.Event()

    async def slow(reader, _):
        await may_read.wait()
        assert len(await reader.read()) == 20_000_000

    async def main():
        async with Server(slow, host, adapter) as server:
            _, writer = await nd.open_connection(*server.address, adapter=adapter)
            writer.write(bytes(20_000_000))
            draining = asyncio.ensure_future(writer.drain())
            done, _ = await asyncio.wait([draining], timeout=0.05)
            assert not done
            may_read.set()
            await draining
            await close(writer)

    run(main())


def test_connecting_to_nobody_is_refused(adapter, host):
    async def main():
        async with Server(echo, host, adapter, clients=0) as server:
            address = server.address
        with pytest.raises(ConnectionRefusedError):
            await nd.open_connection(*address, adapter=adapter)

    run(main())


def test_a_connect_can_be_cancelled(adapter, host):
    async def main():
        with adapter.create_listener() as silent:
            silent.listen((host, 0))
            connecting = asyncio.ensure_future(
                nd.open_connection(*silent.local_address, adapter=adapter)
            )
            done, _ = await asyncio.wait([connecting], timeout=0.05)
            assert not done
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting

    run(main())


def test_a_file_is_sent_by_copy(adapter, host, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"content" * 10_000)

    async def answer(_, writer):
        loop = asyncio.get_running_loop()
        with path.open("rb") as file:
            await loop.sendfile(writer.transport, file)

    async def main():
        async with Server(answer, host, adapter) as server:
            reader, writer = await nd.open_connection(*server.address, adapter=adapter)
            assert await reader.read() == b"content" * 10_000
            await close(writer)

    run(main())


def test_sock_calls_of_the_loop_work_on_sockets(adapter, server):
    async def main():
        loop = asyncio.get_running_loop()
        server.setblocking(False)
        with nd.Socket(adapter=adapter) as near:
            near.setblocking(False)
            await loop.sock_connect(near, server.getsockname())
            far, _ = await loop.sock_accept(server)
            with far:
                sending = asyncio.ensure_future(loop.sock_sendall(near, bytes(3_000_000)))
                received = 0
                while received < 3_000_000:
                    received += len(await loop.sock_recv(far, 1 << 20))
                await sending

    run(main())


class OtherLoop(asyncio.BaseEventLoop):
    """A loop without asyncio's own transports, as uvloop's."""

    def __init__(self):
        super().__init__()
        self._selector = self

    def select(self, _):
        return ()

    def _process_events(self, _):
        pass


@pytest.mark.parametrize("call", ["open_connection", "start_server"])
def test_a_loop_with_transports_of_its_own_is_refused(adapter, host, call):
    calls = {
        "open_connection": lambda: nd.open_connection(host, 1, adapter=adapter),
        "start_server": lambda: nd.start_server(echo, host, 0, adapter=adapter),
    }

    loop = OtherLoop()
    with pytest.raises(nd.RdmaError, match=rf"{call}: .*OtherLoop.*SelectorEventLoop") as caught:
        loop.run_until_complete(calls[call]())

    loop.close()
    assert caught.value.status == nd.Status.NOT_SUPPORTED


def test_a_client_of_uvloop_is_told_to_use_another_loop(adapter, host):
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()

    with pytest.raises(nd.RdmaError, match=r"open_connection: .*uvloop"):
        loop.run_until_complete(nd.open_connection(host, 1, adapter=adapter))

    loop.close()


def test_a_handler_may_be_a_plain_function(adapter, host):
    async def main():
        served = asyncio.get_running_loop().create_future()

        def handle(*ends):
            served.set_result(ends)

        server = await nd.start_server(handle, host, 0, adapter=adapter)
        address = server.sockets[0].getsockname()
        reader, writer = await nd.open_connection(*address, adapter=adapter)
        writer.write(b"x")
        _, far = await served
        far.write(b"plain")
        assert await reader.readexactly(5) == b"plain"
        await close(writer)
        await close(far)
        server.close()
        await server.wait_closed()

    run(main())


def test_the_family_of_a_server_is_that_of_its_addresses(adapter):
    async def main():
        for call in (
            nd.start_server(echo, "::1", 0, family=socket.AF_INET, adapter=adapter),
            nd.open_connection("::1", 1, family=socket.AF_INET, adapter=adapter),
        ):
            with pytest.raises(ValueError, match="is not an address of AF_INET"):
                await call

    run(main())


@pytest.mark.slow
@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_clients_are_echoed(adapter, host, scaled):
    count = scaled(1000)

    async def client(address, number):
        reader, writer = await nd.open_connection(*address, adapter=adapter)
        message = b"client %d\n" % number
        for _ in range(3):
            writer.write(message)
            assert await reader.readline() == message
        await close(writer)

    async def main():
        async with Server(echo, host, adapter, clients=count) as server:
            await asyncio.gather(*(client(server.address, number) for number in range(count)))

    run(main())


def test_a_connection_that_the_peer_rejects_is_not_opened(adapter, host):
    async def work(address):
        with pytest.raises(ConnectionRefusedError):
            await nd.open_connection(*address, adapter=adapter)

    rejects = wsk.InspectAction.REJECT
    with wsk.listen((host, 0), adapter=adapter, on_inspect=lambda *_: rejects) as listening:
        run(work(listening.local_address))
