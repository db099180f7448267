# SPDX-License-Identifier: Apache-2.0
"""Bind, fast_register and invalidate in the order of the send queue, and memory in pages."""

import pytest

from engine.pair import (
    ARENA,
    WINDOW_OFFSET,
    WINDOW_STAG,
    WINDOW_TO,
    Pair,
    cycle,
    one_byte,
    pattern,
)

STAG = 0x2200
TO = 0x5000
PAGE = 64
SIZE = 16 * PAGE
LARGE = 1 << 18


def add_waiting(side, **options):
    """What the next fast_register of STAG makes, over the arena's window."""
    options = {"remote_read": True, "remote_write": True, **options}
    side.engine.add_region(STAG, TO, WINDOW_OFFSET, SIZE, is_waiting=True, **options)


def reversed_pages(data):
    return b"".join(data[at : at + PAGE] for at in range(len(data) - PAGE, -1, -PAGE))


@pytest.mark.parametrize("kind", ["bind", "fast_register"])
def test_memory_is_there_before_the_next_message_leaves(kind):
    pair = Pair()
    add_waiting(pair.a)
    pair.b.engine.post_receive(1, [(0, 8)])

    pair.a.engine.post_local(kind, 1, STAG)
    pair.a.engine.post_send(2, [])
    pair.settle()
    pair.b.engine.post_write(3, [(0, 8)], STAG, TO)
    pair.settle()

    assert pair.a.outcome() == [("request", 1, "success"), ("request", 2, "success")]
    assert pair.b.outcome()[-1] == ("request", 3, "success")
    assert not pair.a.engine.is_over


def test_requests_without_wire_need_no_link():
    pair = Pair()
    pair.settle()  # the first frame is out
    add_waiting(pair.a)
    sent = len(pair.b.inbound.sent)

    pair.a.engine.post_local("fast_register", 1, STAG)
    pair.a.engine.post_local("invalidate", 2, STAG)
    pair.settle()

    assert pair.a.statuses(receives=False) == ["success", "success"]
    assert len(pair.b.inbound.sent) == sent
    assert not pair.a.engine.has_region(STAG)


def test_fence_holds_a_local_request_behind_reads():
    pair = Pair()
    pair.settle()
    add_waiting(pair.a)
    pair.a.engine.post_read(1, [(0, 8)], WINDOW_STAG, WINDOW_TO)
    pair.a.engine.post_local("fast_register", 2, STAG, fenced=True)
    pair.a.engine.post_local("invalidate", 3, STAG)

    pair.step(pair.a)
    assert pair.a.completions == []
    assert not pair.a.engine.has_region(STAG)
    pair.settle()

    assert pair.a.statuses(receives=False) == ["success"] * 3


def test_completions_keep_posting_order_around_a_read():
    pair = Pair()
    pair.settle()
    add_waiting(pair.a)
    pair.a.engine.post_read(1, [(0, 8)], WINDOW_STAG, WINDOW_TO)
    pair.a.engine.post_local("fast_register", 2, STAG)

    pair.step(pair.a)
    assert pair.a.engine.has_region(STAG)  # it need not wait for the read
    assert pair.a.completions == []
    pair.settle()

    assert pair.a.contexts(receives=False) == [1, 2]


@pytest.mark.parametrize("kind", ["bind", "fast_register", "invalidate"])
def test_local_request_that_fails_ends_the_stream(kind):
    pair = Pair()
    pair.b.engine.post_receive(9, [])
    pair.a.engine.post_send(1, [])
    pair.a.engine.post_local(kind, 2, STAG)
    pair.a.engine.post_send(3, [])
    pair.settle()

    assert pair.a.outcome() == [
        ("request", 1, "success"),
        ("request", 2, "invalid_device_request"),
        ("request", 3, "cancelled"),
    ]
    assert pair.a.engine.cause == ("local", 0, 0, 0)
    assert pair.b.engine.cause == ("peer", 0, 0, 0)


def test_invalidate_ends_a_response_that_is_half_sent():
    pair = Pair(max_fpdu=200)
    pair.a.engine.add_region(
        STAG, TO, WINDOW_OFFSET, SIZE, remote_read=True, remote_write=True, is_revocable=True
    )
    pair.settle()
    pair.b.engine.post_read(1, [(0, SIZE)], STAG, TO)
    pair.step(pair.b)
    pair.b.inbound.write_policy = cycle([64, 0])
    pair.step(pair.a)  # frames of the response are built, a part of the first is out

    pair.a.engine.post_local("invalidate", 2, STAG)
    pair.b.inbound.write_policy = lambda _done: 1 << 30
    pair.settle()

    assert pair.a.statuses(receives=False) in (["success"], ["cancelled"])
    assert pair.b.outcome()[0][2] != "success"
    assert not pair.a.engine.has_region(STAG)


