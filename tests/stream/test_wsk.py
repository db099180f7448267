# SPDX-License-Identifier: Apache-2.0
"""WSK's rules of connection sockets: requests, indications, ends, events."""

import asyncio
import gc
import queue
import socket
import threading

import numpy as np
import pytest

import ndverbs as nd
from ndverbs import wsk
from stream.sockets import LIMIT

RECEIVE, DISCONNECT, BACKLOG = (
    wsk.EventMask.RECEIVE,
    wsk.EventMask.DISCONNECT,
    wsk.EventMask.SEND_BACKLOG,
)


@pytest.fixture
def listening(adapter, host):
    with wsk.listen((host, 0), adapter=adapter) as made:
        yield made


class Ends:
    """Two connected sockets; what the near one's events told is in `told`."""

    def __init__(self, listening, adapter, host, **callbacks):
        self.told = queue.Queue()
        self.near = wsk.socket_connect((host, 0), listening.local_address, adapter, **callbacks)
        self.far = listening.accept(LIMIT)

    def next(self):
        return self.told.get(timeout=LIMIT)

    def close(self):
        self.near.close()
        self.far.close()


@pytest.fixture
def make_ends(listening, adapter, host):
    made = []

    def make(**callbacks):
        made.append(Ends(listening, adapter, host, **callbacks))
        return made[-1]

    yield make
    for ends in made:
        ends.close()


@pytest.fixture
def ends(make_ends):
    return make_ends()


def receive(sock, size=100, flags=0):
    buffer = bytearray(size)
    got = sock.receive(buffer, flags).result(LIMIT)
    return bytes(buffer[:got])


def test_a_send_completes_with_its_length(ends):
    request = ends.near.send(b"hello")
    assert request.result(LIMIT) == 5
    assert request.status == nd.Status.SUCCESS
    assert receive(ends.far) == b"hello"


def test_a_request_can_be_awaited(ends):
    async def exchange():
        buffer = bytearray(10)
        received = ends.far.receive(buffer)
        await ends.near.send(b"async")
        return bytes(buffer[: await received])

    assert asyncio.run(exchange()) == b"async"


def test_a_request_calls_back_once_it_is_done(ends):
    done = queue.Queue()
    ends.far.receive(bytearray(10)).add_done_callback(done.put)
    ends.near.send(b"x").result(LIMIT)
    assert done.get(timeout=LIMIT).information == 1


def test_receives_are_filled_in_order(ends):
    buffers = [bytearray(2), bytearray(2), bytearray(10)]
    requests = [ends.far.receive(buffer) for buffer in buffers]
    ends.near.send(b"abcdef").result(LIMIT)
    assert [request.result(LIMIT) for request in requests] == [2, 2, 2]
    assert (buffers[0], buffers[1], buffers[2][:2]) == (b"ab", b"cd", b"ef")


def test_waitall_completes_when_the_buffer_is_full(ends):
    buffer = bytearray(6)
    request = ends.far.receive(buffer, wsk.Flag.WAITALL)
    ends.near.send(b"abc").result(LIMIT)
    assert not request.done()
    ends.near.send(b"def").result(LIMIT)
    assert request.result(LIMIT) == 6
    assert buffer == b"abcdef"


def test_waitall_completes_short_at_a_graceful_end(ends):
    request = ends.far.receive(bytearray(6), wsk.Flag.WAITALL)
    ends.near.disconnect(b"abc").result(LIMIT)
    assert request.result(LIMIT) == 3


def test_drain_discards_until_the_end(ends):
    request = ends.far.receive(flags=wsk.Flag.DRAIN)
    ends.near.send(bytes(500_000)).result(LIMIT)
    assert not request.done()
    ends.near.disconnect().result(LIMIT)
    assert request.result(LIMIT) == 0


def test_drain_takes_neither_a_buffer_nor_waitall(ends):
    for buffer, flags in ((bytearray(1), 4), (None, 6)):
        with pytest.raises(ValueError, match="DRAIN"):
            ends.far.receive(buffer, flags)


def test_a_receive_of_no_bytes_completes_at_once(ends):
    assert ends.far.receive(bytearray()).result(0) == 0


def test_all_receives_complete_with_nothing_at_a_graceful_end(ends):
    requests = [ends.far.receive(bytearray(4)) for _ in range(3)]
    ends.near.disconnect().result(LIMIT)
    assert [request.result(LIMIT) for request in requests] == [0, 0, 0]


def test_a_graceful_end_carries_final_data_and_the_other_direction_goes_on(ends):
    ends.near.disconnect(b"last words").result(LIMIT)
    assert receive(ends.far) == b"last words"
    assert receive(ends.far) == b""
    ends.far.send(b"answer").result(LIMIT)
    assert receive(ends.near) == b"answer"


