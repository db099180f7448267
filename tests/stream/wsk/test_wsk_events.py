# SPDX-License-Identifier: Apache-2.0
"""WSK sockets: indications and events."""

import contextlib
import gc
import queue
import threading

import numpy as np
import pytest

import ndverbs as nd
from ndverbs import wsk
from stream.sockets import LIMIT
from stream.wsk_ends import DISCONNECT, RECEIVE, receive


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

    sent = ends.far.send(b"x")

    assert ends.next() == "closed"
    # It closed over data that it did not take: the end may come before the word that it arrived.
    with contextlib.suppress(ConnectionResetError):
        sent.result(LIMIT)


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
