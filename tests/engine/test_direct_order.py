# SPDX-License-Identifier: Apache-2.0
"""What comes before what, whatever carries a connection: rules that hold over TCP hold everywhere.

RFC 5040 section 5.5: a Read is answered behind the messages that were sent before it.
"""

import struct

import pytest

from engine.direct_pair import DirectPair
from engine.pair import FILL, SECOND, WINDOW_OFFSET, WINDOW_STAG, WINDOW_TO, Pair, pattern

WINDOW = WINDOW_STAG, WINDOW_TO
TOKEN = 0x77
RIGHTS = {"remote_read": True, "remote_write": True, "remote_atomic": True}

# Requests that the peer answers, or would.
ANSWERED = {
    "read": lambda engine, context, token: engine.post_read(context, [(0x40, 8)], *token),
    "fetch_add": lambda engine, context, token: engine.post_fetch_add(
        context, [(0x40, 8)], *token, 1
    ),
    "compare_swap": lambda engine, context, token: engine.post_compare_swap(
        context, [(0x40, 8)], *token, 1, 2
    ),
}
answered = pytest.mark.parametrize("kind", ANSWERED)


@pytest.fixture(params=["tcp", "loads", "calls", "carried"])
def make(request):
    """Give the factory of pairs that are joined in one of the ways."""

    def make(**options):
        if request.param == "tcp":
            pair = Pair(window=False, ird=16, ord=16, **options)
        else:
            pair = DirectPair(window=False, way=request.param, **options)
        for side in (pair.a, pair.b):
            side.add_window(remote_atomic=True)
        return pair

    return make


# ---- behind a message -----------------------------------------------------------------------


@answered
def test_what_is_answered_finds_the_bytes_of_the_message_before_it(make, kind):
    pair = make()
    pair.a.engine.write(0, struct.pack("=Q", 1))
    pair.b.engine.post_receive(9, [(WINDOW_OFFSET, 8)])
    pair.settle()
    pair.a.engine.post_send(1, [(0, 8)])
    ANSWERED[kind](pair.a.engine, 2, WINDOW)

    pair.settle()

    assert pair.a.outcome() == [("request", 1, "success"), ("request", 2, "success")]
    assert struct.unpack("=Q", pair.a.engine.read(0x40, 8)) == (1,)


@pytest.mark.parametrize("before", ["send", "immediate"])
@answered
def test_what_is_answered_waits_with_the_message_before_it(make, kind, before):
    pair = make()
    if before == "send":
        pair.a.engine.post_send(1, [(0, 8)])
    else:
        pair.a.engine.post_write(1, [], *WINDOW, immediate=7)
    ANSWERED[kind](pair.a.engine, 2, WINDOW)
    pair.settle()
    assert pair.a.outcome() == [("request", 1, "success")]

    pair.b.engine.post_receive(9, [(0, 8)])
    pair.settle()

    assert pair.a.outcome()[1:] == [("request", 2, "success")]
    assert pair.b.outcome() == [("receive", 9, "success")]


@answered
def test_what_is_answered_is_not_refused_before_the_message_before_it_is_taken(make, kind):
    pair = make()
    pair.a.engine.post_send(1, [(0, 8)])
    ANSWERED[kind](pair.a.engine, 2, (TOKEN, 0))
    pair.settle()
    assert pair.a.outcome() == [("request", 1, "success")]
    assert not pair.b.engine.is_over

    pair.b.engine.post_receive(9, [(0, 8)])
    pair.settle()

    assert pair.a.outcome()[1:] == [("request", 2, "remote_resources")]
    assert pair.a.engine.cause == ("peer", 0, 1, 0)


@answered
def test_a_message_without_a_receive_ends_what_waits_behind_it(make, kind):
    pair = make(receive_wait_ns=3 * SECOND)
    pair.a.engine.post_send(1, [(0, 8)])
    ANSWERED[kind](pair.a.engine, 2, WINDOW)
    pair.settle()

    pair.advance(3 * SECOND)

    # It was the message that was refused.
    assert pair.a.outcome() == [("request", 1, "success"), ("request", 2, "cancelled")]
    assert pair.a.engine.cause == ("peer", 1, 2, 2)
    assert pair.b.engine.cause == ("local", 1, 2, 2)


