# SPDX-License-Identifier: Apache-2.0
"""Socket options of streams: what each sets, and those that are kept without an effect.

SO_RCVBUF bounds the memory of received data that was not consumed or released, SO_SNDBUF that of
data taken over and not sent; both hold for connections that are made later, and are not doubled.
"""

from __future__ import annotations

import enum
import errno
import operator
import socket
import struct
from typing import SupportsIndex, TypeAlias

from ndverbs import _native

__all__ = ["RDMA_INLINE", "RDMA_IOMAPSIZE", "RDMA_RQSIZE", "RDMA_SQSIZE", "SOL_RDMA"]

SOL_RDMA = 0x10000  # librdmacm's level, and its options
RDMA_SQSIZE = 0
RDMA_RQSIZE = 1
RDMA_INLINE = 2
RDMA_IOMAPSIZE = 3

# How long an attempt without a timeout goes on, as long as TCP tries by default.
CONNECT_S = 127.0

_C_INT = (-(1 << 31), (1 << 31) - 1)
_SECONDS = (1, 32767)  # as Linux has it
_BUFFER = (4096, 1 << 30)
_SOCKET, _TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
# As setsockopt takes one: an integer, or packed.
Value: TypeAlias = SupportsIndex | bytes | bytearray | memoryview


class Kind(enum.Enum):
    """How the value of an option is read."""

    NUMBER = enum.auto()  # out of its range it is refused
    SIZE = enum.auto()  # bytes, taken to the end of the range that is next
    SWITCH = enum.auto()  # off or on, by any integer
    ENTRIES = enum.auto()  # a number, as near as eight bits on the wire come to it
    PAIR = enum.auto()  # two packed integers: whether to linger, and for how many seconds


class SocketOption(enum.Enum):
    """Options that a stream has.

    Attributes
    ----------
    key : (int, int)
        Level and number, as setsockopt takes them.
    kind : Kind
        How a value is read.
    least, most : int
        The range of its values.
    attribute : str or None
        Of StreamOptions, which has it then, and what it is at first.
    initial : int
        What it is at first where it has no attribute.
    """

    def __init__(
        self,
        level: int,
        number: int,
        kind: Kind,
        within: tuple[int, int],
        has: str | int,
    ) -> None:
        self.key = level, number
        self.kind = kind
        self.least, self.most = within
        self.attribute = has if isinstance(has, str) else None
        self.initial = has if isinstance(has, int) else 0

    SO_RCVBUF = _SOCKET, socket.SO_RCVBUF, Kind.SIZE, _BUFFER, "receive_buffer"
    SO_SNDBUF = _SOCKET, socket.SO_SNDBUF, Kind.SIZE, _BUFFER, "send_buffer"
    SO_KEEPALIVE = _SOCKET, socket.SO_KEEPALIVE, Kind.SWITCH, (0, 1), 0
    SO_LINGER = _SOCKET, socket.SO_LINGER, Kind.PAIR, _C_INT, 0
    TCP_KEEPIDLE = _TCP, socket.TCP_KEEPIDLE, Kind.NUMBER, _SECONDS, 7200
    SQSIZE = SOL_RDMA, RDMA_SQSIZE, Kind.NUMBER, (16, 32767), "send_queue_depth"
    RQSIZE = SOL_RDMA, RDMA_RQSIZE, Kind.NUMBER, (16, 32767), "receive_queue_depth"
    INLINE = SOL_RDMA, RDMA_INLINE, Kind.NUMBER, (16, 4096), "inline_size"
    IOMAPSIZE = SOL_RDMA, RDMA_IOMAPSIZE, Kind.ENTRIES, (0, 0x7F00), "iomap_entries"
    # Kept and given back: they mean nothing here, or what they ask for is always so.
    SO_REUSEADDR = _SOCKET, socket.SO_REUSEADDR, Kind.NUMBER, _C_INT, 0
    SO_BROADCAST = _SOCKET, socket.SO_BROADCAST, Kind.NUMBER, _C_INT, 0
    SO_OOBINLINE = _SOCKET, socket.SO_OOBINLINE, Kind.NUMBER, _C_INT, 0
    TCP_NODELAY = _TCP, socket.TCP_NODELAY, Kind.NUMBER, _C_INT, 1
    TCP_KEEPINTVL = _TCP, socket.TCP_KEEPINTVL, Kind.NUMBER, _SECONDS, 75
    TCP_KEEPCNT = _TCP, socket.TCP_KEEPCNT, Kind.NUMBER, (1, 127), 9
    TCP_QUICKACK = _TCP, socket.TCP_QUICKACK, Kind.NUMBER, _C_INT, 1
    TCP_USER_TIMEOUT = _TCP, socket.TCP_USER_TIMEOUT, Kind.NUMBER, (0, _C_INT[1]), 0

    @classmethod
    def of(cls, level: int, number: int) -> SocketOption:
        """Return the option that setsockopt means."""
        for option in cls:
            if option.key == (level, number):
                return option
        raise OSError(errno.ENOPROTOOPT, f"a stream has no option {number} of level {level}")

    def read(self, value: Value) -> int | tuple[int, int]:
        """Return what a program has given as the option takes it, or raise OSError with EINVAL."""
        if self.kind is Kind.PAIR:
            if not isinstance(value, bytes | bytearray) or len(value) != 8:
                raise OSError(errno.EINVAL, f"{self.name} takes two packed integers")
            is_on, seconds = struct.unpack("ii", value)
            return is_on, seconds
        number = _to_int(value)
        if self.kind is Kind.SWITCH:
            return int(bool(number))
        if self.kind is Kind.SIZE and number >= 0:
            return min(max(number, self.least), self.most)
        if self.kind is Kind.SIZE:
            raise OSError(errno.EINVAL, f"a buffer of {number} bytes is impossible")
        if not self.least <= number <= self.most:
            raise OSError(errno.EINVAL, f"{number} is not in {self.least} to {self.most}")
        if self.kind is Kind.ENTRIES and number > 128:
            return max(128, number & ~0xFF)
        return number


