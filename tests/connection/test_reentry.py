# SPDX-License-Identifier: Apache-2.0
"""A Connection that is called in the middle of a call of the same thread, as handlers do."""

import gc
import signal
import sys
import threading

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT
from ndverbs._native import _Lock

REFUSED = "reentrant call"


class Within:
    """Calls a function once, where the extension is called with the hub's lock held."""

    def __init__(self, event, name, function):
        self.wanted = (event, name)
        self.function = function
        self.outcome = None

    def __call__(self, frame, event, argument):
        if (event, getattr(argument, "__name__", "")) != self.wanted or self.outcome is not None:
            return
        self.outcome = "called"
        self.function()

    def __enter__(self):
        sys.setprofile(self)
        return self

    def __exit__(self, *exception):
        sys.setprofile(None)


@pytest.fixture
def target(ends):
    near, far = ends
    array = np.zeros(8, np.uint8)
    region = far.register(array, nd.Access.REMOTE_WRITE | nd.Access.REMOTE_ATOMIC)
    yield near, region.remote()
    region.close()


CALLS = {
    "send": lambda near, remote: near.send(b"x" * 1000),
    "receive": lambda near, remote: near.receive(timeout=LIMIT),
    "write": lambda near, remote: near.write(np.ones(8, np.uint8), remote).result(LIMIT),
    "fetch_add": lambda near, remote: near.fetch_add(remote, 1),
    "close": lambda near, remote: near.close(),
    "connect": lambda near, remote: nd.connect("127.0.0.1:1", adapter=near.adapter),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_in_the_middle_of_a_call_is_refused_and_harms_nothing(call, target):
    near, remote = target
    refused = []

    def within():
        with pytest.raises(RuntimeError, match=REFUSED) as caught:
            CALLS[call](near, remote)
        refused.append(caught.value)

    source = np.full(8, 7, np.uint8)
    with Within("c_call", "write", within):
        near.write(source, remote).result(LIMIT)
    assert len(refused) == 1
    near.write(source, remote).result(LIMIT)
    near.send(b"on").result(LIMIT)


def test_an_exception_behind_the_post_ends_the_connection_and_holds_the_memory(target):
    near, remote = target

    def interrupt():
        raise LookupError("out of a handler")

    with Within("c_return", "write", interrupt), pytest.raises(LookupError, match="a handler"):
        near.write(np.full(8, 7, np.uint8), remote)
    assert near.closed
    with pytest.raises(nd.RdmaError, match="LookupError came in the middle"):
        near.send(b"x")


def test_handlers_that_talk_while_the_program_talks_are_answered_or_refused(ends):
    near, far = ends
    counts = {"sent": 0, "refused": 0, "failed": 0}

    def handler(*_):
        try:
            near.send(b"from a handler")
            counts["sent"] += 1
        except RuntimeError as failure:
            counts["refused" if REFUSED in str(failure) else "failed"] += 1

    old = signal.signal(signal.SIGALRM, handler)
    rounds = 0
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        while rounds < 500 or (counts["sent"] < 20 and rounds < 200_000):
            near.send(b"from the program")
            rounds += 1
            far.receive(timeout=LIMIT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    for _ in range(counts["sent"]):
        far.receive(timeout=LIMIT)
    assert counts["sent"]
    assert not counts["failed"]


def test_a_finalizer_that_calls_in_the_middle_of_a_call_is_refused(target, monkeypatch):
    near, remote = target
    failures = []
    monkeypatch.setattr(sys, "unraisablehook", lambda about: failures.append(about.exc_value))

    class Cycle:
        def __init__(self):
            self.me = self

        def __del__(self):
            near.send(b"goodbye")

    Cycle()
    gc.disable()
    try:
        with Within("c_call", "write", gc.collect):
            near.write(np.ones(8, np.uint8), remote).result(LIMIT)
    finally:
        gc.enable()
    assert [str(failure)[: len(REFUSED)] for failure in failures] == [REFUSED]


def test_a_lock_is_given_back_by_its_own_thread_alone():
    lock = _Lock()
    with pytest.raises(RuntimeError, match="does not have the lock"):
        lock.__exit__()
    with lock:
        seen = []
        other = threading.Thread(target=lambda: seen.append(lock.acquire(0.0)))
        other.start()
        other.join()
        assert seen == [False]
        with pytest.raises(RuntimeError, match=REFUSED):
            lock.acquire(0.0)
    assert lock.acquire(0.0)
    lock.__exit__()


def test_a_wait_for_a_lock_hears_signals():
    lock = _Lock()
    begun = threading.Event()
    ended = threading.Event()

    def hold():
        with lock:
            begun.set()
            ended.wait(LIMIT)

    class AlarmError(Exception):
        pass

    def handler(*_):
        ended.set()
        raise AlarmError

    holder = threading.Thread(target=hold)
    holder.start()
    begun.wait(LIMIT)
    old = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(AlarmError):
            lock.__enter__()
    finally:
        signal.signal(signal.SIGALRM, old)
        ended.set()
        holder.join()
    with lock:
        pass