def test_sending_after_a_graceful_end_is_refused(ends):
    ends.near.disconnect().result(LIMIT)
    with pytest.raises(nd.RdmaError) as caught:
        ends.near.send(b"x")
    assert caught.value.status == nd.Status.INVALID_DEVICE_STATE


def test_an_abortive_end_cancels_sends_and_resets_the_peer(ends):
    waiting = ends.near.send(bytes(50_000_000))
    receiving = ends.far.receive(bytearray(60_000_000), wsk.Flag.WAITALL)
    ends.near.disconnect(abortive=True).result(LIMIT)
    with pytest.raises(nd.RdmaError) as caught:
        waiting.result(LIMIT)
    assert caught.value.status == nd.Status.CANCELLED
    receiving.wait(LIMIT)


def test_an_abortive_end_takes_no_data(ends):
    with pytest.raises(ValueError, match="no final data"):
        ends.near.disconnect(b"x", abortive=True)


def test_an_abortive_end_rescues_a_graceful_one_that_hangs(ends):
    ends.near.send(bytes(50_000_000))  # nobody reads
    hanging = ends.near.disconnect()
    assert not hanging.done()
    ends.near.disconnect(abortive=True)
    with pytest.raises(nd.RdmaError):
        hanging.result(LIMIT)


def test_a_receive_fails_with_reset_when_the_peer_aborts(ends):
    request = ends.far.receive(bytearray(4))
    ends.near.disconnect(abortive=True)
    with pytest.raises(ConnectionResetError):
        request.result(LIMIT)


def test_closing_cancels_pending_requests(ends):
    request = ends.near.receive(bytearray(4))
    ends.near.close()
    with pytest.raises(nd.RdmaError) as caught:
        request.result(LIMIT)
    assert caught.value.status == nd.Status.CANCELLED


def test_a_receive_can_be_cancelled(ends):
    request = ends.near.receive(bytearray(4))
    request.cancel()
    with pytest.raises(nd.RdmaError) as caught:
        request.result(LIMIT)
    assert caught.value.status == nd.Status.CANCELLED
    ends.far.send(b"next").result(LIMIT)
    assert receive(ends.near) == b"next"


def test_a_flag_that_is_not_known_is_not_supported(ends):
    for call in (lambda: ends.near.send(b"x", 64), lambda: ends.near.receive(bytearray(1), 64)):
        with pytest.raises(nd.RdmaError) as caught:
            call()
        assert caught.value.status == nd.Status.NOT_SUPPORTED


def test_the_reserved_calls_say_so(ends):
    for call in (ends.near.send_ex, ends.near.receive_ex):
        with pytest.raises(nd.RdmaError, match="reserved"):
            call()


def test_calls_on_a_closed_socket_say_forced_closed(ends):
    ends.near.close()
    for call in (
        lambda: ends.near.send(b"x"),
        lambda: ends.near.receive(bytearray(1)),
        lambda: ends.near.local_address,
        ends.near.disconnect,
    ):
        with pytest.raises(nd.ClosedError):
            call()


# ---- making connections ---------------------------------------------------------------------


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
        with (
            wsk.socket_connect((host, 0), listening.local_address, adapter) as near,
            pytest.raises(ConnectionResetError),
        ):
            near.receive(bytearray(1)).result(LIMIT)


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


# ---- events ---------------------------------------------------------------------------------


def test_no_event_is_told_before_it_is_switched_on(make_ends):
    ends = make_ends(on_receive=lambda *event: ends.told.put(event))
    ends.far.send(b"quiet").result(LIMIT)
    assert receive(ends.near) == b"quiet"
    assert ends.told.empty()


def test_a_receive_event_shows_the_data_without_a_copy(make_ends):
    def on_receive(sock, indications, flags):
        ends.told.put((sock, bytes(indications[0].array), indications[0].array.flags.writeable))

    ends = make_ends(on_receive=on_receive)
    ends.near.set_event_callbacks(RECEIVE)
    ends.far.send(b"shown").result(LIMIT)
    assert ends.next() == (ends.near, b"shown", False)


def test_data_that_came_before_is_told_when_the_event_is_switched_on(make_ends):
    ends = make_ends(on_receive=lambda _, shown, __: ends.told.put(bytes(shown[0].array)))
    ends.far.send(b"early").result(LIMIT)
    ends.near.set_event_callbacks(RECEIVE)
    assert ends.next() == b"early"


