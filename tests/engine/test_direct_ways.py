# SPDX-License-Identifier: Apache-2.0
"""Memory of the peer's that is not within reach, or ceases to be, and a peer that stands still."""

import errno
import struct

import pytest

from engine.direct_pair import DirectPair
from engine.pair import FILL, SECOND, WINDOW_STAG, WINDOW_TO, pattern

WINDOW = WINDOW_STAG, WINDOW_TO
BIG = 0x800000  # bytes of an arena
LARGE = 700_000  # more than a piece that is carried
MILLISECOND = SECOND // 1000


def big_pair(way, **options):
    pair = DirectPair(way=way, arena_size=BIG, window=False, **options)
    for side in (pair.a, pair.b):
        rights = {"remote_read": True, "remote_write": True, "remote_atomic": True}
        side.engine.add_region(WINDOW_STAG, WINDOW_TO, BIG // 2, BIG // 2, **rights)
    return pair


# ---- carried --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 40, 8193, LARGE])
@pytest.mark.parametrize("budget", [1, 1 << 20])
def test_a_carried_write_completes_when_it_is_on_its_way(size, budget):
    pair = big_pair("carried", budget=budget)
    pair.a.engine.write(0, pattern(size))
    pair.a.engine.post_write(1, [(0, size)], *WINDOW)

    while not pair.a.completions:
        pair.step(pair.a)
    assert pair.b.engine.read(BIG // 2, size) == bytes([FILL]) * size
    pair.settle()

    assert pair.a.outcome() == [("request", 1, "success")]
    assert pair.b.engine.read(BIG // 2, size) == pattern(size)


@pytest.mark.parametrize("size", [1, 41, 8193, LARGE])
def test_a_carried_read_waits_for_its_answer(size):
    pair = big_pair("carried")
    pair.b.engine.write(BIG // 2, pattern(size))
    pair.a.engine.post_read(1, [(0, size // 2), (BIG // 4, size - size // 2)], *WINDOW)

    pair.step(pair.a)
    assert pair.a.completions == []
    assert not pair.a.engine.wants_write
    pair.settle()

    assert pair.a.outcome() == [("request", 1, "success")]
    got = pair.a.engine.read(0, size // 2)
    assert got + pair.a.engine.read(BIG // 4, size - size // 2) == pattern(size)


def test_more_than_the_ring_holds_goes_through_it_in_turns():
    size = BIG // 2
    pair = big_pair("carried")
    pair.a.engine.write(0, pattern(size))
    pair.b.engine.write(0, pattern(size, seed=9))
    pair.a.engine.post_write(1, [(0, size)], *WINDOW)
    pair.a.engine.post_write(2, [(0, 8)], *WINDOW)
    pair.b.engine.post_write(3, [(0, size)], *WINDOW)

    pair.settle()

    assert pair.a.contexts(receives=False) == [1, 2]
    assert pair.b.engine.read(BIG // 2, size) == pattern(size)
    assert pair.a.engine.read(BIG // 2, size) == pattern(size, seed=9)


def test_carried_reads_of_both_ends_do_not_wait_for_each_other():
    pair = big_pair("carried")
    for side in (pair.a, pair.b):
        for context in range(5):
            side.engine.post_read(context, [(0, LARGE)], *WINDOW)

    pair.settle()

    assert pair.a.contexts(receives=False) == pair.b.contexts(receives=False) == list(range(5))


@pytest.mark.parametrize("kind", ["write", "read", "fetch_add"])
@pytest.mark.parametrize("where", [WINDOW_TO - 8, WINDOW_TO + BIG])
def test_what_is_carried_to_the_wrong_place_is_refused(kind, where):
    pair = big_pair("carried")
    options = (1,) if kind == "fetch_add" else ()
    getattr(pair.a.engine, f"post_{kind}")(1, [(0, 8)], WINDOW_STAG, where, *options)

    pair.settle()

    assert pair.a.engine.is_over
    assert pair.b.engine.is_over
    assert pair.b.memory() == bytes([FILL]) * BIG


def test_an_atomic_on_memory_that_only_the_kernel_reaches_is_carried():
    pair = big_pair("calls")
    pair.b.engine.write(BIG // 2, struct.pack("=Q", 5))
    pair.a.engine.post_fetch_add(1, [(0, 8)], *WINDOW, 3)
    pair.a.engine.post_read(2, [(8, 8)], *WINDOW)

    pair.settle()

    assert pair.a.statuses(receives=False) == ["success"] * 2
    assert struct.unpack("=QQ", pair.a.engine.read(0, 16)) == (5, 8)


def test_an_answer_behind_a_message_waits_for_its_receive():
    pair = big_pair("carried")
    pair.b.engine.post_send(1, [(0, 4)])
    pair.settle()
    pair.a.engine.post_read(2, [(0, 8)], *WINDOW)
    pair.settle()
    assert pair.a.completions == []

    pair.a.engine.post_receive(3, [(64, 4)])
    pair.settle()

    assert sorted(pair.a.outcome()) == [("receive", 3, "success"), ("request", 2, "success")]


def test_an_end_waits_for_the_answers_that_its_side_owes():
    pair = big_pair("carried", budget=1)
    pair.b.engine.write(BIG // 2, pattern(LARGE))
    pair.a.engine.post_read(1, [(0, LARGE)], *WINDOW)
    pair.step(pair.a)
    pair.step(pair.b)

    pair.b.engine.disconnect()
    pair.b.collect()
    assert "drained" not in pair.b.events
    pair.settle()

    assert "drained" in pair.b.events
    assert pair.a.outcome() == [("request", 1, "success")]


def test_a_peer_that_has_gone_does_not_answer():
    pair = big_pair("carried")
    pair.a.engine.post_read(1, [(0, 8)], *WINDOW)
    pair.step(pair.a)

    pair.a.engine.link_error(104)
    pair.settle()

    assert pair.a.outcome() == [("request", 1, "io_timeout")]


# ---- a kernel that stops copying --------------------------------------------------------------


@pytest.mark.parametrize("calls", [0, 1, 2])
@pytest.mark.parametrize("kind", ["write", "read"])
def test_what_the_kernel_copies_no_more_is_carried(kind, calls):
    pair = big_pair("calls")
    source, sink = (pair.a, pair.b) if kind == "write" else (pair.b, pair.a)
    source.engine.write(0 if kind == "write" else BIG // 2, pattern(LARGE))
    pair.a.engine.allow_calls(calls)
    getattr(pair.a.engine, f"post_{kind}")(1, [(0, LARGE)], *WINDOW)

    pair.settle()

    assert pair.a.outcome() == [("request", 1, "success")]
    assert sink.engine.read(BIG // 2 if kind == "write" else 0, LARGE) == pattern(LARGE)


@pytest.mark.parametrize("calls", [0, 1])
def test_a_message_that_cannot_be_placed_goes_through_the_ring(calls):
    pair = big_pair("calls")
    pair.a.engine.write(0, pattern(LARGE))
    pair.b.engine.post_receive(9, [(0, LARGE)])
    pair.settle()
    pair.a.engine.allow_calls(calls)
    pair.a.engine.post_send(1, [(0, LARGE)])

    pair.settle()

    assert pair.b.completions[0]["received"] == LARGE
    assert pair.b.engine.read(0, LARGE) == pattern(LARGE)


def test_what_is_within_reach_waits_for_what_is_carried_before_it():
    pair = big_pair("calls")
    pair.a.engine.allow_calls(0)
    pair.a.engine.write(0, pattern(LARGE))
    pair.a.engine.post_write(1, [(0, LARGE)], *WINDOW)
    pair.step(pair.a)
    pair.a.engine.allow_calls(100)
    pair.a.engine.post_read(2, [(LARGE, LARGE)], *WINDOW)
    pair.step(pair.a)
    assert pair.a.contexts(receives=False) == [1]

    pair.settle()

    assert pair.a.contexts(receives=False) == [1, 2]
    assert pair.a.engine.read(LARGE, LARGE) == pattern(LARGE)


# ---- a peer that stands still -------------------------------------------------------------------


def test_an_end_waits_until_the_peer_has_let_go():
    pair = DirectPair(fin=False)
    pair.a.engine.post_receive(1, [(0, 64)])
    pair.step(pair.a)
    pair.b.engine.set_hazard(1)

    pair.a.engine.flush()
    pair.step(pair.a)
    assert not pair.a.engine.is_over
    assert pair.a.completions == []
    assert pair.a.engine.deadline() == pair.now + MILLISECOND
    pair.now += 5 * MILLISECOND
    pair.step(pair.a)
    assert pair.a.completions == []
    assert pair.a.engine.deadline() == pair.now + MILLISECOND

    pair.b.engine.set_hazard(0)
    pair.step(pair.a)

    assert pair.a.outcome() == [("receive", 1, "cancelled")]
    assert pair.a.engine.deadline() is None


@pytest.mark.parametrize("way", ["loads", "calls", "carried"])
def test_a_request_to_a_process_that_has_died_fails(way):
    pair = big_pair(way, fin=False)
    pair.b.engine.post_receive(9, [(0, 8)])
    pair.settle()
    pair.a.engine.end_of_stream()
    pair.step(pair.a)
    pair.a.engine.set_peer_dead()
    pair.a.engine.post_write(1, [(0, 8)], *WINDOW)
    pair.a.engine.post_send(2, [(0, 8)])

    pair.step(pair.a)

    assert pair.a.outcome() == [("request", 1, "io_timeout"), ("request", 2, "cancelled")]
    assert pair.a.engine.cause == ("system", errno.ECONNRESET)


def test_what_waits_for_a_peer_that_has_closed_looks_whether_it_lives():
    pair = big_pair("carried", fin=False)
    pair.a.engine.post_write(1, [(0, BIG // 2)], *WINDOW)
    pair.a.engine.post_write(2, [(0, BIG // 2)], *WINDOW)
    pair.a.engine.end_of_stream()
    while pair.step(pair.a):
        pass
    assert pair.a.outcome() == [("request", 1, "success")]
    pair.a.completions.clear()
    assert pair.a.engine.deadline() == pair.now + 10 * MILLISECOND

    pair.a.engine.set_peer_dead()
    pair.now += 10 * MILLISECOND
    pair.step(pair.a)

    assert pair.a.outcome() == [("request", 2, "io_timeout")]


def test_a_dead_peer_has_let_go():
    pair = DirectPair(fin=False)
    pair.a.engine.post_receive(1, [(0, 64)])
    pair.b.engine.set_hazard(1)
    pair.a.engine.set_peer_dead()

    pair.a.engine.flush()
    pair.step(pair.a)

    assert pair.a.outcome() == [("receive", 1, "cancelled")]
