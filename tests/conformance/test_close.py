# SPDX-License-Identifier: Apache-2.0
"""Close: any object, in any order, at any time; what has a successor goes on."""

import contextlib
import gc
import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT, pattern, status_of
from conformance.pair import Pair

PARTS = ["pd", "receive_cq", "initiator_cq", "qp", "connector", "region"]


def parts_of(end):
    return {
        "pd": end.pd,
        "receive_cq": end.receive_cq,
        "initiator_cq": end.initiator_cq,
        "qp": end.qp,
        "connector": end.connector,
        "region": end.regions["memory"],
    }


def orders(count):
    """So many of the 720 orders of the six objects, which differ early and late."""
    every = [*itertools.permutations(PARTS)]
    return every[:: len(every) // count]


def with_everything_pending(connect_pair):
    pair = connect_pair()
    target = pair.far.memory("memory", 1 << 22)
    pair.near.memory("memory", 1 << 22)
    pair.near.receive("memory", context=object())
    pair.near.read(target, "memory", context=object())
    pair.near.send("memory", context=object())
    pair.near.write(target, "memory", context=object(), flags=nd.Flag.SILENT_SUCCESS)
    return pair


@pytest.mark.tsan
def test_every_order_of_closing_works_with_requests_pending(provider, scaled):
    for order in orders(scaled(43)):
        pair = with_everything_pending(lambda: Pair(provider))
        parts = parts_of(pair.near)

        for name in order:
            parts[name].close()
            assert parts[name].closed
            parts[name].close()  # idempotent

        pair.close()


def test_every_order_of_dropping_works_with_requests_pending(provider, scaled):
    for order in orders(scaled(43)):
        pair = with_everything_pending(lambda: Pair(provider))
        near = pair.near
        near.regions = {"memory": near.regions["memory"]}

        for name in order:
            if name == "region":
                near.regions.clear()
            else:
                setattr(near, name, None)

        pair.close()


def test_dropping_everything_without_a_close_leaves_nothing(provider):
    from conftest import native_objects

    # A handler that refers to what it handles would be a cycle that close() has to break.
    no_handler = {"handler": False}
    pair = with_everything_pending(lambda: Pair(provider, active=no_handler, passive=no_handler))
    del pair
    gc.collect()

    assert native_objects() == {}


def test_queue_pair_goes_on_without_its_protection_domain_and_queues(pair):
    pair.far.memory("sink", 8)
    pair.near.memory("source", 8, seed=1)
    pair.near.pd.close()
    pair.far.receive("sink")

    pair.near.send("source")

    assert pair.far.received().bytes_transferred == 8
    assert pair.far.content("sink") == pattern(8, 1)


def test_queue_pair_goes_on_without_its_completion_queue(pair):
    pair.near.initiator_cq.close()
    pair.far.receive()

    pair.near.send()

    assert pair.far.received().status == nd.Status.SUCCESS


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("pd", lambda end: end.pd.create_mr()),
        ("pd", lambda end: end.pd.register(bytearray(1))),
        ("pd", lambda end: end.create_qp()),
        ("receive_cq", lambda end: end.receive_cq.poll()),
        ("receive_cq", lambda end: end.receive_cq.poll_into(np.zeros(1, nd.result_dtype))),
        ("receive_cq", lambda end: end.receive_cq.arm()),
        ("receive_cq", lambda end: end.receive_cq.wait(0)),
        ("receive_cq", lambda end: end.receive_cq.fileno()),
        ("receive_cq", lambda end: end.receive_cq.depth),
        ("qp", lambda end: end.qp.send()),
        ("qp", lambda end: end.qp.receive()),
        ("qp", lambda end: end.qp.read((), (0, 0))),
        ("qp", lambda end: end.qp.write((), (0, 0))),
        ("qp", lambda end: end.qp.send_and_invalidate((), 1)),
        ("qp", lambda end: end.qp.flush()),
        ("qp", lambda end: end.qp.state),
        ("connector", lambda end: end.connector.disconnect()),
        ("connector", lambda end: end.connector.connection_data),
        ("region", lambda end: end.regions["memory"].local_token),
        ("region", lambda end: end.regions["memory"].segment()),
        ("region", lambda end: end.regions["memory"].remote()),
        ("region", lambda end: end.regions["memory"].array),
        ("region", lambda end: end.regions["memory"].register(bytearray(1), 0)),
        ("region", lambda end: end.regions["memory"].deregister()),
    ],
)
def test_calls_on_a_closed_object_raise_closed_error(pair, name, call):
    pair.near.memory("memory", 8)
    parts_of(pair.near)[name].close()

    with pytest.raises(nd.ClosedError) as caught:
        call(pair.near)

    assert caught.value.status == nd.Status.FILE_FORCED_CLOSED


@pytest.mark.parametrize("name", PARTS)
def test_closing_the_adapter_closes_everything(connect_pair, name):
    pair = connect_pair()
    pair.near.memory("memory", 8)
    part = parts_of(pair.near)[name]

    pair.adapter.close()

    assert part.closed
    assert pair.adapter.closed
    with pytest.raises(nd.ClosedError):
        pair.adapter.create_pd()


