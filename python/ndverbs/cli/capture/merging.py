# SPDX-License-Identifier: Apache-2.0
"""Many captures made one: the pcap files of adapters become a pcapng file, in order of time.

Each adapter is an interface of the file, named as its part was. A connection whose two ends were
both captured is in the result once, as the end that saw more of it has it.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ndverbs import _captures


class Summary(NamedTuple):
    """What a merged capture holds."""

    packets: int
    connections: int
    adapters: int


class _Seen:
    """A connection as one adapter has recorded it."""

    def __init__(self, packet: _captures.Packet) -> None:
        self.recorder = packet.source, packet.target
        self.first_ns = self.last_ns = packet.time_ns
        self.packets = 0
        self.is_dropped = False

    def is_other_end_of(self, other: _Seen) -> bool:
        # Two connections of one pair of addresses are never open at the same time.
        return (
            self.recorder == other.recorder[::-1]
            and self.first_ns <= other.last_ns
            and other.first_ns <= self.last_ns
        )


def merge(parts: list[Path], target: Path) -> Summary:
    """Write all packets of the parts to a new file; parts that were cut off end there."""
    seen = [_connections(part) for part in parts]
    _drop_twins([connection for connections in seen for connection in connections])
    written = 0
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(open(target, "xb", opener=_for_its_owner))
        out.write(_section())
        streams = []
        for number, (part, connections) in enumerate(zip(parts, seen, strict=True)):
            out.write(_interface(part.stem))
            file = stack.enter_context(open(part, "rb"))
            streams.append(_kept(file, connections, number))
        for time_ns, interface, data in heapq.merge(*streams, key=lambda row: row[0]):
            out.write(_packet(interface, time_ns, data))
            written += 1
    kept = [one for connections in seen for one in connections if not one.is_dropped]
    return Summary(written, len(kept), len(parts))


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _whole_packets(file: BinaryIO) -> Iterator[_captures.Packet]:
    """Yield the packets; one that a killed process has half written is left out."""
    with contextlib.suppress(_captures.CaptureError):
        yield from _captures.packets(file)


def _walk(
    file: BinaryIO, known: Iterator[_Seen] | None = None
) -> Iterator[tuple[_captures.Packet, _Seen]]:
    """Yield each packet with its connection: a new one, or the next that is known.

    A connection whose opening the adapter could not write begins with what it could.
    """
    current: dict[frozenset[str], _Seen] = {}
    for packet in _whole_packets(file):
        pair = frozenset((packet.source, packet.target))
        if packet.is_opening or pair not in current:
            current[pair] = next(known) if known else _Seen(packet)
        yield packet, current[pair]


def _connections(part: Path) -> list[_Seen]:
    found: list[_Seen] = []
    with open(part, "rb") as file:
        for packet, connection in _walk(file):
            if connection.packets == 0:
                found.append(connection)
            connection.last_ns = max(connection.last_ns, packet.time_ns)
            connection.packets += 1
    return found


def _drop_twins(connections: list[_Seen]) -> None:
    by_recorder: dict[tuple[str, str], list[_Seen]] = {}
    for connection in sorted(connections, key=lambda one: -one.packets):
        others = by_recorder.get(connection.recorder[::-1], [])
        twin = next((one for one in others if connection.is_other_end_of(one)), None)
        if twin:
            others.remove(twin)
            connection.is_dropped = True
        else:
            by_recorder.setdefault(connection.recorder, []).append(connection)


def _kept(
    file: BinaryIO, connections: list[_Seen], interface: int
) -> Iterator[tuple[int, int, bytes]]:
    for packet, connection in _walk(file, iter(connections)):
        if not connection.is_dropped:
            yield packet.time_ns, interface, packet.data


# ---- pcapng: blocks of type, length, body padded to four bytes, and the length again ------------


def _block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _section() -> bytes:
    # Version 1.0, of unknown length; option 4: the program.
    body = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + _option(4, b"ndverbs") + _option(0, b"")
    return _block(0x0A0D0D0A, body)


def _interface(name: str) -> bytes:
    # No limit to packets; option 2: the name. Times are in microseconds where none says otherwise.
    body = struct.pack("<HHI", _captures.LINK_RAW, 0, 0) + _option(2, name.encode())
    return _block(1, body + _option(0, b""))


def _packet(interface: int, time_ns: int, data: bytes) -> bytes:
    high, low = divmod(time_ns // 1000, 1 << 32)
    return _block(6, struct.pack("<IIIII", interface, high, low, len(data), len(data)) + data)
