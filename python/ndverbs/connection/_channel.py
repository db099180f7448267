# SPDX-License-Identifier: Apache-2.0
"""Credits, fragments and windows of one end of a Connection.

Sans-IO: messages go in and frames come out, each for one Send; received frames go in and messages
come out. A frame takes one credit, which is a receive that the peer has posted. Receives are posted
again as soon as they are read, so credits always come back, and what bounds the messages that the
program has not taken yet is a window of bytes beside them, which says how much the peer may send.
Source: [MS-SMBD] section 3.1.5 for credits and fragments; docs/wire/connection.md for the window.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ndverbs.connection import _wire
from ndverbs.connection._wire import Limits, Message, WireError

# An end that owes so many credits says so, if it has nothing else to say.
_GRANT_AT = _wire.CREDITS // 2
_TELL_AT = _wire.WINDOW_SIZE // 4
_COUNT_MASK = 0xFFFFFFFFFFFFFFFF


class Frame(NamedTuple):
    """What one Send carries, and whose last bytes these are."""

    data: bytes
    done: object


class _Outgoing(NamedTuple):
    payload: bytearray
    cost: int
    done: object


class Channel:
    """One end of the message layer, from the negotiation on.

    Parameters
    ----------
    limits : Limits
        What the peer takes.
    granted : int
        Credits that its part of the negotiation gave.
    owed : int
        Receives that are posted, and of which the peer does not know yet.
    promised : int
        Receives that it knows of.
    """

    def __init__(self, limits: Limits, granted: int, owed: int, promised: int) -> None:
        self._limits = limits
        self._credits = granted
        self._owed = owed
        self._promised = promised
        self._ordinary: deque[_Outgoing] = deque()
        self._urgent: deque[bytearray] = deque()
        self._payload = bytearray()  # of the message whose fragments go out
        self._sent = 0  # of it
        self._done: object = None
        self._must_answer = False
        # Both windows count all bytes since the beginning, modulo 2**64.
        self._peer_room = 0
        self._peer_cost = 0
        self._told_room = _wire.WINDOW_SIZE
        self._tells = False  # a message that does so is queued
        self._room = _wire.WINDOW_SIZE
        self._cost = 0
        self._fragments = bytearray()
        self._remaining = 0
        self.unsent_bytes = 0

    @property
    def fragmented_size(self) -> int:
        """The longest payload that the peer takes."""
        return min(self._limits.fragmented_size, _wire.WINDOW_SIZE - _wire.OVERHEAD)

    @property
    def is_idle(self) -> bool:
        """Nothing waits to be sent, owed credits apart."""
        return not (self._payload or self._ordinary or self._urgent)

    @property
    def is_due(self) -> bool:
        """There may be something to be sent now."""
        return (
            self._owed >= _GRANT_AT
            or self._must_answer
            or bool(self._payload or self._ordinary or self._urgent)
        )

    def queue(self, payload: bytearray, done: object = None, *, is_free: bool = False) -> None:
        """Queue a message; `is_free` ones do not count against the window."""
        cost = 0 if is_free else len(payload) + _wire.OVERHEAD
        self.unsent_bytes += len(payload)
        self._ordinary.append(_Outgoing(payload, cost, done))

    def queue_urgent(self, payload: bytearray) -> None:
        """Queue what overtakes messages, and needs no room."""
        self._urgent.append(payload)

    def take_all(self) -> list[object]:
        """Forget what was queued, and return what its messages had as ``done``."""
        found = [] if self._done is None else [self._done]
        found += [each.done for each in self._ordinary if each.done is not None]
        self._ordinary.clear()
        self._urgent.clear()
        self._payload, self._done, self.unsent_bytes = bytearray(), None, 0
        return found

    def small_frame(self, number: int, data: bytes) -> bytes | None:
        """Return the frame of a message of some bytes; None: it has to wait, or does not fit."""
        length = _wire.SMALL.size - _wire.PAYLOAD_AT + len(data)
        cost = length + _wire.OVERHEAD
        if (
            self._payload
            or self._ordinary
            or self._urgent
            or self._credits < 2
            or length + _wire.PAYLOAD_AT > self._limits.send_size
            or cost > (self._peer_room - self._peer_cost) & _COUNT_MASK
        ):
            return None
        self._peer_cost += cost
        self._told_room = room = self._room
        self._credits -= 1
        granted, self._owed = self._owed, 0
        self._promised += granted
        self._must_answer = False
        head = _wire.SMALL.pack(
            _wire.CREDITS,
            granted,
            0,
            0,
            0,
            _wire.PAYLOAD_AT,
            length,
            _wire.MAGIC,
            _wire.VERSION,
            _wire.MESSAGE,
            1,
            number,
            0,
            room & _COUNT_MASK,
            len(data),
            _wire.BYTES,
            0,
            0,
            0,
        )
        return head + data

    def next_frame(self) -> Frame | None:
        """Return what is to be sent next; None while there is nothing, or no credit for it."""
        # The last credit is for a message that grants some, or both ends could wait for ever.
        if not self._credits or (self._credits == 1 and not self._owed):
            return None
        if not self._payload:
            if self._urgent:
                self._payload = self._urgent.popleft()
                self._done = None
            elif self._ordinary and self._fits(self._ordinary[0]):
                self._payload, cost, self._done = self._ordinary.popleft()
                self._peer_cost += cost
                self.unsent_bytes -= len(self._payload)
            elif self._owed >= _GRANT_AT or self._must_answer:
                return Frame(self._header(0, 0), None)
            else:
                return None
            # The newest, however long the message has waited.
            self._told_room, self._tells = self._room, False
            _wire.ROOM.pack_into(self._payload, _wire.ROOM_AT, self._room & _COUNT_MASK)
        left = len(self._payload) - self._sent
        length = min(left, self._limits.send_size - _wire.PAYLOAD_AT)
        if length == len(self._payload):
            data, done = self._header(0, length) + self._payload, self._done
        else:
            piece = self._payload[self._sent : self._sent + length]
            data = self._header(left - length, length) + piece
            done = self._done if length == left else None
            self._sent += length
        if length == left:
            self._payload, self._sent, self._done = bytearray(), 0, None
        return Frame(data, done)

    def _fits(self, message: _Outgoing) -> bool:
        room = (self._peer_room - self._peer_cost) & _COUNT_MASK
        return message.cost <= room or not message.cost

    def _header(self, remaining: int, length: int) -> bytes:
        self._credits -= 1
        granted, self._owed = self._owed, 0  # 16 at most
        self._promised += granted
        self._must_answer = False
        return _wire.transfer(_wire.CREDITS, granted, 0, remaining, length)

    def received(self, frame: memoryview) -> Message | None:
        """Take one frame; return the message that it completes.

        Its receive counts as posted again: the caller posts one before it asks for a frame.

        Raises
        ------
        WireError
            The peer broke the protocol.
        """
        if not self._promised:
            raise WireError("it sent without a credit")
        small = None if self._remaining else _wire.read_small(frame)
        if small is not None:
            self._promised -= 1
            self._owed += 1
            self._credits += small[0]
            return self._counted(small[1])
        granted, flags, remaining, payload = _wire.read_transfer(frame)
        self._promised -= 1
        self._owed += 1
        self._credits += granted
        if flags & _wire.RESPONSE_REQUESTED:
            self._must_answer = True
        if not payload:
            if self._remaining:
                raise WireError("an empty message divides a fragmented one")
            return None
        total = len(payload) + remaining
        if self._remaining and total != self._remaining:
            raise WireError(
                f"a fragment announces {total} bytes, {self._remaining} are still to come"
            )
        if len(self._fragments) + total > _wire.FRAGMENTED_SIZE:
            raise WireError(f"a message is longer than {_wire.FRAGMENTED_SIZE} bytes")
        self._remaining = remaining
        if remaining:
            self._fragments += payload
            return None
        if self._fragments:
            whole, self._fragments = self._fragments, bytearray()
            whole += payload
        else:
            whole = bytearray(payload)
        return self._counted(_wire.read_message(memoryview(whole)))

    def _counted(self, message: Message) -> Message:
        # A window only grows; what is behind the half of all numbers is an old one.
        if (message.room - self._peer_room) & _COUNT_MASK < 1 << 63:
            self._peer_room = message.room
        self._cost += message.cost
        if self._cost > self._told_room:
            raise WireError("it sent more than this side has room for")
        return message

    def taken(self, message: Message) -> None:
        """Note that the program has a message: its bytes are free for others."""
        self._room += message.cost
        if self._room - self._told_room >= _TELL_AT and not self._tells:
            self._tells = True
            self.queue_urgent(_wire.control(_wire.WINDOW))
