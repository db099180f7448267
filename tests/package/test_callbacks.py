# SPDX-License-Identifier: Apache-2.0
"""Callbacks: one thread per adapter, in order, no lock held; exceptions are reported."""

import os
import queue
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import ndverbs as nd
from stream.sockets import until

LIMIT = 30
LOOPBACK = ("127.0.0.1", 0)

pytestmark = pytest.mark.tsan


@pytest.fixture
def calls():
    """Give a queue that callbacks put into."""
    return queue.SimpleQueue()


@pytest.fixture
def unraisable(monkeypatch):
    """Give a queue of what reached sys.unraisablehook: type and text."""
    seen = queue.SimpleQueue()
    monkeypatch.setattr(
        sys, "unraisablehook", lambda args: seen.put((args.exc_type, str(args.exc_value)))
    )
    return seen


def listening(adapter, on_connect):
    listener = adapter.create_listener(on_connect)
    listener.listen("127.0.0.1:0")
    return listener


def knock(adapter, listener, **options):
    """Ask for a connection; return the operation."""
    pd, cq = adapter.create_pd(), adapter.create_cq(256)
    connector = adapter.create_connector()
    qp = pd.create_qp(cq, cq)
    return connector, qp, connector._start_connect(qp, None, listener.local_address, **options)


def queues_of(adapter, on_notify):
    """Return an armed completion queue and a queue pair whose flush notifies it."""
    cq = adapter.create_cq(256, on_notify=on_notify)
    qp = adapter.create_pd().create_qp(cq, cq)
    qp.receive()
    cq.arm()
    return cq, qp


def test_on_connect_gets_a_connector_that_may_be_rejected_inside(adapter, calls):
    def on_connect(connector):
        calls.put(connector.connection_data.private_data)
        connector.reject(b"no")

    listener = listening(adapter, on_connect)
    connector, _, operation = knock(adapter, listener, private_data=b"please")

    with pytest.raises(ConnectionRefusedError):
        operation.wait(LIMIT)
    assert calls.get(timeout=LIMIT) == b"please"
    assert connector.connection_data.private_data == b"no"


def test_on_connect_may_keep_the_connector_for_later(adapter, calls):
    listener = listening(adapter, calls.put)
    connector, _, operation = knock(adapter, listener)

    incoming = calls.get(timeout=LIMIT)
    assert incoming.state == "incoming"
    pd, cq = adapter.create_pd(), adapter.create_cq(256)
    with ThreadPoolExecutor(1) as thread:
        accepted = thread.submit(incoming.accept, pd.create_qp(cq, cq))
        operation.wait(LIMIT)
        connector.complete_connect()
        accepted.result(LIMIT)


def test_connector_that_on_connect_drops_is_rejected(adapter):
    listener = listening(adapter, lambda connector: None)
    *_, operation = knock(adapter, listener)

    with pytest.raises(ConnectionRefusedError):
        operation.wait(LIMIT)


def test_callbacks_run_on_one_daemon_thread_of_the_adapter(adapter, calls):
    listener = listening(adapter, lambda connector: calls.put(threading.current_thread()))
    threads = set()
    for _ in range(3):
        *_, operation = knock(adapter, listener)
        threads.add(calls.get(timeout=LIMIT))
        with pytest.raises(ConnectionRefusedError):
            operation.wait(LIMIT)

    (thread,) = threads
    assert thread is not threading.main_thread()
    assert thread.daemon
    threads.clear()
    del thread


def test_callbacks_run_in_the_order_of_their_events(adapter, calls):
    listener = listening(adapter, lambda c: calls.put(c.connection_data.private_data))
    for i in range(20):
        *_, operation = knock(adapter, listener, private_data=bytes([i]))
        with pytest.raises(ConnectionRefusedError):
            operation.wait(LIMIT)

    assert [calls.get(timeout=LIMIT)[0] for _ in range(20)] == [*range(20)]


def test_exception_of_a_callback_goes_to_the_unraisable_hook(adapter, calls, unraisable):
    def on_connect(connector):
        connector.reject()
        raise RuntimeError("on purpose")

    listener = listening(adapter, on_connect)
    for _ in range(2):  # and the next callback still runs
        *_, operation = knock(adapter, listener)
        with pytest.raises(ConnectionRefusedError):
            operation.wait(LIMIT)
        assert unraisable.get(timeout=LIMIT) == (RuntimeError, "on purpose")


def test_callback_may_close_its_own_listener(adapter, calls):
    def on_connect(connector):
        listener.close()
        calls.put(listener.closed)

    listener = listening(adapter, on_connect)
    *_, operation = knock(adapter, listener)

    assert calls.get(timeout=LIMIT) is True
    with pytest.raises(ConnectionRefusedError):
        operation.wait(LIMIT)


def test_callback_may_close_its_own_connector(connect_pair, calls):
    pair = connect_pair(is_connected=False)

    def on_disconnect():
        pair.near.connector.close()
        pair.near.qp.close()
        calls.put("closed")

    pair.near._on_disconnect = on_disconnect
    pair.connect()
    pair.far.connector.close()

    assert calls.get(timeout=LIMIT) == "closed"


