# SPDX-License-Identifier: Apache-2.0
"""A loop that is closed while coroutines wait in it goes, and what they waited with goes too."""

import asyncio
import gc
import os
import weakref

import pytest

import ndverbs as nd
from ndverbs import wsk

LIMIT = 30


def waits_for_completions(adapter, kept):
    kept.append(adapter.create_cq(16))
    return kept[-1].wait_async()


def iterates_over_completions(adapter, kept):
    kept.append(adapter.create_cq(16))

    async def iterate():
        async for _ in kept[-1]:
            pass

    return iterate()


def waits_for_a_connector(adapter, kept):
    kept.append(adapter.create_listener())
    kept[-1].listen("127.0.0.1:0")
    return kept[-1].get_connector_async()


def connects(adapter, kept):
    pd, cq = adapter.create_pd(), adapter.create_cq(256)
    silent = adapter.create_listener()
    silent.listen("127.0.0.1:0")
    connector, qp = adapter.create_connector(), pd.create_qp(cq, cq)
    kept += [silent, connector, qp]
    return connector.connect_async(qp, None, silent.local_address, timeout=None)


def awaits_an_accept_request(adapter, kept):
    kept.append(wsk.listen(("127.0.0.1", 0), adapter=adapter))

    async def wait():
        await kept[-1].accept_request()

    return wait()


def opens_a_stream(adapter, kept):
    kept.append(adapter.create_listener())
    kept[-1].listen("127.0.0.1:0")
    return nd.open_connection(*kept[-1].local_address, adapter=adapter)


WAITS = [
    waits_for_completions,
    iterates_over_completions,
    waits_for_a_connector,
    connects,
    awaits_an_accept_request,
    opens_a_stream,
]


async def leave(waiting):
    task = asyncio.ensure_future(waiting)
    for _ in range(3):  # far enough to wait
        await asyncio.sleep(0)
    return weakref.ref(task)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the socket that went with its loop
@pytest.mark.parametrize("start", WAITS)
def test_a_closed_loop_goes_with_what_waits_in_it(adapter, start):
    kept, loops = [], []

    def abandon():
        loop = asyncio.new_event_loop()
        task = loop.run_until_complete(leave(start(adapter, kept)))
        loop.close()
        loops.extend([weakref.ref(loop), task])

    abandon()
    gc.collect()
    assert [reference() for reference in loops] == [None, None]
    for owner in kept:
        owner.close()


@pytest.mark.parametrize("start", [waits_for_completions, iterates_over_completions])
def test_a_closed_loop_leaves_no_descriptor_of_its_watches(adapter, start):
    def abandon():
        kept = []
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave(start(adapter, kept)))
        loop.close()
        kept[0].close()

    abandon()  # what is made on first use is there
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    abandon()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("start", WAITS)
def test_an_open_loop_keeps_what_waits_in_it(adapter, start):
    kept = []

    async def main():
        reference = weakref.ref(asyncio.ensure_future(start(adapter, kept)))
        for _ in range(3):
            await asyncio.sleep(0)
            gc.collect()
        task = reference()
        assert task is not None
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    for owner in kept:
        owner.close()


def test_a_request_is_cancelled_with_the_loop_that_awaited_it(adapter):
    with wsk.listen(("127.0.0.1", 0), adapter=adapter) as listening:
        request, tasks = listening.accept_request(), []

        async def leave():
            tasks.append(weakref.ref(asyncio.ensure_future(request._wait_async())))
            await asyncio.sleep(0)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave())
        loop.close()
        del loop
        gc.collect()
        assert request.status == nd.Status.CANCELLED
