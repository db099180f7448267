# SPDX-License-Identifier: Apache-2.0
"""The coroutine twins, in any running loop: outcome, timeout, cancellation."""

import asyncio
import socket

import pytest

import ndverbs as nd
from package.coroutines import LIMIT, Half, connected, run
from stream.sockets import until

# ---- connections --------------------------------------------------------------------------------


def test_connection_is_made_used_and_ended_in_one_loop(adapter):
    async def main():
        told = asyncio.Event()
        loop = asyncio.get_running_loop()
        active, passive = await connected(
            adapter, on_disconnect=lambda: loop.call_soon_threadsafe(told.set)
        )
        passive.qp.receive(context="r")
        active.qp.send(context="s")
        await passive.cq.wait_async(LIMIT)
        assert [done.request_context for done in passive.cq.poll()] == ["r"]
        await active.cq.wait_async(LIMIT)
        assert [done.request_context for done in active.cq.poll()] == ["s"]
        disconnecting = asyncio.create_task(active.connector.disconnect_async(LIMIT))
        await told.wait()
        await passive.connector.disconnect_async(LIMIT)
        await disconnecting
        assert active.connector.state == "disconnected"

    run(main())


def test_connect_async_raises_what_connect_raises(adapter):
    async def main():
        half = Half(adapter)
        connector = adapter.create_connector()
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.shutdown(socket.SHUT_RDWR)
            with pytest.raises(ConnectionRefusedError) as caught:
                await connector.connect_async(half.qp, None, server.getsockname())
        assert caught.value.status == nd.Status.CONNECTION_REFUSED

    run(main())


def test_connect_async_resolves_names(adapter):
    async def main():
        listener = adapter.create_listener()
        listener.listen("127.0.0.1:0")
        half = Half(adapter)
        connector = adapter.create_connector()
        port = listener.local_address[1]
        connecting = asyncio.create_task(
            connector.connect_async(half.qp, None, f"localhost:{port}")
        )
        incoming = await listener.get_connector_async(LIMIT)
        incoming.reject()
        with pytest.raises(ConnectionRefusedError):
            await connecting

    run(main())


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_every_twin_has_its_timeout(adapter, timeout):
    async def main():
        half = Half(adapter)
        listener = adapter.create_listener()
        listener.listen("127.0.0.1:0")
        connector = adapter.create_connector()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            for twin in (
                listener.get_connector_async(timeout),
                half.cq.wait_async(timeout),
                connector.connect_async(half.qp, None, silent.getsockname(), timeout=timeout),
            ):
                with pytest.raises(TimeoutError) as caught:
                    await twin
                assert caught.value.status == nd.Status.IO_TIMEOUT
        assert connector.state == "idle"

    run(main())


def test_disconnect_async_times_out_when_the_peer_never_answers(adapter):
    async def main():
        active, passive = await connected(adapter, on_disconnect=lambda: None)
        with pytest.raises(TimeoutError):
            await active.connector.disconnect_async(0.05)
        passive.connector.close()

    run(main())


def test_accept_async_fails_when_the_peer_rejects(adapter):
    async def main():
        active, passive = Half(adapter), Half(adapter)
        listener = adapter.create_listener()
        listener.listen("127.0.0.1:0")
        connector = adapter.create_connector()
        operation = connector._start_connect(active.qp, None, listener.local_address)
        incoming = await listener.get_connector_async(LIMIT)
        accepting = asyncio.create_task(incoming.accept_async(passive.qp))
        await asyncio.sleep(0)  # lets the task answer
        operation.wait(LIMIT)
        connector.reject()
        with pytest.raises(ConnectionAbortedError):
            await accepting

    run(main())


def test_waiting_for_a_connector_ends_when_the_listener_closes(adapter):
    async def main():
        listener = adapter.create_listener()
        listener.listen("127.0.0.1:0")
        waiting = asyncio.create_task(listener.get_connector_async(LIMIT))
        await asyncio.sleep(0)
        listener.close()
        with pytest.raises(nd.ClosedError):
            await waiting

    run(main())


# ---- completions --------------------------------------------------------------------------------


def test_iteration_gives_every_completion_in_order(adapter):
    async def main():
        active, passive = await connected(adapter)
        seen = []

        async def collect():
            async for done in passive.cq:
                seen.append(done.request_context)
                if len(seen) == 100:
                    break

        for i in range(100):
            passive.qp.receive(context=i)
        collecting = asyncio.create_task(collect())
        for _ in range(100):
            active.qp.send(flags=nd.Flag.SILENT_SUCCESS)
            await asyncio.sleep(0)
        await collecting
        assert seen == [*range(100)]

    run(main())


def test_iteration_takes_nothing_that_it_does_not_give(adapter):
    async def main():
        half = Half(adapter)
        for i in range(5):
            half.qp.receive(context=i)
        half.qp.flush()
        async for done in half.cq:
            assert done.request_context == 0
            break
        assert [done.request_context for done in half.cq.poll()] == [1, 2, 3, 4]

    run(main())


def test_iteration_lets_other_tasks_run(adapter):
    async def main():
        half = Half(adapter)
        turns = 0

        async def count_turns():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count_turns())
        for i in range(128):
            half.qp.receive(context=i)
        half.qp.flush()
        seen = 0
        async for _ in half.cq:
            seen += 1
            if seen == 128:
                break
        assert turns > 0
        counting.cancel()

    run(main())


def test_wait_async_returns_at_once_when_something_is_there(adapter):
    async def main():
        half = Half(adapter)
        half.qp.receive()
        half.qp.flush()
        assert await half.cq.wait_async(0)
        assert len(half.cq.poll()) == 1

    run(main())


