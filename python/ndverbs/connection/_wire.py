# SPDX-License-Identifier: Apache-2.0
"""The bytes of a Connection: SMB Direct's messages, and what ndverbs has inside their payload.

Sans-IO: structs, their limits, and the checks of what a peer sent. Little-endian throughout.
Source of the outer layer: [MS-SMBD] sections 2.2 and 3.1; the table of the inner one is in
docs/wire/connection.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ndverbs._native import Status
from ndverbs.errors import RdmaError, error

if TYPE_CHECKING:
    from collections.abc import Sequence

# ---- the outer layer: SMB Direct 1.0

SMBD_VERSION: Final = 0x0100
STATUS_NOT_SUPPORTED: Final = 0xC00000BB
NEGOTIATE_REQUEST: Final = struct.Struct("<HHHHIII")
NEGOTIATE_RESPONSE: Final = struct.Struct("<HHHHHHIIIII")
# Credits wanted and given, flags, zero, what is still to come, offset and length of the payload.
TRANSFER: Final = struct.Struct("<HHHHIII")
RESPONSE_REQUESTED: Final = 0x0001
PAYLOAD_AT: Final = 24
LEAST_RECEIVE_SIZE: Final = 128
LEAST_FRAGMENTED_SIZE: Final = 131072
MAX_READ_WRITE_SIZE: Final = 0x7FFFFFFF  # what is read and written is bounded by each side's memory

# ---- what this side offers

RECEIVE_SIZE: Final = 4096
CREDITS: Final = 16
FRAGMENTED_SIZE: Final = 512 << 10

# ---- the inner layer

MAGIC: Final = b"NDVC"
VERSION: Final = 1
HELLO, MESSAGE, TAKEN, WINDOW, GOODBYE = range(1, 6)
# Magic, version, kind, parts; number of a message; bytes that its sender has room for.
HEAD: Final = struct.Struct("<4sBBHIIQ")
# The sender's room is put in when the message leaves.
ROOM: Final = struct.Struct("<Q")
ROOM_AT: Final = HEAD.size - ROOM.size
# Bytes of a part, what it is, whether it is lent, length of its description, its descriptors.
PART: Final = struct.Struct("<QBBHI")
# All three, of the message that is sent most: bytes that fit one frame.
SMALL: Final = struct.Struct("<HHHHIII4x4sBBHIIQQBBHI")
# Where lent memory is: SMB Direct's Buffer Descriptor V1.
DESCRIPTOR: Final = struct.Struct("<QII")
MOST_IN_DESCRIPTOR: Final = 1 << 30
BYTES, BUFFER, ARRAY, REMOTE, REMOTES = range(5)
IS_LIST: Final = 1  # the message is a sequence of parts, also of one
MOST_PARTS: Final = 0xFFFF
# What a message counts against the window, beside its payload: what its bookkeeping takes.
OVERHEAD: Final = 256
WINDOW_SIZE: Final = 1 << 20
assert FRAGMENTED_SIZE + OVERHEAD <= WINDOW_SIZE


class WireError(Exception):
    """The peer broke the protocol; the text says how."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the peer takes: of one Send, and of a message in fragments."""

    send_size: int
    fragmented_size: int


def negotiate_request() -> bytes:
    """Return what the active side says first."""
    return NEGOTIATE_REQUEST.pack(
        SMBD_VERSION, SMBD_VERSION, 0, CREDITS, RECEIVE_SIZE, RECEIVE_SIZE, FRAGMENTED_SIZE
    )


def read_negotiate_request(data: bytes | memoryview) -> tuple[int, Limits | None]:
    """Return the credits that the peer asks for, and its limits: None without a common version.

    Raises
    ------
    WireError
        It is no valid request.
    """
    if len(data) != NEGOTIATE_REQUEST.size:
        raise WireError(
            f"its first message has {len(data)} bytes, a Negotiate Request has "
            f"{NEGOTIATE_REQUEST.size}"
        )
    low, high, zero, credits, _, receive, fragmented = NEGOTIATE_REQUEST.unpack(data)
    if low > high or zero:
        raise WireError("its Negotiate Request is malformed")
    _check_sizes("Request", credits, receive, fragmented)
    if not low <= SMBD_VERSION <= high:
        return credits, None
    return credits, Limits(min(receive, RECEIVE_SIZE), fragmented)


def negotiate_response(limits: Limits | None, granted: int) -> bytes:
    """Return the passive side's answer; None refuses, for want of a common version."""
    return NEGOTIATE_RESPONSE.pack(
        SMBD_VERSION,
        SMBD_VERSION,
        SMBD_VERSION,
        0,
        CREDITS,
        granted,
        0 if limits else STATUS_NOT_SUPPORTED,
        MAX_READ_WRITE_SIZE,
        limits.send_size if limits else RECEIVE_SIZE,
        RECEIVE_SIZE,
        FRAGMENTED_SIZE,
    )


