# SPDX-License-Identifier: Apache-2.0
"""Memory that changes between a frame and its bytes: old or new bytes go out, under their sum."""

import pytest

from engine.pair import Pair

STAG, TO = 0x7700, 2**40
SIZE = 300_001  # more than all frames in flight together may hold with CRC
SOURCE, TARGET = 0, 0x6_0000
ARENA = 0xC_0000
OLD, NEW = b"\x0a", b"\xa0"

both_crc = pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])
every_kind = pytest.mark.parametrize("kind", ["write", "send", "read"])
sizes = pytest.mark.parametrize("size", [1, 256, 257, 65_462, SIZE])


def start(kind, size, **config):
    """A request of a kind; returns the pair, the side whose memory is sent, and the other."""
    pair = Pair(arena_size=ARENA, window=False, **config)
    sender, target = (pair.b, pair.a) if kind == "read" else (pair.a, pair.b)
    sender.engine.write(SOURCE, OLD * size)
    for side, offset in ((sender, SOURCE), (target, TARGET)):
        side.engine.add_region(STAG, TO, offset, size, remote_read=True, remote_write=True)
    if kind == "write":
        pair.a.engine.post_write(1, [(SOURCE, size)], STAG, TO)
    elif kind == "send":
        pair.b.engine.post_receive(1, [(TARGET, size)])
        pair.a.engine.post_send(1, [(SOURCE, size)])
    else:
        pair.a.engine.post_read(1, [(TARGET, size)], STAG, TO)
    return pair, sender, target


def settle_changing(pair, sender, size):
    """Exchange everything; the sender's memory changes to and fro, each time before it is sent."""
    state = {"next": NEW}

    def meddle():
        sender.engine.write(SOURCE, state["next"] * size)
        state["next"] = NEW if state["next"] == OLD else OLD

    pair.meddle = meddle
    pair.settle()


@both_crc
@every_kind
@sizes
def test_a_request_whose_memory_changes_succeeds(kind, size, crc):
    pair, sender, target = start(kind, size, crc=crc)

    settle_changing(pair, sender, size)

    assert pair.a.outcome() == [("request", 1, "success")]
    assert not pair.a.engine.is_over
    assert not pair.b.engine.is_over
    assert set(target.engine.read(TARGET, size)) <= {*OLD, *NEW}


@every_kind
def test_a_link_that_takes_few_bytes_gets_each_frame_as_it_was_summed(kind):
    pair, sender, target = start(kind, SIZE, crc=True)
    target.inbound.write_policy = lambda _done: 1000

    settle_changing(pair, sender, SIZE)

    assert pair.a.outcome() == [("request", 1, "success")]
    assert not target.engine.is_over


def test_a_frame_half_sent_goes_on_although_its_region_has_gone():
    pair, sender, target = start("read", 1000, crc=True)
    target.inbound.write_policy = lambda done: max(0, 100 - done)

    pair.settle()
    assert sender.engine.remove_region(STAG)

    target.inbound.write_policy = lambda _done: 1 << 30
    pair.settle()
    assert pair.a.outcome() == [("request", 1, "success")]
    assert target.engine.read(TARGET, 1000) == OLD * 1000