def test_adapter_close_waits_for_the_last_message(provider):
    # The receiver is another adapter, which is slow to read; the sender just leaves.
    from conformance.end import End

    near, far = End(provider), End(provider)
    size = 8_000_000
    target = far.memory("target", size)
    near.memory("source", size, seed=1)
    far.receive(context=1)
    with ThreadPoolExecutor(1) as thread:
        address = far.listen()
        accepted = thread.submit(far.accept)
        near.connect(address)
        accepted.result(LIMIT)
        near.write(target, "source")
        near.send()
        near.completions("initiator", 2)

        closing = thread.submit(near.close)

        assert far.received().request_context == 1
        assert far.content("target") == pattern(size, 1)
        far.close()
        closing.result(LIMIT)


def test_adapter_closed_by_many_threads_at_once_is_closed_once(provider):
    pair = Pair(provider)
    barrier = threading.Barrier(4)

    def close():
        barrier.wait(LIMIT)
        pair.adapter.close()
        assert pair.adapter.closed

    with ThreadPoolExecutor(4) as threads:
        for call in [threads.submit(close) for _ in range(4)]:
            call.result(LIMIT)
    pair.close()


@pytest.mark.tsan
def test_closing_while_another_thread_posts(provider):
    for name in ("qp", "connector", "adapter"):
        pair = Pair(provider)
        target = pair.far.memory("target", 4096)
        pair.near.memory("source", 4096)
        begun = threading.Event()

        def post(near=pair.near, target=target, begun=begun):
            while True:
                try:
                    near.write(target, "source", flags=nd.Flag.SILENT_SUCCESS)
                    near.receive()
                except nd.RdmaError as error:
                    if error.status != nd.Status.NO_MORE_ENTRIES:
                        return error.status
                    if (status := status_of(near.waiting)) != nd.Status.SUCCESS:
                        return status
                begun.set()

        with ThreadPoolExecutor(1) as thread:
            posting = thread.submit(post)
            assert begun.wait(LIMIT)
            (pair.adapter if name == "adapter" else getattr(pair.near, name)).close()

            assert posting.result(LIMIT) in (
                nd.Status.FILE_FORCED_CLOSED,
                nd.Status.CONNECTION_INVALID,
                nd.Status.BUFFER_OVERFLOW,  # no thread polls the receive queue
                nd.Status.ACCESS_VIOLATION,  # the adapter closes the memory, which is newer, first
            )
        pair.close()


@pytest.mark.tsan
def test_deregistering_while_the_peer_writes(connect_pair):
    pair = connect_pair()
    target = pair.far.memory("target", 1 << 20)
    pair.near.memory("source", 1 << 20)
    array = pair.far.regions["target"].array
    for _ in range(20):
        pair.near.write(target, "source", flags=nd.Flag.SILENT_SUCCESS)

    pair.far.deregister("target")
    array[:] = 7

    pair.near.receive()
    # On a fast machine all twenty may have landed by now; this one comes too late for certain.
    with contextlib.suppress(nd.RdmaError):
        pair.near.write(target, "source", flags=nd.Flag.SILENT_SUCCESS)
    assert pair.near.received().status == nd.Status.CANCELLED
    assert (array == 7).all()


# ---- nothing is left ----------------------------------------------------------------------------


def descriptors():
    return sorted(os.listdir("/proc/self/fd"), key=int)


def threads():
    return len(os.listdir("/proc/self/task"))


def test_1000_connections_leave_nothing(provider, host, scaled):
    from conftest import native_objects

    def round_of(count):
        with nd.Adapter.open(provider) as adapter:
            listener = adapter.create_listener()
            listener.listen((host, 0))
            pd = adapter.create_pd()
            queue = adapter.create_cq(4096)
            with ThreadPoolExecutor(1) as thread:
                for i in range(count):
                    active, passive = (pd.create_qp(queue, queue) for _ in range(2))
                    connector = adapter.create_connector()

                    def accept(passive=passive):
                        incoming = listener.get_connector(LIMIT)
                        incoming.accept(passive)
                        return incoming

                    accepted = thread.submit(accept)
                    connector.connect(active, None, listener.local_address, peer_to_peer=True)
                    connector.complete_connect()
                    incoming = accepted.result(LIMIT)
                    passive.receive(context=object())
                    active.send(flags=nd.Flag.SILENT_SUCCESS)
                    if i % 3:
                        connector.close()
                        incoming.close()
                    if i % 2:
                        active.close()
                        passive.close()
                    queue.poll(64)
            active = passive = connector = incoming = accepted = None
            assert adapter.stats()["connect"] == count

    round_of(1)
    gc.collect()
    before = descriptors(), threads()
    round_of(scaled(1000))
    gc.collect()

    assert descriptors() == before[0]
    assert threads() <= before[1]
    assert native_objects() == {}


def test_adapters_opened_and_closed_leave_nothing(provider, host, scaled):
    before = descriptors(), threads()

    for _ in range(scaled(50)):
        with nd.Adapter.open(provider) as adapter:
            adapter.create_listener(lambda connector: None).listen((host, 0))

    gc.collect()
    assert descriptors() == before[0]
    assert threads() <= before[1]  # one of an earlier test may have ended meanwhile


def test_adapter_without_connections_has_no_thread(provider):
    before = threads()

    with nd.Adapter.open(provider) as adapter:
        adapter.create_pd().register(bytearray(8)).close()
        adapter.create_cq(8).poll()
        assert threads() <= before  # one of an earlier test may have ended meanwhile
