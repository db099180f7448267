# SPDX-License-Identifier: Apache-2.0
"""Credits, fragments and windows of two channels that are joined by nothing but lists."""

import contextlib
import struct
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndverbs.connection import _wire
from ndverbs.connection._channel import Channel
from ndverbs.connection._wire import Limits, Part, WireError

LIMITS = Limits(_wire.RECEIVE_SIZE, _wire.FRAGMENTED_SIZE)


def message(number, size):
    data = number.to_bytes(4, "little") * (size // 4 + 1)
    part = Part(size, _wire.BYTES, carried=memoryview(data[:size]))
    return _wire.message(number, False, [part])


class Side:
    """One channel, with the frames that are under way to it, and what it has received."""

    def __init__(self, channel):
        self.channel = channel
        self.incoming = deque()
        self.unread = deque()
        self.read = []

    def send(self, number, size):
        self.channel.queue(message(number, size), number)

    def pump(self, other):
        """Put frames on their way; return how many."""
        count = 0
        while (frame := self.channel.next_frame()) is not None:
            assert len(frame.data) <= _wire.RECEIVE_SIZE
            other.incoming.append(frame.data)
            count += 1
        assert len(other.incoming) <= _wire.CREDITS, "more frames than receives"
        return count

    def take_frame(self):
        found = self.channel.received(memoryview(self.incoming.popleft()))
        if found is not None and found.kind == _wire.MESSAGE:
            self.unread.append(found)

    def read_message(self):
        found = self.unread.popleft()
        self.channel.taken(found)
        self.read.append((found.number, found.parts[0].nbytes))
        assert (
            bytes(found.parts[0].carried[:4])
            == found.number.to_bytes(4, "little")[: found.parts[0].nbytes]
        )


def joined():
    """Two sides behind their hellos."""
    active = Side(Channel(LIMITS, _wire.CREDITS, _wire.CREDITS, 0))
    passive = Side(Channel(LIMITS, 0, 0, _wire.CREDITS))
    for near, far in ((active, passive), (passive, active)):
        near.channel.queue(_wire.hello(), is_free=True)
        assert near.pump(far) == 1
        far.take_frame()
    return active, passive


def settle(a, b):
    while a.pump(b) + b.pump(a) or a.incoming or b.incoming:
        for side in (a, b):
            while side.incoming:
                side.take_frame()


@given(st.data())
def test_messages_arrive_whole_and_in_order_whatever_comes_when(data):
    sides = joined()
    sent = ([], [])
    number = 0
    steps = data.draw(st.lists(st.integers(0, 7), max_size=120))
    for step in steps:
        near = step & 1
        side, other = sides[near], sides[1 - near]
        if step >> 1 == 0:
            number += 1
            size = data.draw(st.sampled_from([4, 100, 4000, 9000, 70_000, 500_000]))
            side.send(number, size)
            sent[near].append((number, size))
        elif step >> 1 == 1:
            side.pump(other)
        elif step >> 1 == 2 and side.incoming:
            side.take_frame()
        elif side.unread:
            side.read_message()
    while sum(len(side.read) for side in sides) < len(sent[0]) + len(sent[1]):
        settle(*sides)
        for side in sides:
            while side.unread:
                side.read_message()
    settle(*sides)
    assert sides[1].read == sent[0]
    assert sides[0].read == sent[1]
    assert all(side.channel.is_idle and not side.channel.unsent_bytes for side in sides)


def test_a_program_that_reads_nothing_is_sent_no_more_than_the_window():
    near, far = joined()
    for number in range(1, 200):
        near.send(number, 100_000)
    settle(near, far)
    held = sum(m.cost for m in far.unread)
    assert _wire.WINDOW_SIZE - 110_000 < held <= _wire.WINDOW_SIZE
    assert near.channel.unsent_bytes > 100 * 100_000


def test_what_is_urgent_goes_out_while_the_window_is_full():
    near, far = joined()
    for number in range(1, 200):
        near.send(number, 100_000)
    settle(near, far)
    near.channel.queue_urgent(_wire.control(_wire.TAKEN, 7))
    assert near.pump(far) == 1
    found = far.channel.received(memoryview(far.incoming.popleft()))
    assert (found.kind, found.number) == (_wire.TAKEN, 7)


def test_a_peer_that_asks_for_an_answer_gets_an_empty_message():
    near, far = joined()
    settle(near, far)
    far.incoming.append(_wire.transfer(_wire.CREDITS, 0, _wire.RESPONSE_REQUESTED, 0, 0))
    far.take_frame()
    assert far.pump(near) == 1
    assert near.channel.received(memoryview(near.incoming.popleft())) is None


def test_the_last_credit_is_kept_for_a_message_that_grants():
    channel = Channel(LIMITS, 1, 0, 1)
    channel.queue(_wire.hello(), is_free=True)
    assert channel.next_frame() is None
    assert channel.received(memoryview(_wire.transfer(1, 0, 0, 0, 0))) is None
    assert channel.next_frame() is not None


def refuse(channel, frame, words):
    with pytest.raises(WireError, match=words):
        channel.received(memoryview(frame))


def test_a_frame_without_a_credit_is_refused():
    near, _ = joined()
    for _ in range(near.channel._promised):
        near.channel.received(memoryview(_wire.transfer(1, 0, 0, 0, 0)))
    refuse(near.channel, _wire.transfer(1, 0, 0, 0, 0), "without a credit")


def test_fragments_that_do_not_come_out_exactly_are_refused():
    first = _wire.transfer(1, 0, 0, 100, 10) + bytes(10)
    for second, words in (
        (_wire.transfer(1, 0, 0, 0, 50) + bytes(50), "50 bytes, 100 are still to come"),
        (_wire.transfer(1, 0, 0, 0, 0), "divides"),
    ):
        near, _ = joined()
        assert near.channel.received(memoryview(first)) is None
        refuse(near.channel, second, words)


def test_a_message_longer_than_was_agreed_is_refused():
    near, _ = joined()
    refuse(
        near.channel, _wire.transfer(1, 0, 0, _wire.FRAGMENTED_SIZE, 1) + b"x", "longer than 524288"
    )


def test_a_peer_that_ignores_the_window_is_refused():
    near, far = joined()
    far.channel._peer_room = 1 << 40
    for number in range(1, 30):
        far.send(number, 100_000)
    with pytest.raises(WireError, match="room"):
        settle(near, far)


@given(st.binary(max_size=300))
def test_no_bytes_of_a_peer_do_more_than_break_the_protocol(data):
    near, _ = joined()
    with contextlib.suppress(WireError):
        assert near.channel.received(memoryview(data)) is None


@given(st.binary(max_size=200), st.integers(0, 5), st.integers(0, 9))
def test_no_payload_of_a_peer_does_more_than_break_the_protocol(data, kind, parts):
    head = _wire.HEAD.pack(_wire.MAGIC, _wire.VERSION, kind, parts, 1, parts & 1, 0)
    with contextlib.suppress(WireError):
        found = _wire.read_message(memoryview(head + data))
        assert sum(p.nbytes for p in found.parts if p.carried is not None) <= len(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "18 bytes"),
        (struct.pack("<HHHHIII", 2, 1, 0, 1, 128, 128, 131072), "malformed"),
        (struct.pack("<HHHHIII", 256, 256, 0, 0, 128, 128, 131072), "0 credits"),
        (struct.pack("<HHHHIII", 256, 256, 0, 1, 128, 127, 131072), "127 bytes"),
        (struct.pack("<HHHHIII", 256, 256, 0, 1, 128, 128, 131071), "131071"),
    ],
)
def test_a_negotiation_that_is_none_is_refused(data, words):
    with pytest.raises(WireError, match=words):
        _wire.read_negotiate_request(data)


