# SPDX-License-Identifier: Apache-2.0
"""Socket options of streams: what each sets, and those that are kept without an effect.

SO_RCVBUF bounds the memory of received data that was not consumed or released, SO_SNDBUF that of
data taken over and not sent; both hold for connections that are made later, and are not doubled.
"""

from __future__ import annotations

import errno
import operator
import socket
import struct
from typing import Any

from ndverbs import _native

SOL_RDMA = 0x10000  # librdmacm's level, and its options
RDMA_SQSIZE = 0
RDMA_RQSIZE = 1
RDMA_INLINE = 2
RDMA_IOMAPSIZE = 3

# How long an attempt without a timeout goes on, as long as TCP tries by default.
CONNECT_S = 127.0

_SMALLEST_BUFFER = 4096
_LARGEST_BUFFER = 1 << 30
_KEEPALIVE_S = 7200.0
_MOST_MAPPINGS = 0x7F00

# Kept and given back: they mean nothing here, or what they ask for is always so.
_KEPT = {
    (socket.SOL_SOCKET, socket.SO_REUSEADDR): 0,
    (socket.SOL_SOCKET, socket.SO_BROADCAST): 0,
    (socket.SOL_SOCKET, socket.SO_OOBINLINE): 0,
    (socket.IPPROTO_TCP, socket.TCP_NODELAY): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 75,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 9,
    (socket.IPPROTO_TCP, socket.TCP_QUICKACK): 1,
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 0,
}


_C_INT = (-(1 << 31), (1 << 31) - 1)
_LONGEST_KEEPALIVE_S = 32767  # Linux's, as the ranges below
_RANGES = {
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): (1, _LONGEST_KEEPALIVE_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): (1, 127),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): (0, _C_INT[1]),
}


class Options:
    """The options of one socket."""

    def __init__(self) -> None:
        self.native = _native.StreamOptions()
        self._kept = dict(_KEPT)
        self._linger: tuple[int, int] = (0, 0)
        self._is_keepalive = False
        self._keepalive_s = _KEEPALIVE_S

    def copy(self) -> Options:
        """Return the same options for an accepted connection."""
        made = Options()
        made.native = _native.StreamOptions(self.native)
        made._kept = dict(self._kept)
        made._linger = self._linger
        made._is_keepalive = self._is_keepalive
        made._keepalive_s = self._keepalive_s
        return made

    def set(self, level: int, name: int, value: Any) -> None:
        """Set one option."""
        if (level, name) == (socket.SOL_SOCKET, socket.SO_LINGER):
            if not isinstance(value, bytes | bytearray) or len(value) != 8:
                raise OSError(errno.EINVAL, "SO_LINGER takes two packed integers")
            self._linger = struct.unpack("ii", value)
            return
        value = _to_int(value)
        match level, name:
            case socket.SOL_SOCKET, socket.SO_RCVBUF:
                self.native.receive_buffer = _clamped(value)
            case socket.SOL_SOCKET, socket.SO_SNDBUF:
                self.native.send_buffer = _clamped(value)
            case socket.SOL_SOCKET, socket.SO_KEEPALIVE:
                self._is_keepalive = bool(value)
            case socket.IPPROTO_TCP, socket.TCP_KEEPIDLE:
                self._keepalive_s = float(_in_range(value, 1, _LONGEST_KEEPALIVE_S))
            case (0x10000, 0):
                self.native.send_queue_depth = _in_range(value, 16, 32767)
            case (0x10000, 1):
                self.native.receive_queue_depth = _in_range(value, 16, 32767)
            case (0x10000, 2):
                self.native.inline_size = _in_range(value, 16, 4096)
            case (0x10000, 3):
                value = _in_range(value, 0, _MOST_MAPPINGS)
                # What the eight bits on the wire can say.
                self.native.iomap_entries = value if value <= 128 else max(128, value & ~0xFF)
            case key if key in self._kept:
                self._kept[key] = _in_range(value, *_RANGES.get(key, _C_INT))
            case _:
                raise OSError(errno.ENOPROTOOPT, f"a stream has no option {name} of level {level}")
        self.native.keepalive = self._keepalive_s if self._is_keepalive else 0.0

    def get(self, level: int, name: int, length: int = 0) -> int | bytes:
        """Get one option, as an integer, or as `length` bytes."""
        match level, name:
            case socket.SOL_SOCKET, socket.SO_LINGER:
                packed = struct.pack("ii", *self._linger)
                return packed[:length] if length else self._linger[0]
            case socket.SOL_SOCKET, socket.SO_RCVBUF:
                value = self.native.receive_buffer
            case socket.SOL_SOCKET, socket.SO_SNDBUF:
                value = self.native.send_buffer
            case socket.SOL_SOCKET, socket.SO_KEEPALIVE:
                value = int(self._is_keepalive)
            case socket.IPPROTO_TCP, socket.TCP_KEEPIDLE:
                value = int(self._keepalive_s)
            case (0x10000, 0):
                value = self.native.send_queue_depth
            case (0x10000, 1):
                value = self.native.receive_queue_depth
            case (0x10000, 2):
                value = self.native.inline_size
            case (0x10000, 3):
                value = self.native.iomap_entries
            case key if key in self._kept:
                value = self._kept[key]
            case _:
                raise OSError(errno.ENOPROTOOPT, f"a stream has no option {name} of level {level}")
        return packed_value(value, length)

    def apply(self, stream: _native.Stream) -> None:
        """Give a stream what may still change: all before it connects, little afterwards."""
        stream.set_options(self.native)
        stream.set_keepalive(self._keepalive_s if self._is_keepalive else 0.0)
        stream.set_aborts_on_close(self._linger[0] != 0 and self._linger[1] == 0)


def packed_value(value: int, length: int) -> int | bytes:
    """Return an option's value, as `length` bytes unless that is 0."""
    return value.to_bytes(4, "little", signed=True)[:length] if length else value


def backlog_of(value: int) -> int:
    """Return how many connections may wait: at least one, and what the core can count."""
    return min(max(1, operator.index(value)), _C_INT[1])


def _to_int(value: Any) -> int:
    if isinstance(value, bytes | bytearray | memoryview):
        if len(value) < 4:
            raise OSError(errno.EINVAL, f"an option's value has 4 bytes, not {len(value)}")
        return int.from_bytes(value[:4], "little", signed=True)
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"an option's value is an integer or bytes, not {value!r}") from None


def _clamped(value: int) -> int:
    if value < 0:
        raise OSError(errno.EINVAL, f"a buffer of {value} bytes is impossible")
    return min(max(value, _SMALLEST_BUFFER), _LARGEST_BUFFER)


def _in_range(value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise OSError(errno.EINVAL, f"{value} is not in {least} to {most}")
    return value
