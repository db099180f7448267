# SPDX-License-Identifier: Apache-2.0
"""Peers that begin a message on a shared receive queue and do not go on with it."""

import threading
from contextlib import closing

import numpy as np
import pytest

import ndverbs as nd
from hostile.raw_peer import LIMIT_S
from wire.reference import SEND, untagged

DEPTH = 4
SIZE = 1 << 20
PIECE = bytes(4096)
# Between two looks; a look that comes late only makes the test longer.
TURN_S = 0.05


class SharedReceives:
    """A shared receive queue of a few receives, and streams that take from it."""

    def __init__(self, victim):
        self.victim = victim
        self.is_empty = threading.Event()
        self.srq = victim.pd.create_srq(
            DEPTH, max_sge=1, notify_threshold=1, on_notify=lambda _: self.is_empty.set()
        )
        self.region = victim.pd.register(np.zeros((DEPTH, SIZE), np.uint8))
        for place in range(DEPTH):
            self.post(place)

    def post(self, place):
        self.srq.receive(self.region.segment(place * SIZE, SIZE), context=place)

    def begin(self, count):
        """Streams whose peers have each sent the first half of a message."""
        streams = [self.victim.accepted(srq=self.srq) for _ in range(count)]
        for stream in streams:
            stream.peer.send(untagged(SEND, 0, 1, payload=b"half", last=False, crc=False))
        return streams

    def close(self):
        self.srq.close()
        self.region.close()


@pytest.fixture
def shared(victim):
    with closing(SharedReceives(victim)) as made:
        yield made


def first_that_ends(streams, every_turn=lambda: None):
    for _ in range(int(LIMIT_S / TURN_S)):
        for stream in streams:
            if stream.disconnected.wait(TURN_S):
                return stream
        every_turn()
    raise AssertionError("no stream gave its receive up")


def whole_message(stream):
    stream.peer.send(untagged(SEND, 0, 1, payload=b"whole", crc=False))


def test_one_who_waits_gets_the_receive_of_a_peer_that_stands_still(victim, shared):
    strangers = shared.begin(DEPTH)
    assert shared.is_empty.wait(LIMIT_S)
    honest = victim.accepted(srq=shared.srq)
    whole_message(honest)

    (held,) = first_that_ends(strangers).wait_for(1)
    assert held.status == nd.Status.CANCELLED
    shared.post(held.request_context)

    (done,) = honest.wait_for(1)
    assert (done.status, done.bytes_transferred) == (nd.Status.SUCCESS, 5)
    # One place was needed, and one stranger has paid for it.
    assert [one.disconnected.is_set() for one in strangers].count(True) == 1


def test_nobody_gives_way_while_receives_are_left(victim, shared):
    (stranger,) = shared.begin(1)
    honest = victim.accepted(srq=shared.srq)
    whole_message(honest)
    (done,) = honest.wait_for(1)
    assert done.status == nd.Status.SUCCESS
    assert not stranger.disconnected.is_set()

    stranger.peer.send(untagged(SEND, 0, 1, 4, b"of it", crc=False))
    (done,) = stranger.wait_for(1)
    assert (done.status, done.bytes_transferred) == (nd.Status.SUCCESS, 9)


@pytest.mark.parametrize("piece", [b"", b"."], ids=["silent", "a byte at a time"])
def test_a_message_that_goes_on_is_left_alone(victim, shared, piece):
    going_on, *standing = shared.begin(DEPTH)
    assert shared.is_empty.wait(LIMIT_S)
    honest = victim.accepted(srq=shared.srq)
    whole_message(honest)

    offset = count = 4

    def go_on():
        nonlocal offset, count
        going_on.peer.send(untagged(SEND, 0, 1, offset, PIECE, last=False, crc=False))
        offset += len(PIECE)
        for one in standing if piece else ():
            one.peer.send(untagged(SEND, 0, 1, count, piece, last=False, crc=False))
        count += len(piece)

    shared.post(first_that_ends(standing, go_on).wait_for(1)[0].request_context)
    assert honest.wait_for(1)[0].status == nd.Status.SUCCESS

    going_on.peer.send(untagged(SEND, 0, 1, offset, b"end", crc=False))
    (done,) = going_on.wait_for(1)
    assert (done.status, done.bytes_transferred) == (nd.Status.SUCCESS, offset + 3)
