# SPDX-License-Identifier: Apache-2.0
"""Ends that meet something half done: a message half placed, rings that are full."""

import pytest

from engine.direct_pair import DirectPair
from engine.pair import FILL, pattern

LARGE = 20_000  # above what goes through the ring when a receive is there
HALF = 5_000
ARENA = 0x8000
MANY = 300  # more than the ring holds


def half_placed(way):
    """Give a pair whose first side has placed a part of a message into the second one's receive."""
    pair = DirectPair(arena_size=ARENA, way=way, budget=HALF // 2)
    pair.a.engine.write(0, pattern(LARGE))
    pair.b.engine.post_receive(9, [(0, LARGE)])
    pair.settle()
    pair.a.engine.post_send(1, [(0, LARGE)])
    pair.step(pair.a)
    assert pair.b.engine.read(0, HALF) == pattern(LARGE)[:HALF]
    assert pair.b.engine.read(HALF, LARGE - HALF) == bytes([FILL]) * (LARGE - HALF)
    return pair


ways = pytest.mark.parametrize("way", ["loads", "calls"])


@ways
def test_a_sender_that_ends_half_way_leaves_the_receive_for_the_end(way):
    pair = half_placed(way)

    pair.a.engine.flush()
    pair.settle()

    # Of a message that was never announced the receiver knows nothing.
    assert pair.a.outcome() == [("request", 1, "cancelled")]
    assert pair.b.completions == []
    assert "peer_closed" in pair.b.events
    pair.b.engine.flush()
    pair.settle()
    assert pair.b.outcome() == [("receive", 9, "cancelled")]


@ways
def test_a_receiver_that_ends_half_way_is_left_alone(way):
    pair = half_placed(way)

    pair.b.engine.flush()
    pair.step(pair.b)
    assert pair.b.outcome() == [("receive", 9, "cancelled")]
    pair.settle()

    # It goes nowhere, as over TCP.
    assert pair.b.engine.read(HALF, LARGE - HALF) == bytes([FILL]) * (LARGE - HALF)
    assert pair.a.outcome() == [("request", 1, "success")]


@ways
def test_a_link_that_breaks_half_way_fails_the_message(way):
    pair = half_placed(way)

    pair.a.engine.link_error(104)
    pair.settle()

    assert pair.a.outcome() == [("request", 1, "io_timeout")]
    assert pair.a.engine.cause == ("system", 104)
    assert "peer_closed" in pair.b.events
    assert pair.b.completions == []


@pytest.mark.parametrize("way", ["loads", "calls", "carried"])
@pytest.mark.parametrize("size", [1, 8_192, LARGE])
def test_both_sides_disconnect_at_once_with_full_rings(way, size):
    pair = DirectPair(
        arena_size=ARENA, way=way, send_depth=512, receive_depth=512, fin=False, window=False
    )
    sides = pair.a, pair.b
    for side in sides:
        for context in range(MANY):
            side.engine.post_send(context, [(0, size)])
    for side in sides:
        pair.step(side)
        side.engine.disconnect()
    pair.settle()
    assert all("drained" not in side.events for side in sides)

    for side in sides:
        for context in range(MANY):
            side.engine.post_receive(context, [(0, size)])
    pair.settle()
    for side in sides:
        assert "drained" in side.events
        side.engine.end_of_stream()
    pair.settle()

    for side in sides:
        assert side.contexts(receives=False) == side.contexts(receives=True) == list(range(MANY))
        assert {c["status"] for c in side.completions} == {"success"}
        assert "peer_closed" in side.events
        assert side.engine.cause is None


def test_a_reset_does_not_wait_for_messages_that_wait_for_a_receive():
    pair = DirectPair(fin=False)
    pair.a.engine.post_send(1, [(0, 8)])
    pair.settle()
    pair.b.engine.post_send(2, [(0, 8)])
    pair.b.engine.end_of_stream()
    pair.settle()
    assert "peer_closed" not in pair.b.events

    pair.b.engine.link_error(104)
    pair.settle()

    assert pair.b.outcome() == [("request", 2, "success")]
    assert pair.b.engine.cause == ("system", 104)
    assert "over" in pair.b.events
