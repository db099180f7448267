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
    import numpy.typing as npt

_MAGIC = b"NDRB"
_VERSION = 1
_HEADER = struct.Struct("<4sBBBBQQII")
_MAX_DIMENSIONS = 64  # NumPy's own limit
_MAX_DTYPE = 65535
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

    def __len__(self) -> int:
        """Return the length of axis 0."""
        if not self.shape:
            raise TypeError("len() of an unsized RemoteBuffer")
        return self.shape[0]

    def __getitem__(self, key: slice | SupportsIndex) -> RemoteBuffer:
        """Slice axis 0 in elements, like the array that it names.

        Parameters
        ----------
        key : slice or int
            A slice with step 1, or an index, which drops the axis.

        Raises
        ------
        IndexError
            The index is outside the axis, or there is none.
        TypeError
            Neither a slice nor an integer, such as an index of two axes.
        RdmaError
            A ValueError: a step other than 1 would not be contiguous.
        """
        if not self.shape:
            raise IndexError("a RemoteBuffer without dimensions cannot be indexed")
        length, rest = self.shape[0], self.shape[1:]
        row = math.prod(rest) * self.dtype.itemsize
        if isinstance(key, slice):
            start, stop, step = key.indices(length)
            if step != 1:
                raise _invalid(f"step {step}: only a step of 1 is contiguous")
            count = max(stop - start, 0)
            return self._part(start * row, count * row, self.dtype, (count, *rest))
        if not hasattr(key, "__index__"):
            raise TypeError(
                f"a RemoteBuffer takes an integer or a slice of axis 0, not {type(key).__name__}"
            )
        index = key.__index__()
        if not -length <= index < length:
            raise IndexError(f"index {index} is out of bounds for axis 0 with size {length}")
        return self._part(index % length * row, row, self.dtype, rest)

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
        dtype = _literal_of(self.dtype)
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
        return cls(address, token, nbytes, _dtype_of(data[shape_end:]), shape, access)

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


def _in_bits(name: str, value: SupportsIndex, bits: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from None
    if not 0 <= number < 1 << bits:
        raise _invalid(f"{name} {number_text(number)} does not fit {bits} bits")
    return number


def _literal_of(dtype: np.dtype[Any]) -> bytes:
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


def _dtype_of(literal: bytes) -> np.dtype[Any]:
    import ast

    try:
        description = ast.literal_eval(literal.decode("ascii"))
        _check_description(description)
        dtype = np.lib.format.descr_to_dtype(description)
    # A hostile literal makes the parser and NumPy raise these.
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as cause:
        raise _bad_bytes(f"the dtype {literal[:40]!r} is none") from cause
    if _literal_of(dtype) != literal:
        raise _bad_bytes(f"the dtype {literal[:40]!r} is not in its own form")
    return dtype


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
