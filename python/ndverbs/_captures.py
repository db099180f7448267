# SPDX-License-Identifier: Apache-2.0
"""Captures read back: the packets of a pcap or pcapng file, and the frames of their streams.

Reads what the soft provider and `ndverbs capture` write: raw IP packets, each direction of a
connection in order and without gaps. A capture of a network, whose TCP may do anything, is one for
packet dissectors.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ndverbs import _frames

LINK_RAW = 101  # packets begin with their IP header
FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
# No writer has larger records; a length beyond it is damage.
_MAX_RECORD = 1 << 24
_PCAP = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_SECTION = b"\x0a\x0d\x0d\x0a"
_INTERFACE, _PACKET = 1, 6  # pcapng's blocks
_IF_TSRESOL = 9
_IPV4_HEADER, _IPV6_HEADER, _TCP_HEADER = 20, 40, 20


class CaptureError(Exception):
    """A file that is no capture, is damaged, or ends too early: what is said of it."""


class Packet(NamedTuple):
    """One TCP segment; `data` is all of it, from the IP header on."""

    time_ns: int
    source: str
    target: str
    sequence: int
    flags: int
    payload: bytes
    data: bytes

    @property
    def is_opening(self) -> bool:
        """Whether it is the first packet of a connection, whose source recorded it."""
        return self.flags & (SYN | ACK) == SYN


class Frame(NamedTuple):
    """One frame of a stream."""

    time_ns: int
    source: str
    target: str
    fields: _frames.Fields


def packets(file: BinaryIO) -> Iterator[Packet]:
    """Read a capture to its end.

    Raises
    ------
    CaptureError
        Where it is no capture, or ends in the middle of a packet, behind what is whole.
    """
    magic = file.read(4)
    if magic == _SECTION:
        records = _pcapng(file)
    elif magic in _PCAP:
        records = _pcap(file, *_PCAP[magic])
    else:
        raise CaptureError(
            "is no capture: neither pcap nor pcapng begins so" if magic else "is empty"
        )
    for number, (link, time_ns, data) in enumerate(records, 1):
        if link != LINK_RAW:
            raise CaptureError(
                f"has packets of link type {link}, which ndverbs does not write; Wireshark reads it"
            )
        yield _segment(number, time_ns, data)


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise CaptureError("ends in the middle of a packet: it was cut off")
    return data


def _pcap(file: BinaryIO, order: str, unit_ns: int) -> Iterator[tuple[int, int, bytes]]:
    (link,) = struct.unpack(order + "16xI", _exactly(file, 20))
    record = struct.Struct(order + "IIII")
    while head := file.read(record.size):
        if len(head) < record.size:
            head += _exactly(file, record.size - len(head))
        seconds, parts, size, _ = record.unpack(head)
        if size > _MAX_RECORD:
            raise CaptureError(f"is damaged: a packet of {size} bytes")
        yield link & 0xFFFF, seconds * 10**9 + parts * unit_ns, _exactly(file, size)


def _pcapng(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    order = "<"
    kind = _SECTION
    interfaces: list[tuple[int, int]] = []  # link type, units of time in a second
    while kind:
        length = _exactly(file, 4)
        if kind == _SECTION:
            mark = _exactly(file, 4)
            order = "<" if mark == b"\x4d\x3c\x2b\x1a" else ">"
            interfaces = []
        (size,) = struct.unpack(order + "I", length)
        rest = size - 8 - 4 * (kind == _SECTION)
        if not 4 <= rest <= _MAX_RECORD:
            raise CaptureError(f"is damaged: a block of {size} bytes")
        body = _exactly(file, rest)[:-4]
        (number,) = struct.unpack(order + "I", kind)
        try:
            if number == _INTERFACE:
                interfaces.append(_interface(order, body))
            elif number == _PACKET:
                at, high, low, captured = struct.unpack_from(order + "IIII", body)
                link, unit = interfaces[at]
                yield link, (high << 32 | low) * 10**9 // unit, body[20 : 20 + captured]
        except (struct.error, IndexError):
            raise CaptureError("is damaged: a block that is shorter than it says") from None
        kind = file.read(4)
        if 0 < len(kind) < 4:
            raise CaptureError("ends in the middle of a packet: it was cut off")


def _interface(order: str, body: bytes) -> tuple[int, int]:
    (link,) = struct.unpack_from(order + "H", body)
    unit, at = 10**6, 8
    while at + 4 <= len(body):
        code, size = struct.unpack_from(order + "HH", body, at)
        if code == _IF_TSRESOL and size == 1:
            exponent = body[at + 4]
            unit = 1 << (exponent & 127) if exponent & 128 else 10**exponent
        at += 4 + size + -size % 4
    return link, unit


def _segment(number: int, time_ns: int, data: bytes) -> Packet:
    version = data[0] >> 4 if data else 0
    ip = {4: _IPV4_HEADER, 6: _IPV6_HEADER}.get(version, 0)
    protocol = data[9 if version == 4 else 6] if len(data) > _IPV4_HEADER else 0
    if not ip or protocol != socket.IPPROTO_TCP or len(data) < ip + _TCP_HEADER:
        raise CaptureError(
            f"has no whole TCP segment in packet {number}, so it is another program's"
        )
    family, size, at = (socket.AF_INET, 4, 12) if version == 4 else (socket.AF_INET6, 16, 8)
    ports = struct.unpack_from(">HH", data, ip)
    form = "{}:{}" if version == 4 else "[{}]:{}"
    source, target = (
        form.format(socket.inet_ntop(family, data[at + side * size :][:size]), ports[side])
        for side in (0, 1)
    )
    sequence, offset, flags = struct.unpack_from(">I4xBB", data, ip + 4)
    payload = data[ip + (offset >> 4) * 4 :]
    return Packet(time_ns, source, target, sequence, flags, payload, data)


class _Side:
    """One direction of a connection."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.held = b""  # the beginning of a frame
        self.is_foreign = False
        self.frames = 0

    def take(self, payload: bytes) -> Iterator[_frames.Fields]:
        self.held += payload
        self.sequence += len(payload)
        while self.held:
            if self.frames == 0 and not self.is_foreign:
                size = _frames.start_up_size(self.held)
                self.is_foreign = size == 0
            if self.is_foreign:
                yield {"opcode": "no MPA", "length": len(self.held)}
                self.held = b""
                return
            if self.frames:
                size = _frames.fpdu_size(self.held)
            if size is None or size > len(self.held):
                return
            frame, self.held = self.held[:size], self.held[size:]
            self.frames += 1
            if self.frames == 1:
                yield _frames.start_up(frame)
            else:
                yield _frames.fpdu(frame, is_first=self.frames == 2)

    def end(self) -> Iterator[_frames.Fields]:
        if self.held:
            yield {"opcode": "incomplete frame", "length": len(self.held)}
            self.held = b""


