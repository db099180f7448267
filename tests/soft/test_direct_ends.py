# SPDX-License-Identifier: Apache-2.0
"""A peer that is killed, stopped, or caught with this process's memory in hand.

What the survivor promises: no byte of memory changes once the call that ended it has returned,
requests end, nothing is left of the peer, and calls do not wait for longer than it has the memory.
"""

import gc
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import ndverbs as nd
from conformance.end import LIMIT, pattern
from conftest import native_objects
from hostile.victim import descriptors
from soft.mortals import PAGE, Survivor, others_go_on, shared_mappings

pytestmark = pytest.mark.usefixtures("kernel_copies")

SIZE = 16 * PAGE
TRAP = 8 * PAGE  # in the middle
SEED = 9

# What the peer does with the survivor's memory; whether that is where processes map it.
WAYS = {
    f"{what} {where}": (what, where == "in an arena")
    for what in ("write", "read", "send")
    for where in ("in an arena", "by the kernel")
}
EVERY_WAY = pytest.mark.parametrize(("what", "has_arena"), WAYS.values(), ids=WAYS)


@pytest.fixture
def adapter():
    before = descriptors(), shared_mappings()
    with nd.Adapter.open("soft") as opened:
        yield opened
    gc.collect()
    assert (descriptors(), shared_mappings()) == before


class Caught(Survivor):
    """A survivor whose peer is caught in the middle of its memory."""

    def __init__(self, mother, adapter, what, has_arena):
        super().__init__(mother, adapter, has_arena=has_arena)
        assert self.transport() == "direct+vm"
        self.what = what
        sink = self.memory("sink", SIZE, seed=1)
        self.array = self.regions["sink"].array
        self.mortal.set_trap("source", SIZE, TRAP, seed=SEED)
        if what == "send":
            self.receive("sink")
            # It takes the receive before the message is sent.
            self.mortal.call("memory", "note", 1)
            self.mortal.call("receive", "note")
            self.memory("note", 1)
            self.send("note")
            assert self.mortal.call("received").status == nd.Status.SUCCESS
            assert self.completion().status == nd.Status.SUCCESS
            self.mortal.call("aside", "send", "source")
        else:
            self.mortal.call("aside", what, sink, "source")
        self.mortal.wait_until_caught()

    def start_to_end_memory(self, thread):
        """End the memory that the peer has in hand: return the future, and what it holds then."""

        def end():
            if self.what == "send":
                self.qp.close()
                # The memory is the program's once the receive has ended.
                done = self.completion("receive")
                assert done.status in (nd.Status.CANCELLED, nd.Status.SUCCESS)
            else:
                self.deregister("sink")
            return self.array.tobytes()

        return thread.submit(end)

    def whole(self):
        """What a peer leaves that was let go: the page of its trap is of zeroes."""
        if self.what == "read":
            return pattern(SIZE, 1)
        theirs = pattern(SIZE, SEED)
        return theirs[:TRAP] + bytes(PAGE) + theirs[TRAP + PAGE :]


@pytest.fixture
def caught(mother, adapter, what, has_arena):
    try:
        made = Caught(mother, adapter, what, has_arena)
    except PermissionError as refused:
        pytest.skip(f"the kernel gives no traps: {refused}")
    yield made
    made.close()


@pytest.fixture
def thread():
    with ThreadPoolExecutor(1) as made:
        yield made


@EVERY_WAY
def test_memory_ends_when_the_peer_lets_go_of_it(caught, thread, adapter):
    ending = caught.start_to_end_memory(thread)
    others_go_on(adapter)
    assert not ending.done()

    caught.mortal.let_go()

    left = ending.result(LIMIT)
    others_go_on(adapter, 2)
    assert caught.array.tobytes() == left
    if caught.what != "send":  # which a receive that has ended does not get whole
        assert left == caught.whole()


@EVERY_WAY
def test_memory_ends_when_its_holder_is_killed(caught, thread, adapter):
    ending = caught.start_to_end_memory(thread)
    others_go_on(adapter)
    assert not ending.done()

    caught.mortal.send_kill()

    left = ending.result(LIMIT)
    caught.mortal.wait_for_end()
    assert caught.array.tobytes() == left


