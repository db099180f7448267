# SPDX-License-Identifier: Apache-2.0
"""Sends and the receives they need: matching, pausing, overflow, the responder's hold."""

import pytest

from engine.pair import FILL, SECOND, WINDOW_OFFSET, WINDOW_STAG, WINDOW_TO, Pair, Solo, pattern
from wire import reference

both_crc = pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])


def send(msn, payload, **options):
    return reference.untagged(reference.SEND, 0, msn, 0, payload, crc=False, **options)


@both_crc
def test_a_missing_receive_pauses_reading_until_one_is_posted(crc):
    solo = Solo(crc=crc)
    stream = reference.untagged(reference.SEND, 0, 1, 0, b"early", crc=crc)

    solo.step(stream)
    assert not solo.engine.wants_read
    assert solo.engine.deadline() == 5 * SECOND

    solo.now = 4 * SECOND
    solo.engine.post_receive(7, [(0, 16)])
    solo.step()
    assert solo.side.outcome() == [("receive", 7, "success")]
    assert solo.engine.read(0, 6) == b"early" + bytes([FILL])
    assert solo.engine.deadline() is None
    assert solo.engine.wants_read


def test_while_paused_nothing_behind_the_send_is_processed():
    solo = Solo()
    write = reference.tagged(reference.WRITE, WINDOW_STAG, WINDOW_TO, b"later", crc=False)

    solo.step(send(1, b"first") + write)
    assert solo.engine.read(WINDOW_OFFSET, 1) == bytes([FILL])

    solo.engine.post_receive(7, [(0, 16)])
    solo.step()
    assert solo.engine.read(WINDOW_OFFSET, 5) == b"later"


def test_a_pause_ends_in_a_terminate_at_its_deadline_and_not_before():
    solo = Solo(receive_wait_ns=3 * SECOND)
    solo.now = SECOND
    solo.step(send(1, b"early"))
    solo.now = 4 * SECOND - 1

    solo.step()
    assert solo.engine.cause is None
    assert solo.engine.deadline() == 4 * SECOND

    solo.now = 4 * SECOND
    solo.step()
    assert solo.terminate()["code"] == (1, 2, 2)
    assert solo.terminate()["length"] == 18 + 5
    assert solo.engine.cause == ("local", 1, 2, 2)
    assert solo.engine.is_over


def test_each_missing_receive_waits_its_own_time():
    solo = Solo()
    solo.step(send(1, b"one") + send(2, b"two"))
    solo.now = 4 * SECOND
    solo.engine.post_receive(1, [(0, 16)])

    solo.step()
    assert solo.engine.deadline() == 9 * SECOND

    solo.now = 8 * SECOND
    solo.engine.post_receive(2, [(64, 16)])
    solo.step()
    assert solo.side.contexts(receives=True) == [1, 2]


def test_requests_go_out_while_reading_is_paused():
    solo = Solo()
    solo.step(reference.tagged(reference.WRITE, 0, 0, b"", crc=False))
    solo.step(send(1, b"early"))
    solo.engine.post_send(3, [(0, 4)])

    solo.step()

    assert solo.side.outcome() == [("request", 3, "success")]


def test_two_sides_that_both_lack_receives_end_by_their_deadlines():
    pair = Pair()
    for side in (pair.a, pair.b):
        side.engine.post_send(1, [(0, 4)])

    pair.settle()
    assert not pair.a.engine.is_over
    assert not pair.b.engine.is_over

    pair.advance(5 * SECOND)
    assert pair.a.engine.is_over
    assert pair.b.engine.is_over
    assert (1, 2, 2) in {pair.a.engine.cause[1:], pair.b.engine.cause[1:]}


def test_a_wrong_number_is_reported_before_a_missing_receive():
    solo = Solo()
    solo.step(send(2, b"x"))
    solo.step()

    assert solo.terminate()["code"] == (1, 2, 3)


@both_crc
def test_a_send_that_is_too_long_overflows_its_receive_and_no_byte_lands(crc):
    solo = Solo(crc=crc)
    solo.engine.post_receive(1, [(0, 4), (64, 4)])
    solo.engine.post_receive(2, [(128, 64)])

    solo.step(reference.untagged(reference.SEND, 0, 1, 0, b"nine byte", crc=crc))
    solo.step()

    assert solo.terminate()["code"] == (1, 2, 5)
    assert solo.side.outcome() == [("receive", 1, "buffer_overflow"), ("receive", 2, "cancelled")]
    assert solo.completions[0]["cause"] == ("local", 1, 2, 5)
    assert solo.engine.read(0, 256) == bytes([FILL]) * 256


