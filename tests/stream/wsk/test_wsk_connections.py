# SPDX-License-Identifier: Apache-2.0
"""WSK sockets: how connections are made, asked for and refused."""

import queue

import pytest

import ndverbs as nd
from ndverbs import wsk
from stream.sockets import LIMIT
from stream.wsk_ends import RECEIVE, receive


def test_a_socket_must_be_bound_before_it_connects(adapter, listening):
    with wsk.socket(adapter) as sock:
        with pytest.raises(nd.RdmaError, match="not bound") as caught:
            sock.connect(listening.local_address)
        assert caught.value.status == nd.Status.INVALID_DEVICE_STATE
        with pytest.raises(nd.RdmaError, match="not bound"):
            _ = sock.local_address


def test_a_connect_to_nobody_fails_with_refused(adapter, host, listening):
    address = listening.local_address
    listening.close()
    with wsk.socket(adapter) as sock:
        sock.bind((host, 0))
        with pytest.raises(ConnectionRefusedError):
            sock.connect(address).result(LIMIT)


def test_connect_ex_sends_first_data(adapter, host, listening):
    with wsk.socket(adapter) as sock:
        sock.bind((host, 0))
        assert sock.connect_ex(listening.local_address, b"first").result(LIMIT) == 5
        with listening.accept(LIMIT) as far:
            assert receive(far) == b"first"


def test_connect_ex_checks_its_arguments(adapter, listening):
    with wsk.socket(adapter) as sock:
        with pytest.raises(ValueError, match="must be 0"):
            sock.connect_ex(listening.local_address, flags=1)
        with pytest.raises(nd.RdmaError) as caught:
            sock.connect_ex(listening.local_address, bytes(65536))
        assert caught.value.status == nd.Status.BUFFER_OVERFLOW


def test_an_address_that_is_taken_already_exists(adapter, listening):
    with pytest.raises(nd.RdmaError) as caught:
        wsk.listen(listening.local_address, adapter=adapter)
    assert caught.value.status == nd.Status.ADDRESS_ALREADY_EXISTS


def test_accept_requests_are_served_in_order(adapter, host, listening):
    first, second = listening.accept_request(), listening.accept_request()
    with wsk.socket_connect((host, 0), listening.local_address, adapter) as near:
        with first.result(LIMIT) as far:
            assert far.remote_address == near.local_address
        assert not second.done()
        second.cancel()
        assert second.status == nd.Status.CANCELLED


def test_closing_a_listener_cancels_its_accept_requests(listening):
    request = listening.accept_request()

    listening.close()

    assert request.status == nd.Status.CANCELLED
    with pytest.raises(nd.ClosedError):
        listening.accept_request()


def test_an_accept_event_brings_the_socket_and_its_events(adapter, host):
    told = queue.Queue()

    def on_receive(_, indications, __):
        told.put(bytes(indications[0].array))

    def on_accept(_, sock, local, remote):
        sock.on_receive = on_receive
        told.put((sock, local, remote))

    with wsk.listen((host, 0), adapter=adapter, on_accept=on_accept) as listening:
        listening.set_event_callbacks(wsk.EventMask.ACCEPT | RECEIVE)
        with wsk.socket_connect((host, 0), listening.local_address, adapter) as near:
            far, local, remote = told.get(timeout=LIMIT)
            assert (local, remote) == (near.remote_address, near.local_address)
            near.send(b"inherited").result(LIMIT)
            assert told.get(timeout=LIMIT) == b"inherited"
            far.close()


def test_an_accept_event_may_turn_a_socket_away(adapter, host):
    def on_accept(*_):
        return nd.Status.REQUEST_NOT_ACCEPTED

    with wsk.listen((host, 0), adapter=adapter, on_accept=on_accept) as listening:
        listening.set_event_callbacks(wsk.EventMask.ACCEPT)

        def talk():
            with wsk.socket_connect((host, 0), listening.local_address, adapter) as near:
                near.receive(bytearray(1)).result(LIMIT)

        # On a device the end may be there before the connect is done.
        with pytest.raises((ConnectionResetError, ConnectionAbortedError)):
            talk()


