# SPDX-License-Identifier: Apache-2.0
"""Two stream engines and the memory between them, carried by hand: no queue pair, no time."""

import struct
from collections import deque

from ndverbs import _testing

TARGETS = 0x1000  # where each end's array of descriptors lies
DATA, UPDATE, IOMAP, CONTROL = 0, 4, 6, 7
DISCONNECT, SHUTDOWN = 0, 2


def word(op, data=0):
    return op << 29 | data


def connection_data(
    *, credits=64, targets=2, data=(0x9000, 9, 4096), big_endian=False, iomap_entries=0
):
    return _testing.emit_connection_data(
        {
            "is_big_endian": big_endian,
            "knows_iomap": True,
            "credits": credits,
            "iomap_entries": iomap_entries,
            "targets": (TARGETS, 1, targets),
            "data": data,
        }
    )


class End:
    """An engine, its segments, what the application sends and gets, and the way to the peer."""

    def __init__(self, *, segment=64, segments=2, most=4, **options):
        self.engine = _testing.StreamEngine(**options)
        self.memory = {}
        self.most = most
        self.segment = segment
        for _ in range(segments):
            self.add_segment()
        self.own_data = self.engine.local_data(TARGETS, 1)
        self.outbox = bytearray()
        self.inbox = bytearray()
        self.views = []
        self.wire = deque()  # (kind, ...) on the way to the peer, in order
        self.wants_end = None
        self.failure = None

    def add_segment(self):
        index = len(self.memory)
        self.memory[index] = bytearray(self.segment)
        self.engine.add_segment(((index + 1) << 32, index, self.segment))

    def start(self, peer):
        assert self.engine.start(peer.own_data) is None

    def transmit(self):
        """Put on the wire what the engine allows."""
        if self.engine.wants_segment and len(self.memory) < self.most:
            self.add_segment()
        self._post_controls()
        while self.outbox and self.engine.sendable:
            address, key, length, sent = self.engine.take_chunk(len(self.outbox))
            self.wire.append(("write", address, key, bytes(self.outbox[:length])))
            self.wire.append(("word", sent))
            del self.outbox[:length]
        if self.wants_end and not self.outbox:
            getattr(self.engine, self.wants_end)()
            self.wants_end = None
            self._post_controls()

    def _post_controls(self):
        while control := self.engine.poll_control():
            if control["target"] is not None:
                address, key, _ = control["target"]
                self.wire.append(("write", address, key, control["bytes"]))
            if control["word"] is not None:
                self.wire.append(("word", control["word"]))

    def deliver(self, item):
        """Take one item off the peer's wire, as a provider would place it."""
        if item[0] == "word":
            self.failure = self.engine.handle_message(item[1])
            assert self.failure is None, self.failure
            return
        _, address, key, data = item
        if not data:
            return
        if key == 1 and address < 1 << 32:
            self.engine.write_targets(address - TARGETS, data)
            return
        offset = address - ((key + 1) << 32)
        assert 0 <= offset <= self.segment - len(data), "a write outside its segment"
        self.memory[key][offset : offset + len(data)] = data

    def read(self, most):
        """Copy out up to `most` bytes."""
        index, offset, length = self.engine.front()
        length = min(length, most)
        self.inbox += self.memory[index][offset : offset + length] if length else b""
        self.engine.consume(length)
        return length

    def retain(self, most):
        """Take a view of up to `most` bytes; it is checked when it is released."""
        view = self.engine.take(most)
        if view[2]:
            content = bytes(self.memory[view[0]][view[1] : view[1] + view[2]])
            self.inbox += content
            self.views.append((view, content))
        return view[2]

    def release(self, number):
        view, content = self.views.pop(number)
        index, offset, length = view
        assert bytes(self.memory[index][offset : offset + length]) == content
        self.engine.release(view)


def make_pair(near=None, far=None, **both):
    ends = End(**both, **(near or {})), End(**both, **(far or {}))
    ends[0].start(ends[1])
    ends[1].start(ends[0])
    return ends


def descriptor(address, key, length):
    return struct.pack("=QII", address, key, length)


def mapping(offset, address, key, length):
    return struct.pack("=QQII", offset, address, key, length)