def test_wait_async_ends_when_the_queue_closes(adapter):
    async def main():
        half = Half(adapter)
        waiting = asyncio.create_task(half.cq.wait_async(LIMIT))
        await asyncio.sleep(0)
        half.cq.close()
        with pytest.raises(nd.ClosedError):
            await waiting

    run(main())


def test_two_tasks_wait_on_one_queue_and_both_wake(adapter):
    async def main():
        half = Half(adapter)
        waiting = [asyncio.create_task(half.cq.wait_async(LIMIT)) for _ in range(2)]
        await asyncio.sleep(0)
        half.qp.receive()
        half.qp.flush()
        assert await asyncio.gather(*waiting) == [True, True]

    run(main())


@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
def test_overrun_ends_a_wait_with_its_error(adapter):
    async def main():
        cq = adapter.create_cq(1)
        qp = adapter.create_pd().create_qp(cq, cq)
        waiting = asyncio.create_task(_drain(cq))
        await asyncio.sleep(0)
        qp.receive()
        qp.receive()
        qp.flush()
        with pytest.raises(nd.RdmaError) as caught:
            await waiting
        assert caught.value.status == nd.Status.BUFFER_OVERFLOW

    run(main())


async def _drain(cq):
    async for _ in cq:
        pass


# ---- cancellation -------------------------------------------------------------------------------


def test_cancelled_connect_is_abandoned(adapter):
    async def main():
        half = Half(adapter)
        connector = adapter.create_connector()
        with socket.create_server(("127.0.0.1", 0)) as silent:
            connecting = asyncio.create_task(
                connector.connect_async(half.qp, None, silent.getsockname())
            )
            peer, _ = await asyncio.get_running_loop().run_in_executor(None, silent.accept)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            peer.close()
        assert connector.state == "idle"
        assert half.qp.state == "idle"

    run(main())


@pytest.mark.parametrize("peer_leaves", [False, True])
def test_cancelled_connect_that_the_peer_has_answered_is_abandoned(adapter, peer_leaves):
    async def main():
        active, passive = Half(adapter), Half(adapter)
        listener = adapter.create_listener()
        listener.listen("127.0.0.1:0")
        connector = adapter.create_connector()
        connecting = asyncio.create_task(
            connector.connect_async(active.qp, None, listener.local_address, peer_to_peer=True)
        )
        incoming = await listener.get_connector_async(LIMIT)
        accepting = incoming._start_accept(passive.qp)
        until(lambda: connector.state == "accepted")  # the loop does not hear of it
        if peer_leaves:
            incoming.close()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        assert connector.state == "disconnected"
        assert active.qp.state == "idle"
        with pytest.raises(nd.RdmaError):
            accepting.wait(LIMIT)

    run(main())


def test_cancelled_wait_loses_no_completion(adapter):
    async def main():
        half = Half(adapter)
        waiting = asyncio.create_task(half.cq.wait_async(LIMIT))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        half.qp.receive(context=1)
        half.qp.flush()
        assert await half.cq.wait_async(LIMIT)
        assert [done.request_context for done in half.cq.poll()] == [1]

    run(main())


def test_cancelled_iteration_loses_no_completion(adapter):
    async def main():
        half = Half(adapter)
        draining = asyncio.create_task(_drain(half.cq))
        await asyncio.sleep(0)
        half.qp.receive(context=1)
        half.qp.flush()
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        assert [done.request_context for done in half.cq.poll()] == [1]

    run(main())


def test_cancelled_get_connector_leaves_the_request_to_the_next(adapter):
    async def main():
        listener = adapter.create_listener()
        listener.listen("127.0.0.1:0")
        waiting = asyncio.create_task(listener.get_connector_async(LIMIT))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        half = Half(adapter)
        connector = adapter.create_connector()
        operation = connector._start_connect(half.qp, None, listener.local_address)
        incoming = await listener.get_connector_async(LIMIT)
        incoming.reject()
        with pytest.raises(nd.RdmaError):
            operation.wait(LIMIT)

    run(main())


def test_cancelled_accept_is_abandoned(adapter):
    async def main():
        active, passive = Half(adapter), Half(adapter)
        listener = adapter.create_listener()
        listener.listen("127.0.0.1:0")
        connector = adapter.create_connector()
        operation = connector._start_connect(
            active.qp, None, listener.local_address, peer_to_peer=True
        )
        incoming = await listener.get_connector_async(LIMIT)
        accepting = asyncio.create_task(incoming.accept_async(passive.qp))
        await asyncio.sleep(0)
        operation.wait(LIMIT)
        accepting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await accepting
        assert incoming.state == "disconnected"

    run(main())


@pytest.mark.parametrize("side", ["accept", "complete_connect"])
def test_connection_that_is_made_while_its_coroutine_is_cancelled_is_abandoned(adapter, side):
    async def main():
        active, passive = Half(adapter), Half(adapter)
        told = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell():
            loop.call_soon_threadsafe(told.set)

        listener = adapter.create_listener()
        listener.listen("127.0.0.1:0")
        connector = adapter.create_connector()
        operation = connector._start_connect(active.qp, None, listener.local_address)
        incoming = await listener.get_connector_async(LIMIT)
        if side == "accept":
            accepting = asyncio.create_task(incoming.accept_async(passive.qp))
            await asyncio.sleep(0)
            operation.wait(LIMIT)
            connector.complete_connect(tell)
            victim, task = incoming, accepting
        else:
            accepted = incoming._start_accept(passive.qp, on_disconnect=tell)
            operation.wait(LIMIT)
            task = asyncio.create_task(connector.complete_connect_async())
            await asyncio.sleep(0)
            accepted.wait(LIMIT)
            victim = connector
        until(lambda: victim.state == "connected")  # the loop does not hear of it
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(told.wait(), LIMIT)
        until(lambda: victim.state == "disconnected")

    run(main())