def test_an_accept_request_comes_before_the_event(adapter, host):
    told = queue.Queue()
    with wsk.listen(
        (host, 0), adapter=adapter, on_accept=lambda *event: told.put(event)
    ) as listening:
        listening.set_event_callbacks(wsk.EventMask.ACCEPT)
        request = listening.accept_request()
        with wsk.socket_connect((host, 0), listening.local_address, adapter):
            request.result(LIMIT).close()
            assert told.empty()


def test_inspection_decides_before_a_connection_is_made(adapter, host):
    answers = queue.Queue()
    with wsk.listen(
        (host, 0), adapter=adapter, on_inspect=lambda *_: answers.get(timeout=LIMIT)
    ) as listening:
        answers.put(wsk.InspectAction.REJECT)
        with pytest.raises(ConnectionRefusedError):
            wsk.socket_connect((host, 0), listening.local_address, adapter)

        answers.put(wsk.InspectAction.ACCEPT)
        with (
            wsk.socket_connect((host, 0), listening.local_address, adapter),
            listening.accept(LIMIT) as far,
        ):
            assert far.control(wsk.RequestType.IOCTL, wsk.Ioctl.SIO_WSK_QUERY_INSPECT_ID)


@pytest.mark.parametrize("action", [wsk.InspectAction.ACCEPT, wsk.InspectAction.REJECT])
def test_an_inspection_that_pends_is_answered_later(adapter, host, action):
    asked = queue.Queue()

    def on_inspect(_, inspect_id, local, remote):
        asked.put((inspect_id, local, remote))
        return wsk.InspectAction.PEND

    with (
        wsk.listen((host, 0), adapter=adapter, on_inspect=on_inspect) as listening,
        wsk.socket(adapter) as near,
    ):
        near.bind((host, 0))
        request = near.connect(listening.local_address)
        inspect_id, local, remote = asked.get(timeout=LIMIT)
        assert (local, remote) == (listening.local_address, near.local_address)
        assert not request.done()
        listening.inspect_complete(inspect_id, action)
        if action == wsk.InspectAction.ACCEPT:
            request.result(LIMIT)
            listening.accept(LIMIT).close()
        else:
            with pytest.raises(ConnectionRefusedError):
                request.result(LIMIT)


def test_a_request_that_vanishes_while_it_pends_is_told_by_abort(adapter, host):
    asked, aborted = queue.Queue(), queue.Queue()

    def on_inspect(_, inspect_id, *__):
        asked.put(inspect_id)
        return wsk.InspectAction.PEND

    with wsk.listen(
        (host, 0),
        adapter=adapter,
        on_inspect=on_inspect,
        on_abort=lambda _, inspect_id: aborted.put(inspect_id),
    ) as listening:
        with wsk.socket(adapter) as near:
            near.bind((host, 0))
            near.connect(listening.local_address)
            inspect_id = asked.get(timeout=LIMIT)

        listening.inspect_complete(inspect_id, wsk.InspectAction.ACCEPT)

        assert aborted.get(timeout=LIMIT) == inspect_id


def test_a_request_that_vanishes_is_told_before_its_answer_and_gives_its_place_back(adapter, host):
    asked, aborted = queue.Queue(), queue.Queue()

    def on_inspect(_, inspect_id, *__):
        asked.put(inspect_id)
        return wsk.InspectAction.PEND

    with wsk.listen(
        (host, 0),
        adapter=adapter,
        backlog=1,
        on_inspect=on_inspect,
        on_abort=lambda _, inspect_id: aborted.put(inspect_id),
    ) as listening:
        with wsk.socket(adapter) as near:
            near.bind((host, 0))
            near.connect(listening.local_address)
            first = asked.get(timeout=LIMIT)
        assert aborted.get(timeout=LIMIT) == first
        listening.inspect_complete(first, wsk.InspectAction.ACCEPT)  # late: nothing comes of it
        with wsk.socket(adapter) as near:
            near.bind((host, 0))
            request = near.connect(listening.local_address)
            listening.inspect_complete(asked.get(timeout=LIMIT), wsk.InspectAction.ACCEPT)
            request.result(LIMIT)
            with listening.accept(LIMIT) as far:
                assert far.remote_address == near.local_address
        assert aborted.empty()
