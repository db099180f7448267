# SPDX-License-Identifier: Apache-2.0
"""RemoteBuffer: memory of a peer, as the peer describes it.

The bytes of a RemoteBuffer, version 1, little-endian:

====== ==== ==========================================================
offset size field
====== ==== ==========================================================
0      4    ``b"NDRB"``
4      1    version: 1
5      1    access (ndverbs.Access)
6      1    number of dimensions, 0 to 64
7      1    zero
8      8    address
16     8    nbytes
24     4    token
28     4    length of the dtype, 1 to 65535
32     8n   shape
then   m    dtype: the Python literal of its ``numpy.lib.format`` description, ASCII
====== ==== ==========================================================

Named buffers, version 1: ``b"NDRS"``, version 1, zero (1 byte), count (2); then for each the length
of its name (2), zero (2), the length of its bytes (4), the name in UTF-8, and its bytes as above.
"""

from __future__ import annotations

import math
import operator
import re
import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from ndverbs._native import Access, Status
from ndverbs.errors import RdmaError, error, number_text

if TYPE_CHECKING:
    from types import EllipsisType

    import numpy.typing as npt

    _Key = slice | SupportsIndex | EllipsisType

_MAGIC = b"NDRB"
_VERSION = 1
_HEADER = struct.Struct("<4sBBBBQQII")
_MAX_DIMENSIONS = 64  # NumPy's own limit
_MAX_DTYPE = 65535
_PACK_MAGIC = b"NDRS"
_PACK = struct.Struct("<4sBBH")
_PACKED = struct.Struct("<HHI")
_MAX_PACKED = 65535
_BYTE = np.dtype(np.uint8)
_ACCESS_BITS = 0xF | int(Access.REMOTE_ATOMIC)
# dtype.str: byte order, kind, size, and the unit of times.
_TYPE = re.compile(r"[<>|][biufcmMSUV][0-9]+(\[[0-9]*[A-Za-z]+\])?")