def test_peers_invalidate_ends_responses_that_are_built():
    # The read and the invalidation arrive in one step: the answer is not out yet.
    pair = Pair()
    pair.a.engine.add_region(
        STAG, TO, WINDOW_OFFSET, SIZE, remote_read=True, remote_write=True, is_revocable=True
    )
    pair.a.engine.post_receive(7, [])
    pair.settle()
    pair.b.engine.post_read(1, [(0, SIZE)], STAG, TO)
    pair.b.engine.post_send(2, [], invalidate=STAG)
    pair.settle()

    assert not pair.a.engine.has_region(STAG)
    assert pair.a.completions[0]["invalidated"] == STAG
    assert pair.b.outcome()[0][2] == "remote_resources"


@pytest.mark.parametrize("policy", [one_byte, cycle([700, 1, 64, 3])])
@pytest.mark.parametrize("crc", [False, True])
def test_writes_and_reads_over_pages_survive_any_cut(crc, policy):
    pair = Pair(crc=crc, max_fpdu=304)
    for side in (pair.a, pair.b):
        side.inbound.read_policy = policy
    pair.b.engine.add_region(
        STAG, TO, WINDOW_OFFSET, SIZE, remote_read=True, remote_write=True, page=PAGE
    )
    data = pattern(SIZE - 40, 5)
    pair.a.engine.write(0, data)

    pair.a.engine.post_write(1, [(0, SIZE - 40)], STAG, TO + 20)
    pair.a.engine.post_read(2, [(0x800, SIZE)], STAG, TO, fenced=True)
    pair.settle()

    assert pair.a.statuses(receives=False) == ["success", "success"]
    fill = bytes([0xEE]) * 20
    placed = pair.b.engine.read(WINDOW_OFFSET, SIZE)
    assert reversed_pages(placed) == fill + data + fill
    assert pair.a.engine.read(0x800, SIZE) == fill + data + fill


@pytest.mark.parametrize("pieces", [2, 3, 5, 64])
def test_gather_lists_may_be_shorter_than_the_pages(pieces):
    pair = Pair(a={"arena_size": LARGE}, b={"arena_size": LARGE}, window=False)
    pair.options = {"pieces": pieces}
    pair.b.engine.add_region(STAG, TO, 0, 1 << 16, remote_read=True, remote_write=True, page=4096)
    pair.b.engine.write(0, pattern(1 << 16, 3))

    pair.a.engine.post_read(1, [(0, 1 << 16)], STAG, TO)
    pair.settle()

    expected = pattern(1 << 16, 3)
    assert pair.a.engine.read(0, 1 << 16) == b"".join(
        expected[at : at + 4096] for at in range((1 << 16) - 4096, -1, -4096)
    )


def test_read_that_invalidates_ends_its_sink_when_the_data_is_there():
    pair = Pair()
    pair.settle()
    pair.a.engine.add_region(STAG, TO, 0, 64)
    pair.b.engine.write(WINDOW_OFFSET, pattern(64, 2))

    pair.a.engine.post_read(1, [(0, 64)], WINDOW_STAG, WINDOW_TO, invalidate=STAG)
    pair.step(pair.a)
    assert pair.a.engine.has_region(STAG)
    pair.settle()

    assert pair.a.statuses(receives=False) == ["success"]
    assert pair.a.engine.read(0, 64) == pattern(64, 2)
    assert not pair.a.engine.has_region(STAG)


def test_read_that_cannot_invalidate_fails_and_ends_the_stream():
    pair = Pair()

    pair.a.engine.post_read(1, [(0, 64)], WINDOW_STAG, WINDOW_TO, invalidate=STAG)
    pair.a.engine.post_read(2, [(0, 64)], WINDOW_STAG, WINDOW_TO)
    pair.settle()

    assert pair.a.statuses(receives=False) == ["invalid_device_request", "cancelled"]
    assert pair.a.engine.cause == ("local", 0, 0, 0)


def test_nothing_leaks_into_the_arena_around_scattered_memory():
    pair = Pair(max_fpdu=304)
    pair.b.engine.add_region(
        STAG, TO, WINDOW_OFFSET, SIZE, remote_read=True, remote_write=True, page=PAGE
    )
    before = pair.b.memory()

    pair.a.engine.post_write(1, [(0, 0x1000)], STAG, TO)  # longer than the region
    pair.settle()

    after = pair.b.memory()
    assert after[:WINDOW_OFFSET] == before[:WINDOW_OFFSET]
    assert after[WINDOW_OFFSET + SIZE : ARENA] == before[WINDOW_OFFSET + SIZE : ARENA]
    assert pair.b.engine.cause == ("local", 1, 1, 1)
