# SPDX-License-Identifier: Apache-2.0
"""Atomic operations (RFC 7306 section 5): limits, order, exactness, refusals in both directions."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.pair import (
    FILL,
    WINDOW_STAG,
    WINDOW_TO,
    Pair,
    Solo,
    cycle,
    one_byte,
    pattern,
)
from wire import reference
from wire.reference import (
    ALL_BITS,
    ATOMIC_REQUEST,
    ATOMIC_RESPONSE,
    COMPARE_SWAP,
    READ_RESPONSE,
)

# A region of words beside the window: 0x100 bytes, which alone grants atomics.
WORDS_STAG, WORDS_TO, WORDS_OFFSET = 0x7700, 0x4000, 0x1900
OTHER_PD, TOP = 0x3300, 0x6600
TOP_TO = 2**64 - 0x100
u64 = st.integers(0, ALL_BITS)


def add_words(side, **rights):
    side.engine.add_region(
        WORDS_STAG, WORDS_TO, WORDS_OFFSET, 0x100, **{"remote_atomic": True, **rights}
    )


def atomic_pair(**options):
    pair = Pair(**options)
    add_words(pair.b)
    return pair


def set_word(side, value, index=0):
    side.engine.write(WORDS_OFFSET + 8 * index, struct.pack("=Q", value))


def word(side, index=0):
    return struct.unpack("=Q", side.engine.read(WORDS_OFFSET + 8 * index, 8))[0]


def result(side, offset):
    return struct.unpack("=Q", side.engine.read(offset, 8))[0]


def responder(**config):
    solo = Solo(**config)
    add_words(solo.side)
    solo.engine.add_region(OTHER_PD, 0, 0x1A00, 0x100, remote_atomic=True, pd=2)
    solo.engine.add_region(TOP, TOP_TO, 0x1C00, 0x100, remote_atomic=True)
    return solo


def requester(**config):
    """An initiator whose peer is the test; its opening message is out already."""
    solo = Solo(is_initiator=True, **config)
    solo.step()
    solo.written.clear()
    return solo


def request(msn=1, operand=1, *, stag=WORDS_STAG, to=WORDS_TO, request_id=7, **options):
    return reference.atomic_request(msn, request_id, stag, to, operand, crc=False, **options)


def response(request_id, value=0, msn=1, **options):
    return reference.atomic_response(request_id, value, msn, crc=False, **options)


def request_ids(solo):
    return [
        struct.unpack_from(">I", ulpdu, 22)[0]
        for ulpdu in solo.fpdus()
        if ulpdu[1] & 15 == ATOMIC_REQUEST
    ]


def post_adds(solo, count, first=0):
    for context in range(first, first + count):
        assert solo.engine.post_fetch_add(
            context, [(8 * (context % 64), 8)], WORDS_STAG, WORDS_TO, 1
        )


# ---- what they do ---------------------------------------------------------------------------


@pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])
def test_fetch_add_adds_and_gives_the_old_value(crc):
    pair = atomic_pair(crc=crc)
    set_word(pair.b, 40)
    pair.a.engine.post_fetch_add(1, [(0x40, 8)], WORDS_STAG, WORDS_TO, 2)

    pair.settle()

    assert (word(pair.b), result(pair.a, 0x40)) == (42, 40)
    assert pair.a.outcome() == [("request", 1, "success")]
    assert pair.b.completions == []


def test_fetch_add_wraps():
    pair = atomic_pair()
    set_word(pair.b, ALL_BITS)
    pair.a.engine.post_fetch_add(1, [(0x40, 8)], WORDS_STAG, WORDS_TO, 3)

    pair.settle()

    assert (word(pair.b), result(pair.a, 0x40)) == (2, ALL_BITS)


@pytest.mark.parametrize(("expected", "after"), [(5, 9), (6, 5)])
def test_compare_swap_replaces_what_is_as_expected(expected, after):
    pair = atomic_pair()
    set_word(pair.b, 5)
    pair.a.engine.post_compare_swap(1, [(0x40, 8)], WORDS_STAG, WORDS_TO, expected, 9)

    pair.settle()

    assert (word(pair.b), result(pair.a, 0x40)) == (after, 5)


def test_only_the_named_word_and_the_sink_change():
    pair = atomic_pair()
    a, b = bytearray(pair.a.memory()), bytearray(pair.b.memory())
    pair.a.engine.post_fetch_add(1, [(0x41, 3), (0x50, 5)], WORDS_STAG, WORDS_TO + 16, 1)
    pair.settle()
    old = bytes([FILL]) * 8
    a[0x41:0x44], a[0x50:0x55] = old[:3], old[3:]
    word_after = struct.pack("=Q", (struct.unpack("=Q", old)[0] + 1) & ALL_BITS)
    b[WORDS_OFFSET + 16 : WORDS_OFFSET + 24] = word_after

    assert (pair.a.memory(), pair.b.memory()) == (a, b)


def test_atomics_work_in_memory_of_scattered_pages():
    pair = Pair()
    pair.b.engine.add_region(0x8800, 0, WORDS_OFFSET, 0x100, remote_atomic=True, page=16)
    set_word(pair.b, 7, index=30)  # the first word: the last page comes first
    pair.a.engine.post_fetch_add(1, [(0x40, 8)], 0x8800, 0, 1)

    pair.settle()

    assert (word(pair.b, 30), result(pair.a, 0x40)) == (8, 7)


def masked_sum(left, right, mask):
    """Field by field, bit by bit: no carry leaves the most significant bit of a field."""
    total = carry = 0
    for bit in range(64):
        digit = (left >> bit & 1) + (right >> bit & 1) + carry
        total |= (digit & 1) << bit
        carry = 0 if mask >> bit & 1 else digit >> 1
    return total


@given(u64, u64, u64)
def test_masked_adds_of_a_foreign_peer_keep_to_their_fields(before, operand, mask):
    solo = responder()
    set_word(solo.side, before)

    solo.step(request(operand=operand, operand_mask=mask))

    assert word(solo.side) == masked_sum(before, operand, mask)
    assert solo.fpdus() == [reference.split_fpdus(response(7, before))[0][0][0]]


@given(u64, u64, u64, u64, u64)
def test_masked_swaps_of_a_foreign_peer_follow_both_masks(before, new, mask, compare, compare_mask):
    solo = responder()
    set_word(solo.side, before)

    solo.step(
        request(
            operation=COMPARE_SWAP,
            operand=new,
            operand_mask=mask,
            compare=compare,
            compare_mask=compare_mask,
        )
    )

    is_equal = before & compare_mask == compare & compare_mask
    assert word(solo.side) == ((before & ~mask | new & mask) if is_equal else before)
    assert solo.fpdus() == [reference.split_fpdus(response(7, before))[0][0][0]]


def test_requests_go_out_as_the_rfc_has_them():
    solo = requester()
    solo.engine.post_fetch_add(1, [(0, 8)], WORDS_STAG, WORDS_TO, 5)
    solo.engine.post_compare_swap(2, [(8, 8)], WORDS_STAG, WORDS_TO + 8, 3, 4)
    solo.step()

    first, second = request_ids(solo)
    assert first != second

    expected = request(1, 5, request_id=first) + request(
        2,
        4,
        to=WORDS_TO + 8,
        request_id=second,
        operation=COMPARE_SWAP,
        operand_mask=ALL_BITS,
        compare=3,
    )
    assert bytes(solo.written) == expected


# ---- limits and order -----------------------------------------------------------------------


@pytest.mark.parametrize("ord_", [1, 2, 5])
def test_reads_and_atomics_share_the_outbound_limit(ord_):
    solo = requester(ord=ord_)
    for context in range(0, 12, 2):
        post_adds(solo, 1, first=context)
        solo.engine.post_read(context + 1, [(0x400, 4)], WINDOW_STAG, WINDOW_TO)

    solo.step()

    assert len(solo.fpdus()) == ord_


def test_without_an_outbound_limit_no_atomic_goes_out():
    solo = requester(ord=0)
    post_adds(solo, 1)

    solo.step()

    assert solo.fpdus() == []


@pytest.mark.parametrize("kind", ["send", "atomic"])
def test_a_fence_waits_for_atomics(kind):
    solo = requester()
    post_adds(solo, 1)
    if kind == "send":
        solo.engine.post_send(9, [(0, 4)], fenced=True)
    else:
        solo.engine.post_fetch_add(9, [(0, 8)], WORDS_STAG, WORDS_TO, 1, fenced=True)

    solo.step()
    assert len(solo.fpdus()) == 1

    solo.step(response(request_ids(solo)[0]))
    assert len(solo.fpdus()) == 2


def test_an_atomic_completes_after_earlier_and_before_later_requests():
    solo = requester()
    solo.engine.post_send(1, [(0, 4)])
    post_adds(solo, 1, first=2)
    solo.engine.post_send(3, [(0, 4)])

    solo.step()
    assert solo.side.contexts(receives=False) == [1]

    solo.step(response(request_ids(solo)[0]))
    assert solo.side.contexts(receives=False) == [1, 2, 3]


def test_more_requests_than_the_inbound_limit_are_refused():
    solo = responder(ird=2)
    solo.step(request(1) + request(2) + request(3), limit=0)
    solo.step()

    assert solo.terminate()["code"] == (0, 2, 7)


def test_reads_and_atomics_are_answered_in_the_order_of_the_requests():
    solo = responder()
    read = reference.read_request(2, 5, 0, 4, WINDOW_STAG, WINDOW_TO, crc=False)

    solo.step(request(1) + read + request(3))

    assert [u[1] & 15 for u in solo.fpdus()] == [ATOMIC_RESPONSE, READ_RESPONSE, ATOMIC_RESPONSE]


@pytest.mark.parametrize("size", [8, 0x100])
def test_a_read_does_not_see_what_a_later_atomic_changes(size):
    solo = Solo()
    solo.engine.add_region(WORDS_STAG, WORDS_TO, 0x400, 0x400, remote_atomic=True, remote_read=True)
    solo.engine.write(0x400, pattern(0x400))
    # Longer than what is copied into a frame, it is read from memory when the link takes it.
    size = 8 if size == 8 else 0x400
    read = reference.read_request(1, 5, 0, size, WORDS_STAG, WORDS_TO, crc=False)

    solo.step(read + request(2, 1), limit=0)
    for _ in range(200):
        solo.step(limit=17)

    ulpdus = solo.fpdus()
    assert [u[1] & 15 for u in ulpdus] == [READ_RESPONSE, ATOMIC_RESPONSE]
    assert ulpdus[0][14:] == pattern(0x400)[:size]


@pytest.mark.parametrize("sizes", [[1], [5, 31], [77], [4000]], ids=str)
@pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])
def test_cuts_of_the_stream_change_nothing(sizes, crc):
    pair = atomic_pair(crc=crc, ord=3, ird=3)
    for link in (pair.a.inbound, pair.b.inbound):
        link.read_policy = one_byte if sizes == [1] else cycle(sizes)
        link.write_policy = cycle(sizes)
    set_word(pair.b, 0)
    for i in range(20):
        pair.a.engine.post_fetch_add(i, [(8 * i, 8)], WORDS_STAG, WORDS_TO, i)

    pair.settle()

    assert word(pair.b) == sum(range(20))
    assert [result(pair.a, 8 * i) for i in range(20)] == [sum(range(i)) for i in range(20)]
    assert pair.a.contexts(receives=False) == list(range(20))


def test_both_ends_may_do_it_at_once():
    pair = atomic_pair()
    add_words(pair.a)
    for side in (pair.a, pair.b):
        set_word(side, 0)
        for i in range(10):
            side.engine.post_fetch_add(i, [(8 * i, 8)], WORDS_STAG, WORDS_TO, 1)

    pair.settle()

    assert (word(pair.a), word(pair.b)) == (10, 10)


# ---- refusals by the responder --------------------------------------------------------------


REFUSALS = {
    "unknown_stag": (request(stag=0x9900), (0, 1, 0)),
    "stag_zero": (request(stag=0, to=0), (0, 1, 0)),
    "below_the_base": (request(to=WORDS_TO - 8), (0, 1, 1)),
    "past_the_end": (request(to=WORDS_TO + 0x100), (0, 1, 1)),
    "half_past_the_end": (request(to=WORDS_TO + 0xFC), (0, 1, 1)),
    "without_the_right": (request(stag=WINDOW_STAG, to=WINDOW_TO), (0, 1, 2)),
    "of_another_protection_domain": (request(stag=OTHER_PD, to=0), (0, 1, 3)),
    "that_wraps": (request(stag=TOP, to=2**64 - 4), (0, 1, 4)),
    "not_aligned": (request(to=WORDS_TO + 4), (0, 2, 7)),
    "not_aligned_by_one": (request(to=WORDS_TO + 1), (0, 2, 7)),
    "unknown_operation": (request(operation=1), (0, 2, 6)),
    "unknown_operation_15": (request(operation=15), (0, 2, 6)),
    "msn_0": (request(0), (1, 2, 3)),
    "msn_2": (request(2), (1, 2, 3)),
    "other_queue": (
        reference.untagged(ATOMIC_REQUEST, 0, 1, payload=bytes(52), crc=False),
        (1, 2, 1),
    ),
    "with_an_offset": (
        reference.untagged(ATOMIC_REQUEST, 1, 1, 4, payload=bytes(52), crc=False),
        (1, 2, 4),
    ),
    "too_long": (
        reference.untagged(ATOMIC_REQUEST, 1, 1, payload=bytes(56), crc=False),
        (0, 2, 6),
    ),
    "not_last": (
        reference.untagged(ATOMIC_REQUEST, 1, 1, payload=bytes(52), last=False, crc=False),
        (0, 2, 6),
    ),
}


@pytest.mark.parametrize(("incoming", "code"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_names_the_request_and_changes_nothing(incoming, code):
    solo = responder()
    before = solo.side.memory()

    solo.step(incoming)
    solo.step()

    terminate = solo.terminate()
    assert terminate["code"] == code
    assert solo.engine.cause == ("local", *code)
    assert terminate["length"] == struct.unpack_from(">H", incoming)[0]
    assert terminate["ddp"] == incoming[2:20]
    assert terminate["read"] == b""
    assert solo.side.memory() == before


def test_a_request_that_is_too_short_is_refused_without_a_header():
    solo = responder()
    solo.step(reference.untagged(ATOMIC_REQUEST, 1, 1, payload=bytes(51), crc=False))
    solo.step()

    assert (solo.terminate()["code"], solo.terminate()["ddp"]) == ((2, 0, 3), b"")


@pytest.mark.parametrize(
    ("stag", "to", "code"),
    [
        (0x9900, 0, (0, 1, 0)),
        (WORDS_STAG, WORDS_TO + 0x100, (0, 1, 1)),
        (WINDOW_STAG, WINDOW_TO, (0, 1, 2)),
        (WORDS_STAG, WORDS_TO + 4, (0, 2, 7)),
    ],
)
def test_the_requester_learns_which_of_its_requests_was_refused(stag, to, code):
    pair = atomic_pair()
    pair.a.engine.post_fetch_add(1, [(0, 8)], WORDS_STAG, WORDS_TO, 1)
    pair.a.engine.post_read(2, [(16, 4)], WINDOW_STAG, WINDOW_TO)
    pair.a.engine.post_compare_swap(3, [(32, 8)], stag, to, 1, 2)
    pair.a.engine.post_send(4, [(0, 4)])

    pair.settle()

    statuses = dict(
        zip(pair.a.contexts(receives=False), pair.a.statuses(receives=False), strict=True)
    )
    assert pair.a.engine.cause == ("peer", *code)
    assert (statuses[3], statuses[4]) == ("remote_resources", "cancelled")
    assert "remote_resources" not in (statuses[1], statuses[2])


# ---- refusals by the requester --------------------------------------------------------------


WRONG_RESPONSES = {
    "other_identifier": (lambda i: response(i ^ 1), (0, 2, 7)),
    "other_queue": (lambda i: response(i, queue=1), (1, 2, 1)),
    "msn_0": (lambda i: response(i, msn=0), (1, 2, 3)),
    "msn_2": (lambda i: response(i, msn=2), (1, 2, 3)),
    "with_an_offset": (
        lambda i: reference.untagged(
            ATOMIC_RESPONSE, 3, 1, 4, payload=struct.pack(">IQ", i, 0), crc=False
        ),
        (1, 2, 4),
    ),
    "too_short": (
        lambda i: reference.untagged(ATOMIC_RESPONSE, 3, 1, payload=bytes(11), crc=False),
        (2, 0, 3),
    ),
    "too_long": (
        lambda i: reference.untagged(
            ATOMIC_RESPONSE, 3, 1, payload=struct.pack(">IQx", i, 0), crc=False
        ),
        (0, 2, 6),
    ),
    "twice": (lambda i: response(i) + response(i, msn=2), (0, 2, 6)),
    "a_read_response": (
        lambda i: reference.tagged(READ_RESPONSE, i, 0, bytes(8), crc=False),
        (0, 2, 6),
    ),
}


@pytest.mark.parametrize(("answer", "code"), WRONG_RESPONSES.values(), ids=WRONG_RESPONSES)
def test_a_wrong_answer_is_refused(answer, code):
    solo = requester()
    post_adds(solo, 1)

    solo.step()
    solo.step(answer(request_ids(solo)[0]))
    solo.step()

    assert solo.terminate()["code"] == code
    assert solo.engine.is_over
    assert solo.side.contexts(receives=False) == [0]


def test_an_answer_that_nobody_asked_for_is_refused():
    solo = responder()
    solo.step(response(0))
    solo.step()

    assert solo.terminate()["code"] == (0, 2, 6)


def test_an_answer_to_a_read_must_not_be_atomic():
    solo = requester()
    solo.engine.post_read(1, [(0, 8)], WINDOW_STAG, WINDOW_TO)
    solo.step()
    stag = struct.unpack_from(">I", solo.fpdus()[0], 18)[0]

    solo.step(response(stag))
    solo.step()

    assert solo.terminate()["code"] == (0, 2, 6)


def test_an_answer_before_the_request_is_out_is_refused():
    solo = requester(rtr="read")
    post_adds(solo, 1)

    solo.step(response(0))
    solo.step()

    assert solo.terminate()["code"] == (0, 2, 6)


# ---- peers that do not know it --------------------------------------------------------------


def test_a_peer_that_does_not_know_the_opcode_fails_the_oldest_atomic():
    solo = requester()
    solo.engine.post_read(1, [(0, 8)], WINDOW_STAG, WINDOW_TO)
    post_adds(solo, 2, first=2)
    solo.engine.post_send(4, [(0, 4)])

    solo.step()
    # As siw says it: in its own nibble order, without a header.
    solo.step(reference.untagged(reference.TERMINATE, 2, 1, payload=b"\x20\x06\0\0", crc=False))

    assert solo.engine.cause == ("peer", 0, 2, 6)
    assert solo.side.outcome() == [
        ("request", 1, "cancelled"),
        ("request", 2, "remote_resources"),
        ("request", 3, "cancelled"),
        ("request", 4, "cancelled"),
    ]


def test_the_end_of_the_stream_fails_an_atomic_that_waits():
    solo = requester()
    post_adds(solo, 1)
    solo.step()
    solo.engine.begin(0)

    solo.engine.end_of_stream()
    solo.side.collect()

    assert solo.side.outcome() == [("request", 0, "io_timeout")]


def test_a_disconnect_waits_for_the_answer():
    pair = atomic_pair()
    set_word(pair.b, 1)
    pair.a.engine.post_fetch_add(1, [(0, 8)], WORDS_STAG, WORDS_TO, 1)
    pair.a.engine.disconnect()

    pair.step(pair.a)
    assert "drained" not in pair.a.events

    pair.settle()
    assert "drained" in pair.a.events
    assert result(pair.a, 0) == 1
