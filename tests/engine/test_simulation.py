# SPDX-License-Identifier: Apache-2.0
"""Seeded exchanges, sizes x faults, against a table in the repository (simulation.txt).

A change of the table is a change of behaviour: look at it, then write it anew with
``NDVERBS_UPDATE_SNAPSHOT=1 pytest tests/engine/test_simulation.py``.
"""

import errno
import os
import random
from pathlib import Path

import pytest

from engine.pair import SECOND, Pair, everything, pattern

SNAPSHOT = Path(__file__).parent / "simulation.txt"
MAX_FPDU = 1448
BIG_STAG, BIG_TO = 0x7700, 2**40
# Offsets in the arena: what we send, receive and read; what peers may name.
SOURCE, RECEIVE, SINK, WINDOW = 0, 0x2_0000, 0x4_0000, 0x6_0000
ROOM = 0x2_0000
# Around one FPDU of each kind (1424 and 1428 bytes of payload), around 64 KiB, and nothing.
SIZES = [0, 1, 1423, 1424, 1425, 1427, 1428, 1429, 65_535, 65_536, 65_537]


def short_pieces(rng):
    return lambda _done: rng.randint(1, 700)


def tiny_pieces(rng):
    return lambda _done: rng.choice([1, 2, 3, 5, 8, 1000])


# Each takes the pair and a seeded generator; CRC is on where the name says so.
def clean(_pair, _rng):
    pass


def random_cuts(pair, rng):
    for side in (pair.a, pair.b):
        side.inbound.write_policy = short_pieces(rng)
        side.inbound.read_policy = short_pieces(rng)


def tiny_cuts(pair, rng):
    for side in (pair.a, pair.b):
        side.inbound.write_policy = tiny_pieces(rng)
        side.inbound.read_policy = tiny_pieces(rng)


def corrupted_to_b(pair, rng):
    pair.b.inbound.flips = {rng.randint(16 + 4, 120): 1 << rng.randint(0, 7)}


def corrupted_to_a(pair, rng):
    pair.a.inbound.flips = {rng.randint(0, 60): 1 << rng.randint(0, 7)}


def stalls_then_resets(pair, rng):
    limit = rng.randint(30, 900)
    pair.b.inbound.read_policy = lambda done: max(0, limit - done)
    pair.reset_after = True


def closes_early(pair, rng):
    limit = rng.randint(30, 900)
    pair.b.inbound.read_policy = lambda done: max(0, limit - done)
    pair.close_after = True


def no_receive(pair, _rng):
    pair.without_receives = True


FAULTS = {
    "clean": (clean, False),
    "clean crc": (clean, True),
    "random cuts": (random_cuts, False),
    "random cuts crc": (random_cuts, True),
    "tiny cuts": (tiny_cuts, False),
    "corrupted to b crc": (corrupted_to_b, True),
    "corrupted to a crc": (corrupted_to_a, True),
    "stalls, resets": (stalls_then_resets, False),
    "closes early": (closes_early, False),
    "no receive": (no_receive, False),
}


def simulate(size, fault, seed):
    inject, crc = FAULTS[fault]
    pair = Pair(crc=crc, max_fpdu=MAX_FPDU, arena_size=WINDOW + ROOM, window=False)
    pair.reset_after = pair.close_after = pair.without_receives = False
    inject(pair, random.Random(seed))
    for index, side in enumerate((pair.a, pair.b), start=1):
        engine = side.engine
        engine.add_region(BIG_STAG, BIG_TO, WINDOW, ROOM, remote_read=True, remote_write=True)
        engine.write(SOURCE, pattern(size, index))
        if not pair.without_receives:
            engine.post_receive(9, [(RECEIVE, size)])
        engine.post_write(1, [(SOURCE, size)], BIG_STAG, BIG_TO)
        engine.post_read(2, [(SINK, size)], BIG_STAG, BIG_TO)
        engine.post_send(3, [(SOURCE, size)], solicited=True)
    pair.settle(limit=3_000_000)
    if pair.reset_after or pair.close_after:
        for side in (pair.a, pair.b):
            if pair.reset_after:
                side.engine.link_error(errno.ECONNRESET)
            else:
                side.engine.end_of_stream()
        for side in (pair.a, pair.b):
            side.inbound.read_policy = everything
        pair.settle()
    pair.advance(30 * SECOND)
    return pair


def row(size, fault, pair):
    def short(side):
        counters = side.engine.counters
        cause = side.engine.cause
        letters = {"success": "s", "cancelled": "c", "io_timeout": "t", "remote_resources": "r"}
        requests, receives = (
            "".join(letters[status] for status in side.statuses(receives=receives))
            for receives in (False, True)
        )
        done = f"{requests}|{receives}"
        why = "-" if cause is None else "/".join(str(part) for part in cause)
        return f"{counters['fpdus_out']:>4} {counters['bytes_out']:>7} {done:<6} {why:<14}"

    return f"{size:>6}  {fault:<19} a {short(pair.a)} b {short(pair.b)}".rstrip()


HEADER = """\
# size and fault; for both sides: FPDUs and bytes written, statuses of requests 1 to 3 and of the
# receive (s success, c cancelled, t timed out, r refused by the peer), cause of the end.
"""


def table():
    lines = []
    for fault_index, fault in enumerate(FAULTS):
        for size in SIZES:
            if fault == "tiny cuts" and size > 2000:
                continue
            pair = simulate(size, fault, seed=1000 * fault_index + size)
            check(size, fault, pair)
            lines.append(row(size, fault, pair))
    return HEADER + "\n".join(lines) + "\n"


def check(size, fault, pair):
    """What must hold in every row, whatever the table says."""
    for side in (pair.a, pair.b):
        peer_index = 2 if side is pair.a else 1
        assert len(side.contexts(receives=False)) in (0, 3) or not side.engine.is_over
        placed = side.engine.read(WINDOW, size)
        expected = pattern(size, peer_index)
        # Bytes land in order: what is there is a beginning of what was sent.
        landed = next((i for i in range(size) if placed[i] != expected[i]), size)
        assert placed[landed:] == b"\xee" * (size - landed)
        assert side.engine.read(WINDOW + size, 64) == b"\xee" * 64
    if fault in ("clean", "clean crc", "random cuts", "random cuts crc", "tiny cuts"):
        for side in (pair.a, pair.b):
            assert side.statuses(receives=False) == ["success"] * 3
            assert side.statuses(receives=True) == ["success"]
            assert side.engine.cause is None


@pytest.mark.slow
def test_the_simulation_ends_as_the_table_says():
    found = table()
    if os.environ.get("NDVERBS_UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(found)
    assert found.splitlines() == SNAPSHOT.read_text().splitlines()
