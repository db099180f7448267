# SPDX-License-Identifier: Apache-2.0
"""What a message is made of: the program's values as parts, and parts as values."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ndverbs._buffers import bytes_of
from ndverbs._native import Status
from ndverbs.connection import _wire
from ndverbs.connection._memory import memory_of
from ndverbs.connection._wire import Part, WireError
from ndverbs.errors import RdmaError, error
from ndverbs.remote import RemoteBuffer, dtype_of, literal_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Parts of this size and more are lent, and read by the peer when its program wants them.
LENT_FROM = 16 << 10
# What a message carries beside: more is lent, too.
MOST_CARRIED = 128 << 10


class Outgoing:
    """A value on its way: its parts, and the memory of those that are to be lent."""

    __slots__ = ("is_list", "lent", "parts")

    def __init__(self, value: Any) -> None:
        self.is_list = isinstance(value, list | tuple)
        self.parts: list[Part] = []
        self.lent: list[tuple[Part, Any]] = []
        values = value if self.is_list else [value]
        if len(values) > _wire.MOST_PARTS:
            raise error(
                Status.INVALID_PARAMETER,
                f"send: a message of {len(values)} parts; {_wire.MOST_PARTS} are the most",
            )
        carried = 0
        for each in values:
            part, memory = _part_of(each)
            if part.carried is None:
                self.lent.append((part, memory))
            elif carried + part.nbytes > MOST_CARRIED:
                part.carried = None
                self.lent.append((part, memory))
            else:
                carried += part.nbytes
            self.parts.append(part)


def _part_of(value: Any) -> tuple[Part, Any]:
    if isinstance(value, bytes):
        return _buffer_part(_wire.BYTES, b"", value, len(value))
    if isinstance(value, RemoteBuffer):
        data = bytes(value)
        return Part(len(data), _wire.REMOTE, carried=memoryview(data)), None
    if isinstance(value, dict):
        data = RemoteBuffer.pack(value)
        return Part(len(data), _wire.REMOTES, carried=memoryview(data)), None
    if isinstance(value, str):
        raise TypeError("send takes bytes and buffers, not str: encode it first")
    memory = memory_of("send", value, is_written=False)
    if isinstance(memory, np.ndarray):
        # What Fortran order had turned round is turned back by the peer.
        order = b"F" if memory is not value and memory.base is value else b"C"
        shape = memory.shape[::-1] if order == b"F" else memory.shape
        about = order + json.dumps(shape, separators=(",", ":")).encode() + literal_of(memory.dtype)
        return _buffer_part(_wire.ARRAY, about, memory, memory.nbytes)
    return _buffer_part(_wire.BUFFER, b"", memory, memoryview(memory).nbytes)


def _buffer_part(kind: int, about: bytes, memory: Any, nbytes: int) -> tuple[Part, Any]:
    if len(about) > 0xFFFF:
        raise error(Status.INVALID_PARAMETER, "send: the array's dtype is too long to be told")
    if nbytes >= LENT_FROM:
        return Part(nbytes, kind, about), memory
    return Part(nbytes, kind, about, carried=bytes_of("send", memory)), memory


def value_of(part: Part, data: memoryview) -> Any:
    """Return what a part is to the program, given its bytes.

    Raises
    ------
    WireError
        It is not what it says.
    """
    if part.kind == _wire.BYTES:
        return bytes(data)
    if part.kind == _wire.BUFFER:
        return data
    if part.kind == _wire.ARRAY:
        return _array_of(part, data)
    try:
        if part.kind == _wire.REMOTE:
            return RemoteBuffer.from_bytes(data)
        return RemoteBuffer.unpack(data)
    except RdmaError as cause:
        raise WireError(str(cause)) from cause


def _array_of(part: Part, data: memoryview) -> NDArray[Any]:
    about = part.description
    end = about.find(b"]") + 1
    order: Any = about[:1].decode("latin-1")
    try:
        shape = json.loads(about[1:end])
        dtype = dtype_of(about[end:])
        fits = (
            order in ("C", "F")
            and isinstance(shape, list)
            and all(type(length) is int and length >= 0 for length in shape)
            and math.prod(shape) * dtype.itemsize == part.nbytes
        )
        if not fits:
            raise WireError(f"{part.nbytes} bytes are not the array of {about[:60]!r}")
        if data.nbytes < LENT_FROM:  # lies behind others in a message, at any address
            data = memoryview(bytearray(data))
        if not part.nbytes:
            return np.zeros(shape, dtype)
        return np.frombuffer(data, dtype).reshape(shape, order=order)
    # What is nested without end, or has more axes than NumPy, or longer ones, raises these.
    except (ValueError, MemoryError, RecursionError, RdmaError) as cause:
        raise WireError(f"an array is described by {about[:60]!r}") from cause