class RemoteBuffer:
    """A contiguous array in a peer's registered memory.

    Parameters
    ----------
    address : int
        Where it begins in the peer's address space, 64 bits.
    token : int
        The peer's remote token, 32 bits. A peer that knows it can use the memory: it is a secret.
    nbytes : int
        Size in bytes.
    dtype : dtype_like, optional
        Type of the elements; bytes (uint8) when omitted.
    shape : iterable of int, optional
        One dimension of as many elements as fit when omitted; otherwise it must match `nbytes`.
    access : Access, optional
        What the peer allows; REMOTE_READ and REMOTE_WRITE when omitted.

    Raises
    ------
    RdmaError
        A ValueError: values that do not fit their bits, or each other.

    Notes
    -----
    Immutable, hashable and picklable. It describes memory and holds nothing: whether the peer
    still has it registered shows when it is used.
    """

    __slots__ = ("access", "address", "dtype", "nbytes", "shape", "token")

    address: int
    token: int
    nbytes: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    access: Access

    def __init__(
        self,
        address: SupportsIndex,
        token: SupportsIndex,
        nbytes: SupportsIndex,
        dtype: npt.DTypeLike | None = None,
        shape: Iterable[SupportsIndex] | None = None,
        access: Access | int | None = None,
    ) -> None:
        kind = _BYTE if dtype is None else np.dtype(dtype)
        if kind.hasobject:
            raise _invalid(f"dtype {kind} holds Python objects")
        address = _in_bits("address", address, 64)
        token = _in_bits("token", token, 32)
        nbytes = _in_bits("nbytes", nbytes, 64)
        if address + nbytes > 1 << 64:
            raise _invalid(f"{nbytes} bytes at address {address:#x} pass the end of 64 bits")
        if shape is None:
            shape = (nbytes // kind.itemsize if kind.itemsize else 0,)
        dimensions = tuple(length.__index__() for length in shape)
        if len(dimensions) > _MAX_DIMENSIONS or any(length < 0 for length in dimensions):
            raise _invalid(f"shape {dimensions} is impossible")
        if math.prod(dimensions) * kind.itemsize != nbytes:
            raise _invalid(f"{nbytes} bytes are not an array of shape {dimensions} and {kind}")
        rights = int(Access.REMOTE_READ | Access.REMOTE_WRITE) if access is None else int(access)
        if rights & ~_ACCESS_BITS:
            raise _invalid(f"access {rights:#x} has unknown bits")
        self._fill(address, token, nbytes, kind, dimensions, Access(rights))

    def _fill(self, *values: object) -> None:
        for name, value in zip(
            ("address", "token", "nbytes", "dtype", "shape", "access"), values, strict=True
        ):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: a RemoteBuffer does not change."""
        raise AttributeError(f"RemoteBuffer is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> None:
        """Refuse: a RemoteBuffer does not change."""
        raise AttributeError(f"RemoteBuffer is immutable: cannot delete {name!r}")

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.dtype.itemsize

    def __array__(self, *_: object, **__: object) -> Any:
        """Refuse: the memory is the peer's."""
        raise TypeError(
            "a RemoteBuffer names memory of a peer and has no data here; read it first, "
            "as by Connection.read"
        )

    def __len__(self) -> int:
        """Return the length of axis 0."""
        if not self.shape:
            raise TypeError("len() of an unsized RemoteBuffer")
        return self.shape[0]

    def __getitem__(self, key: _Key | tuple[_Key, ...]) -> RemoteBuffer:
        """Index it like the array that it names, wherever the result is contiguous.

        Parameters
        ----------
        key : int, slice with step 1, ``...``, or tuple of those
            An integer drops its axis. A slice that is not the whole axis needs every axis before
            it to be an integer, or to have length 1.

        Raises
        ------
        IndexError
            An index is outside its axis, or there are more than axes.
        TypeError
            Something else, such as an array of indices.
        RdmaError
            A ValueError: the result would not be contiguous.
        """
        keys = _one_each(key if isinstance(key, tuple) else (key,), self.ndim)
        offset, stride, rest, shape = 0, self.itemsize, self.shape, list[int]()
        strides = [stride * math.prod(rest[axis + 1 :]) for axis in range(len(rest))]
        is_broken = False  # behind an axis of several, a part of another one is not contiguous
        for axis, (one, length) in enumerate(zip(keys, self.shape, strict=True)):
            if isinstance(one, slice):
                start, stop, step = one.indices(length)
                count = max(stop - start, 0)
                if step != 1:
                    raise _invalid(f"step {step}: only a step of 1 is contiguous")
                shape.append(count)
            else:
                index = operator.index(one)
                if not -length <= index < length:
                    raise IndexError(
                        f"index {index} is out of bounds for axis {axis} with size {length}"
                    )
                start, count = index % length, 1
            if is_broken and count != length:
                raise _invalid(f"the part {key!r} of shape {self.shape} is not contiguous")
            is_broken |= count > 1
            offset += start * strides[axis]
        nbytes = math.prod(shape) * self.itemsize
        return self._part(offset, nbytes, self.dtype, tuple(shape))

    def view(self, dtype: npt.DTypeLike) -> RemoteBuffer:
        """Return the same memory as elements of another type; the last axis changes its length.

        Parameters
        ----------
        dtype : dtype_like
            Whose size divides the bytes of the last axis.

        Raises
        ------
        RdmaError
            A ValueError: it does not, or `dtype` has Python objects.
        """
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise _invalid(f"dtype {kind} holds Python objects")
        if kind.itemsize == self.itemsize:
            return self._part(0, self.nbytes, kind, self.shape)
        row = self.shape[-1] * self.itemsize if self.shape else 0
        if not kind.itemsize or not self.shape or row % kind.itemsize:
            raise _invalid(f"the last axis of {self.shape} {self.dtype} is no row of {kind}")
        return self._part(0, self.nbytes, kind, (*self.shape[:-1], row // kind.itemsize))

    def bytes_view(self) -> RemoteBuffer:
        """Return the same memory as one dimension of uint8, to be sliced in bytes."""
        return self._part(0, self.nbytes, _BYTE, (self.nbytes,))

    def _part(
        self, offset: int, nbytes: int, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> RemoteBuffer:
        part = object.__new__(RemoteBuffer)
        part._fill(self.address + offset, self.token, nbytes, dtype, shape, self.access)
        return part

    def __bytes__(self) -> bytes:
        """Return the fixed binary form, version 1, that `from_bytes` reads."""
        dtype = literal_of(self.dtype)
        if len(dtype) > _MAX_DTYPE:
            raise _invalid(f"dtype {self.dtype} is too long to be sent")
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            int(self.access),
            len(self.shape),
            0,
            self.address,
            self.nbytes,
            self.token,
            len(dtype),
        )
        return header + struct.pack(f"<{len(self.shape)}Q", *self.shape) + dtype

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> RemoteBuffer:
        """Read what ``bytes(buffer)`` wrote.

        Parameters
        ----------
        data : bytes-like
            All of it and nothing more; it may come from an untrusted peer.

        Raises
        ------
        RdmaError
            A ValueError that says what is wrong with the bytes.
        """
        data = bytes(data)
        if len(data) < _HEADER.size:
            raise _bad_bytes(f"{len(data)} bytes are fewer than the header's {_HEADER.size}")
        magic, version, access, dimensions, zero, address, nbytes, token, dtype_length = (
            _HEADER.unpack_from(data)
        )
        if magic != _MAGIC:
            raise _bad_bytes(f"they begin with {magic!r}, not {_MAGIC!r}")
        if version != _VERSION:
            raise _bad_bytes(f"version {version} is not known here, only {_VERSION}")
        if zero or dimensions > _MAX_DIMENSIONS or not 0 < dtype_length <= _MAX_DTYPE:
            raise _bad_bytes("a field of the header is out of range")
        shape_end = _HEADER.size + 8 * dimensions
        if len(data) != shape_end + dtype_length:
            raise _bad_bytes(
                f"{len(data)} bytes are not the {shape_end + dtype_length} that the header tells"
            )
        shape = struct.unpack_from(f"<{dimensions}Q", data, _HEADER.size)
        return cls(address, token, nbytes, dtype_of(data[shape_end:]), shape, access)

    @staticmethod
    def pack(buffers: dict[str, RemoteBuffer]) -> bytes:
        """Return several of them, with names, in one binary form, which `unpack` reads.

        Parameters
        ----------
        buffers : dict of str to RemoteBuffer
            At most 65535, with names of at most 65535 bytes in UTF-8.

        Raises
        ------
        TypeError
            A name, or a value, of another type.
        RdmaError
            A ValueError: too many, or a name that is too long.
        """
        if len(buffers) > _MAX_PACKED:
            raise _invalid(f"{len(buffers)} buffers are more than {_MAX_PACKED}")
        pieces = [_PACK.pack(_PACK_MAGIC, _VERSION, 0, len(buffers))]
        for name, buffer in buffers.items():
            if not isinstance(name, str) or not isinstance(buffer, RemoteBuffer):
                raise TypeError(
                    f"a dict gives names (str) to RemoteBuffers, not {type(name).__name__} to "
                    f"{type(buffer).__name__}; send arrays in a list, or the remote() of their "
                    "regions"
                )
            text, data = name.encode(), bytes(buffer)
            if len(text) > _MAX_PACKED:
                raise _invalid(f"a name of {len(text)} bytes is longer than {_MAX_PACKED}")
            pieces += [_PACKED.pack(len(text), 0, len(data)), text, data]
        return b"".join(pieces)

    @classmethod
    def unpack(cls, data: bytes | bytearray | memoryview) -> dict[str, RemoteBuffer]:
        """Read what `pack` wrote.

        Parameters
        ----------
        data : bytes-like
            All of it and nothing more; it may come from an untrusted peer.

        Raises
        ------
        RdmaError
            A ValueError that says what is wrong with the bytes.
        """
        data = bytes(data)
        if len(data) < _PACK.size:
            raise _bad_bytes(f"{len(data)} bytes are fewer than the header's {_PACK.size}")
        magic, version, zero, count = _PACK.unpack_from(data)
        if magic != _PACK_MAGIC or version != _VERSION or zero:
            raise _bad_bytes("they are no named buffers of this version")
        found: dict[str, RemoteBuffer] = {}
        at = _PACK.size
        for _ in range(count):
            if at + _PACKED.size > len(data):
                raise _bad_bytes("they end within a buffer")
            name_length, zero, length = _PACKED.unpack_from(data, at)
            at += _PACKED.size
            end = at + name_length + length
            if zero or end > len(data):
                raise _bad_bytes("they end within a buffer")
            try:
                name = data[at : at + name_length].decode()
            except UnicodeDecodeError as cause:
                raise _bad_bytes("a name is no UTF-8") from cause
            if name in found:
                raise _bad_bytes(f"the name {name[:40]!r} comes twice")
            found[name] = cls.from_bytes(data[at + name_length : end])
            at = end
        if at != len(data):
            raise _bad_bytes(f"{len(data) - at} bytes follow the last buffer")
        return found

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by value."""
        return (
            RemoteBuffer,
            (
                self.address,
                self.token,
                self.nbytes,
                self.dtype,
                self.shape,
                int(self.access),
            ),
        )

    def _key(self) -> tuple[object, ...]:
        return (self.address, self.token, self.nbytes, self.dtype, self.shape, self.access)

    def __eq__(self, other: object) -> bool:
        """Compare all fields."""
        if not isinstance(other, RemoteBuffer):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        """Hash all fields."""
        return hash(self._key())

    def __repr__(self) -> str:
        """Return everything but the token, which is a secret."""
        rights = self.access.name or hex(self.access)
        return (
            f"RemoteBuffer(address={self.address:#x}, nbytes={self.nbytes}, "
            f"dtype={str(self.dtype)!r}, shape={self.shape}, access={rights})"
        )


def _one_each(keys: tuple[object, ...], ndim: int) -> list[slice | SupportsIndex]:
    """Return a key for each axis: ``...`` and what is left out are whole axes."""
    for key in keys:
        if not (key is ... or isinstance(key, slice) or hasattr(key, "__index__")):
            raise TypeError(
                f"a RemoteBuffer takes integers and slices of its axes, not {type(key).__name__}"
            )
    dots = [place for place, key in enumerate(keys) if key is ...]
    if len(dots) > 1 or len(keys) - len(dots) > ndim:
        raise IndexError(f"{len(keys)} indices of a RemoteBuffer of {ndim} dimensions")
    place = dots[0] if dots else len(keys)
    behind = keys[place + 1 :]
    whole = [slice(None)] * (ndim - place - len(behind))
    return [*keys[:place], *whole, *behind]  # type: ignore[list-item]


def _in_bits(name: str, value: SupportsIndex, bits: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from None
    if not 0 <= number < 1 << bits:
        raise _invalid(f"{name} {number_text(number)} does not fit {bits} bits")
    return number


def literal_of(dtype: np.dtype[Any]) -> bytes:
    """Return what `numpy.lib.format.dtype_to_descr` describes; metadata is no part of the type."""
    try:
        description = dtype.str if dtype.names is None else dtype.descr
    except ValueError as cause:  # fields that overlap, or lie in another order than their names
        raise error(
            Status.INVALID_PARAMETER,
            f"RemoteBuffer: the dtype {dtype} has no description that could be sent: {cause}",
            hint="send bytes_view() and tell the dtype in another way, or register an array with "
            "its fields in order (numpy.lib.recfunctions.repack_fields)",
        ) from None
    return ascii(description).encode("ascii")


def dtype_of(literal: bytes) -> np.dtype[Any]:
    """Return the dtype that `literal_of` wrote.

    Raises
    ------
    RdmaError
        A ValueError: it is none, or not in its own form.
    """
    try:
        description = _parsed(literal.decode("ascii"))
        _check_description(description)
        dtype = np.lib.format.descr_to_dtype(description)
    # A hostile literal makes the parser and NumPy raise these.
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as cause:
        raise _bad_bytes(f"the dtype {literal[:40]!r} is none") from cause
    if literal_of(dtype) != literal:
        raise _bad_bytes(f"the dtype {literal[:40]!r} is not in its own form")
    return dtype


def _parsed(text: str) -> Any:
    """Return the value of a Python literal."""
    if text[:1] == text[-1:] == "'" and _TYPE.fullmatch(text[1:-1]):
        return text[1:-1]  # nearly all
    import ast

    while True:
        try:
            return ast.literal_eval(text)
        except SystemError as failure:
            # Python 3.11 counts the depth of all threads' parsers in one number, and says so when
            # another one was at work.
            if "recursion depth mismatch" not in str(failure):
                raise


def _check_description(description: object) -> None:
    """Refuse what `numpy.lib.format` does not write, before NumPy tries to make sense of it."""
    if isinstance(description, str):
        if not _TYPE.fullmatch(description):
            raise ValueError(f"unknown type {description[:40]!r}")
        return
    if not isinstance(description, list):
        raise TypeError("neither a string nor a list of fields")
    for field in description:
        if not isinstance(field, tuple) or len(field) not in (2, 3):
            raise TypeError("a field is a tuple of name, type and perhaps shape")
        _check_description(field[1])


def _invalid(reason: str) -> RdmaError:
    return error(Status.INVALID_PARAMETER, f"RemoteBuffer: {reason}")


def _bad_bytes(reason: str) -> RdmaError:
    return error(
        Status.INVALID_PARAMETER,
        f"these bytes are no RemoteBuffer: {reason}",
        hint="send bytes(remote_buffer), and compare the ndverbs versions of both sides",
    )