def read_negotiate_response(data: bytes | memoryview) -> tuple[int, int, Limits]:
    """Return the credits that the peer asks for, those that it grants, and its limits.

    Raises
    ------
    WireError
        It is no valid response, or refuses.
    """
    if len(data) != NEGOTIATE_RESPONSE.size:
        raise WireError(
            f"its first message has {len(data)} bytes, a Negotiate Response has "
            f"{NEGOTIATE_RESPONSE.size}"
        )
    low, high, version, zero, asked, granted, status, _, _, receive, fragmented = (
        NEGOTIATE_RESPONSE.unpack(data)
    )
    if status:
        raise WireError(
            f"it refuses SMB Direct {SMBD_VERSION >> 8}.{SMBD_VERSION & 255} with status "
            f"{status:#010x} and speaks {low >> 8}.{low & 255} to {high >> 8}.{high & 255}"
        )
    if version != SMBD_VERSION or zero or not granted:
        raise WireError("its Negotiate Response is malformed")
    _check_sizes("Response", asked, receive, fragmented)
    return asked, granted, Limits(min(receive, RECEIVE_SIZE), fragmented)


def _check_sizes(what: str, credits: int, receive: int, fragmented: int) -> None:
    if not credits or receive < LEAST_RECEIVE_SIZE or fragmented < LEAST_FRAGMENTED_SIZE:
        raise WireError(
            f"its Negotiate {what} asks for {credits} credits, takes {receive} bytes at once and "
            f"{fragmented} in fragments; at least 1, {LEAST_RECEIVE_SIZE} and "
            f"{LEAST_FRAGMENTED_SIZE} are allowed"
        )


def transfer(credits: int, granted: int, flags: int, remaining: int, length: int) -> bytes:
    """Return the header of a Data Transfer, with its padding where payload follows."""
    if not length:
        return TRANSFER.pack(credits, granted, flags, 0, remaining, 0, 0)
    return TRANSFER.pack(credits, granted, flags, 0, remaining, PAYLOAD_AT, length) + b"\0\0\0\0"


def read_transfer(data: memoryview) -> tuple[int, int, int, memoryview]:
    """Return credits granted, flags, what is still to come, and the payload.

    Raises
    ------
    WireError
        It is no valid Data Transfer.
    """
    if len(data) < TRANSFER.size:
        raise WireError(f"a Data Transfer has {TRANSFER.size} bytes at least, not {len(data)}")
    credits, granted, flags, zero, remaining, at, length = TRANSFER.unpack_from(data)
    if not credits or zero or flags & ~RESPONSE_REQUESTED:
        raise WireError("a Data Transfer asks for no credits, or has reserved bits")
    if not length:
        if remaining or at:
            raise WireError("a Data Transfer without payload announces some")
        return granted, flags, 0, data[:0]
    if at < PAYLOAD_AT or at % 8 or at + length > len(data):
        raise WireError(f"a Data Transfer of {len(data)} bytes announces {length} at offset {at}")
    return granted, flags, remaining, data[at : at + length]


# ---- the inner layer


@dataclass(slots=True)
class Part:
    """One buffer of a message, as its head describes it."""

    nbytes: int
    kind: int
    description: bytes = b""
    lent: list[tuple[int, int, int]] = field(default_factory=list)  # address, token, length
    carried: memoryview | bytes | None = None


@dataclass(slots=True)
class Message:
    """A whole message of the peer, whose lent parts have not been read yet."""

    kind: int
    number: int = 0
    room: int = 0
    is_list: bool = False
    parts: list[Part] = field(default_factory=list)
    cost: int = 0
    version: tuple[int, int] = (0, 0)
    is_short: bool = False  # one part that came in one frame, which is the program's as it is
    is_taken: bool = False
    is_broken: bool = False  # its value is none


def hello(lowest: int = VERSION, highest: int = VERSION) -> bytearray:
    """Return the first message of either side: the versions of this layer that it speaks."""
    return bytearray(HEAD.pack(MAGIC, lowest, HELLO, highest, 0, 0, 0))


def control(kind: int, number: int = 0) -> bytearray:
    """Return a message that has no parts."""
    return bytearray(HEAD.pack(MAGIC, VERSION, kind, 0, number, 0, 0))


def message(number: int, is_list: bool, parts: Sequence[Part]) -> bytearray:
    """Return a message; the carried bytes of its parts follow their descriptions."""
    pieces: list[bytes | memoryview] = [
        HEAD.pack(MAGIC, VERSION, MESSAGE, len(parts), number, IS_LIST if is_list else 0, 0)
    ]
    for part in parts:
        pieces.append(
            PART.pack(
                part.nbytes, part.kind, bool(part.lent), len(part.description), len(part.lent)
            )
        )
    for part in parts:
        pieces.append(part.description)
        for address, token, length in part.lent:
            pieces.append(DESCRIPTOR.pack(address, token, length))
    pieces.extend(part.carried for part in parts if part.carried is not None)
    return bytearray().join(pieces)


