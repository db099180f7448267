# SPDX-License-Identifier: Apache-2.0
"""The control messages of a file copy: what they hold, and how they travel.

One message is one RDMA Send of at most ``MAX_MESSAGE`` bytes, in network byte order: a header of
eight bytes (magic ``NDCP``, version, kind, two zero bytes), then the fields of its kind. The peer
is a stranger: `decode` returns a message whose every field was checked, or raises `CopyError`.
Header and `Failure` keep their form in every version, so that ends of different versions can say
so to each other.

A connection carries one request of the client after the other, each answered before the next. Two
of them move a file, from a sender to a receiver: `Store` makes the client the sender, `Fetch` the
server. The exchange (sender S, receiver R)::

    S → R  Store             of a client that sends: name and size
    R → S  Fetch             of a client that receives: the name; answered by Found, the size
    R → S  Have              so many bytes are here already; left out when there are none
    S → R  Check ...         the CRC32C of the file up to the end of a step of them ...
    R → S  Keep ...          ... and how many bytes are kept: all of these, or those before
    R → S  Window ...        staging memory for a piece of the file, in file order; a few at a time
           S writes the file's bytes into the windows by RDMA
    S → R  Wrote ...         one for each window, after its last write; carries the CRC32C so far
    S → R  Commit            all of it was sent, and the source did not change meanwhile
    R → S  Done              all of it arrived; of a server: the file stands under its name
    either → Failure         instead of any of these; ends the connection

`MakeDirectory` is answered by `Done`; `List` by `Entries`, and `More` by the next ones.

It owns no connection and no file.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Self, get_args

VERSION = 2
MAX_NAME = 4095  # bytes; Linux's PATH_MAX without the terminating NUL
MAX_TEXT = 1024  # bytes of UTF-8 in a Failure
MAX_MESSAGE = 4160  # the longest Store and a little room
MAX_SIZE = 2**63 - 1  # bytes; Linux's off_t
MAX_WINDOW = 2**30  # bytes; far above what a receiver of ours offers
MAX_ENTRY_NAME = 255  # bytes; Linux's NAME_MAX
STEP = 16 << 20  # bytes of what is there already that one `Check` covers, or what is left of them

Progress = Callable[[int], None]  # called with the number of bytes that are done

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
    NOT_ALLOWED = 15


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
    RESUME = 8  # go on with what an earlier copy left, and leave what has arrived when it fails


_ALL_FLAGS = Flags.FORCE | Flags.SYNC | Flags.VERIFY | Flags.RESUME


class _Integers:
    """A message of integers only: its fields, in the order of `_FIXED`."""

    __slots__ = ()
    __match_args__: ClassVar[tuple[str, ...]]  # the names of the fields, which dataclass adds
    _FIXED: ClassVar[struct.Struct]

    def body(self) -> bytes:
        """Return the fields."""
        return self._FIXED.pack(*(getattr(self, name) for name in self.__match_args__))

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read and check what `body` returned."""
        message = cls(*cls._FIXED.unpack(body))
        message.check()
        return message

    def check(self) -> None:
        """Raise CopyError when the fields have impossible values."""


@dataclass(frozen=True, slots=True)
class Store:
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
class _Named:
    """A request about a name below the served directory; `.` is the directory itself."""

    _FIXED: ClassVar[struct.Struct] = struct.Struct("!H")

    name: bytes

    def body(self) -> bytes:
        """Return the fields."""
        return self._FIXED.pack(len(self.name)) + self.name

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read and check what `body` returned."""
        (length,) = cls._FIXED.unpack_from(body)
        name = body[cls._FIXED.size :]
        if len(name) != length:
            raise malformed(f"a name of {length} bytes comes with {len(name)}")
        return cls(name)


@dataclass(frozen=True, slots=True)
class Fetch(_Named):
    """C → S: send the file of that name."""

    KIND: ClassVar[int] = 7


@dataclass(frozen=True, slots=True)
class Found(_Integers):
    """S → C: the file is open; it has so many bytes."""

    KIND: ClassVar[int] = 8
    _FIXED: ClassVar[struct.Struct] = struct.Struct("!Q")

    size: int

    def check(self) -> None:
        """Raise CopyError for a size that no file has."""
        if self.size > MAX_SIZE:
            raise malformed(f"a file of {self.size} bytes cannot exist")


@dataclass(frozen=True, slots=True)
class MakeDirectory(_Named):
    """C → S: make the directory of that name, unless it exists."""

    KIND: ClassVar[int] = 9


@dataclass(frozen=True, slots=True)
class List(_Named):
    """C → S: name the entries of a directory; of a file, the one entry has no name."""

    KIND: ClassVar[int] = 10


class EntryKind(enum.IntEnum):
    """What an entry of a directory is."""

    FILE = 0
    DIRECTORY = 1
    OTHER = 2  # a symbolic link, a device, a socket: what is not copied


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory; `size` is a file's, in bytes."""

    name: bytes
    kind: EntryKind
    size: int

    @property
    def length(self) -> int:
        """Bytes of it in a message."""
        return 10 + len(self.name)