def test_after_part_was_accepted_events_stop_until_a_receive_completes(make_ends):
    def on_receive(_, shown, __):
        ends.told.put(bytes(shown[0].array))
        return 2

    ends = make_ends(on_receive=on_receive)
    ends.near.set_event_callbacks(RECEIVE)
    ends.far.send(b"abcdef").result(LIMIT)
    assert ends.next() == b"abcdef"
    ends.near.receive().result(LIMIT)
    assert ends.next() == b"cdef"
    assert receive(ends.near, 3) == b"ef"


def test_data_that_is_not_accepted_stays(make_ends):
    def on_receive(_, shown, __):
        ends.told.put(bytes(shown[0].array))
        return nd.Status.DATA_NOT_ACCEPTED

    ends = make_ends(on_receive=on_receive)
    ends.near.set_event_callbacks(RECEIVE)
    ends.far.send(b"stays").result(LIMIT)
    assert ends.next() == b"stays"
    assert receive(ends.near) == b"stays"


def test_a_receive_that_an_event_starts_gets_what_was_not_accepted(make_ends):
    def on_receive(sock, shown, _):
        buffer = bytearray(10)
        sock.receive(buffer).add_done_callback(
            lambda done: ends.told.put(bytes(buffer[: done.information]))
        )
        return nd.Status.DATA_NOT_ACCEPTED

    ends = make_ends(on_receive=on_receive)
    ends.near.set_event_callbacks(RECEIVE)
    ends.far.send(b"later").result(LIMIT)
    assert ends.next() == b"later"


def test_retained_indications_keep_their_content_and_go_back_in_any_order(make_ends):
    def on_receive(_, shown, __):
        ends.told.put(shown[0])
        return nd.Status.PENDING

    ends = make_ends(on_receive=on_receive)
    ends.near.set_event_callbacks(RECEIVE)
    kept = []
    for number in range(8):
        ends.far.send(bytes([number]) * 1000).result(LIMIT)
        while sum(len(one) for one in kept) < (number + 1) * 1000:
            kept.append(ends.next())
    content = b"".join(bytes(one.array) for one in kept)
    assert content == b"".join(bytes([number]) * 1000 for number in range(8))
    for one in kept[::2] + kept[1::2]:
        ends.near.release(one)


def test_what_was_not_retained_cannot_be_released(make_ends):
    ends = make_ends(on_receive=lambda _, shown, __: ends.told.put(shown[0]))
    ends.near.set_event_callbacks(RECEIVE)
    ends.far.send(b"x").result(LIMIT)
    with pytest.raises(ValueError, match="not an indication that is retained"):
        ends.near.release(ends.next())


