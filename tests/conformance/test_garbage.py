# SPDX-License-Identifier: Apache-2.0
"""Garbage collection: cycles through native objects go, and what a program can reach stays."""

import ctypes
import gc
import threading
import time
import weakref

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT, End
from conformance.pair import Pair

SUCCESS = nd.Status.SUCCESS


class Owner:
    """An adapter, what is made from it, and a method that cares for neither number nor meaning."""

    def __init__(self, adapter):
        self.adapter = adapter
        self.pd = self.adapter.create_pd()
        self.cq = self.adapter.create_cq(256)

    def told(self, *args):
        pass

    def make_qp(self, **options):
        self.qp = self.pd.create_qp(self.cq, self.cq, **options)
        return self.qp


class Array(np.ndarray):
    """An array that may have attributes."""


def owned_array(owner, nbytes=64):
    array = np.zeros(nbytes, np.uint8).view(Array)
    array.owner = owner
    return array


def is_gone(owner):
    """Drop the only reference that the caller's list holds; return whether that was the last."""
    reference = weakref.ref(owner.pop())
    gc.collect()
    return reference() is None


def cycle_of_attributes(owner):
    owner.itself = owner
    owner.make_qp()


def notification_of_a_queue(owner):
    owner.notified = owner.adapter.create_cq(256, on_notify=owner.told)
    owner.notified.arm()


def listener(owner):
    owner.listener = owner.adapter.create_listener(owner.told)
    owner.listener.listen("127.0.0.1:0")


def context_of_a_queue_pair(owner):
    owner.make_qp(context=owner)


def context_of_a_posted_receive(owner):
    owner.make_qp().receive(context=owner)


def context_of_an_unpolled_completion(owner):
    owner.make_qp().receive(context=[owner])
    owner.qp.flush()
    owner.cq.wait(LIMIT)


def registered_array(owner):
    owner.region = owner.pd.register(owned_array(owner))


def registered_array_with_a_posted_receive(owner):
    owner.region = owner.pd.register(owned_array(owner))
    owner.make_qp().receive(owner.region, context=owner)


def operation_that_is_over(owner):
    qp, connector = owner.make_qp(), owner.adapter.create_connector()
    nobody = (owner.adapter.info.addresses[0], 1)
    operation = connector._start_connect(qp, None, nobody)
    with pytest.raises(OSError):  # noqa: PT011 - whatever it was
        operation.wait(LIMIT)
    operation.add_done_callback(owner.told)
    owner.operation = operation


def goes(owner):
    """As is_gone(), where a thread that has just ended something may be about to let go."""
    reference = weakref.ref(owner.pop())
    until = time.monotonic() + LIMIT
    while reference() is not None and time.monotonic() < until:
        gc.collect()
    return reference() is None


CYCLES = (
    cycle_of_attributes,
    notification_of_a_queue,
    listener,
    context_of_a_queue_pair,
    context_of_a_posted_receive,
    context_of_an_unpolled_completion,
    registered_array,
    registered_array_with_a_posted_receive,
    operation_that_is_over,
)


@pytest.mark.parametrize("cycle", CYCLES, ids=lambda cycle: cycle.__name__)
def test_adapter_that_nothing_reaches_goes(provider, cycle):
    owner = [Owner(nd.Adapter.open(provider))]
    cycle(owner[0])

    assert goes(owner)


def test_shared_receive_queue_in_a_cycle_goes(adapter):
    if not adapter.info.max_srq_depth:
        pytest.skip("no shared receive queues")
    owner = Owner(adapter)
    owner.srq = owner.pd.create_srq(4, max_sge=1, notify_threshold=1, on_notify=owner.told)
    owner.qp = owner.pd.create_qp_with_srq(owner.cq, owner.cq, owner.srq)
    owner.srq.receive(context=owner)
    owner = [owner]

    assert is_gone(owner)


def test_mapping_in_a_cycle_goes(adapter):
    if "build_lam" not in adapter.info.features:
        pytest.skip("no logical addresses")
    owner = Owner(adapter)
    owner.mapping = adapter.build_lam(owned_array(owner, 8192))
    owner = [owner]

    assert is_gone(owner)


def test_connection_in_a_cycle_goes(provider):
    pair = Pair(provider, is_connected=False)

    class Handler:
        def told(self):
            pass

    handler = Handler()
    handler.pair = pair
    pair.near._on_disconnect = pair.far._on_disconnect = handler.told
    pair.connect()
    handler = [handler]
    pair = None

    assert is_gone(handler)


def test_connection_in_a_cycle_goes_after_a_completion_that_was_refused(provider):
    pair = Pair(provider, is_connected=False)

    class Handler:
        def told(self):
            pass

    handler = Handler()
    handler.pair = pair
    pair.near._on_disconnect = handler.told
    pair.connect()
    with pytest.raises(nd.RdmaError):
        pair.near.connector.complete_connect(print)
    handler = [handler]
    pair = None

    assert is_gone(handler)