def test_a_message_that_ends_nothing_fails_what_is_answered_behind_it(make):
    pair = make()
    pair.b.engine.post_receive(9, [(0, 8)])
    pair.settle()
    pair.a.engine.post_send(1, [(0, 8)], invalidate=TOKEN)
    pair.a.engine.post_read(2, [(0x40, 8)], *WINDOW)

    pair.settle()

    # The oldest request that is under way is blamed.
    assert pair.a.outcome() == [("request", 1, "success"), ("request", 2, "remote_resources")]
    assert pair.a.engine.cause == ("peer", 0, 2, 9)


@answered
def test_what_is_answered_behind_an_invalidation_is_refused(make, kind):
    pair = make()
    pair.b.engine.add_region(TOKEN, 0, 0x100, 64, is_revocable=True, **RIGHTS)
    pair.b.engine.post_receive(9, [(0, 8)])
    pair.settle()
    pair.a.engine.post_send(1, [(0, 8)], invalidate=TOKEN)
    ANSWERED[kind](pair.a.engine, 2, (TOKEN, 0))

    pair.settle()

    assert pair.a.outcome() == [("request", 1, "success"), ("request", 2, "remote_resources")]
    assert pair.b.completions[0]["invalidated"] == TOKEN
    assert pair.b.engine.read(0x100, 64) == bytes([FILL]) * 64


def test_messages_and_immediates_take_receives_in_one_order(make):
    pair = make()
    for context in range(5):
        pair.b.engine.post_receive(context, [(0x100 * context, 0x100)])
    pair.settle()
    pair.a.engine.post_send(0, [(0, 3)])
    pair.a.engine.post_write(1, [(0, 5)], *WINDOW, immediate=11)
    pair.a.engine.post_send(2, [(0, 200)], solicited=True)
    pair.a.engine.post_write(3, [], *WINDOW, immediate=33, solicited=True)
    pair.a.engine.post_send(4, [])

    pair.settle()

    assert [(c["received"], c["immediate"], c["is_solicited"]) for c in pair.b.completions] == [
        (3, None, False),
        (5, 11, False),
        (200, None, True),
        (0, 33, True),
        (0, None, False),
    ]


# ---- before a message -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 0x400])
def test_a_message_says_that_the_writes_before_it_are_there(make, size):
    pair = make()
    pair.a.engine.write(0, pattern(size))
    pair.b.engine.post_receive(9, [])
    pair.a.engine.post_write(1, [(0, size)], *WINDOW)
    pair.a.engine.post_send(2, [])

    while not pair.b.completions:
        pair.step(pair.a)
        pair.step(pair.b)

    assert pair.b.engine.read(WINDOW_OFFSET, size) == pattern(size)


@answered
def test_what_is_answered_sees_the_writes_before_it(make, kind):
    pair = make()
    pair.a.engine.write(0, struct.pack("=QQ", 7, 1))
    pair.a.engine.post_write(1, [(0, 8)], *WINDOW)
    pair.a.engine.post_write(2, [(8, 8)], *WINDOW)
    ANSWERED[kind](pair.a.engine, 3, WINDOW)

    pair.settle()

    assert pair.a.statuses(receives=False) == ["success"] * 3
    assert struct.unpack("=Q", pair.a.engine.read(0x40, 8)) == (1,)


def test_memory_is_there_for_a_peer_that_hears_of_it_by_a_message(make):
    pair = make()
    pair.a.engine.add_region(TOKEN, 0, 0x100, 64, is_waiting=True, **RIGHTS)
    pair.b.engine.write(0, pattern(8))
    pair.b.engine.post_receive(9, [(0x40, 8)])
    pair.a.engine.post_local("fast_register", 1, TOKEN)
    pair.a.engine.post_send(2, [(0, 8)])
    pair.settle()

    pair.b.engine.post_write(3, [(0, 8)], TOKEN, 0)
    pair.settle()

    assert pair.a.outcome() == [("request", 1, "success"), ("request", 2, "success")]
    assert pair.a.engine.read(0x100, 8) == pattern(8)


