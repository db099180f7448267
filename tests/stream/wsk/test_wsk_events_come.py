# SPDX-License-Identifier: Apache-2.0
"""WSK sockets: each event comes, whatever came first and took the data; one at a time."""

import queue
import sys
import threading

import pytest

import ndverbs as nd
from ndverbs import wsk
from stream.sockets import LIMIT, Background, until
from stream.wsk_ends import BACKLOG, DISCONNECT, RECEIVE, receive

WAITALL, DRAIN = wsk.Flag.WAITALL, wsk.Flag.DRAIN
OFF = wsk.EventMask.DISABLE
GRACEFUL, ABORTIVE = wsk.Flag.NONE, wsk.Flag.ABORTIVE


@pytest.fixture
def unraisable(monkeypatch):
    seen = queue.Queue()
    monkeypatch.setattr(sys, "unraisablehook", lambda report: seen.put(str(report.exc_value)))
    return seen


@pytest.fixture
def static_events(monkeypatch):
    """Switch receive and disconnect events on for every socket of the test."""
    monkeypatch.setattr(wsk._events, "static", wsk._events.Static())
    wsk.set_static_event_callbacks(RECEIVE | DISCONNECT)


def tell_end(ends):
    return lambda _, flags: ends.told.put(flags)


def take_by_indications(sock):
    with sock.receive_indications()[0] as one:
        assert bytes(one.array) == b"last words"


# ---- the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [DISCONNECT, DISCONNECT | RECEIVE])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda sock: sock.receive(bytearray(100)), None),
        (lambda sock: sock.receive(bytearray(100), WAITALL), None),
        (lambda sock: sock.receive(None, DRAIN), None),
        (None, receive),
        (None, lambda sock: (receive(sock, 4), receive(sock))),
        (None, lambda sock: sock.receive(None, DRAIN).result(LIMIT)),
        (None, take_by_indications),
    ],
    ids=["receive", "waitall", "drain", "later receive", "two receives", "later drain", "views"],
)
def test_the_end_is_told_once_when_requests_have_taken_the_data(make_ends, mask, before, after):
    ends = make_ends()
    ends.near.on_disconnect = tell_end(ends)
    ends.near.set_event_callbacks(mask)
    if before is not None:
        before(ends.near)
    ends.far.send(b"last words").result(LIMIT)
    ends.far.disconnect().result(LIMIT)
    ends.near._stream.wait_readable(LIMIT)
    if after is not None:
        after(ends.near)
    assert ends.next() == GRACEFUL

    ends.near.receive().result(LIMIT)
    assert receive(ends.near) == b""
    assert ends.told.empty()


def test_an_abort_behind_a_graceful_end_is_told_too(make_ends):
    ends = make_ends()
    ends.near.on_disconnect = tell_end(ends)
    ends.near.set_event_callbacks(DISCONNECT)

    ends.far.disconnect().result(LIMIT)
    assert ends.next() == GRACEFUL

    ends.far.disconnect(abortive=True)
    assert ends.next() == ABORTIVE


def test_an_end_that_came_before_is_told_when_its_event_is_switched_on(make_ends):
    ends = make_ends(on_disconnect=lambda _, flags: ends.told.put(flags))

    ends.far.disconnect(abortive=True)
    with pytest.raises(ConnectionResetError):
        ends.near.receive(bytearray(1)).result(LIMIT)

    ends.near.set_event_callbacks(DISCONNECT)
    assert ends.next() == ABORTIVE


@pytest.mark.usefixtures("static_events")
def test_a_connect_that_fails_tells_no_end(adapter, host, listening):
    told = queue.Queue()
    address = listening.local_address
    listening.close()

    with wsk.socket(adapter, on_disconnect=lambda *event: told.put(event)) as sock:
        sock.bind((host, 0))
        with pytest.raises(ConnectionRefusedError):
            sock.connect(address).result(LIMIT)

    assert told.empty()


# ---- callbacks that are set later -------------------------------------------------------------


@pytest.mark.usefixtures("static_events")
def test_data_and_end_that_came_before_are_told_to_callbacks_that_are_set_later(make_ends):
    ends = make_ends()
    ends.near.send(b"early").result(LIMIT)
    ends.near.disconnect().result(LIMIT)
    ends.far._stream.wait_readable(LIMIT)
    ends.far.on_receive = lambda _, shown, __: ends.told.put(bytes(shown[0].array))
    assert ends.next() == b"early"

    ends.far.on_disconnect = tell_end(ends)
    assert ends.next() == GRACEFUL