def test_the_negotiation_is_that_of_smb_direct():
    request = _wire.negotiate_request()
    assert request == bytes.fromhex("0001 0001 0000 1000 00100000 00100000 00000800")
    credits, limits = _wire.read_negotiate_request(request)
    assert (credits, limits) == (_wire.CREDITS, LIMITS)
    response = _wire.negotiate_response(limits, _wire.CREDITS)
    assert response == bytes.fromhex(
        "0001 0001 0001 0000 1000 1000 00000000 ffffff7f 00100000 00100000 00000800"
    )
    assert _wire.read_negotiate_response(response) == (_wire.CREDITS, _wire.CREDITS, LIMITS)


def test_a_peer_without_a_common_version_is_answered_with_not_supported():
    old = struct.pack("<HHHHIII", 0x200, 0x201, 0, 4, 1024, 1024, 131072)
    assert _wire.read_negotiate_request(old) == (4, None)
    refusal = _wire.negotiate_response(None, 1)
    with pytest.raises(WireError, match=r"refuses SMB Direct 1\.0 with status 0xc00000bb"):
        _wire.read_negotiate_response(refusal)


def test_versions_that_cannot_talk_are_both_named():
    assert _wire.version_error((1, 3)) is None
    found = _wire.version_error((2, 3))
    assert "speaks version 1 of a Connection, the peer's speaks 2 to 3" in str(found)


@pytest.mark.parametrize("lengths", [[0], [0, 8], [1 << 31], [4, 3]])
def test_lent_pieces_that_cannot_be_read_are_refused(lengths):
    nbytes = sum(lengths) if lengths != [4, 3] else 8
    part = _wire.Part(nbytes, _wire.BYTES, lent=[(4096, 1, length) for length in lengths])
    with pytest.raises(_wire.WireError, match="pieces of a lent part"):
        _wire.read_message(memoryview(_wire.message(1, False, [part])))