def test_memory_is_gone_for_a_peer_that_hears_of_it_by_a_message(make):
    pair = make()
    pair.a.engine.add_region(TOKEN, 0, 0x100, 64, **RIGHTS)
    pair.b.engine.write(0, pattern(8))
    pair.b.engine.post_receive(9, [(0x40, 8)])
    pair.a.engine.post_local("invalidate", 1, TOKEN)
    pair.a.engine.post_send(2, [(0, 8)])
    pair.settle()

    pair.b.engine.post_read(3, [(0, 8)], TOKEN, 0)
    pair.settle()

    assert pair.b.outcome() == [("receive", 9, "success"), ("request", 3, "remote_resources")]
    assert pair.b.engine.cause == ("peer", 0, 1, 0)
    assert pair.a.engine.cause == ("local", 0, 1, 0)


@pytest.mark.parametrize("is_fenced", [False, True])
def test_what_is_behind_a_read_completes_behind_it(make, is_fenced):
    pair = make()
    pair.b.engine.post_receive(9, [(0, 8)])
    pair.a.engine.post_read(1, [(0x40, 0x400)], *WINDOW)
    pair.a.engine.post_send(2, [(0, 8)], fenced=is_fenced)
    pair.a.engine.post_write(3, [(0, 8)], *WINDOW, fenced=is_fenced)

    pair.settle()

    assert pair.a.contexts(receives=False) == [1, 2, 3]


# ---- ends -----------------------------------------------------------------------------------


@answered
def test_an_end_waits_for_what_its_side_has_asked(make, kind):
    pair = make()
    pair.a.engine.post_send(1, [(0, 8)])
    ANSWERED[kind](pair.a.engine, 2, WINDOW)
    pair.a.engine.disconnect()
    pair.settle()
    assert "drained" not in pair.a.events

    pair.b.engine.post_receive(9, [(0, 8)])
    pair.settle()

    assert pair.a.statuses(receives=False) == ["success"] * 2
    assert "drained" in pair.a.events


@answered
def test_an_end_of_the_peer_fails_what_waits_for_an_answer(make, kind):
    pair = make(fin=False)
    pair.a.engine.post_send(1, [(0, 8)])
    ANSWERED[kind](pair.a.engine, 2, WINDOW)
    pair.settle()

    pair.a.engine.end_of_stream()
    pair.settle()

    assert pair.a.outcome() == [("request", 1, "success"), ("request", 2, "io_timeout")]
    assert pair.a.engine.cause == ("local", 2, 0, 1)


def test_a_reset_behind_an_end_ends_the_connection(make):
    pair = make(fin=False)
    pair.a.engine.post_receive(1, [(0, 8)])
    pair.settle()
    pair.a.engine.end_of_stream()
    pair.settle()
    assert "peer_closed" in pair.a.events
    assert pair.a.completions == []

    pair.a.engine.link_error(104)
    pair.settle()

    assert pair.a.outcome() == [("receive", 1, "cancelled")]
    assert pair.a.engine.cause == ("system", 104)
    assert "over" in pair.a.events


def test_a_reset_behind_an_end_that_was_not_looked_at_ends_the_connection(make):
    pair = make(fin=False)
    pair.a.engine.post_receive(1, [(0, 8)])
    pair.settle()
    pair.a.engine.end_of_stream()
    pair.a.engine.link_error(104)

    pair.settle()

    assert pair.a.outcome() == [("receive", 1, "cancelled")]
    assert pair.a.engine.cause == ("system", 104)


def test_both_sides_disconnect_at_once(make):
    pair = make()
    for side in (pair.a, pair.b):
        for context in range(20):
            side.engine.post_receive(100 + context, [(0x400, 0x100)])
    pair.settle()
    for side in (pair.a, pair.b):
        for context in range(20):
            side.engine.post_send(context, [(0, 0x100)])
        side.engine.post_read(20, [(0x200, 8)], *WINDOW)
        side.engine.disconnect()

    pair.settle()

    for side in (pair.a, pair.b):
        assert side.contexts(receives=False) == list(range(21))
        assert side.contexts(receives=True) == list(range(100, 120))
        assert {c["status"] for c in side.completions} == {"success"}
        assert "drained" in side.events