def test_connections_that_came_before_are_told_to_an_accept_callback_that_is_set_later(
    adapter, host, listening
):
    told = queue.Queue()
    listening.set_event_callbacks(wsk.EventMask.ACCEPT)
    with wsk.socket_connect((host, 0), listening.local_address, adapter) as near:
        listening.on_accept = lambda _, sock, *__: told.put(sock)
        with told.get(timeout=LIMIT) as far:
            assert far.remote_address == near.local_address


# ---- callbacks that raise ---------------------------------------------------------------------


def test_an_accept_event_that_raises_does_not_keep_the_next_one(
    adapter, host, listening, unraisable
):
    told = queue.Queue()

    def on_accept(_, sock, *__):
        if unraisable.empty():
            raise RuntimeError("on purpose")
        told.put(sock)

    connected = [wsk.socket_connect((host, 0), listening.local_address, adapter) for _ in range(2)]
    listening.on_accept = on_accept
    listening.set_event_callbacks(wsk.EventMask.ACCEPT)
    told.get(timeout=LIMIT).close()
    assert unraisable.get(timeout=LIMIT) == "on purpose"
    for sock in connected:
        sock.close()


def test_a_done_callback_that_raises_does_not_keep_an_event(make_ends, unraisable):
    ends = make_ends(on_disconnect=lambda _, flags: ends.told.put(flags))
    ends.near.set_event_callbacks(DISCONNECT)

    def fail(_):
        raise RuntimeError("on purpose")

    ends.near.receive(bytearray(100)).add_done_callback(fail)
    ends.far.disconnect(b"bye").result(LIMIT)
    assert ends.next() == GRACEFUL
    assert unraisable.get(timeout=LIMIT) == "on purpose"


# ---- one at a time ----------------------------------------------------------------------------


def test_accept_events_are_told_one_at_a_time_on_the_thread_of_their_adapter(
    provider, adapter, host
):
    inside, leave, told = threading.Event(), threading.Event(), queue.Queue()
    running = []

    def on_accept(_, sock, *__):
        running.append(threading.get_ident())
        told.put((threading.get_ident(), len(running), sock))
        inside.set()
        assert leave.wait(LIMIT)
        running.pop()

    with (
        nd.Adapter.open(provider) as other,
        wsk.listen((host, 0), adapter=adapter, on_accept=on_accept) as listening,
    ):
        listening.set_event_callbacks(wsk.EventMask.ACCEPT)

        def connect():
            return wsk.socket_connect((host, 0), listening.local_address, other)

        with connect() as first:
            assert inside.wait(LIMIT)
            with connect(), connect():
                asked = queue.Queue()
                # On the callback thread of the other adapter.
                first._stream._call_soon(lambda _: asked.put(listening.accept_request()))
                asked.get(timeout=LIMIT).result(LIMIT).close()
                leave.set()
                events = [told.get(timeout=LIMIT) for _ in range(2)]
        assert len({thread for thread, _, _ in events}) == 1
        assert [count for _, count, _ in events] == [1, 1]
        for _, _, sock in events:
            sock.close()


def test_an_accept_request_inside_an_accept_event_tells_no_event_inside(adapter, host, listening):
    told = queue.Queue()
    depth = []

    def on_accept(door, sock, *_):
        depth.append(sock)
        request = door.accept_request()
        told.put((len(depth), sock, request))
        depth.pop()

    connected = [wsk.socket_connect((host, 0), listening.local_address, adapter) for _ in range(4)]
    listening.on_accept = on_accept
    listening.set_event_callbacks(wsk.EventMask.ACCEPT)
    for _ in range(2):
        most, sock, request = told.get(timeout=LIMIT)
        assert most == 1
        sock.close()
        request.result(LIMIT).close()
    for sock in connected:
        sock.close()


# ---- indications ------------------------------------------------------------------------------


def test_another_sockets_indication_is_not_released(make_ends):
    mine, others = make_ends(), make_ends()
    mine.far.send(b"mine").result(LIMIT)
    mine.near._stream.wait_readable(LIMIT)

    (one,) = mine.near.receive_indications()
    with pytest.raises(ValueError, match="another socket's"):
        others.near.release(one)
    assert one.is_retained

    mine.near.release(one)
    assert not one.is_retained


# ---- attempts to connect that failed ----------------------------------------------------------