def test_callback_may_post_and_poll(connect_pair, calls):
    pair = connect_pair(is_connected=False)
    pair.near.receive(context=1)

    def on_disconnect():
        pair.near.receive(context=2)
        pair.near.flush()
        calls.put([done.request_context for done in pair.near.completions("receive", 2)])

    pair.near._on_disconnect = on_disconnect
    pair.connect()
    pair.far.connector.close()

    assert calls.get(timeout=LIMIT) == [1, 2]


def test_closing_the_adapter_in_a_callback_raises(adapter, calls):
    def on_connect(connector):
        connector.reject()
        try:
            adapter.close()
        except nd.RdmaError as error:
            calls.put((error.status, str(error)))

    listener = listening(adapter, on_connect)
    *_, operation = knock(adapter, listener)

    with pytest.raises(ConnectionRefusedError):
        operation.wait(LIMIT)
    status, text = calls.get(timeout=LIMIT)
    assert status == nd.Status.INVALID_DEVICE_STATE
    assert "callback" in text
    assert not adapter.closed


def test_closing_another_adapter_in_a_callback_is_fine(adapter, provider, calls):
    other = nd.Adapter.open(provider)

    def on_connect(connector):
        connector.reject()
        other.close()
        calls.put(other.closed)

    listener = listening(adapter, on_connect)
    *_, operation = knock(adapter, listener)

    with pytest.raises(ConnectionRefusedError):
        operation.wait(LIMIT)
    assert calls.get(timeout=LIMIT) is True


def test_adapter_close_waits_for_the_callback_that_runs(provider, calls):
    adapter = nd.Adapter.open(provider)
    entered, leave = threading.Event(), threading.Event()

    def on_connect(connector):
        connector.reject()
        entered.set()
        assert leave.wait(LIMIT)
        calls.put("left")

    listener = listening(adapter, on_connect)
    *_, operation = knock(adapter, listener)
    with pytest.raises(ConnectionRefusedError):
        operation.wait(LIMIT)
    assert entered.wait(LIMIT)
    with ThreadPoolExecutor(1) as thread:
        closing = thread.submit(adapter.close)
        assert calls.empty()
        leave.set()
        closing.result(LIMIT)

    assert calls.get_nowait() == "left"


def test_no_callback_begins_after_adapter_close(provider, calls):
    adapter = nd.Adapter.open(provider)
    listener = listening(adapter, calls.put)
    operations = [knock(adapter, listener) for _ in range(5)]

    adapter.close()
    seen = 0
    while not calls.empty():
        calls.get().close()
        seen += 1

    assert seen <= 5
    for *_, operation in operations:
        with pytest.raises(nd.RdmaError):
            operation.wait(LIMIT)
    assert calls.empty()


def test_no_lock_is_held_in_a_callback(adapter, calls):
    # While the callback waits, every other call works.
    entered, leave = threading.Event(), threading.Event()

    def on_connect(connector):
        entered.set()
        assert leave.wait(LIMIT)
        connector.reject()
        calls.put("left")

    listener = listening(adapter, on_connect)
    *_, operation = knock(adapter, listener)
    assert entered.wait(LIMIT)

    listener.control_connect_events(True)
    listener.control_connect_events(False)
    assert adapter.stats()["connect"] == 0
    with adapter.create_pd() as pd, adapter.create_cq(256) as cq, pd.create_qp(cq, cq) as qp:
        qp.receive()
        qp.flush()
        assert len(cq.poll()) == 1

    leave.set()
    with pytest.raises(ConnectionRefusedError):
        operation.wait(LIMIT)
    assert calls.get(timeout=LIMIT) == "left"


def test_done_callback_of_an_operation_gets_the_operation(adapter, calls):
    listener = adapter.create_listener()
    listener.listen("127.0.0.1:0")
    *_, operation = knock(adapter, listener)
    operation.add_done_callback(calls.put)

    listener.get_connector(LIMIT).reject()

    assert calls.get(timeout=LIMIT) is operation
    with pytest.raises(ConnectionRefusedError):
        operation.result()


def test_adapter_that_is_dropped_in_a_callback_is_closed_elsewhere(provider, calls):
    from conftest import native_objects

    # The last reference goes on the callback thread, which the barrier would wait for.
    before = native_objects()
    adapter = nd.Adapter.open(provider)
    held = {"adapter": adapter}
    ready = threading.Event()

    def on_connect(connector):
        assert ready.wait(LIMIT)
        connector.reject()
        held.clear()
        calls.put("dropped")

    held["listener"] = listening(adapter, on_connect)
    held["knock"] = knock(adapter, held["listener"])
    operation = held["knock"][2]
    del adapter
    ready.set()

    assert calls.get(timeout=LIMIT) == "dropped"
    with pytest.raises(nd.RdmaError):
        operation.wait(LIMIT)
    del operation
    _wait_until_only(before)