def read_message(payload: memoryview) -> Message:
    """Read a whole payload.

    Raises
    ------
    WireError
        It is no message of this layer.
    """
    if len(payload) < HEAD.size:
        raise WireError(f"a message of {len(payload)} bytes has no head of {HEAD.size}")
    magic, version, kind, count, number, flags, room = HEAD.unpack_from(payload)
    if magic != MAGIC:
        raise WireError(f"a message begins with {magic!r}, not {MAGIC!r}: it is no Connection")
    if kind == HELLO:
        if version > count or len(payload) != HEAD.size:
            raise WireError("its hello is malformed")
        return Message(HELLO, version=(version, count), room=room)
    if version != VERSION:
        raise WireError(f"a message has version {version}, agreed was {VERSION}")
    if kind in (TAKEN, WINDOW, GOODBYE):
        if count or flags or len(payload) != HEAD.size:
            raise WireError(f"a message of kind {kind} has a body")
        return Message(kind, number, room)
    if kind != MESSAGE or flags & ~IS_LIST:
        raise WireError(f"kind {kind} with flags {flags:#x} is not known")
    found = Message(MESSAGE, number, room, bool(flags), cost=len(payload) + OVERHEAD)
    _read_parts(payload, count, found)
    return found


def _read_parts(payload: memoryview, count: int, found: Message) -> None:
    at = HEAD.size + count * PART.size
    if (not found.is_list and count != 1) or at > len(payload):
        raise WireError(f"a message of {len(payload)} bytes announces {count} parts")
    heads = [PART.unpack_from(payload, HEAD.size + i * PART.size) for i in range(count)]
    for nbytes, kind, is_lent, described, descriptors in heads:
        part = Part(nbytes, kind)
        if kind > REMOTES or is_lent > 1 or is_lent != (descriptors > 0):
            raise WireError(f"a part has kind {kind}, lent {is_lent} in {descriptors} pieces")
        if (kind == ARRAY) != (described > 0) or (kind in (REMOTE, REMOTES) and is_lent):
            raise WireError(f"a part of kind {kind} has a description of {described} bytes")
        end = at + described + descriptors * DESCRIPTOR.size
        if end > len(payload):
            raise WireError("the descriptions of a message go beyond its end")
        part.description = bytes(payload[at : at + described])
        part.lent = [
            DESCRIPTOR.unpack_from(payload, at + described + i * DESCRIPTOR.size)
            for i in range(descriptors)
        ]
        lengths = [length for _, _, length in part.lent]
        if is_lent and (
            sum(lengths) != nbytes or min(lengths) < 1 or max(lengths) > MOST_IN_DESCRIPTOR
        ):
            raise WireError(f"the pieces of a lent part are not its {nbytes} bytes")
        found.parts.append(part)
        at = end
    for part in found.parts:
        if not part.lent:
            if at + part.nbytes > len(payload):
                raise WireError("the parts of a message go beyond its end")
            part.carried = payload[at : at + part.nbytes]
            at += part.nbytes
    if at != len(payload):
        raise WireError(f"a message has {len(payload) - at} bytes behind its last part")


def read_small(frame: memoryview) -> tuple[int, Message] | None:
    """Return the credits and the message of a frame that is one whole part; None: it is not.

    What it does not take, `read_transfer` and `read_message` take or refuse.
    """
    if len(frame) < SMALL.size:
        return None
    (
        *transfer,
        magic,
        version,
        kind,
        count,
        number,
        is_list,
        room,
        nbytes,
        part_kind,
        lent,
        described,
        pieces,
    ) = SMALL.unpack_from(frame)
    wanted, granted, flags, zero, remaining, at, length = transfer
    if (
        (magic, version, kind, count) != (MAGIC, VERSION, MESSAGE, 1)
        or (flags or zero or remaining or is_list or lent or described or pieces)
        or not wanted
        or at != PAYLOAD_AT
        or part_kind > BUFFER
        or not length + PAYLOAD_AT == len(frame) == nbytes + SMALL.size
    ):
        return None
    data = frame[SMALL.size :]
    carried = data.tobytes() if part_kind == BYTES else memoryview(bytearray(data))
    part = Part(nbytes, part_kind, carried=carried)
    cost = length + OVERHEAD
    return granted, Message(MESSAGE, number, room, parts=[part], cost=cost, is_short=True)


def version_error(theirs: tuple[int, int]) -> RdmaError | None:
    """Return why two versions cannot talk, in one sentence that names both."""
    lowest, highest = theirs
    if lowest <= VERSION <= highest:
        return None
    speaks = f"{lowest}" if lowest == highest else f"{lowest} to {highest}"
    return error(
        Status.NOT_SUPPORTED,
        f"this ndverbs speaks version {VERSION} of a Connection, the peer's speaks {speaks}",
        hint="install the same version of ndverbs at both ends",
    )