def test_the_sender_of_a_too_long_message_learns_why():
    pair = Pair()
    pair.b.engine.post_receive(1, [(0, 4)])
    pair.a.engine.post_send(1, [(0, 5)])

    pair.settle()

    assert pair.a.engine.cause == ("peer", 1, 2, 5)
    # Its own request had left already: that is all a completion promises on iWARP.
    assert pair.a.outcome() == [("request", 1, "success")]


@pytest.mark.parametrize("size", [0, 1, 15, 16])
def test_a_send_may_fill_its_receive_exactly_or_less(size):
    solo = Solo()
    solo.engine.post_receive(1, [(0, 16)])

    solo.step(send(1, pattern(size)))

    assert solo.completions[0]["received"] == size
    assert solo.engine.read(0, size + 1) == pattern(size) + bytes([FILL])


def test_an_empty_receive_takes_an_empty_send():
    solo = Solo()
    solo.engine.post_receive(1, [])

    solo.step(send(1, b""))

    assert solo.side.outcome() == [("receive", 1, "success")]


def test_sends_take_receives_in_order_and_scatter_over_their_segments():
    solo = Solo()
    solo.engine.post_receive(1, [(0, 3), (10, 0), (20, 5)])
    solo.engine.post_receive(2, [(40, 8)])

    solo.step(send(1, b"abcdefg") + send(2, b"second"))

    assert solo.side.contexts(receives=True) == [1, 2]
    assert solo.engine.read(0, 4) == b"abc" + bytes([FILL])
    assert solo.engine.read(20, 5) == b"defg" + bytes([FILL])
    assert solo.engine.read(40, 6) == b"second"


def test_a_send_in_segments_may_be_interleaved_with_a_write():
    solo = Solo()
    solo.engine.post_receive(1, [(0, 16)])

    solo.step(
        reference.untagged(reference.SEND, 0, 1, 0, b"abcd", last=False, crc=False)
        + reference.tagged(reference.WRITE, WINDOW_STAG, WINDOW_TO, b"write", crc=False)
        + reference.untagged(reference.SEND, 0, 1, 4, b"efgh", crc=False)
    )

    assert solo.side.outcome() == [("receive", 1, "success")]
    assert solo.engine.read(0, 8) == b"abcdefgh"
    assert solo.engine.read(WINDOW_OFFSET, 5) == b"write"


# ---- the responder's hold -------------------------------------------------------------------


def test_a_responder_is_silent_until_the_first_message_came():
    solo = Solo()

    solo.engine.post_send(1, [(0, 4)])
    assert solo.step() == b""
    assert solo.engine.is_held

    solo.step(reference.tagged(reference.WRITE, 0, 0, b"", crc=False))
    assert solo.events == {"first_fpdu"}
    assert solo.side.outcome() == [("request", 1, "success")]


def test_a_responder_speaks_first_when_the_hold_is_released():
    solo = Solo()
    solo.engine.post_send(1, [(0, 4)])
    solo.engine.release_hold()

    solo.step()

    assert solo.side.outcome() == [("request", 1, "success")]


def test_half_a_message_does_not_end_the_hold():
    solo = Solo()
    solo.engine.post_send(1, [(0, 4)])
    opening = reference.tagged(reference.WRITE, 0, 0, b"", crc=False)

    solo.step(opening[:-1])
    assert solo.written == b""

    solo.step(opening[-1:])
    assert solo.written != b""


def test_an_initiator_opens_with_an_empty_write_even_when_nothing_was_agreed():
    solo = Solo(is_initiator=True)
    solo.engine.post_send(1, [(0, 4)])

    solo.step()

    assert [ulpdu[1] & 15 for ulpdu in solo.fpdus()] == [reference.WRITE, reference.SEND]
    assert solo.fpdus()[0] == bytes.fromhex("c140") + bytes(12)


@pytest.mark.parametrize("rtr", ["none", "write", "read"])
def test_the_opening_message_is_invisible_to_both_sides(rtr):
    pair = Pair(rtr=rtr)

    pair.settle()
    assert pair.a.completions == pair.b.completions == []
    assert pair.b.events == {"first_fpdu"}

    pair.b.engine.post_receive(1, [(0, 16)])
    pair.a.engine.post_send(1, [(0, 4)])
    pair.a.engine.post_read(2, [(0, 4)], WINDOW_STAG, WINDOW_TO)
    pair.settle()
    assert pair.a.outcome() == [("request", 1, "success"), ("request", 2, "success")]


def test_an_opening_send_takes_number_one_and_no_receive():
    solo = Solo(rtr="send")
    solo.engine.post_receive(1, [(0, 16)])

    solo.step(send(1, b"") + send(2, b"data"))

    assert solo.side.outcome() == [("receive", 1, "success")]
    assert solo.completions[0]["received"] == 4
