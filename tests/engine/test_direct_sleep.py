# SPDX-License-Identifier: Apache-2.0
"""Ends that share memory and sleep: what wakes them, and that they miss nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.direct_pair import DirectPair
from engine.pair import WINDOW_STAG, WINDOW_TO

WINDOW = WINDOW_STAG, WINDOW_TO


def test_a_message_wakes_an_end_that_sleeps_and_no_other():
    pair = DirectPair()
    pair.b.engine.post_receive(1, [(0, 8)])
    pair.b.engine.post_receive(2, [(0, 8)])
    pair.settle()
    pair.a.engine.post_send(1, [(0, 8)])
    pair.step(pair.a)
    assert pair.b.engine.take_rings() == 0
    pair.settle()
    assert not pair.b.engine.doze()

    pair.a.engine.post_send(2, [(0, 8)])
    pair.step(pair.a)

    assert pair.b.engine.take_rings() == 1
    assert pair.a.engine.take_rings() == 0


def test_a_write_wakes_no_one():
    pair = DirectPair()
    pair.settle()
    pair.b.engine.doze()
    pair.a.engine.post_write(1, [(0, 8)], *WINDOW)

    pair.settle()

    assert pair.b.engine.take_rings() == 0


def test_an_end_that_is_not_done_does_not_sleep():
    pair = DirectPair(budget=10)
    pair.a.engine.post_write(1, [(0, 64)], *WINDOW)

    pair.step(pair.a)

    assert pair.a.engine.has_news()
    assert pair.a.engine.doze()


def test_room_in_the_ring_wakes_an_end_that_waits_for_it():
    pair = DirectPair(send_depth=512, receive_depth=512)
    for context in range(300):
        pair.a.engine.post_send(context, [(0, 1)])
    pair.step(pair.a)
    assert not pair.a.engine.doze()
    for context in range(300):
        pair.b.engine.post_receive(context, [(0, 1)])

    pair.step(pair.b)

    assert pair.a.engine.take_rings() == 1


def test_an_end_that_sleeps_while_it_waits_for_a_receive_hears_of_what_comes_behind():
    pair = DirectPair()
    pair.settle()
    pair.a.engine.post_send(1, [(0, 8)])
    pair.step(pair.a)
    pair.step(pair.b)
    pair.b.engine.doze()
    pair.b.engine.post_receive(1, [(0, 8)])
    pair.step(pair.b)
    pair.b.engine.take_rings()

    pair.b.engine.post_receive(2, [(0, 8)])
    pair.a.engine.post_send(2, [(0, 8)])
    pair.step(pair.a)

    assert pair.b.engine.take_rings() == 1


def test_an_end_that_waits_for_an_answer_sleeps():
    pair = DirectPair(way="carried")
    # The answer is behind a message that has no receive.
    pair.b.engine.post_send(1, [(0, 8)])
    pair.settle()
    pair.a.engine.post_read(2, [(0x40, 8)], *WINDOW)
    pair.settle()
    assert pair.a.completions == []

    assert not pair.a.engine.doze()

    pair.a.engine.post_receive(3, [(0, 8)])
    pair.settle()
    assert sorted(pair.a.outcome()) == [("receive", 3, "success"), ("request", 2, "success")]


@pytest.mark.parametrize("way", ["loads", "carried"])
def test_an_answer_or_the_message_before_it_wakes_an_end_that_waits(way):
    pair = DirectPair(way=way)
    pair.a.engine.post_send(1, [(0, 8)])
    pair.a.engine.post_read(2, [(0x40, 8)], *WINDOW)
    pair.step(pair.a)
    assert not pair.a.engine.doze()
    pair.b.engine.post_receive(3, [(0, 8)])

    pair.step(pair.b)

    assert pair.a.engine.take_rings() == 1
    pair.step(pair.a)
    assert pair.a.contexts(receives=False) == [1, 2]


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(["send", "receive", "doze"])), max_size=60
    )
)
def test_no_end_sleeps_over_something_that_it_could_do(acts):
    """Whatever is posted when: an end that only steps when it posts or is rung misses nothing."""
    pair = DirectPair(send_depth=512, receive_depth=512)
    sides = [pair.a, pair.b]
    asleep = [False, False]
    posted = {"send": [0, 0], "receive": [0, 0]}

    def run():
        while any(side.engine.take_rings() or not asleep[i] for i, side in enumerate(sides)):
            for i, side in enumerate(sides):
                while pair.step(side):
                    pass
                asleep[i] = not side.engine.doze()

    for which, act in acts:
        engine = sides[which].engine
        if act == "send":
            posted["send"][which] += engine.post_send(1, [(0, 8)])
            pair.step(sides[which])
        elif act == "receive":
            posted["receive"][which] += engine.post_receive(1, [(0, 8)])
            pair.step(sides[which])
        else:
            run()
    run()

    for which in (0, 1):
        got = len(sides[1 - which].contexts(receives=True))
        assert got == min(posted["send"][which], posted["receive"][1 - which])
