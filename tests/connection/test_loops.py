# SPDX-License-Identifier: Apache-2.0
"""Connections in asyncio: one task, many tasks, several loops, and cancellation."""

import asyncio
import contextlib
import gc
import threading

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT


def test_eleven_lines_in_a_loop(adapter, host):
    async def serve(server):
        async with await server.accept_async(LIMIT) as c:
            array = np.zeros(1 << 20, np.uint8)
            with c.register(array, nd.Access.REMOTE_WRITE) as region:
                await c.send(region.remote())
                assert await c.receive_async(LIMIT) == b"done"
                return int(array.sum())

    async def run():
        async with nd.listen((host, 0), adapter=adapter) as server:
            serving = asyncio.create_task(serve(server))
            async with await nd.connect_async(server.address, adapter=adapter) as c:
                target = await c.receive_buffer_async(LIMIT)
                await c.write(np.full(target.nbytes, 7, np.uint8), target, notify=b"done")
                return await serving

    assert asyncio.run(run()) == 7 << 20


async def echo(server):
    async for c in server:
        async with c:
            while (message := await c.receive_async(LIMIT)) != b"end":
                c.send(message)
        return


def test_both_ends_in_one_loop_talk(adapter, host, scaled):
    async def run():
        with nd.listen((host, 0), adapter=adapter) as server:
            serving = asyncio.create_task(echo(server))
            async with await nd.connect_async(server.address, adapter=adapter) as c:
                for size in [8, 5000, 50_000] * scaled(20):
                    c.send(bytes(size))
                    assert len(await c.receive_async(LIMIT)) == size
                await c.send(b"end")
            await serving

    asyncio.run(run())


def test_loops_of_several_threads_share_an_adapter(adapter, host, scaled):
    async def run():
        with nd.listen((host, 0), adapter=adapter) as server:
            serving = asyncio.create_task(echo(server))
            async with await nd.connect_async(server.address, adapter=adapter) as c:
                for i in range(scaled(100)):
                    c.send(i.to_bytes(4, "little"))
                    assert await c.receive_async(LIMIT) == i.to_bytes(4, "little")
                await c.send(b"end")
            await serving

    failures = []

    def go():
        try:
            asyncio.run(run())
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert not failures


def test_a_cancelled_receive_loses_no_message(ends):
    near, far = ends

    async def run():
        for i in range(20):
            task = asyncio.create_task(far.receive_async())
            for _ in range(i % 4):
                await asyncio.sleep(0)
            near.send(bytes([i]) * 30_000)
            for _ in range(i // 4):
                await asyncio.sleep(0)
            task.cancel()
            try:
                found = await task
            except asyncio.CancelledError:
                found = await far.receive_async(LIMIT)
            assert found == bytes([i]) * 30_000

    asyncio.run(run())


def test_a_cancelled_await_leaves_its_request(ends):
    near, far = ends

    async def run():
        request = near.send(np.ones(1 << 20, np.uint8))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await request
        assert not request.done()
        assert (await far.receive_async(LIMIT)).sum() == 1 << 20
        await request

    asyncio.run(run())


def test_timeouts_in_a_loop_are_our_own(ends, server):
    _, far = ends

    async def run():
        with pytest.raises(nd.RdmaTimeoutError, match="no message is lost"):
            await far.receive_async(0.01)
        with pytest.raises(nd.RdmaTimeoutError, match="accept_async: no peer connected"):
            await server.accept_async(0.01)

    asyncio.run(run())


def test_drained_waits_for_the_peer(ends):
    near, far = ends

    async def run():
        for i in range(300):
            near.send(bytes([i % 256]) * 10_000)
        waiting = asyncio.create_task(near.drained())
        await asyncio.sleep(0)
        assert near.unsent_bytes
        for i in range(300):
            assert (await far.receive_async(LIMIT))[0] == i % 256
        await waiting
        assert near.unsent_bytes == 0
        await near.drained()

    asyncio.run(run())


def test_gathered_requests_all_end(ends):
    near, far = ends
    window = np.zeros(1000, np.uint64)

    async def run():
        with far.register(window, nd.Access.REMOTE_WRITE) as region:
            remote = region.remote()
            await asyncio.gather(
                *(near.write(np.array([i], np.uint64), remote[i : i + 1]) for i in range(1000))
            )
            await near.send(b"")
            await far.receive_async(LIMIT)

    asyncio.run(run())
    np.testing.assert_array_equal(window, np.arange(1000))


def test_other_tasks_run_beside_one_that_never_sleeps(ends):
    near, far = ends
    turns = 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def run():
        counting = asyncio.create_task(count())
        with far.register(np.zeros(8, np.uint8), nd.Access.REMOTE_WRITE) as region:
            for _ in range(1000):
                await near.write(b"12345678", region.remote())
        counting.cancel()

    asyncio.run(run())
    assert turns >= 5


def test_on_closed_is_called_in_the_loop(ends):
    near, far = ends

    async def run():
        told = asyncio.get_running_loop().create_future()
        far.on_closed(told.set_result)
        near.abort()
        async with asyncio.timeout(LIMIT):
            assert await told is far

    asyncio.run(run())


def test_a_loop_that_is_closed_while_a_task_waits_leaves_nothing(ends):
    near, far = ends
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(far.receive_async())
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    waiting._log_destroy_pending = False
    loop.close()
    del waiting, loop
    gc.collect()
    near.send(b"for the next loop")
    assert asyncio.run(far.receive_async(LIMIT)) == b"for the next loop"


def test_a_cancelled_connect_leaves_nothing(adapter, host):
    async def run():
        with nd.listen((host, 0), adapter=adapter) as server:
            for turns in range(12):
                task = asyncio.create_task(nd.connect_async(server.address, adapter=adapter))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    (await task).abort()
            async with await nd.connect_async(server.address, adapter=adapter) as c:
                c.send(b"fine")

    asyncio.run(run())
