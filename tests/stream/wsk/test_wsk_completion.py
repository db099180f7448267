# SPDX-License-Identifier: Apache-2.0
"""WSK sockets: each request completes exactly once, however its socket or its adapter ends."""

import gc
import queue
import sys
import threading

import pytest

import ndverbs as nd
from ndverbs import wsk
from ndverbs.wsk._request import Promise
from stream.sockets import LIMIT, Background
from stream.wsk_ends import receive

PEND = wsk.InspectAction.PEND


@pytest.fixture
def other(provider):
    """Open a second adapter, for the ends that stay when the first one closes."""
    with nd.Adapter.open(provider) as opened:
        yield opened


@pytest.fixture
def pended(other, host):
    """Give a listening socket whose requests wait for an answer, and the queue of their ids."""
    asked = queue.Queue()

    def on_inspect(_, inspect_id, *__):
        asked.put(inspect_id)
        return PEND

    with wsk.listen((host, 0), adapter=other, on_inspect=on_inspect) as listening:
        yield listening, asked


@pytest.fixture
def unraisable(monkeypatch):
    seen = queue.Queue()
    monkeypatch.setattr(sys, "unraisablehook", lambda report: seen.put(str(report.exc_value)))
    return seen


def counted(request, told):
    request.add_done_callback(told.put)
    return request


# ---- connects ---------------------------------------------------------------------------------


def test_a_second_connect_is_refused_and_the_first_one_completes(adapter, host, pended):
    listening, asked = pended
    with wsk.socket(adapter) as sock:
        sock.bind((host, 0))
        first = sock.connect(listening.local_address)
        inspect_id = asked.get(timeout=LIMIT)

        second = sock.connect(listening.local_address)

        assert second.status == nd.Status.INVALID_DEVICE_STATE
        assert not first.done()

        listening.inspect_complete(inspect_id, wsk.InspectAction.ACCEPT)
        first.result(LIMIT)
        with listening.accept(LIMIT):
            third = sock.connect(listening.local_address)
            assert third.status == nd.Status.CONNECTION_ACTIVE


def test_a_socket_connects_again_after_a_connect_that_failed(adapter, host, listening):
    with wsk.listen((host, 0), adapter=adapter) as gone:
        address = gone.local_address
    with wsk.socket(adapter) as sock:
        sock.bind((host, 0))
        bound = sock.local_address
        with pytest.raises(ConnectionRefusedError):
            sock.connect(address).result(LIMIT)

        sock.connect(listening.local_address).result(LIMIT)
        assert sock.local_address == bound

        with listening.accept(LIMIT) as far:
            sock.send(b"second").result(LIMIT)
            assert receive(far) == b"second"


def test_a_cancelled_connect_completes_and_leaves_the_socket_to_the_next(
    adapter, host, pended, listening
):
    silent, asked = pended
    with wsk.socket(adapter) as sock:
        sock.bind((host, 0))
        first = sock.connect(silent.local_address)
        asked.get(timeout=LIMIT)

        first.cancel()

        assert first.wait(LIMIT)
        assert first.status == nd.Status.CANCELLED

        sock.connect(listening.local_address).result(LIMIT)
        listening.accept(LIMIT).close()


def test_a_connect_completes_although_only_its_request_is_kept(adapter, host, listening):
    sock = wsk.socket(adapter)
    sock.bind((host, 0))
    request = sock.connect(listening.local_address)
    del sock
    gc.collect()
    request.result(LIMIT)


def test_an_accept_completes_although_only_its_request_is_kept(adapter, host):
    listening = wsk.listen((host, 0), adapter=adapter)
    address, request = listening.local_address, listening.accept_request()
    del listening
    gc.collect()
    with wsk.socket_connect((host, 0), address, adapter):
        request.result(LIMIT).close()