def test_adapter_that_is_dropped_in_a_callback_leaves_no_thread_of_its_streams(provider, calls):
    before = len(os.listdir("/proc/self/task"))
    adapter = nd.Adapter.open(provider)
    adapter._allow_drop()
    ready = threading.Event()

    def told(status):
        assert ready.wait(LIMIT)
        held.clear()
        calls.put(threading.current_thread())

    held = {
        "adapter": adapter,
        "stream": adapter._create_stream_listener(LOOPBACK, nd._native.StreamOptions(), 5),
        "queues": queues_of(adapter, told),
    }
    held["queues"][1].flush()
    del adapter
    ready.set()
    calls.get(timeout=LIMIT).join(LIMIT)

    turn = threading.Event()
    for _ in range(1000):  # the kernel lists a thread a little longer
        if len(os.listdir("/proc/self/task")) <= before:
            return
        turn.wait(0.01)
    raise AssertionError("a thread is left")


def _wait_until_only(before):
    from conftest import native_objects

    turn = threading.Event()
    for _ in range(1000):
        if native_objects() == before:
            return
        turn.wait(0.01)
    raise AssertionError(native_objects())


def test_on_disconnect_is_called_without_arguments_and_once(connect_pair, calls):
    pair = connect_pair(is_connected=False)
    pair.near._on_disconnect = lambda *args: calls.put(args)
    pair.connect()

    pair.far.connector.close()
    assert calls.get(timeout=LIMIT) == ()
    pair.far.qp.close()
    pair.near.connector.disconnect(LIMIT)
    pair.adapter.close()

    assert calls.empty()


def test_callback_is_released_when_its_connection_ends(connect_pair):
    import gc
    import weakref

    class Handler:
        def __call__(self):
            pass

    pair = connect_pair(is_connected=False)
    handler = pair.near._on_disconnect = Handler()
    reference = weakref.ref(handler)
    pair.connect()
    del handler, pair.near._on_disconnect
    gc.collect()
    assert reference() is not None

    pair.near.connector.close()

    gc.collect()
    assert reference() is None


# ---- Ctrl-C while the thread is started ---------------------------------------------------------

Thread = threading.Thread


class NeverMade(Thread):
    """Ctrl-C arrives while the thread's object is made."""

    def __init__(self, **options):
        raise KeyboardInterrupt


class NeverBegun(Thread):
    """Ctrl-C arrives before there is a thread."""

    def start(self):
        raise KeyboardInterrupt


class BegunLate(Thread):
    """Ctrl-C arrives before the thread of the system has come to run."""

    late = queue.SimpleQueue()

    def start(self):
        self.late.put(super().start)
        raise KeyboardInterrupt


class Begun(Thread):
    """Ctrl-C arrives when the thread runs already."""

    def start(self):
        super().start()
        raise KeyboardInterrupt


@pytest.mark.parametrize("interrupted", [NeverMade, NeverBegun, BegunLate, Begun])
def test_interrupt_while_the_thread_is_started_leaves_one_thread(
    provider, calls, monkeypatch, interrupted
):
    with nd.Adapter.open(provider) as adapter:
        monkeypatch.setattr(threading, "Thread", interrupted)
        with pytest.raises(KeyboardInterrupt):
            adapter.create_cq(256, on_notify=calls.put)
        monkeypatch.undo()

        queues = [queues_of(adapter, lambda _: calls.put(threading.get_ident())) for _ in range(3)]
        if interrupted is BegunLate:
            interrupted.late.get_nowait()()
        for _, qp in queues:
            qp.flush()
        (ident,) = {calls.get(timeout=LIMIT) for _ in queues}

        threads = [each for each in threading.enumerate() if each.name == "ndverbs callbacks"]
        for late in threads:
            late.join(0 if late.ident == ident else LIMIT)
        assert [each.ident for each in threads if each.is_alive()] == [ident]


def test_a_function_is_called_although_another_start_of_the_thread_was_interrupted(
    provider, calls, monkeypatch
):
    made = []

    class Interrupted(Thread):
        def start(self):
            monkeypatch.undo()
            made.append(queues_of(adapter, calls.put))
            raise KeyboardInterrupt

    with nd.Adapter.open(provider) as adapter:
        monkeypatch.setattr(threading, "Thread", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            adapter.create_cq(256, on_notify=print)

        made[0][1].flush()

        assert calls.get(timeout=LIMIT) == nd.Status.SUCCESS


def test_a_close_under_way_ends_although_the_start_of_the_thread_is_interrupted(
    provider, monkeypatch
):
    adapter = nd.Adapter.open(provider)
    closing = Thread(target=adapter.close)

    class Interrupted(Thread):
        def start(self):
            monkeypatch.undo()
            closing.start()
            until(lambda: adapter.closed)
            raise KeyboardInterrupt

    monkeypatch.setattr(threading, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        adapter.create_cq(256, on_notify=print)

    closing.join(LIMIT)
    assert not closing.is_alive()