@dataclass(frozen=True, slots=True)
class Entries:
    """S → C: some entries, in any order; `More` asks for those that are left, if there are any."""

    KIND: ClassVar[int] = 11
    _FIXED: ClassVar[struct.Struct] = struct.Struct("!BH")
    _ENTRY: ClassVar[struct.Struct] = struct.Struct("!BQB")
    FULL: ClassVar[int] = MAX_MESSAGE - 11 - 10 - MAX_ENTRY_NAME  # bytes; more may not fit

    entries: tuple[Entry, ...]
    is_last: bool

    def body(self) -> bytes:
        """Return the fields."""
        parts = [self._FIXED.pack(self.is_last, len(self.entries))]
        for entry in self.entries:
            parts += self._ENTRY.pack(entry.kind, entry.size, len(entry.name)), entry.name
        return b"".join(parts)

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read and check what `body` returned."""
        is_last, count = cls._FIXED.unpack_from(body)
        position = cls._FIXED.size
        entries = []
        for _ in range(count):
            kind, size, length = cls._ENTRY.unpack_from(body, position)
            position += cls._ENTRY.size + length
            name = body[position - length : position]
            if kind > max(EntryKind) or size > MAX_SIZE:
                raise malformed(f"an entry of kind {kind} with {size} bytes")
            entries.append(Entry(name, EntryKind(kind), size))
        if position != len(body) or is_last > 1:
            raise malformed(f"{count} entries in {len(body)} bytes")
        return cls(tuple(entries), bool(is_last))


@dataclass(frozen=True, slots=True)
class More(_Integers):
    """C → S: name the next entries."""

    KIND: ClassVar[int] = 12
    _FIXED: ClassVar[struct.Struct] = struct.Struct("!")


@dataclass(frozen=True, slots=True)
class Window(_Integers):
    """R → S: `length` bytes of the file from `offset` on can be written at `address`."""

    KIND: ClassVar[int] = 2
    _FIXED: ClassVar[struct.Struct] = struct.Struct("!QQQI")

    offset: int
    length: int
    address: int
    token: int

    def check(self) -> None:
        """Raise CopyError for what no window can be."""
        if not 0 < self.length <= MAX_WINDOW:
            raise malformed(f"a window of {self.length} bytes")
        if self.offset + self.length > MAX_SIZE or self.address + self.length > 2**64:
            raise malformed("a window beyond all addresses")


@dataclass(frozen=True, slots=True)
class Wrote(_Integers):
    """S → R: the window at `offset` is full; `crc` is of the file up to its end."""

    KIND: ClassVar[int] = 3
    _FIXED: ClassVar[struct.Struct] = struct.Struct("!QQI")

    offset: int
    length: int
    crc: int


@dataclass(frozen=True, slots=True)
class _Total(_Integers):
    """A number of bytes from the start of the file, and their CRC32C."""

    _FIXED: ClassVar[struct.Struct] = struct.Struct("!QI")

    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class Commit(_Total):
    """S → R: every byte was written; give the file its name."""

    KIND: ClassVar[int] = 4


@dataclass(frozen=True, slots=True)
class Done(_Total):
    """R → S: it is whole; `crc` is of the bytes that were written to the file."""

    KIND: ClassVar[int] = 5


@dataclass(frozen=True, slots=True)
class _Count(_Integers):
    """A number of bytes from the start of the file."""

    _FIXED: ClassVar[struct.Struct] = struct.Struct("!Q")

    length: int


@dataclass(frozen=True, slots=True)
class Have(_Count):
    """R → S: `length` bytes are here already, whatever they are."""

    KIND: ClassVar[int] = 13


@dataclass(frozen=True, slots=True)
class Check(_Total):
    """S → R: the first `size` bytes have the CRC32C `crc`."""

    KIND: ClassVar[int] = 14


@dataclass(frozen=True, slots=True)
class Keep(_Count):
    """R → S: the file goes on behind `length` bytes."""

    KIND: ClassVar[int] = 15


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


Message = (
    Store
    | Fetch
    | Found
    | MakeDirectory
    | List
    | Entries
    | More
    | Have
    | Check
    | Keep
    | Window
    | Wrote
    | Commit
    | Done
    | Failure
)

_KINDS: dict[int, type[Message]] = {kind.KIND: kind for kind in get_args(Message)}


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