# ---- what stays ---------------------------------------------------------------------------------


def test_context_stays_for_whoever_holds_the_completion_queue(connect_pair):
    pair = connect_pair()
    queue_of_near, far = pair.near.receive_cq, pair.far
    owner = Owner(pair.adapter)
    owner.end = pair.near
    pair.near.receive(context=owner)
    reference = weakref.ref(owner)
    del owner
    pair.near = End(adapter=pair.adapter)  # what the pair closes at its end
    gc.collect()
    assert reference() is not None

    far.send()

    queue_of_near.wait(LIMIT)
    (done,) = queue_of_near.poll()
    assert done.status == SUCCESS
    assert done.request_context is reference()
    assert done.request_context.end.qp.state == "connected"
    done.request_context.end.end_connection()
    done.request_context.end.__dict__.clear()


def hold_up_callbacks(adapter):
    """Occupy the adapter's callback thread; return what keeps it there, to be set."""
    entered, may_go = threading.Event(), threading.Event()

    def hold_up(status):
        entered.set()
        assert may_go.wait(LIMIT)

    blocker = Owner(adapter)
    blocker.first = adapter.create_cq(256, on_notify=hold_up)
    notify(blocker, blocker.first)
    assert entered.wait(LIMIT)
    return blocker, may_go


def run_callbacks(adapter):
    """Return when what was queued for the adapter's callback thread has been called."""
    called = threading.Event()
    last = Owner(adapter)
    last.notified = adapter.create_cq(256, on_notify=lambda status: called.set())
    notify(last, last.notified)
    assert called.wait(LIMIT)


def test_queue_shows_its_callback_also_while_a_call_of_it_is_queued(adapter):
    _blocker, may_go = hold_up_callbacks(adapter)
    owner = Owner(adapter)
    told = owner.told
    owner.notified = adapter.create_cq(256, on_notify=told)
    before = gc.get_referents(owner.notified)
    notify(owner, owner.notified)

    assert told in before
    assert told in gc.get_referents(owner.notified)
    may_go.set()
    run_callbacks(adapter)


def test_call_that_is_queued_for_garbage_is_not_made(adapter):
    _blocker, may_go = hold_up_callbacks(adapter)
    told = []

    class Told(Owner):
        def told(self, status):
            told.append(status)

    owner = Told(adapter)
    owner.notified = adapter.create_cq(256, on_notify=owner.told)
    notify(owner, owner.notified)
    owner.notified.wait(LIMIT)
    owner = [owner]

    assert is_gone(owner)
    may_go.set()
    run_callbacks(adapter)
    assert told == []


def test_garbage_is_not_called_while_the_collector_clears_it(adapter):
    told, ended = [], []
    live = Owner(adapter)

    class Last:
        """Ends when its owner is cleared: the collector itself has no part in it."""

        __slots__ = ()

        def __del__(self):
            live.qp.flush()  # the garbage is notified
            run_callbacks(adapter)
            ended.append(told.copy())

    class Told:
        def told(self, status):
            told.append(status)

    owner = Told()
    owner.last = Last()
    owner.notified = adapter.create_cq(256, on_notify=owner.told)
    owner.notified.arm()
    live.qp = live.pd.create_qp(owner.notified, owner.notified)
    live.qp.receive()
    owner = [owner]

    assert is_gone(owner)
    assert ended == [[]]


def notify(owner, cq):
    """Satisfy an arm of the queue."""
    cq.arm()
    owner.cancelled = owner.pd.create_qp(cq, cq)
    owner.cancelled.receive(context=1)
    owner.cancelled.flush()


def test_memory_that_collection_would_free_stays_while_it_is_registered(adapter):
    class Memory(ctypes.Structure):
        _fields_ = (("data", ctypes.c_uint8 * 64),)

    memory = Memory()
    memory.region = adapter.create_pd().register(memory)
    reference = weakref.ref(memory)
    del memory

    gc.collect()

    assert reference() is not None
    assert bytes(reference().data) == bytes(64)
    reference().region.close()
    gc.collect()
    assert reference() is None


def test_buffer_of_a_posted_request_outlives_the_collection_of_its_region(connect_pair):
    pair = connect_pair()
    memory = bytearray(64)
    owner = Owner(pair.adapter)
    owner.region = pair.near.pd.register(memory)
    owner.itself = owner
    pair.near.qp.receive(owner.region, context=1)
    owner = [owner]
    assert is_gone(owner)

    with pytest.raises(BufferError):
        memory.clear()
    pair.near.flush()
    pair.near.received()

    memory.clear()
