# SPDX-License-Identifier: Apache-2.0
"""The control messages of a file copy: what they hold, and how they travel.

One message is one RDMA Send of at most ``MAX_MESSAGE`` bytes, in network byte order: a header of
eight bytes (magic ``NDCP``, version, kind, two zero bytes), then the fields of its kind. The peer
is a stranger: `decode` returns a message whose every field was checked, or raises `CopyError`.
Header and `Failure` keep their form in every version, so that ends of different versions can say
so to each other.

The exchange (client C, server S)::

    C → S  Request           name, size
    S → C  Window ...        staging memory for a piece of the file, in file order; a few at a time
           C writes the file's bytes into the windows by RDMA
    C → S  Wrote ...         one for each window, after its last write; carries the CRC32C so far
    C → S  Commit            all of it was sent, and the source did not change meanwhile
    S → C  Done              the file stands under its name
    either → Failure         instead of any of these; ends the copy

It owns no connection and no file.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from typing import ClassVar, Self

VERSION = 2
MAX_NAME = 4095  # bytes; Linux's PATH_MAX without the terminating NUL
MAX_TEXT = 1024  # bytes of UTF-8 in a Failure
MAX_MESSAGE = 4160  # the longest Request and a little room
MAX_SIZE = 2**63 - 1  # bytes; Linux's off_t
MAX_WINDOW = 2**30  # bytes; far above what a server of ours offers

_MAGIC = b"NDCP"
_HEADER = struct.Struct("!4sBBH")


class Reason(enum.IntEnum):
    """Why a copy failed, as far as the other end must know to advise its user."""

    PROTOCOL = 1
    BAD_NAME = 2
    NO_DIRECTORY = 3
    NOT_A_FILE = 4
    TARGET_EXISTS = 5
    DISK_FULL = 6
    NO_PERMISSION = 7
    INPUT_OUTPUT = 8
    CHECKSUM = 9
    TIMED_OUT = 10
    BUSY = 11
    STOPPING = 12
    SOURCE = 13
    CONNECTION = 14


class CopyError(Exception):
    """A copy that failed for a known reason, in one clause without a full stop."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text


def malformed(text: str) -> CopyError:
    """Return the error for a message that breaks the protocol."""
    return CopyError(Reason.PROTOCOL, text)


class Flags(enum.IntFlag):
    """What the client asks for beside the copy."""

    NONE = 0
    FORCE = 1  # replace a regular file of that name
    SYNC = 2  # have file and directory on the disk before the answer
    VERIFY = 4  # read the file back from the disk before the answer


_ALL_FLAGS = Flags.FORCE | Flags.SYNC | Flags.VERIFY


@dataclass(frozen=True, slots=True)
class Request:
    """C → S: store `size` bytes under `name`, relative to the served directory."""

    KIND: ClassVar[int] = 1
    _FIXED: ClassVar[struct.Struct] = struct.Struct("!IQH")

    name: bytes
    size: int
    flags: Flags = Flags.NONE

    def body(self) -> bytes:
        """Return the fields."""
        return self._FIXED.pack(self.flags, self.size, len(self.name)) + self.name

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read and check what `body` returned."""
        flags, size, length = cls._FIXED.unpack_from(body)
        name = body[cls._FIXED.size :]
        if len(name) != length:
            raise malformed(f"a name of {length} bytes comes with {len(name)}")
        if flags & ~int(_ALL_FLAGS):
            raise malformed(f"unknown flags 0x{flags:x}")
        if size > MAX_SIZE:
            raise malformed(f"a file of {size} bytes cannot exist")
        return cls(name, size, Flags(flags))


@dataclass(frozen=True, slots=True)
class Window:
    """S → C: `length` bytes of the file from `offset` on can be written at `address`."""

    KIND: ClassVar[int] = 2
    _FIXED: ClassVar[struct.Struct] = struct.Struct("!QQQI")

    offset: int
    length: int
    address: int
    token: int

    def body(self) -> bytes:
        """Return the fields."""
        return self._FIXED.pack(self.offset, self.length, self.address, self.token)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read and check what `body` returned."""
        window = cls(*_exactly(cls._FIXED, body))
        if not 0 < window.length <= MAX_WINDOW:
            raise malformed(f"a window of {window.length} bytes")
        if window.offset + window.length > MAX_SIZE or window.address + window.length > 2**64:
            raise malformed("a window beyond all addresses")
        return window