class Options:
    """The options of one socket."""

    def __init__(self) -> None:
        self.native = _native.StreamOptions()
        self._kept = {one: one.initial for one in SocketOption if one.attribute is None}
        self._linger: tuple[int, int] = (0, 0)

    def copy(self) -> Options:
        """Return the same options for an accepted connection."""
        made = Options()
        made.native = _native.StreamOptions(self.native)
        made._kept = dict(self._kept)
        made._linger = self._linger
        return made

    def set(self, level: int, name: int, value: Value) -> None:
        """Set one option."""
        option = SocketOption.of(level, name)
        given = option.read(value)
        if isinstance(given, tuple):
            self._linger = given
        elif option.attribute is not None:
            setattr(self.native, option.attribute, given)
        else:
            self._kept[option] = given
            self.native.keepalive = self._keepalive_s

    def get(self, level: int, name: int, length: int = 0) -> int | bytes:
        """Get one option, as an integer, or as `length` bytes."""
        option = SocketOption.of(level, name)
        if option.kind is Kind.PAIR:
            return struct.pack("ii", *self._linger)[:length] if length else self._linger[0]
        if option.attribute is not None:
            return packed_value(getattr(self.native, option.attribute), length)
        return packed_value(self._kept[option], length)

    def apply(self, stream: _native.Stream) -> None:
        """Give a stream the options that may still change: before it connects, all of them."""
        stream.set_options(self.native)
        stream.set_keepalive(self._keepalive_s)
        stream.set_aborts_on_close(self._linger[0] != 0 and self._linger[1] == 0)

    @property
    def _keepalive_s(self) -> float:
        is_on = self._kept[SocketOption.SO_KEEPALIVE]
        return float(self._kept[SocketOption.TCP_KEEPIDLE]) if is_on else 0.0


def packed_value(value: int, length: int) -> int | bytes:
    """Return an option's value, as `length` bytes unless that is 0."""
    return value.to_bytes(4, "little", signed=True)[:length] if length else value


def backlog_of(value: int) -> int:
    """Return how many connections may wait: at least one, and what the core can count."""
    return min(max(1, operator.index(value)), _C_INT[1])


def _to_int(value: Value) -> int:
    if isinstance(value, bytes | bytearray | memoryview):
        if len(value) < 4:
            raise OSError(errno.EINVAL, f"an option's value has 4 bytes, not {len(value)}")
        return int.from_bytes(value[:4], "little", signed=True)
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"an option's value is an integer or bytes, not {value!r}") from None
