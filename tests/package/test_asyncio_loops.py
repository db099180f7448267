# SPDX-License-Identifier: Apache-2.0
"""The coroutine twins in several loops, one after the other and at once."""

import asyncio
import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import ndverbs as nd
from package.coroutines import LIMIT, Half, connected, run


def test_one_adapter_serves_one_loop_after_the_other(adapter):
    async def main():
        half = Half(adapter)
        with pytest.raises(TimeoutError):
            await half.cq.wait_async(0.01)
        half.qp.receive()
        half.qp.flush()
        assert await half.cq.wait_async(LIMIT)
        return half.cq

    queues = [run(main()) for _ in range(3)]
    assert [len(queue.poll()) for queue in queues] == [1, 1, 1]


def test_one_queue_is_waited_for_in_one_loop_after_the_other(adapter):
    half = Half(adapter)

    async def main():
        waiting = asyncio.create_task(half.cq.wait_async(LIMIT))
        await asyncio.sleep(0)
        half.qp.receive()
        half.qp.flush()
        await waiting
        return len(half.cq.poll())

    assert [run(main()) for _ in range(3)] == [1, 1, 1]


def test_loops_of_two_threads_share_an_adapter(adapter):
    both = threading.Barrier(2)

    async def main():
        both.wait(LIMIT)
        for _ in range(5):
            active, passive = await connected(adapter)
            passive.qp.receive()
            active.qp.send()
            await passive.cq.wait_async(LIMIT)
            active.connector.close()
            passive.connector.close()
        return True

    with ThreadPoolExecutor(2) as threads:
        assert [call.result(2 * LIMIT) for call in [threads.submit(run, main()) for _ in range(2)]]


def test_ends_of_one_connection_live_in_two_loops(adapter):
    listener = adapter.create_listener()
    listener.listen("127.0.0.1:0")

    async def serve():
        half = Half(adapter)
        half.qp.receive(context=1)
        connector = await listener.get_connector_async(LIMIT)
        await connector.accept_async(half.qp)
        async for done in half.cq:
            half.qp.send(context=2)
            assert done.request_context == 1
            break
        async for done in half.cq:
            return done.status

    async def visit():
        half = Half(adapter)
        half.qp.receive(context=3)
        connector = adapter.create_connector()
        await connector.connect_async(half.qp, None, listener.local_address)
        await connector.complete_connect_async()
        half.qp.send(flags=nd.Flag.SILENT_SUCCESS)
        async for done in half.cq:
            return done.request_context

    with ThreadPoolExecutor(2) as threads:
        serving, visiting = threads.submit(run, serve()), threads.submit(run, visit())
        assert visiting.result(2 * LIMIT) == 3
        assert serving.result(2 * LIMIT) == nd.Status.SUCCESS


def test_waiting_leaves_no_descriptor_behind(adapter):
    half = Half(adapter)

    async def main():
        for _ in range(10):
            with pytest.raises(TimeoutError):
                await half.cq.wait_async(0.001)

    run(main())
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    run(main())
    gc.collect()

    assert sorted(os.listdir("/proc/self/fd")) == before


def test_blocking_calls_do_not_disturb_a_loop_that_waits(pair):
    """A poll on another thread may take what the loop was woken for: it goes on waiting."""

    async def main():
        waiting = asyncio.create_task(pair.near.receive_cq.wait_async(LIMIT))
        await asyncio.sleep(0)
        for i in range(2):
            pair.near.receive(context=i)
        pair.far.send()
        pair.far.send()
        assert await waiting
        seen = pair.near.receive_cq.poll()
        while len(seen) < 2:
            await pair.near.receive_cq.wait_async(LIMIT)
            seen += pair.near.receive_cq.poll()
        return [done.request_context for done in seen]

    assert run(main()) == [0, 1]