def test_retained_indications_stop_the_sender_until_they_are_released(adapter, host):
    with wsk.listen((host, 0), adapter=adapter) as listening:
        listening.control(wsk.RequestType.SET_OPTION, wsk.Option.SO_RCVBUF, 65536)
        with wsk.socket_connect((host, 0), listening.local_address, adapter) as near:
            far = listening.accept(LIMIT)
            sending = near.send(np.arange(262_144, dtype=np.uint8))
            kept, seen = [], 0
            while seen < 65536:
                far._stream.wait_readable(LIMIT)
                kept += far.receive_indications()
                seen = sum(len(one) for one in kept)
            assert seen == 65536
            assert not sending.done()
            assert far._stream.is_short_of_memory
            while seen < 262_144:
                if kept:
                    kept.pop(len(kept) // 2).release()
                else:
                    far._stream.wait_readable(LIMIT)
                for one in far.receive_indications():
                    seen += len(one)
                    kept.append(one)
            sending.result(LIMIT)
            kept.clear()
            far.close()


def test_a_view_outlives_its_socket(ends):
    ends.near.send(b"kept").result(LIMIT)
    ends.far._stream.wait_readable(LIMIT)
    array = ends.far.receive_indications()[0].array
    ends.far.close()
    gc.collect()
    assert bytes(array) == b"kept"


def test_release_as_soon_as_possible_is_asked_for_when_memory_is_short(adapter, host):
    flags_seen = queue.Queue()

    def on_receive(_, shown, flags):
        flags_seen.put((shown[0], flags))
        return nd.Status.PENDING

    with wsk.listen((host, 0), adapter=adapter) as listening:
        listening.control(wsk.RequestType.SET_OPTION, wsk.Option.SO_RCVBUF, 8192)
        with (
            wsk.socket_connect((host, 0), listening.local_address, adapter) as near,
            listening.accept(LIMIT) as far,
        ):
            far.on_receive = on_receive
            far.set_event_callbacks(RECEIVE)
            near.send(bytes(8192))
            seen, asked, kept = 0, False, []
            while seen < 8192:
                one, flags = flags_seen.get(timeout=LIMIT)
                kept.append(one)
                seen += len(one)
                asked = asked or bool(flags & wsk.Flag.RELEASE_ASAP)
            assert asked
            kept.clear()


def test_a_disconnect_event_comes_behind_the_data(make_ends):
    ends = make_ends(
        on_receive=lambda _, shown, __: ends.told.put(bytes(shown[0].array)),
        on_disconnect=lambda _, flags: ends.told.put(flags),
    )
    ends.near.set_event_callbacks(RECEIVE | DISCONNECT)
    ends.far.disconnect(b"bye").result(LIMIT)
    assert ends.next() == b"bye"
    assert ends.next() == wsk.Flag.NONE


def test_an_abort_is_told_as_abortive(make_ends):
    ends = make_ends(on_disconnect=lambda _, flags: ends.told.put(flags))
    ends.near.set_event_callbacks(DISCONNECT)
    ends.far.disconnect(abortive=True)
    assert ends.next() == wsk.Flag.ABORTIVE


def test_an_end_of_this_side_is_not_told(make_ends):
    ends = make_ends(on_disconnect=lambda _, flags: ends.told.put(flags))
    ends.near.set_event_callbacks(DISCONNECT)
    ends.near.disconnect(abortive=True)
    ends.near.close()
    assert ends.told.empty()


def test_an_event_that_was_switched_off_is_not_told(make_ends):
    ends = make_ends(on_receive=lambda _, shown, __: ends.told.put(bytes(shown[0].array)))
    ends.near.set_event_callbacks(RECEIVE)
    assert ends.near.set_event_callbacks(RECEIVE | wsk.EventMask.DISABLE) == nd.Status.SUCCESS
    ends.far.send(b"x").result(LIMIT)
    assert receive(ends.near) == b"x"


def test_an_event_that_runs_while_it_is_switched_off_is_pending(make_ends):
    entered, leave = threading.Event(), threading.Event()

    def on_receive(*_):
        entered.set()
        leave.wait(LIMIT)

    ends = make_ends(on_receive=on_receive)
    ends.near.set_event_callbacks(RECEIVE)
    ends.far.send(b"x").result(LIMIT)
    assert entered.wait(LIMIT)
    assert ends.near.set_event_callbacks(RECEIVE | wsk.EventMask.DISABLE) == nd.Status.PENDING
    leave.set()


@pytest.mark.parametrize(
    "mask",
    [0, 0x1000, RECEIVE | DISCONNECT | wsk.EventMask.DISABLE, wsk.EventMask.ACCEPT],
)
def test_masks_that_make_no_sense_are_refused(ends, mask):
    with pytest.raises(ValueError, match="set_event_callbacks"):
        ends.near.set_event_callbacks(mask)


def test_events_are_switched_on_only_when_connected(adapter):
    with wsk.socket(adapter) as sock, pytest.raises(nd.RdmaError, match="not connected"):
        sock.set_event_callbacks(RECEIVE)


def test_an_event_may_close_its_socket(make_ends):
    def on_receive(sock, *_):
        sock.close()
        ends.told.put("closed")

    ends = make_ends(on_receive=on_receive)
    ends.near.set_event_callbacks(RECEIVE)
    ends.far.send(b"x").result(LIMIT)
    assert ends.next() == "closed"


def test_an_event_must_not_wait_for_a_request(make_ends):
    def on_receive(sock, *_):
        try:
            sock.receive(bytearray(10)).result()
        except nd.RdmaError as refused:
            ends.told.put(refused.status)

    ends = make_ends(on_receive=on_receive)
    ends.near.set_event_callbacks(RECEIVE)
    ends.far.send(b"x").result(LIMIT)
    assert ends.next() == nd.Status.INVALID_DEVICE_STATE


def test_the_ideal_send_backlog_follows_the_peers_memory(make_ends, adapter, host):
    ends = make_ends()
    before = ends.near.ideal_send_backlog
    assert before > 0
    with wsk.listen((host, 0), adapter=adapter) as listening:
        listening.control(wsk.RequestType.SET_OPTION, wsk.Option.SO_RCVBUF, 65536)
        with wsk.socket_connect((host, 0), listening.local_address, adapter) as near:
            assert near.ideal_send_backlog < before
            listening.accept(LIMIT).close()


def test_the_receive_backlog_is_what_waits(ends):
    ends.far.send(b"12345").result(LIMIT)
    ends.near._stream.wait_readable(LIMIT)
    assert ends.near.receive_backlog == 5


# ---- control --------------------------------------------------------------------------------


def test_options_are_set_and_got_and_inherited(adapter, host):
    set_, get = wsk.RequestType.SET_OPTION, wsk.RequestType.GET_OPTION
    with wsk.listen((host, 0), adapter=adapter) as listening:
        listening.control(set_, wsk.Option.SO_RCVBUF, 100_000)
        listening.control(set_, wsk.Option.SO_KEEPALIVE, 1)
        with (
            wsk.socket_connect((host, 0), listening.local_address, adapter),
            listening.accept(LIMIT) as far,
        ):
            assert far.control(get, wsk.Option.SO_RCVBUF) == 100_000
            assert far.control(get, wsk.Option.SO_KEEPALIVE) == 1
        assert listening.control(get, wsk.Option.SO_CONDITIONAL_ACCEPT) == 0
        with pytest.raises(nd.RdmaError, match="before the socket is bound"):
            listening.control(set_, wsk.Option.SO_CONDITIONAL_ACCEPT, 1)


@pytest.mark.parametrize("option", [wsk.Option.SO_REUSEADDR, wsk.Option.SO_EXCLUSIVEADDRUSE])
def test_address_options_are_kept(adapter, option):
    with wsk.socket(adapter) as sock:
        sock.control(wsk.RequestType.SET_OPTION, option, 1)
        assert sock.control(wsk.RequestType.GET_OPTION, option) == 1


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (wsk.RequestType.SET_OPTION, wsk.Option.SO_WSK_SECURITY),
        (wsk.RequestType.GET_OPTION, 0x7777),
        (wsk.RequestType.IOCTL, wsk.Ioctl.SIO_WSK_SET_TCP_SILENT_MODE),
        (wsk.RequestType.IOCTL, wsk.Ioctl.SIO_WSK_SET_REMOTE_ADDRESS),
    ],
)
def test_controls_that_mean_nothing_here_are_not_supported(ends, kind, code):
    with pytest.raises(nd.RdmaError) as caught:
        ends.near.control(kind, code, 1)
    assert caught.value.status == nd.Status.NOT_SUPPORTED


