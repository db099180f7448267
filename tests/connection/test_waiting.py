# SPDX-License-Identifier: Apache-2.0
"""Requests as futures, and threads that wait for different things at one time."""

import concurrent.futures
import io
import signal
import sys
import threading
import time
import weakref

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT
from ndverbs.connection._hub import _Waiter


def test_a_receive_that_times_out_loses_no_message(ends):
    near, far = ends
    with pytest.raises(TimeoutError):
        far.receive(0.02)
    near.send(b"kept")
    assert far.receive(LIMIT) == b"kept"
    with pytest.raises(TimeoutError):
        far.receive(0)


def test_a_request_is_a_future_of_the_standard_library(ends):
    near, far = ends
    request = near.send(np.zeros(1 << 20, np.uint8))
    assert isinstance(request, concurrent.futures.Future)
    assert isinstance(request, nd.Request)
    assert request.running()
    assert not request.done()
    assert not request.cancel()
    assert not request.cancelled()
    assert repr(request) == "<Request under way>"
    assert concurrent.futures.wait([request], 0.01).not_done == {request}
    seen = []
    request.add_done_callback(seen.append)
    threading.Thread(target=far.receive, args=(LIMIT,)).start()
    assert concurrent.futures.wait([request], LIMIT).done == {request}
    assert list(concurrent.futures.as_completed([request], LIMIT)) == [request]
    assert request.exception() is None
    assert repr(request) == "<Request done: None>"
    assert seen == [request]
    request.add_done_callback(seen.append)
    assert seen == [request, request]
    seen.clear()


def test_a_callback_that_raises_is_reported_and_harms_nothing(ends, monkeypatch):
    near, far = ends
    told = []
    monkeypatch.setattr("sys.unraisablehook", told.append)
    request = near.send(b"x")
    request.result(LIMIT)
    request.add_done_callback(lambda _: 1 / 0)
    assert told[0].exc_type is ZeroDivisionError
    assert far.receive(LIMIT) == b"x"
    told.clear()


def test_a_callback_that_raises_does_not_raise_where_the_hook_is_pythons_own(ends, monkeypatch):
    near, far = ends
    monkeypatch.setattr("sys.unraisablehook", sys.__unraisablehook__)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    request = near.send(b"x")
    request.result(LIMIT)
    request.add_done_callback(lambda _: 1 / 0)
    assert sys.stderr.getvalue().endswith("ZeroDivisionError: division by zero\n")
    assert far.receive(LIMIT) == b"x"


def test_a_callback_may_use_the_connection(ends):
    near, far = ends
    done = threading.Event()

    def answer(_):
        near.send(b"from the callback")
        done.set()

    near.send(np.zeros(1 << 20, np.uint8)).add_done_callback(answer)
    far.receive(LIMIT)
    assert far.receive(LIMIT) == b"from the callback"
    assert done.wait(LIMIT)


