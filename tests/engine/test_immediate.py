# SPDX-License-Identifier: Apache-2.0
"""Immediate data (RFC 7306 section 6): a Write, and a message that takes a receive."""

import pytest

from engine.pair import (
    FILL,
    SECOND,
    WINDOW_OFFSET,
    WINDOW_STAG,
    WINDOW_TO,
    Pair,
    Solo,
    cycle,
    one_byte,
    pattern,
)
from wire import reference
from wire.reference import IMMEDIATE, IMMEDIATE_SOLICITED, SEND, WRITE

VALUE = 0x12345678


def pair_with_receives(count=1, **options):
    pair = Pair(**options)
    for i in range(count):
        assert pair.b.engine.post_receive(100 + i, [(i * 8, 4)])
    return pair


def post(pair, size, *, context=1, value=VALUE, **options):
    pair.a.engine.write(0x200, pattern(size))
    ranges = [(0x200, size)] if size else []
    assert pair.a.engine.post_write(
        context, ranges, WINDOW_STAG, WINDOW_TO, immediate=value, **options
    )


def sender(**config):
    """An initiator whose peer is the test; its opening message is out already."""
    solo = Solo(is_initiator=True, **config)
    solo.step()
    solo.written.clear()
    return solo


def receiver(receives=1, **config):
    solo = Solo(**config)
    for i in range(receives):
        assert solo.engine.post_receive(100 + i, [(i * 8, 4)])
    return solo


def write(payload=b"data", to=WINDOW_TO, **options):
    return reference.tagged(WRITE, WINDOW_STAG, to, payload, crc=False, **options)


def immediate(msn=1, value=VALUE, **options):
    return reference.immediate(value, msn, crc=False, **options)


@pytest.mark.parametrize("size", [0, 1, 4, 255, 257, 0x700])
@pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])
def test_a_receive_ends_with_the_value_and_the_length_of_the_write(size, crc):
    pair = pair_with_receives(crc=crc, max_fpdu=512)
    post(pair, size)

    pair.settle()

    (done,) = pair.b.completions
    assert (done["context"], done["status"]) == (100, "success")
    assert (done["immediate"], done["received"]) == (VALUE, size)
    assert done["is_solicited"] is False
    assert done["invalidated"] is None
    assert pair.b.engine.read(WINDOW_OFFSET, size) == pattern(size)
    assert pair.b.engine.read(0, 4) == bytes([FILL]) * 4  # the receive's memory is not used
    assert pair.a.outcome() == [("request", 1, "success")]


@pytest.mark.parametrize("value", [0, 1, 2**32 - 1])
def test_all_32_bits_of_the_value_arrive(value):
    pair = pair_with_receives()
    post(pair, 4, value=value)

    pair.settle()

    assert pair.b.completions[0]["immediate"] == value


def test_a_solicited_immediate_says_so():
    pair = pair_with_receives()
    post(pair, 4, solicited=True)

    pair.settle()

    assert pair.b.completions[0]["is_solicited"] is True


@pytest.mark.parametrize("size", [0, 10, 700])
def test_the_message_goes_directly_behind_its_write(size):
    solo = sender(max_fpdu=512)
    solo.engine.post_write(1, [(0, size)] if size else [], WINDOW_STAG, WINDOW_TO, immediate=VALUE)
    solo.engine.post_send(2, [(0, 4)])

    solo.step()

    ulpdus = solo.fpdus()
    kinds = [ulpdu[1] & 15 for ulpdu in ulpdus]
    assert kinds == [WRITE] * (len(kinds) - 2) + [IMMEDIATE, SEND]
    assert [bool(u[0] & 0x40) for u in ulpdus[:-2]] == [False] * (len(kinds) - 3) + [True]
    assert ulpdus[-2] == reference.split_fpdus(immediate())[0][0][0]
    # Sends and immediates share their numbers.
    assert ulpdus[-1][10:14] == bytes.fromhex("00000002")
    assert solo.side.contexts(receives=False) == [1, 2]


def test_a_write_with_immediate_is_done_when_its_message_is_out():
    solo = sender()
    solo.engine.post_write(1, [(0, 4)], WINDOW_STAG, WINDOW_TO, immediate=VALUE)

    solo.step(limit=len(write()))
    assert solo.completions == []

    solo.step()
    assert solo.side.contexts(receives=False) == [1]


def test_a_fence_holds_write_and_message():
    solo = sender()
    solo.engine.post_read(1, [(0, 4)], WINDOW_STAG, WINDOW_TO)
    solo.engine.post_write(2, [(0, 4)], WINDOW_STAG, WINDOW_TO, immediate=VALUE, fenced=True)

    solo.step()

    assert len(solo.fpdus()) == 1


