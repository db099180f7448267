# SPDX-License-Identifier: Apache-2.0
"""An initiator whose peer says nothing sends it an empty Write, twice at most."""

import pytest

from engine.pair import SECOND, WINDOW_STAG, WINDOW_TO, Pair, Solo
from wire import reference

FIRST, SECOND_WAKE = SECOND // 20, SECOND + SECOND // 20
EMPTY_WRITE = reference.tagged(reference.WRITE, 0, 0, crc=False)


def initiator(**config):
    """An initiator that wakes its peer; its opening message is out already."""
    solo = Solo(is_initiator=True, wakes_peer=True, **config)
    solo.step()
    solo.written.clear()
    return solo


def advance_to(solo, now):
    return solo.advance(now - solo.now)


@pytest.mark.parametrize("rtr", ["none", "write", "read"])
def test_a_silent_peer_gets_an_empty_write_after_50_ms_and_another_a_second_later(rtr):
    solo = initiator(rtr=rtr)
    assert solo.engine.deadline() == FIRST
    assert advance_to(solo, FIRST - 1) == b""
    assert advance_to(solo, FIRST) == EMPTY_WRITE
    assert solo.engine.deadline() == SECOND_WAKE
    assert advance_to(solo, SECOND_WAKE - 1) == b""
    assert advance_to(solo, SECOND_WAKE) == EMPTY_WRITE
    assert solo.engine.deadline() is None
    assert solo.advance(100 * SECOND) == b""
    assert solo.completions == []


def test_the_first_frame_of_the_peer_ends_it():
    solo = initiator()

    solo.step(EMPTY_WRITE)

    assert solo.engine.deadline() is None
    assert solo.advance(2 * SECOND) == b""


def test_the_peer_that_was_woken_once_is_left_alone():
    solo = initiator()
    advance_to(solo, FIRST)

    solo.step(EMPTY_WRITE)

    assert solo.advance(2 * SECOND) == b""


def test_it_takes_no_slot_and_no_place_in_the_order_of_completions():
    solo = initiator(send_depth=1)
    assert solo.engine.post_write(7, [(0, 100)], WINDOW_STAG, WINDOW_TO)
    assert not solo.engine.post_write(8, [(0, 100)], WINDOW_STAG, WINDOW_TO)

    solo.now = FIRST
    solo.step()
    assert sorted(len(ulpdu) for ulpdu in solo.fpdus()) == [14, 114]
    assert solo.side.outcome() == [("request", 7, "success")]


def test_it_waits_for_the_end_of_the_message_under_way():
    solo = initiator(max_fpdu=64)
    solo.engine.post_write(1, [(0, 100)], WINDOW_STAG, WINDOW_TO)
    solo.step(limit=10, budget=10)
    solo.now = FIRST

    solo.step()

    assert [len(ulpdu) - 14 for ulpdu in solo.fpdus()] == [44, 44, 12, 0]


@pytest.mark.parametrize("end", ["disconnect", "end_of_stream", "flush"])
def test_a_stream_that_ends_wakes_nobody(end):
    solo = initiator()

    getattr(solo.engine, end)()

    assert solo.engine.deadline() is None
    assert solo.advance(2 * SECOND) == b""


def test_a_responder_wakes_nobody():
    solo = Solo(wakes_peer=True)

    solo.engine.release_hold()

    assert solo.engine.deadline() is None
    assert solo.advance(2 * SECOND) == b""


def test_a_responder_of_ours_takes_it_for_nothing():
    pair = Pair(wakes_peer=True).settle()
    pair.advance(FIRST)
    pair.advance(SECOND)
    pair.a.engine.post_write(1, [(0, 4)], WINDOW_STAG, WINDOW_TO)

    pair.settle()

    assert pair.a.outcome() == [("request", 1, "success")]
    assert pair.b.outcome() == []
    assert pair.b.engine.counters["fpdus_in"] == 4