@pytest.mark.parametrize(
    "between",
    [
        lambda sock: sock.set_event_callbacks(DISCONNECT),
        lambda sock: sock.disconnect(abortive=True),
    ],
    ids=["events switched on", "aborted"],
)
def test_the_end_is_told_of_the_connection_and_not_of_a_failed_attempt(
    adapter, host, listening, between
):
    with wsk.listen((host, 0), adapter=adapter) as gone:
        nobody = gone.local_address
    told = queue.Queue()
    with wsk.socket(adapter, on_disconnect=lambda _, flags: told.put(flags)) as sock:
        sock.bind((host, 0))
        with pytest.raises(ConnectionRefusedError):
            sock.connect(nobody).result(LIMIT)

        between(sock)
        looked = threading.Event()
        sock._stream._call_soon(lambda _: looked.set())  # behind what would tell the end
        assert looked.wait(LIMIT)
        assert told.empty()

        sock.connect(listening.local_address).result(LIMIT)
        with listening.accept(LIMIT) as far:
            sock.set_event_callbacks(DISCONNECT)
            far.disconnect(abortive=True)
            assert told.get(timeout=LIMIT) == ABORTIVE
        assert told.empty()


# ---- switching off ----------------------------------------------------------------------------


class SwitchingOff:
    """The lock of a socket's callbacks, before which an event is switched off."""

    def __init__(self, sock, event):
        self._sock, self._event, self._lock = sock, event, sock._calling
        self.answers = []

    def __enter__(self):
        if not self.answers:
            self.answers.append(self._sock.set_event_callbacks(self._event | OFF))
        return self._lock.__enter__()

    def __exit__(self, *failure):
        return self._lock.__exit__(*failure)


@pytest.mark.parametrize("event", [RECEIVE, DISCONNECT, BACKLOG])
def test_an_event_that_is_off_is_not_told(make_ends, event):
    ends = make_ends(
        on_receive=lambda _, shown, __: ends.told.put(RECEIVE),
        on_disconnect=lambda _, flags: ends.told.put(DISCONNECT),
        on_send_backlog=lambda _, size: ends.told.put(BACKLOG),
    )
    if event is RECEIVE:
        ends.far.send(b"x").result(LIMIT)
        until(lambda: ends.near.receive_backlog == 1)
    elif event is DISCONNECT:
        ends.far.disconnect().result(LIMIT)
        until(lambda: ends.near._stream.is_peer_shut)
    off = ends.near._calling = SwitchingOff(ends.near, event)
    ends.near._owes_backlog = event is BACKLOG
    ends.near.set_event_callbacks(event)
    looked = threading.Event()
    until(lambda: off.answers)

    ends.near._stream._call_soon(lambda _: looked.set())  # behind what tells the event

    assert looked.wait(LIMIT)
    assert off.answers == [nd.Status.SUCCESS]
    assert ends.told.empty()


# ---- what an event shows ----------------------------------------------------------------------


def test_what_a_receive_event_shows_is_not_taken_by_indications(make_ends):
    def show(sock, shown, _):
        with pytest.raises(nd.RdmaError, match="receive event that runs") as caught:
            sock.receive_indications()
        taking.append(Background(sock.receive_indications))  # waits for the event's end
        ends.told.put((caught.value.status, bytes(shown[0].array)))
        return 2

    taking = []
    ends = make_ends(on_receive=show)
    ends.near.set_event_callbacks(RECEIVE)
    ends.far.send(b"abcd").result(LIMIT)
    status, shown = ends.next()
    assert status == nd.Status.INVALID_DEVICE_STATE
    taken = b"".join(bytes(one.array) for one in taking[0].result())
    assert shown.startswith(b"ab")
    assert taken == b"abcd"[2 : 2 + len(taken)]


def test_a_view_of_data_that_was_received_meanwhile_takes_no_other(ends):
    ends.far.send(b"abc").result(LIMIT)
    ends.near._stream.wait_readable(LIMIT)

    view = ends.near._stream.look(3)
    assert receive(ends.near, 3) == b"abc"

    ends.far.send(b"xyz").result(LIMIT)
    ends.near._stream.wait_readable(LIMIT)
    with pytest.raises(nd.RdmaError, match="another call received"):
        view.take()
    assert receive(ends.near, 3) == b"xyz"


def test_what_came_before_a_reset_is_indicated_and_then_the_reset(ends):
    ends.far.send(b"abc").result(LIMIT)
    until(lambda: ends.near.receive_backlog == 3)
    ends.far.disconnect(abortive=True)
    until(lambda: ends.near._stream.phase == "over")
    (one,) = ends.near.receive_indications()
    with one:
        assert bytes(one.array) == b"abc"

    with pytest.raises(ConnectionResetError):
        ends.near.receive_indications()
