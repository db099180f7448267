# SPDX-License-Identifier: Apache-2.0
"""An exchange of every kind of message in both directions, small enough to cut everywhere."""

from engine.pair import FILL, WINDOW_OFFSET, WINDOW_STAG, WINDOW_TO, Pair, pattern

REVOCABLE_STAG = 0x2200
# (offset, length) in the arena of the receiving side.
RECEIVES = [(0x000, 64), (0x040, 200), (0x110, 16), (0x120, 16), (0x130, 40)]
READ_SINK = [(0x200, 50), (0x240, 70)]
SOURCE = 0x800
MAX_FPDU = 64  # 44 bytes of tagged, 40 of untagged payload


def start(crc, **config):
    return begin(Pair(crc=crc, max_fpdu=MAX_FPDU, **config))


def begin(pair):
    """Post everything on both sides of a pair."""
    for seed, side in enumerate((pair.a, pair.b), start=1):
        engine = side.engine
        engine.add_region(REVOCABLE_STAG, 0, 0x1900, 0x100, remote_write=True, is_revocable=True)
        engine.write(SOURCE, pattern(0x200, seed))
        engine.write(WINDOW_OFFSET + 0x400, pattern(0x100, seed + 10))
        for context, receive in enumerate(RECEIVES):
            assert engine.post_receive(100 + context, [receive])
        post_requests(engine)
    return pair


def post_requests(engine):
    window = WINDOW_STAG, WINDOW_TO
    assert engine.post_write(1, [(SOURCE, 70), (SOURCE + 100, 29)], *window)
    assert engine.post_send(2, [(SOURCE, 5)])
    assert engine.post_read(3, READ_SINK, WINDOW_STAG, WINDOW_TO + 0x400)
    assert engine.post_send(4, [(SOURCE + 5, 130)], solicited=True)
    assert engine.post_write(5, [], *window)
    assert engine.post_read(6, [], *window)
    assert engine.post_send(7, [])
    assert engine.post_send(8, [(SOURCE, 3)], invalidate=REVOCABLE_STAG, fenced=True)
    assert engine.post_send(9, [(SOURCE, 39)], solicited=True)


def expected_memory(seed, peer_seed):
    """What an arena holds at the end, written down without any engine."""
    memory = bytearray([FILL] * 0x2000)
    own, peer = pattern(0x200, seed), pattern(0x200, peer_seed)
    memory[SOURCE : SOURCE + 0x200] = own
    memory[WINDOW_OFFSET + 0x400 : WINDOW_OFFSET + 0x500] = pattern(0x100, seed + 10)
    memory[WINDOW_OFFSET : WINDOW_OFFSET + 99] = peer[:70] + peer[100:129]
    read = pattern(0x100, peer_seed + 10)[:120]
    memory[0x200 : 0x200 + 50] = read[:50]
    memory[0x240 : 0x240 + 70] = read[50:]
    memory[0x000:0x005] = peer[:5]
    memory[0x040 : 0x040 + 130] = peer[5:135]
    memory[0x120:0x123] = peer[:3]
    memory[0x130 : 0x130 + 39] = peer[:39]
    return bytes(memory)


EXPECTED_REQUESTS = [1, 2, 3, 4, 5, 6, 7, 8, 9]
EXPECTED_RECEIVES = [
    (100, 5, False, None),
    (101, 130, True, None),
    (102, 0, False, None),
    (103, 3, False, REVOCABLE_STAG),
    (104, 39, True, None),
]


def assert_finished(pair):
    assert pair.a.memory() == expected_memory(1, 2)
    assert pair.b.memory() == expected_memory(2, 1)
    for side in (pair.a, pair.b):
        assert side.contexts(receives=False) == EXPECTED_REQUESTS
        assert set(side.statuses(receives=False)) == {"success"}
        receives = [
            (c["context"], c["received"], c["is_solicited"], c["invalidated"])
            for c in side.completions
            if c["is_receive"]
        ]
        assert receives == EXPECTED_RECEIVES
        assert set(side.statuses(receives=True)) == {"success"}
        assert not side.engine.is_over
        assert side.engine.cause is None
        assert not side.engine.has_region(REVOCABLE_STAG)
        assert side.events <= {"first_fpdu"}
