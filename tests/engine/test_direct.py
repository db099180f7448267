# SPDX-License-Identifier: Apache-2.0
"""Requests and messages of two ends that share memory."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import exchange
from engine.direct_pair import DirectPair
from engine.pair import FILL, SECOND, WINDOW_OFFSET, WINDOW_STAG, WINDOW_TO, Pair, pattern

budgets = pytest.mark.parametrize("budget", [1, 50, 1 << 20])
WINDOW = WINDOW_STAG, WINDOW_TO
within_reach = pytest.mark.parametrize("way", ["loads", "calls"], indirect=True)
LARGE = 20_000  # above what goes through the ring when a receive is there
BIG_ARENA = 0x20000


@pytest.fixture(autouse=True, params=["loads", "calls", "carried"])
def way(request, monkeypatch):
    """How the two ends get to the memory of the other."""
    monkeypatch.setattr(DirectPair, "way", request.param)


@budgets
def test_every_kind_of_message_arrives(budget):
    exchange.assert_finished(exchange.begin(DirectPair(budget=budget)).settle())


def test_queue_positions_wrap_through_two_to_the_32():
    exchange.assert_finished(exchange.begin(DirectPair(start_position=2**32 - 4)).settle())


@within_reach
@budgets
def test_a_write_is_in_the_peers_memory_when_it_completes(budget):
    pair = DirectPair(budget=budget)
    pair.a.engine.write(0, pattern(100))
    pair.a.engine.post_write(1, [(0, 60), (60, 40)], *WINDOW)

    while not pair.a.completions:
        pair.step(pair.a)

    assert pair.b.engine.read(WINDOW_OFFSET, 100) == pattern(100)
    assert pair.a.outcome() == [("request", 1, "success")]


@within_reach
def test_a_read_needs_no_step_of_the_peer():
    pair = DirectPair()
    pair.b.engine.write(WINDOW_OFFSET, pattern(64))
    pair.a.engine.post_read(1, [(0, 64)], *WINDOW)

    pair.step(pair.a)

    assert pair.a.outcome() == [("request", 1, "success")]
    assert pair.a.engine.read(0, 64) == pattern(64)


def test_scattered_memory_is_reached_page_by_page():
    pair = DirectPair(window=False)
    pair.b.engine.add_region(
        7, 0, WINDOW_OFFSET, 0x100, remote_read=True, remote_write=True, page=0x40
    )
    pair.a.engine.write(0, pattern(0x90))
    pair.a.engine.post_write(1, [(0, 0x90)], 7, 0x10)
    pair.a.engine.post_read(2, [(0x200, 0x90)], 7, 0x10)

    pair.settle()

    assert pair.a.statuses(receives=False) == ["success"] * 2
    assert pair.a.engine.read(0x200, 0x90) == pattern(0x90)


def test_atomics_change_the_word_and_return_what_was_there():
    pair = DirectPair(window=False)
    pair.b.engine.add_region(7, 0, WINDOW_OFFSET, 16, remote_atomic=True)
    pair.b.engine.write(WINDOW_OFFSET, struct.pack("=QQ", 5, 7))
    pair.a.engine.post_fetch_add(1, [(0, 8)], 7, 0, 3)
    pair.a.engine.post_compare_swap(2, [(8, 8)], 7, 8, 7, 70)
    pair.a.engine.post_compare_swap(3, [(16, 8)], 7, 8, 7, 71)

    pair.settle()

    assert pair.a.statuses(receives=False) == ["success"] * 3
    assert struct.unpack("=QQQ", pair.a.engine.read(0, 24)) == (5, 7, 70)
    assert struct.unpack("=QQ", pair.b.engine.read(WINDOW_OFFSET, 16)) == (8, 70)


def test_an_atomic_on_a_word_that_is_not_aligned_ends_the_connection():
    pair = DirectPair(window=False)
    pair.b.engine.add_region(7, 0, WINDOW_OFFSET, 16, remote_atomic=True)
    pair.a.engine.post_fetch_add(1, [(0, 8)], 7, 4, 3)

    pair.settle()

    assert pair.a.outcome() == [("request", 1, "remote_resources")]
    assert pair.a.engine.cause == ("peer", 0, 2, 7)
    assert pair.b.engine.cause == ("local", 0, 2, 7)


def test_an_immediate_takes_a_receive_with_the_bytes_of_its_write():
    pair = DirectPair()
    pair.b.engine.post_receive(9, [])
    pair.a.engine.write(0, pattern(30))
    pair.a.engine.post_write(1, [(0, 30)], *WINDOW, immediate=0xDEADBEEF, solicited=True)

    pair.settle()

    (got,) = pair.b.completions
    assert (got["context"], got["received"], got["immediate"]) == (9, 30, 0xDEADBEEF)
    assert got["is_solicited"]
    assert pair.b.engine.read(WINDOW_OFFSET, 30) == pattern(30)


def test_local_requests_have_their_turn_in_the_queue():
    pair = DirectPair(window=False)
    pair.a.engine.add_region(7, 0, 0x100, 64, remote_write=True, is_waiting=True)
    pair.a.engine.post_local("fast_register", 1, 7)
    pair.a.engine.post_send(2, [(0, 4)])
    pair.a.engine.post_local("invalidate", 3, 7)
    pair.b.engine.post_receive(4, [(0, 16)])

    pair.settle()

    assert pair.a.outcome() == [("request", n, "success") for n in (1, 2, 3)]
    assert not pair.a.engine.has_region(7)


def test_a_read_ends_its_sink_when_its_data_is_there():
    pair = DirectPair()
    pair.a.engine.add_region(7, 0, 0, 64)
    pair.a.engine.post_read(1, [(0, 64)], *WINDOW, invalidate=7)
    pair.a.engine.post_read(2, [(0, 64)], *WINDOW, invalidate=7)

    pair.settle()

    assert pair.a.outcome() == [
        ("request", 1, "success"),
        ("request", 2, "invalid_device_request"),
    ]
    assert pair.a.engine.cause == ("local", 0, 0, 0)


# ---- messages -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 40, 41, 8192, 8193, LARGE])
@pytest.mark.parametrize("is_posted_first", [True, False])
@budgets
def test_messages_of_any_size_arrive_whole(size, is_posted_first, budget):
    if budget == 1 and size > 100:
        budget = 999
    pair = DirectPair(arena_size=BIG_ARENA, budget=budget)
    pair.a.engine.write(0, pattern(size))
    if is_posted_first:
        pair.b.engine.post_receive(9, [(0, size)])
    pair.settle()
    pair.a.engine.post_send(1, [(0, size)])
    pair.settle()
    if not is_posted_first:
        pair.b.engine.post_receive(9, [(0, size)])
        pair.settle()

    assert pair.a.outcome() == [("request", 1, "success")]
    assert pair.b.outcome() == [("receive", 9, "success")]
    assert pair.b.completions[0]["received"] == size
    assert pair.b.engine.read(0, size) == pattern(size)


def test_a_receive_in_pieces_gets_its_message_by_the_ring():
    pair = DirectPair(arena_size=BIG_ARENA)
    pair.a.engine.write(0, pattern(LARGE))
    pair.b.engine.post_receive(9, [(0, 5000), (6000, LARGE - 5000)])
    pair.settle()
    pair.a.engine.post_send(1, [(0, LARGE)])
    pair.settle()

    assert pair.b.engine.read(0, 5000) == pattern(LARGE)[:5000]
    assert pair.b.engine.read(6000, LARGE - 5000) == pattern(LARGE)[5000:]


def test_many_messages_wait_for_room_in_their_order():
    pair = DirectPair(send_depth=1024, receive_depth=1024, arena_size=BIG_ARENA)
    pair.a.engine.write(0, pattern(4000))
    for context in range(1000):
        assert pair.a.engine.post_send(context, [(0, context * 4)])
    pair.step(pair.a)
    assert 0 < len(pair.a.completions) < 1000
    assert not pair.a.engine.wants_write

    for context in range(1000):
        assert pair.b.engine.post_receive(context, [(0x8000, 4096)])
    pair.settle()

    assert pair.a.contexts(receives=False) == list(range(1000))
    assert [c["received"] for c in pair.b.completions] == [4 * n for n in range(1000)]


def test_a_missing_receive_waits_for_its_time_and_ends_both_sides():
    pair = DirectPair(receive_wait_ns=3 * SECOND)
    pair.now = SECOND
    pair.a.engine.post_send(1, [(0, 4)])
    pair.settle()
    assert pair.b.engine.deadline() == 4 * SECOND
    assert not pair.b.engine.wants_read
    pair.advance(3 * SECOND - 1)
    assert pair.b.engine.cause is None

    pair.advance(1)

    assert pair.b.engine.cause == ("local", 1, 2, 2)
    assert pair.a.engine.cause == ("peer", 1, 2, 2)


def test_a_missing_receive_that_is_found_beside_steps_waits_as_long():
    pair = DirectPair(receive_wait_ns=3 * SECOND, has_lane=True)
    pair.now = 10 * SECOND  # since a step
    pair.a.engine.post_send(1, [(0, 8)])

    pair.settle()

    assert pair.b.engine.deadline() == 13 * SECOND


def test_messages_are_taken_beside_steps_until_one_wants_a_step():
    pair = DirectPair()
    for context in (1, 2, 3):
        pair.a.engine.post_send(context, [(0, 8)])
    pair.b.engine.post_receive(4, [(0, 8)])
    pair.b.engine.post_receive(5, [(8, 8)])
    pair.step(pair.a)

    # The third has no receive.
    assert not pair.b.engine.take_ahead()
    pair.b.collect()

    assert pair.b.outcome() == [("receive", 4, "success"), ("receive", 5, "success")]
    pair.b.engine.post_receive(6, [(16, 8)])
    assert pair.b.engine.take_ahead()
    pair.b.collect()
    assert pair.b.outcome()[2:] == [("receive", 6, "success")]


@within_reach
@pytest.mark.parametrize(
    ("kind", "options"), [("write", {}), ("write", {"immediate": 5}), ("read", {})]
)
def test_what_comes_behind_an_invalidation_finds_the_token_dead(kind, options):
    pair = DirectPair(window=False)
    rights = {"remote_write": True, "remote_read": True, "is_revocable": True}
    pair.b.engine.add_region(7, 0, WINDOW_OFFSET, 64, **rights)
    pair.a.engine.write(0, pattern(8))
    pair.a.engine.post_send(1, [(0, 4)], invalidate=7)
    getattr(pair.a.engine, f"post_{kind}")(2, [(0, 8)], 7, 0, **options)

    pair.step(pair.a)
    pair.step(pair.a)
    assert pair.a.outcome() == [("request", 1, "success")]
    pair.b.engine.post_receive(9, [(0, 8)])
    pair.settle()

    assert pair.b.completions[0]["invalidated"] == 7
    assert pair.a.outcome()[1] == ("request", 2, "remote_resources")
    assert pair.b.engine.read(WINDOW_OFFSET, 8) == bytes([FILL]) * 8


def test_a_message_that_is_too_long_for_its_receive_fails_it():
    pair = DirectPair()
    pair.b.engine.post_receive(9, [(0, 8)])
    pair.a.engine.post_send(1, [(0, 9)])

    pair.settle()

    assert pair.b.outcome() == [("receive", 9, "buffer_overflow")]
    assert pair.b.engine.cause == ("local", 1, 2, 5)
    assert pair.a.engine.cause == ("peer", 1, 2, 5)
    assert pair.b.engine.read(0, 9) == bytes([FILL]) * 9


def test_a_message_that_ends_what_the_peer_does_not_have_is_refused():
    pair = DirectPair()
    pair.b.engine.post_receive(9, [(0, 8)])
    pair.a.engine.post_send(1, [(0, 4)], invalidate=0x77)
    pair.a.engine.post_send(2, [(0, 4)])

    pair.settle()

    assert pair.b.outcome() == [("receive", 9, "cancelled")]
    assert pair.b.engine.cause == ("local", 0, 2, 9)
    assert pair.a.engine.cause == ("peer", 0, 2, 9)


# ---- refused access, and ends ---------------------------------------------------------------

REFUSALS = {
    "no such token": (0x99, WINDOW_TO, 8, ("write", 1, 1, 0), ("read", 0, 1, 0)),
    "beyond the end": (WINDOW_STAG, WINDOW_TO + 0x7F9, 8, ("write", 1, 1, 1), ("read", 0, 1, 1)),
    "before the beginning": (WINDOW_STAG, WINDOW_TO - 1, 8, ("write", 1, 1, 1), ("read", 0, 1, 1)),
    "wraps": (WINDOW_STAG, 2**64 - 4, 8, ("write", 1, 1, 3), ("read", 0, 1, 4)),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("which", [0, 1], ids=["write", "read"])
def test_refused_access_blames_its_request_and_ends_both_sides(case, which):
    stag, to, size, *codes = REFUSALS[case]
    _, *code = codes[which]
    pair = DirectPair()
    pair.a.engine.post_send(1, [])
    post = (pair.a.engine.post_write, pair.a.engine.post_read)[which]
    post(2, [(0, size)], stag, to)
    pair.a.engine.post_send(3, [])
    pair.b.engine.post_receive(9, [])
    before = pair.b.memory()

    pair.settle()

    assert pair.a.outcome() == [
        ("request", 1, "success"),
        ("request", 2, "remote_resources"),
        ("request", 3, "cancelled"),
    ]
    assert pair.b.outcome() == [("receive", 9, "success")]
    assert pair.a.engine.cause == ("peer", *code)
    assert pair.b.engine.cause == ("local", *code)
    assert pair.b.memory() == before


def test_a_disconnect_executes_what_is_posted_first():
    pair = DirectPair()
    pair.a.engine.post_write(1, [(0, 8)], *WINDOW)
    pair.a.engine.post_send(2, [(0, 8)])
    pair.a.engine.disconnect()

    pair.settle()

    assert "drained" in pair.a.events
    assert pair.a.contexts(receives=False) == [1, 2]


def test_the_peers_end_comes_behind_its_messages():
    pair = DirectPair(fin=False)
    pair.a.engine.post_send(1, [(0, 8)])
    pair.step(pair.a)
    pair.b.engine.end_of_stream()
    pair.step(pair.b)
    assert "peer_closed" not in pair.b.events

    pair.b.engine.post_receive(9, [(0, 8)])
    pair.settle()

    assert pair.b.outcome() == [("receive", 9, "success")]
    assert "peer_closed" in pair.b.events


def test_what_is_posted_to_a_peer_that_has_closed_goes_nowhere():
    pair = DirectPair()
    pair.b.engine.flush()
    pair.settle()
    pair.a.engine.post_write(1, [(0, 8)], *WINDOW)

    pair.settle()

    # As over TCP, which takes it without knowing that no one reads it.
    assert pair.a.outcome() == [("request", 1, "success")]
    assert pair.a.engine.cause is None
    assert pair.b.memory() == bytes([FILL]) * len(pair.b.memory())


def test_messages_that_wait_for_room_end_with_a_peer_that_has_closed():
    pair = DirectPair(send_depth=512)
    for context in range(300):
        pair.a.engine.post_send(context, [(0, 1)])
    pair.step(pair.a)
    pair.b.engine.flush()
    pair.a.engine.disconnect()

    pair.settle()

    assert pair.a.contexts(receives=False) == list(range(300))
    assert "drained" in pair.a.events


def test_a_read_of_a_peer_that_has_closed_has_no_one_to_answer_it():
    pair = DirectPair()
    pair.b.engine.flush()
    pair.settle()
    pair.a.engine.post_read(1, [(0, 8)], *WINDOW)

    pair.settle()

    assert pair.a.outcome() == [("request", 1, "io_timeout")]


def test_a_flush_cancels_everything_and_takes_receives_back():
    pair = DirectPair(arena_size=BIG_ARENA)
    pair.b.engine.post_receive(9, [(0, LARGE)])
    pair.settle()
    pair.b.engine.flush()
    pair.step(pair.b)
    pair.a.engine.post_send(1, [(0, LARGE)])

    pair.settle()

    assert pair.b.outcome() == [("receive", 9, "cancelled")]
    assert pair.b.engine.read(0, LARGE) == bytes([FILL]) * LARGE


def test_a_dead_link_fails_the_oldest_request():
    pair = DirectPair(send_depth=512)
    for context in range(300):
        pair.a.engine.post_send(context, [(0, 1)])
    pair.step(pair.a)
    done = len(pair.a.completions)
    pair.a.engine.link_error(104)
    pair.step(pair.a)

    assert pair.a.statuses(receives=False)[done:] == ["io_timeout"] + ["cancelled"] * (299 - done)
    assert pair.a.engine.cause == ("system", 104)


# ---- alike over TCP -------------------------------------------------------------------------

PLACES = st.tuples(st.integers(0, 3), st.integers(0, 64)).map(lambda p: (p[0] * 0x80, p[1]))
REQUESTS = st.one_of(
    st.tuples(st.just("send"), PLACES, st.booleans()),
    st.tuples(st.just("write"), PLACES, st.integers(0, 0x7FF)),
    st.tuples(st.just("read"), PLACES, st.integers(0, 0x7FF)),
    st.tuples(st.just("immediate"), PLACES, st.integers(0, 0x700)),
)


def play(pair, requests, receives):
    for side, theirs in zip((pair.a, pair.b), receives, strict=True):
        side.engine.write(0, pattern(0x200, ord(side.name)))
        side.engine.write(WINDOW_OFFSET, pattern(0x800, ord(side.name) + 1))
        for context, size in enumerate(theirs):
            side.engine.post_receive(context, [(0x400 + context * 0x40, size)])
    for context in range(max(map(len, requests), default=0)):
        for side, mine in zip((pair.a, pair.b), requests, strict=True):
            if context < len(mine):
                post(side.engine, context, mine[context])
                pair.settle()
    pair.advance(10 * SECOND)
    pair.advance(10 * SECOND)
    return [
        (side.outcome(), side.memory(), side.engine.cause, side.engine.is_over)
        for side in (pair.a, pair.b)
    ]


def post(engine, context, request):
    kind, place, extra = request
    if kind == "send":
        engine.post_send(context, [place], solicited=extra)
    elif kind == "read":
        engine.post_read(context, [place], WINDOW_STAG, WINDOW_TO + extra)
    else:
        immediate = context if kind == "immediate" else None
        engine.post_write(context, [place], WINDOW_STAG, WINDOW_TO + extra, immediate=immediate)


REQUEST_LISTS = st.tuples(*[st.lists(REQUESTS, max_size=8)] * 2)
RECEIVE_LISTS = st.tuples(*[st.lists(st.integers(0, 64), max_size=8)] * 2)


@within_reach
@given(requests=REQUEST_LISTS, receives=RECEIVE_LISTS)
def test_random_requests_leave_the_same_memory_and_completions_as_over_tcp(requests, receives):
    over_tcp = play(Pair(), requests, receives)
    direct = play(DirectPair(), requests, receives)
    is_starved = any(
        sum(kind in ("send", "immediate") for kind, *_ in mine) > len(theirs)
        for mine, theirs in zip(requests, reversed(receives), strict=True)
    )

    for (outcome, memory, _, is_over), (tcp_outcome, tcp_memory, _, tcp_is_over) in zip(
        direct, over_tcp, strict=True
    ):
        assert is_over == tcp_is_over
        if is_starved:
            continue  # a Write behind a message that waits for its receive does not wait
        assert memory == tcp_memory
        # A Write that is refused succeeds over TCP, where its end is not waited for.
        if not is_over:
            assert outcome == tcp_outcome
        else:
            assert [done[:2] for done in outcome] == [done[:2] for done in tcp_outcome]


# ---- what a peer may do to the segment -------------------------------------------------------


SCRIBBLES = st.tuples(
    st.booleans(),
    st.one_of(st.integers(0, 0x200), st.integers(0, 0x24000)),
    st.binary(min_size=1, max_size=16),
)


@given(st.lists(SCRIBBLES, max_size=20))
def test_whatever_a_peer_does_to_its_messages_ends_at_worst_the_connection(scribbles):
    pair = DirectPair(fin=False)
    sides = pair.a, pair.b
    for side in sides:
        for context in range(4):
            side.engine.post_receive(context, [(0x40 * context, 0x40)])
    pair.settle()
    for by_second, at, data in scribbles:
        for side in sides:
            side.engine.post_send(1, [(0x800, 50)])
            side.engine.begin(0)
            side.engine.transmit()
        sides[by_second].engine.scribble(at, data)
        for side in sides:
            side.engine.end()
            pair.step(side)

    for side in sides:
        assert side.engine.read(0x100, 0x700) == bytes([FILL]) * 0x700