def test_an_inspect_id_is_only_had_after_an_inspection(ends):
    with pytest.raises(nd.RdmaError) as caught:
        ends.far.control(wsk.RequestType.IOCTL, wsk.Ioctl.SIO_WSK_QUERY_INSPECT_ID)
    assert caught.value.status == nd.Status.INVALID_DEVICE_REQUEST


def test_addresses_are_listed(ends, adapter):
    found = ends.near.control(wsk.RequestType.IOCTL, wsk.Ioctl.SIO_ADDRESS_LIST_QUERY)
    assert found == adapter.info.addresses


def test_names_are_resolved_both_ways():
    rows = wsk.get_address_info("127.0.0.1", "80").result(LIMIT)
    assert rows[0][4] == ("127.0.0.1", 80)
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert wsk.get_name_info(("127.0.0.1", 80), flags).result(LIMIT) == ("127.0.0.1", "80")


def test_a_name_that_is_unknown_is_no_match():
    with pytest.raises(nd.RdmaError) as caught:
        wsk.get_address_info("name.invalid", flags=socket.AI_NUMERICHOST).result(LIMIT)
    assert caught.value.status == nd.Status.NO_MATCH
    with pytest.raises(ValueError, match="node or a service"):
        wsk.get_address_info()


def test_transports_are_listed(provider):
    rows = wsk.control_client(wsk.ClientControl.TRANSPORT_LIST_QUERY)
    assert provider.partition(":")[0] in {row["adapter"].partition(":")[0] for row in rows}
    with pytest.raises(nd.RdmaError) as caught:
        wsk.control_client(wsk.ClientControl.TDI_BEHAVIOR)
    assert caught.value.status == nd.Status.NOT_SUPPORTED


def test_static_events_are_chosen_before_the_first_socket(ends):
    with pytest.raises(nd.RdmaError, match="before the first socket"):
        wsk.control_client(wsk.ClientControl.SET_STATIC_EVENT_CALLBACKS, RECEIVE)


def test_static_events_are_on_in_every_socket_for_good(ends, monkeypatch, make_ends):
    monkeypatch.setattr(wsk, "_has_sockets", False)
    monkeypatch.setattr(wsk._sockets, "static_events", wsk.EventMask(0))
    wsk.set_static_event_callbacks(RECEIVE)
    made = make_ends(on_receive=lambda _, shown, __: made.told.put(bytes(shown[0].array)))
    made.far.send(b"static").result(LIMIT)
    assert made.next() == b"static"
    with pytest.raises(nd.RdmaError, match="for good"):
        made.near.set_event_callbacks(RECEIVE | wsk.EventMask.DISABLE)