@EVERY_WAY
def test_memory_ends_at_once_when_its_holder_has_died(caught, thread):
    caught.mortal.send_kill()
    caught.mortal.wait_for_end()

    caught.start_to_end_memory(thread).result(LIMIT)


@EVERY_WAY
@pytest.mark.parametrize("end", ["goes on", "is killed"])
def test_memory_of_a_stopped_holder_ends_when_it(caught, thread, adapter, end):
    caught.mortal.stop()
    ending = caught.start_to_end_memory(thread)
    caught.mortal.let_go()  # ... and it is not there to go on
    caught.mortal.wait_until_stopped()
    others_go_on(adapter)
    assert not ending.done()

    if end == "goes on":
        caught.mortal.resume()
    else:
        caught.mortal.send_kill()

    left = ending.result(LIMIT)
    others_go_on(adapter, 2)
    assert caught.array.tobytes() == left


@EVERY_WAY
def test_memory_ends_when_its_holder_becomes_another_program(caught, thread):
    ending = caught.start_to_end_memory(thread)

    caught.mortal.begin("become_another_program")

    left = ending.result(LIMIT)
    assert caught.array.tobytes() == left
    assert caught.mortal.is_there()


@EVERY_WAY
def test_nothing_waits_for_a_stopped_holder_but_its_memory(caught, thread, adapter):
    caught.receive()
    caught.mortal.stop()

    caught.qp.flush()
    caught.close_connector()
    caught.close_qp()
    others_go_on(adapter)

    # What is posted may be in its hands.
    assert not caught.waiting("receive")
    caught.mortal.send_kill()
    assert caught.received().status == nd.Status.CANCELLED


def exported():
    return native_objects().get("buffer_hold", 0)


def interrupt(region, thread):
    """Send a signal to a thread that waits in deregister(); its handler raises."""
    while "in the hand of a process" not in repr(region):
        os.sched_yield()
    signal.pthread_kill(thread, signal.SIGINT)


WRITES = pytest.mark.parametrize(("what", "has_arena"), [("write", True)])


@WRITES
@pytest.mark.parametrize(("begin", "finish"), [("deregister", "close"), ("close", "deregister")])
def test_ctrl_c_ends_a_wait_for_a_stopped_holder(caught, thread, begin, finish):
    caught.mortal.stop()
    region = caught.regions["sink"]
    token = region.remote_token
    interrupting = thread.submit(interrupt, region, threading.main_thread().ident)
    before = exported()

    with pytest.raises(KeyboardInterrupt):
        getattr(region, begin)()

    interrupting.result(LIMIT)
    # It is as good as deregistered, but for its memory, which the peer has.
    assert "in the hand of a process" in repr(region)
    with pytest.raises(nd.RdmaError, match="not registered"):
        region.segment()
    with pytest.raises(nd.RdmaError, match="in hand still"):
        region.register(caught.array, nd.Access.LOCAL_WRITE)
    with pytest.raises(nd.RdmaError):
        caught.qp.receive(nd.Segment(caught.array.ctypes.data, 8, token))
    assert exported() == before
    caught.mortal.send_kill()
    getattr(region, finish)()
    assert exported() == before - 1


@WRITES
def test_a_region_that_is_dropped_leaves_its_memory_to_a_stopped_holder(caught):
    caught.mortal.stop()
    before = exported()

    del caught.regions["sink"]

    assert exported() == before
    caught.mortal.let_go()
    caught.mortal.resume()
    while exported() == before:
        os.sched_yield()


@pytest.mark.parametrize("what", ["write", "send"])
@pytest.mark.parametrize("has_arena", [True])
def test_an_adapter_that_closes_waits_for_a_stopped_holder(caught, thread, adapter):
    caught.mortal.stop()
    closing = thread.submit(adapter.close)
    with nd.Adapter.open("soft") as another:
        others_go_on(another)
    assert not closing.done()

    caught.mortal.send_kill()

    closing.result(LIMIT)
    # ... with all that it has made, which the fixtures count.