def test_connect_ex_has_brought_nothing_until_it_is_done(adapter, host, pended):
    listening, asked = pended
    with wsk.socket(adapter) as sock:
        sock.bind((host, 0))
        request = sock.connect_ex(listening.local_address, b"first")

        inspect_id = asked.get(timeout=LIMIT)
        assert (request.status, request.information) == (nd.Status.PENDING, 0)

        listening.inspect_complete(inspect_id, wsk.InspectAction.ACCEPT)
        assert request.result(LIMIT) == 5

        listening.accept(LIMIT).close()


# ---- every request, every end -----------------------------------------------------------------

BIG = 50_000_000  # more than the peer has room for
STARTS = {
    "receive": lambda near: near.receive(bytearray(4)),
    "receive of all": lambda near: near.receive(bytearray(4), wsk.Flag.WAITALL),
    "drain": lambda near: near.receive(flags=wsk.Flag.DRAIN),
    "send": lambda near: near.send(bytes(BIG)),
    "disconnect behind a send": lambda near: (near.send(bytes(BIG)), near.disconnect())[1],
}
ENDS = {
    "close": lambda near, *_: near.close(),
    "abort": lambda near, *_: near.disconnect(abortive=True),
    "adapter's close": lambda near, far, adapter, other: adapter.close(),
    "peer's abort": lambda near, far, *_: far.disconnect(abortive=True),
    "peer's close": lambda near, far, *_: far.close(),
    "peer's adapter's close": lambda near, far, adapter, other: other.close(),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_a_request_completes_exactly_once_at_every_end(start, end, adapter, other, host):
    told = queue.Queue()
    with (
        wsk.listen((host, 0), adapter=other) as listening,
        wsk.socket_connect((host, 0), listening.local_address, adapter) as near,
        listening.accept(LIMIT) as far,
    ):
        request = counted(start(near), told)
        assert not request.done()

        end(near, far, adapter, other)
        assert request.wait(LIMIT)
        assert told.get(timeout=LIMIT).status == request.status

        if request.status != nd.Status.SUCCESS:
            assert request.information == 0
        adapter.close()  # the barrier: no callback comes behind it
        assert told.empty()


@pytest.mark.parametrize("end", ["close", "adapter's close"])
def test_a_connect_under_way_completes_exactly_once_at_its_end(end, adapter, host, pended):
    listening, asked = pended
    told = queue.Queue()
    with wsk.socket(adapter) as sock:
        sock.bind((host, 0))
        request = counted(sock.connect(listening.local_address), told)
        asked.get(timeout=LIMIT)

        ENDS[end](sock, None, adapter, None)
        assert request.wait(LIMIT)
        assert request.status == nd.Status.CANCELLED
        assert told.get(timeout=LIMIT) is request

        adapter.close()
        assert told.empty()


# ---- accept requests --------------------------------------------------------------------------


def test_closing_the_adapter_cancels_accept_requests(adapter, host):
    told = queue.Queue()
    listening = wsk.listen((host, 0), adapter=adapter)
    requests = [counted(listening.accept_request(), told) for _ in range(3)]
    blocked = Background(listening.accept)

    adapter.close()

    assert [request.wait(LIMIT) for request in requests] == [True] * 3
    assert {request.status for request in requests} == {nd.Status.CANCELLED}
    assert [told.get(timeout=LIMIT) for _ in requests] == requests
    with pytest.raises(nd.RdmaError) as caught:
        blocked.result()
    assert caught.value.status in (nd.Status.CANCELLED, nd.Status.FILE_FORCED_CLOSED)
    assert listening.closed
    with pytest.raises(nd.ClosedError):
        listening.accept_request()


def test_an_accept_that_gives_up_leaves_the_next_connection_alone(adapter, host, listening):
    with pytest.raises(TimeoutError):
        listening.accept(0)
    with (
        wsk.socket_connect((host, 0), listening.local_address, adapter) as near,
        listening.accept(LIMIT) as far,
    ):
        assert far.remote_address == near.local_address


# ---- callbacks and names ----------------------------------------------------------------------


def test_a_callback_that_raises_stops_neither_the_next_nor_the_call(listening, unraisable):
    told = queue.Queue()

    def fail(_):
        raise RuntimeError("on purpose")

    request = listening.accept_request()
    request.add_done_callback(fail)
    request.add_done_callback(told.put)
    listening.close()
    assert told.get(timeout=LIMIT) is request
    assert unraisable.get(timeout=LIMIT) == "on purpose"


def test_a_receive_inside_an_event_completes_although_its_memory_cannot_be_used(make_ends):
    def on_receive(sock, *_):
        sock.receive(bytes(4)).add_done_callback(ends.told.put)

    ends = make_ends(on_receive=on_receive)
    ends.near.set_event_callbacks(wsk.EventMask.RECEIVE)
    ends.far.send(b"x").result(LIMIT)
    assert isinstance(ends.next().exception(), BufferError)


def test_a_receive_inside_an_event_can_be_cancelled(make_ends):
    def on_receive(sock, *_):
        request = sock.receive(bytearray(4))
        request.cancel()
        ends.told.put(request)

    ends = make_ends(on_receive=on_receive)
    ends.near.set_event_callbacks(wsk.EventMask.RECEIVE)
    ends.far.send(b"x").result(LIMIT)
    assert ends.next().status == nd.Status.CANCELLED


def test_a_receive_inside_an_event_is_cancelled_when_the_event_closes_its_socket(make_ends):
    def on_receive(sock, *_):
        sock.receive(bytearray(4)).add_done_callback(ends.told.put)
        sock.close()

    ends = make_ends(on_receive=on_receive)
    ends.near.set_event_callbacks(wsk.EventMask.RECEIVE)
    ends.far.send(b"x").result(LIMIT)
    assert ends.next().status == nd.Status.CANCELLED


@pytest.mark.parametrize(
    ("start", "status"),
    [
        (lambda: wsk.get_address_info("localhost\0b", 1), nd.Status.INVALID_PARAMETER),
        (lambda: wsk.get_address_info("x" * 70 + ".invalid"), nd.Status.INVALID_PARAMETER),
        (lambda: wsk.get_address_info("127.0.0.1", object()), nd.Status.NO_MATCH),
        (lambda: wsk.get_name_info(("127.0.0.1", -1)), nd.Status.NO_MATCH),
        (lambda: wsk.get_name_info(("no.address", 1)), nd.Status.NO_MATCH),
    ],
)
def test_a_look_up_of_nonsense_completes(start, status):
    request = start()
    assert request.wait(LIMIT)
    assert request.status == status


def test_a_look_up_can_be_cancelled(monkeypatch):
    entered, leave = threading.Event(), threading.Event()

    def slow(*_):
        entered.set()
        assert leave.wait(LIMIT)
        return ["late"]

    monkeypatch.setattr("socket.getaddrinfo", slow)
    request = wsk.get_address_info("host")
    assert entered.wait(LIMIT)
    request.cancel()
    leave.set()
    assert (request.status, request.information) == (nd.Status.CANCELLED, 0)


def test_a_look_at_a_request_leaves_the_traceback_of_its_failure_alone(listening):
    request = listening.accept_request()
    listening.close()
    with pytest.raises(nd.RdmaError) as caught:
        request.result(LIMIT)
    raised = caught.value.__traceback__

    assert request.exception() is caught.value
    assert request.status == nd.Status.CANCELLED
    assert caught.value.__traceback__ is raised


def test_a_promise_is_settled_once():
    promise = Promise()
    assert promise.settle(information=1)
    assert not promise.settle(RuntimeError("late"), information=2)

    promise.result()
    assert promise.information == 1


def test_a_thread_may_have_the_name_of_the_callback_thread(ends):
    outcome = []
    request = ends.near.receive(bytearray(4))
    thread = threading.Thread(
        target=lambda: outcome.append(request.result(LIMIT)), name="ndverbs callbacks"
    )
    thread.start()
    ends.far.send(b"four").result(LIMIT)

    thread.join(LIMIT)

    assert outcome == [4]
