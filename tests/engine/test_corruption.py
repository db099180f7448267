# SPDX-License-Identifier: Apache-2.0
"""A flipped bit anywhere in the stream: detected before placement with CRC, contained without."""

import itertools

import pytest

from engine import exchange
from engine.pair import FILL, WINDOW_OFFSET, WINDOW_SIZE, cut_at
from wire import reference

DIRECTIONS = ["a_to_b", "b_to_a"]
both_directions = pytest.mark.parametrize("direction", DIRECTIONS)


def receiver(pair, direction):
    return pair.b if direction == "a_to_b" else pair.a


def clean_stream(crc, direction):
    return bytes(receiver(exchange.start(crc).settle(), direction).inbound.sent)


def fpdu_starts(stream):
    starts, at = [], 0
    for ulpdu, _ in reference.split_fpdus(stream)[0]:
        starts.append(at)
        at += len(reference.fpdu(ulpdu))
    return [*starts, at]


def stalled_memory(direction, position):
    """What the receiver holds when the stream stops at a position."""
    pair = exchange.start(True, fin=False)
    side = receiver(pair, direction)
    side.inbound.read_policy = lambda done: position - done
    pair.settle()
    return side.memory()


@both_directions
def test_with_crc_no_byte_of_a_corrupted_fpdu_is_placed(direction):
    starts = fpdu_starts(clean_stream(True, direction))
    for first, end in itertools.pairwise(starts):
        untouched = stalled_memory(direction, first)
        for position in range(first, end):
            pair = exchange.start(True)
            side = receiver(pair, direction)
            side.inbound.flips = {position: 1 << position % 8}
            # The FPDUs before it come in a step of their own, as in the stalled run.
            side.inbound.read_policy = cut_at(first)
            pair.settle()
            assert side.memory() == untouched, position
            if side.engine.cause is None:
                # A longer length: still waiting for bytes, and nothing else ever happens.
                assert position - first < 2, position
            else:
                assert side.engine.cause == ("local", 2, 0, 2), position
                peer = pair.other(side)
                assert peer.engine.is_over
                assert peer.engine.cause == ("peer", 2, 0, 2), position


@both_directions
@pytest.mark.parametrize("bits", [0x01, 0x80, 0xFF], ids=hex)
def test_without_crc_a_corrupted_byte_never_reaches_beyond_what_peers_may_write(direction, bits):
    total = len(clean_stream(False, direction))
    for position in range(total):
        pair = exchange.start(False)
        side = receiver(pair, direction)
        side.inbound.flips = {position: bits}
        pair.settle()
        pair.advance(100 * 10**9)
        assert_only_addressed_ranges_changed(side)
        assert_only_addressed_ranges_changed(pair.other(side))
        assert_all_requests_are_accounted_for(pair)


def assert_only_addressed_ranges_changed(side):
    writable = [*exchange.RECEIVES, *exchange.READ_SINK, (WINDOW_OFFSET, WINDOW_SIZE)]
    writable += [(exchange.SOURCE, 0x200), (0x1900, 0x100)]  # filled by the test; revocable
    memory = bytearray(side.memory())
    for offset, length in writable:
        memory[offset : offset + length] = bytes([FILL]) * length
    assert memory == bytes([FILL]) * len(memory)


def assert_all_requests_are_accounted_for(pair):
    for side in (pair.a, pair.b):
        contexts = side.contexts(receives=False)
        receives = side.contexts(receives=True)
        assert contexts == exchange.EXPECTED_REQUESTS[: len(contexts)]
        assert receives == [100, 101, 102, 103, 104][: len(receives)]
        if side.engine.is_over:
            assert len(contexts) == 9
            assert len(receives) == 5