def test_threads_that_wait_for_different_things_all_get_theirs(ends, scaled):
    near, far = ends
    window = np.zeros(8 * 4096, np.uint8)
    failures = []

    def run(function):
        try:
            function()
        except BaseException as failure:
            failures.append(failure)

    def echo():
        while (message := far.receive(LIMIT)) != b"end":
            far.send(message)

    count = scaled(200)
    with far.register(window, nd.Access.REMOTE_WRITE) as region:
        remote = region.remote()

        def write(place):
            source = np.full(4096, place + 1, np.uint8)
            for _ in range(count):
                near.write(source, remote[place * 4096 : place * 4096 + 4096]).result(LIMIT)

        def talk():
            for i in range(count):
                near.send(i.to_bytes(4, "little") * 1500)
                assert near.receive(LIMIT) == i.to_bytes(4, "little") * 1500
            near.send(b"end")

        threads = [threading.Thread(target=run, args=(f,)) for f in (echo, talk)]
        threads += [
            threading.Thread(target=run, args=(lambda place=place: write(place),))
            for place in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
    assert not failures
    assert (window[: 4 * 4096].reshape(4, -1) == np.arange(1, 5)[:, None]).all()


def test_two_threads_that_receive_each_get_whole_messages(ends, scaled):
    near, far = ends
    count = scaled(300)
    found = []

    def receive():
        while (message := far.receive(LIMIT)) != b"end":
            found.append(message)

    threads = [threading.Thread(target=receive) for _ in range(2)]
    for thread in threads:
        thread.start()
    sent = [i.to_bytes(2, "little") * (1 + i % 9000) for i in range(count)]
    for message in sent:
        near.send(message)
    near.send(b"end")
    near.send(b"end")
    for thread in threads:
        thread.join(LIMIT)
    assert sorted(found) == sorted(sent)


def test_ctrl_c_ends_a_wait_and_nothing_else(ends):
    near, far = ends
    timer = threading.Timer(0.1, signal.raise_signal, (signal.SIGINT,))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        far.receive(LIMIT)
    timer.join()
    near.send(b"after")
    assert far.receive(LIMIT) == b"after"


def test_a_signal_handler_may_wait_inside_a_wait(ends):
    near, far = ends
    begun = threading.Event()
    found = []

    def handle(*_):
        begun.set()
        found.append(near.receive(LIMIT))
        near.send(b"for the outer one")

    def answer():
        begun.wait(LIMIT)
        far.send(b"for the handler")

    before = signal.signal(signal.SIGUSR1, handle)
    threads = [
        threading.Thread(target=answer),
        threading.Timer(0.1, signal.raise_signal, (signal.SIGUSR1,)),
    ]
    try:
        for thread in threads:
            thread.start()
        assert far.receive(LIMIT) == b"for the outer one"
    finally:
        signal.signal(signal.SIGUSR1, before)
        for thread in threads:
            thread.join()
    assert found == [b"for the handler"]


def test_a_wait_that_is_interrupted_at_its_end_leaves_no_leader(ends, monkeypatch):
    near, far = ends

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(far._hub, "_stop_waiting", interrupt)
        with pytest.raises(KeyboardInterrupt):
            far.receive(0.01)
    threading.Timer(0.05, near.send, (b"later",)).start()
    assert far.receive(LIMIT) == b"later"


def test_a_follower_that_goes_passes_on_that_nobody_leads(ends):
    hub = ends[0]._hub
    waiters = [_Waiter(nd.Request(hub)) for _ in range(2)]
    for waiter in waiters:
        waiter.follow()
    hub._followers = waiters
    waiters[0].is_here = False
    hub._stop_waiting(waiters[0])
    waiters[1].sleep(LIMIT)
    assert hub._followers == waiters[1:]
    hub._followers = []


def test_a_finalizer_of_lent_memory_may_use_the_connection(ends):
    near, far = ends

    class Array(np.ndarray):
        pass

    def lend():
        lent = np.zeros(1 << 20, np.uint8).view(Array)
        weakref.finalize(lent, near.send, b"given back")
        return near.send(lent)

    request = lend()
    taken = far.receive(LIMIT)
    request.result(LIMIT)
    assert len(taken) == 1 << 20
    assert far.receive(LIMIT) == b"given back"


def test_an_interrupted_receive_loses_no_message(ends, monkeypatch):
    near, far = ends
    sent = [b"short", [b"of parts"], np.zeros(1 << 20, np.uint8)]
    for value in sent:
        near.send(value)

    def interrupt(*_):
        raise KeyboardInterrupt

    for value in sent:
        with monkeypatch.context() as patch:
            patch.setattr("ndverbs.connection._messages._count_taken", interrupt)
            with pytest.raises(KeyboardInterrupt):
                far.receive(LIMIT)
        np.testing.assert_array_equal(far.receive(LIMIT), value)


def test_messages_go_out_while_the_program_computes(ends):
    near, far = ends
    # More than the credits and the window take at once, and no call of this end afterwards.
    for i in range(100):
        near.send(bytes([i]) * 10_000)
    found = []
    thread = threading.Thread(
        target=lambda: found.extend(far.receive(LIMIT)[0] for _ in range(100))
    )
    thread.start()
    until = time.monotonic() + LIMIT
    while thread.is_alive() and time.monotonic() < until:
        sum(range(1000))
    thread.join(LIMIT)
    assert found == list(range(100))


def test_the_trace_has_the_last_requests(ends):
    near, far = ends
    near.send(b"12345").result(LIMIT)
    far.receive(LIMIT)
    near.send(np.zeros(100_000, np.uint8))
    far.receive(LIMIT)
    kinds = [(entry["kind"], entry["nbytes"]) for entry in near.trace()]
    assert kinds == [("send", 5), ("send", 100_000)]
    assert [(entry["kind"], entry["nbytes"]) for entry in far.trace()] == [("take", 100_000)]
    assert near.trace()[0]["seconds"] >= 0
    html = near.trace()._repr_html_()
    assert "100,000" in html
    assert "<svg" in html