def test_sends_and_immediates_take_receives_in_order():
    pair = pair_with_receives(4)
    post(pair, 3, context=1, value=1)
    pair.a.engine.post_send(2, [(0x200, 2)])
    post(pair, 0, context=3, value=3)
    pair.a.engine.post_send(4, [(0x200, 1)])

    pair.settle()

    found = [(c["context"], c["immediate"], c["received"]) for c in pair.b.completions]
    assert found == [(100, 1, 3), (101, None, 2), (102, 3, 0), (103, None, 1)]


def test_a_plain_write_before_a_message_is_not_its_data():
    pair = pair_with_receives()
    pair.a.engine.post_write(1, [(0x200, 9)], WINDOW_STAG, WINDOW_TO)
    post(pair, 0, context=2)

    pair.settle()

    assert pair.b.completions[0]["received"] == 0


def test_a_lone_message_of_a_foreign_peer_has_no_bytes():
    solo = receiver(2)
    solo.step(write(b"12345"), immediate(1), immediate(2))
    assert [c["received"] for c in solo.completions] == [5, 0]


def test_four_more_bytes_of_a_foreign_peer_are_not_looked_at():
    solo = receiver()
    body = bytes.fromhex("12345678 9abcdef0")

    solo.step(reference.untagged(IMMEDIATE, 0, 1, payload=body, crc=False))

    assert solo.completions[0]["immediate"] == VALUE


@pytest.mark.parametrize("sizes", [[1], [3, 7], [29], [5000]], ids=str)
@pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])
def test_cuts_of_the_stream_change_nothing(sizes, crc):
    pair = pair_with_receives(3, crc=crc, max_fpdu=256)
    pair.b.inbound.read_policy = one_byte if sizes == [1] else cycle(sizes)
    pair.b.inbound.write_policy = cycle(sizes)
    for i, size in enumerate((0, 5, 600)):
        post(pair, size, context=i, value=i)

    pair.settle()

    found = [(c["immediate"], c["received"]) for c in pair.b.completions]
    assert found == [(0, 0), (1, 5), (2, 600)]


def test_a_missing_receive_pauses_the_stream_until_one_is_posted():
    pair = pair_with_receives(0)
    post(pair, 4)

    pair.settle()
    assert pair.b.completions == []

    pair.b.engine.post_receive(7, [])
    pair.settle()
    assert [(c["context"], c["immediate"]) for c in pair.b.completions] == [(7, VALUE)]


def test_a_receive_that_never_comes_ends_the_stream():
    pair = pair_with_receives(0)
    post(pair, 4)
    pair.settle()

    pair.advance(6 * SECOND)

    assert pair.b.engine.cause == ("local", 1, 2, 2)
    assert pair.a.engine.cause == ("peer", 1, 2, 2)


REFUSALS = {
    "other_queue": (reference.untagged(IMMEDIATE, 1, 1, payload=bytes(8), crc=False), (1, 2, 1)),
    "msn_0": (immediate(0), (1, 2, 3)),
    "msn_2": (immediate(2), (1, 2, 3)),
    "with_an_offset": (
        reference.untagged(IMMEDIATE, 0, 1, 8, payload=bytes(8), crc=False),
        (1, 2, 4),
    ),
    "too_short": (reference.untagged(IMMEDIATE, 0, 1, payload=bytes(7), crc=False), (2, 0, 3)),
    "too_long": (reference.untagged(IMMEDIATE, 0, 1, payload=bytes(9), crc=False), (0, 2, 6)),
    "not_last": (
        reference.untagged(IMMEDIATE, 0, 1, payload=bytes(8), last=False, crc=False),
        (0, 2, 6),
    ),
    "tagged": (
        reference.fpdu(reference.control(IMMEDIATE_SOLICITED, tagged=True) + bytes(24), False),
        (0, 2, 6),
    ),
    "inside_a_send": (
        reference.untagged(SEND, 0, 1, payload=b"ab", last=False, crc=False) + immediate(1),
        (0, 2, 6),
    ),
}


@pytest.mark.parametrize(("incoming", "code"), REFUSALS.values(), ids=REFUSALS)
def test_a_message_that_is_none_is_refused(incoming, code):
    solo = receiver()

    solo.step(incoming)
    solo.step()

    assert solo.terminate()["code"] == code
    assert solo.engine.cause == ("local", *code)
    assert solo.side.statuses(receives=True) == ["cancelled"]
    assert solo.completions[0]["immediate"] is None


def test_a_peer_that_does_not_know_the_opcode_ends_the_stream_with_a_clear_cause():
    solo = sender()
    solo.engine.post_write(1, [(0, 4)], WINDOW_STAG, WINDOW_TO, immediate=VALUE)
    solo.step()
    solo.engine.post_receive(2, [(0, 4)])

    # In siw's own nibble order, without a header.
    solo.step(reference.untagged(reference.TERMINATE, 2, 1, payload=b"\x20\x06\0\0", crc=False))

    assert solo.engine.cause == ("peer", 0, 2, 6)
    # The write was over when its last byte had left: only what came later can tell.
    assert solo.side.outcome() == [("request", 1, "success"), ("receive", 2, "cancelled")]