def frames(file: BinaryIO) -> Iterator[Frame]:
    """Read a capture to its end, frame by frame.

    Raises
    ------
    CaptureError
        As `packets`, and where bytes of a stream are missing.
    """
    sides: dict[tuple[str, str], _Side] = {}
    time_ns = 0
    for packet in packets(file):
        time_ns, ways = packet.time_ns, (packet.source, packet.target)
        if packet.flags & SYN:
            # Of ports that serve again; the stream before it may have had no end.
            before = sides.pop(ways, None)
            for fields in before.end() if before else ():
                yield Frame(time_ns, *ways, fields)
            sides[ways] = _Side(packet.sequence + 1)
            continue
        side = sides.get(ways)
        if side is None or (packet.sequence - side.sequence) & 0xFFFFFFFF:
            raise CaptureError(
                f"lacks bytes that {packet.source} sent, so it is no whole capture of ndverbs; "
                "Wireshark reads others"
            )
        for fields in side.take(packet.payload):
            yield Frame(time_ns, *ways, fields)
        if packet.flags & (FIN | RST):
            for fields in side.end():
                yield Frame(time_ns, *ways, fields)
            side.sequence += 1
    for ways, side in sides.items():
        for fields in side.end():
            yield Frame(time_ns, *ways, fields)


def line(frame: Frame) -> str:
    """Return a frame in one line; its time is of this machine's zone."""
    seconds, rest_ns = divmod(frame.time_ns, 10**9)
    clock = time.strftime("%H:%M:%S", time.localtime(seconds))
    said = _frames.text(frame.fields)
    return f"{clock}.{rest_ns // 1000:06} {frame.source} > {frame.target} {said}"