@dataclass(frozen=True, slots=True)
class Wrote:
    """C → S: the window at `offset` is full; `crc` is of the file up to its end."""

    KIND: ClassVar[int] = 3
    _FIXED: ClassVar[struct.Struct] = struct.Struct("!QQI")

    offset: int
    length: int
    crc: int

    def body(self) -> bytes:
        """Return the fields."""
        return self._FIXED.pack(self.offset, self.length, self.crc)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read and check what `body` returned."""
        return cls(*_exactly(cls._FIXED, body))


@dataclass(frozen=True, slots=True)
class _Total:
    """Size and CRC32C of the whole file."""

    _FIXED: ClassVar[struct.Struct] = struct.Struct("!QI")

    size: int
    crc: int

    def body(self) -> bytes:
        """Return the fields."""
        return self._FIXED.pack(self.size, self.crc)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read and check what `body` returned."""
        return cls(*_exactly(cls._FIXED, body))


@dataclass(frozen=True, slots=True)
class Commit(_Total):
    """C → S: every byte was written; give the file its name."""

    KIND: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class Done(_Total):
    """S → C: the file has its name; `crc` is of the bytes that were written to it."""

    KIND: ClassVar[int] = 5


@dataclass(frozen=True, slots=True)
class Failure:
    """Either way: the copy ends here."""

    KIND: ClassVar[int] = 6
    _FIXED: ClassVar[struct.Struct] = struct.Struct("!HH")

    reason: Reason
    text: str

    def body(self) -> bytes:
        """Return the fields."""
        data = self.text.encode(errors="replace")[:MAX_TEXT]
        return self._FIXED.pack(self.reason, len(data)) + data

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read and check what `body` returned."""
        number, length = cls._FIXED.unpack_from(body)
        data = body[cls._FIXED.size :]
        if len(data) != length or length > MAX_TEXT:
            raise malformed(f"a failure text of {length} bytes comes with {len(data)}")
        try:
            reason = Reason(number)
        except ValueError:
            raise malformed(f"unknown reason {number}") from None
        return cls(reason, printable(data.decode(errors="replace")))


Message = Request | Window | Wrote | Commit | Done | Failure

_KINDS: dict[int, type[Message]] = {
    kind.KIND: kind for kind in (Request, Window, Wrote, Commit, Done, Failure)
}


def encode(message: Message) -> bytes:
    """Return the bytes of one Send."""
    return _HEADER.pack(_MAGIC, VERSION, message.KIND, 0) + message.body()


def decode(data: bytes) -> Message:
    """Return the message in the bytes of one Send.

    Raises
    ------
    CopyError
        The bytes are not a message of this protocol and version, or a field of it is not valid.
    """
    if len(data) > MAX_MESSAGE:
        raise malformed(f"a message of {len(data)} bytes; {MAX_MESSAGE} are the most")
    if len(data) < _HEADER.size:
        raise malformed(f"a message of {len(data)} bytes is shorter than its header")
    magic, version, number, reserved = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise malformed("the other end does not speak the copy protocol")
    kind = _KINDS.get(number)
    if version != VERSION and kind is not Failure:
        raise malformed(
            f"one end speaks version {version} of the copy protocol, the other version {VERSION}"
        )
    if kind is None or reserved != 0:
        raise malformed(f"unknown message kind {number}")
    try:
        return kind.parse(data[_HEADER.size :])
    except struct.error:
        raise malformed(f"a {kind.__name__} of {len(data)} bytes has the wrong length") from None


def unexpected(message: Message) -> CopyError:
    """Return the error for a message that is none of those that may come now."""
    return malformed(f"a {type(message).__name__} where none belongs")


def printable(text: str) -> str:
    """Return `text` with everything escaped that could steer a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _exactly(fields: struct.Struct, body: bytes) -> tuple[int, ...]:
    return fields.unpack(body)
