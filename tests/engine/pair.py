# SPDX-License-Identifier: Apache-2.0
"""Two protocol engines joined by byte pipes, in virtual time.

Nothing here sleeps or looks at a clock: a step moves as many bytes as the pipes' policies say, and
``advance`` moves time. ``Solo`` is one engine whose peer is the test itself.
"""

import struct
from dataclasses import dataclass, field

from ndverbs import _testing
from wire import reference

SECOND = 1_000_000_000
FILL = 0xEE
ARENA = 0x2000
# Every arena: local buffers in front, then a window that peers may read and write.
WINDOW_STAG = 0x1100
WINDOW_TO = 0x7F00_0000_1000
WINDOW_OFFSET = 0x1000
WINDOW_SIZE = 0x800


def everything(_done):
    return 1 << 30


def one_byte(_done):
    return 1


def cut_at(position):
    """All bytes up to a position of the stream, and the rest in a later step."""
    return lambda done: position - done if done < position else 1 << 30


def cycle(sizes):
    """The given sizes, over and over."""
    state = {"next": 0}

    def policy(_done):
        size = sizes[state["next"] % len(sizes)]
        state["next"] += 1
        return size

    return policy


def pattern(size, seed=1):
    return bytes((seed * 37 + i * 7 + (i >> 8) * 11) & 0xFF for i in range(size))


@dataclass
class Link:
    """Bytes on their way in one direction."""

    write_policy: object = everything
    read_policy: object = everything
    flips: dict = field(default_factory=dict)  # position in the stream -> bits to flip
    sent: bytearray = field(default_factory=bytearray)
    delivered: int = 0

    def push(self, data):
        start = len(self.sent)
        self.sent += data
        for position, bits in self.flips.items():
            if start <= position < len(self.sent):
                self.sent[position] ^= bits

    def peek(self):
        size = max(0, self.read_policy(self.delivered))
        return bytes(self.sent[self.delivered : self.delivered + size])

    @property
    def is_empty(self):
        return self.delivered == len(self.sent)


class Side:
    """One engine and what came out of it."""

    def __init__(self, name, engine=None, **config):
        config.setdefault("arena_size", ARENA)
        self.name = name
        self.engine = engine or _testing.Engine(**config)
        self.engine.write(0, bytes([FILL]) * self.engine.arena_size)
        self.completions = []
        self.events = set()
        self.inbound = Link()
        self.peer_is_closed = False

    def add_window(self, **rights):
        rights = {"remote_read": True, "remote_write": True, **rights}
        self.engine.add_region(WINDOW_STAG, WINDOW_TO, WINDOW_OFFSET, WINDOW_SIZE, **rights)

    def collect(self):
        found = self.engine.completions()
        self.completions += found
        self.events |= self.engine.events()
        return len(found)

    def memory(self):
        return self.engine.read(0, self.engine.arena_size)

    def outcome(self):
        """Completions in order, as (kind, context, status)."""
        return [
            ("receive" if c["is_receive"] else "request", c["context"], c["status"])
            for c in self.completions
        ]

    def statuses(self, *, receives):
        return [c["status"] for c in self.completions if c["is_receive"] is receives]

    def contexts(self, *, receives):
        return [c["context"] for c in self.completions if c["is_receive"] is receives]


class Pair:
    """``a`` is the initiator, ``b`` the responder; the window of each is open to the other."""

    def __init__(self, *, a=None, b=None, window=True, fin=True, **both):
        self.a = Side("a", is_initiator=True, **{**both, **(a or {})})
        self.b = Side("b", is_initiator=False, **{**both, **(b or {})})
        if window:
            self.a.add_window()
            self.b.add_window()
        self.now = 0
        self.fin = fin
        self.options = {}  # of transmit() and receive(): pieces, budget
        self.meddle = None  # called before the bytes of a gather list are taken

    def other(self, side):
        return self.b if side is self.a else self.a

    def step(self, side, *, transmit=True):
        """One step of a side; returns how much happened."""
        engine, peer = side.engine, self.other(side)
        outbound = peer.inbound
        engine.begin(self.now)
        moved = 0

        def transmit_some():
            if not transmit:
                return 0
            limit = max(0, outbound.write_policy(len(outbound.sent)))
            data = engine.transmit(limit, meddle=self.meddle, **self.options)
            outbound.push(data)
            return len(data)

        moved += transmit_some()
        data = side.inbound.peek()
        # A provider drains a dead stream.
        taken = len(data) if engine.is_over else engine.receive(data, **self.options)
        side.inbound.delivered += taken
        moved += taken + transmit_some()
        if self.fin and peer.engine.is_over and side.inbound.is_empty and not side.peer_is_closed:
            side.peer_is_closed = True
            engine.end_of_stream()
            moved += 1
        moved += side.collect()
        engine.end()
        return moved

    def settle(self, limit=200_000):
        """Step both sides until nothing moves."""
        for _ in range(limit):
            if self.step(self.a) + self.step(self.b) == 0:
                return self
        raise AssertionError("the exchange does not come to rest")

    def advance(self, delta_ns):
        self.now += delta_ns
        return self.settle()


class Solo:
    """One engine; what it writes is collected, what it reads is what the test says."""

    def __init__(self, *, is_initiator=False, window=True, crc=False, **config):
        self.side = Side("solo", is_initiator=is_initiator, crc=crc, **config)
        self.crc = crc
        if window:
            self.side.add_window()
        self.now = 0
        self.written = bytearray()

    @property
    def engine(self):
        return self.side.engine

    @property
    def completions(self):
        return self.side.completions

    @property
    def events(self):
        return self.side.events

    def step(self, *chunks, limit=None, **options):
        """Feed the chunks, collect what comes out; returns the bytes written."""
        engine = self.engine
        engine.begin(self.now)
        out = engine.transmit(limit, **options)
        self.taken = sum(engine.receive(chunk) for chunk in chunks)
        if limit is None:
            out += engine.transmit()
        self.side.collect()
        engine.end()
        self.written += out
        return out

    def advance(self, delta_ns):
        self.now += delta_ns
        return self.step()

    def fpdus(self):
        """ULPDUs written so far."""
        return [ulpdu for ulpdu, _ in reference.split_fpdus(bytes(self.written))[0]]

    def terminate(self):
        """The Terminate that the engine sent, decoded independently; None if there is none."""
        return terminate_of(self.written)


def terminate_of(stream):
    """Decode the last FPDU of a stream as a Terminate in RFC order."""
    ulpdus = [ulpdu for ulpdu, _ in reference.split_fpdus(bytes(stream))[0]]
    if not ulpdus or ulpdus[-1][1] & 0x0F != reference.TERMINATE:
        return None
    ulpdu = ulpdus[-1]
    assert ulpdu[:2] == bytes.fromhex("4147")
    assert struct.unpack(">IIII", ulpdu[2:18]) == (0, 2, 1, 0)
    body = ulpdu[18:]
    found = {
        "code": (body[0] >> 4, body[0] & 15, body[1]),
        "length": None,
        "ddp": b"",
        "read": b"",
    }
    flags, at = body[2], 4
    if flags & 0xC0:
        (found["length"],) = struct.unpack_from(">H", body, at)
        at += 2
    if flags & 0x40:
        size = 14 if body[at] & 0x80 else 18
        found["ddp"] = body[at : at + size]
        at += size
    if flags & 0x20:
        found["read"] = body[at : at + 28]
        at += 28
    assert at == len(body)
    assert body[3] == 0
    assert flags & 0x1F == 0
    return found
