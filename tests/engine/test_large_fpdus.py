# SPDX-License-Identifier: Apache-2.0
"""FPDUs of tens of kilobytes: without CRC their payload is read straight into its target."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.pair import FILL, Pair, cut_at, cycle, pattern

STAG, TO = 0x7700, 2**40
SIZE = 150_001  # two full FPDUs of 65480 bytes and a part
SOURCE, RECEIVE, SINK, WINDOW = 0, 0x3_0000, 0x6_0000, 0x9_0000
ARENA = 0xC_0000
both_crc = pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])
DATA = pattern(SIZE)


def start(crc, kind, *, pieces=1, **config):
    pair = Pair(crc=crc, arena_size=ARENA, window=False, **config)
    # The target in several segments of uneven length.
    cuts = [SIZE * i // pieces for i in range(pieces + 1)]
    segments = [(a, b - a) for a, b in itertools.pairwise(cuts)]
    for side in (pair.a, pair.b):
        side.engine.add_region(STAG, TO, WINDOW, SIZE, remote_read=True, remote_write=True)
    if kind == "write":
        pair.a.engine.write(SOURCE, DATA)
        pair.a.engine.post_write(1, [(SOURCE + a, n) for a, n in segments], STAG, TO)
    elif kind == "send":
        pair.a.engine.write(SOURCE, DATA)
        pair.b.engine.post_receive(1, [(RECEIVE + a, n) for a, n in segments])
        pair.a.engine.post_send(1, [(SOURCE, SIZE)])
    else:
        pair.b.engine.write(WINDOW, DATA)
        pair.a.engine.post_read(1, [(SINK + a, n) for a, n in segments], STAG, TO)
    return pair


def assert_arrived(pair, kind):
    side, offset = {
        "write": (pair.b, WINDOW),
        "send": (pair.b, RECEIVE),
        "read": (pair.a, SINK),
    }[kind]
    assert side.engine.read(offset, SIZE) == DATA
    assert side.engine.read(offset + SIZE, 64) == bytes([FILL]) * 64
    assert pair.a.outcome() == [("request", 1, "success")]


def payload_link(pair, kind):
    return pair.a.inbound if kind == "read" else pair.b.inbound


every_kind = pytest.mark.parametrize("kind", ["write", "send", "read"])


@both_crc
@every_kind
@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("budget", [1000, 32 * 1024, 1 << 20])
def test_large_messages_arrive(crc, kind, pieces, budget):
    pair = start(crc, kind, pieces=pieces)
    pair.options = {"pieces": 8, "budget": budget}
    assert_arrived(pair.settle(), kind)


@both_crc
@every_kind
def test_every_cut_around_the_borders_of_large_fpdus(crc, kind):
    stream = bytes(payload_link(start(crc, kind).settle(), kind).sent)
    borders = {0, len(stream), stream.index(DATA[:64])}

    for end in (65_480, 2 * 65_480):
        borders |= {end, end + 16}

    for border in sorted(borders):
        for position in range(max(1, border - 9), min(len(stream), border + 10), 3):
            pair = start(crc, kind)
            payload_link(pair, kind).read_policy = cut_at(position)
            assert_arrived(pair.settle(), kind)


@both_crc
@every_kind
@settings(max_examples=15)
@given(
    reads=st.lists(st.integers(1, 90_000), min_size=1, max_size=6),
    writes=st.lists(st.integers(1, 90_000), min_size=1, max_size=6),
)
def test_random_cuts_of_large_fpdus(crc, kind, reads, writes):
    # At least one piece is long, or the exchange takes tens of thousands of steps.
    pair = start(crc, kind, pieces=3)
    link = payload_link(pair, kind)
    link.read_policy = cycle([*reads, 20_000])
    link.write_policy = cycle([*writes, 20_000])

    assert_arrived(pair.settle(), kind)


@every_kind
def test_the_payload_of_a_large_fpdu_is_in_place_before_the_fpdu_ends(kind):
    pair = start(False, kind)
    link = payload_link(pair, kind)
    link.read_policy = lambda done: max(0, 40_000 - done)

    pair.settle()

    side, offset = {
        "write": (pair.b, WINDOW),
        "send": (pair.b, RECEIVE),
        "read": (pair.a, SINK),
    }[kind]
    assert side.engine.read(offset, 39_000) == DATA[:39_000]
    assert side.engine.read(offset + 40_000, 64) == bytes([FILL]) * 64
    assert side.completions == []


@every_kind
def test_with_crc_nothing_of_a_large_fpdu_is_in_place_before_it_ends(kind):
    pair = start(True, kind)
    link = payload_link(pair, kind)
    link.read_policy = lambda done: max(0, 40_000 - done)

    pair.settle()

    side = pair.a if kind == "read" else pair.b
    for offset in (RECEIVE, SINK, *([WINDOW] if kind != "read" else [])):
        assert side.engine.read(offset, 65_000) == bytes([FILL]) * 65_000
