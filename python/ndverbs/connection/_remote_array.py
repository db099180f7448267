# SPDX-License-Identifier: Apache-2.0
"""RemoteArray: an array in a peer's memory, by slices and by single elements."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex

import numpy as np

from ndverbs import _address
from ndverbs._closing import Closing
from ndverbs._native import Access, Segment, Status, _Elements, _Lock
from ndverbs.connection import _transfers
from ndverbs.connection._connection import Connection
from ndverbs.connection._memory import SINK
from ndverbs.errors import RdmaError, RdmaPermissionError, error
from ndverbs.remote import RemoteBuffer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# An enum's members are slow to combine.
_WRITE, _ATOMIC = int(Access.REMOTE_WRITE), int(Access.REMOTE_ATOMIC)


def _keys(key: Any) -> tuple[Any, ...]:
    return key if isinstance(key, tuple) else (key,)


def _plain(key: Any) -> int | slice:
    if isinstance(key, slice):
        return key
    if hasattr(key, "__index__") and not isinstance(key, np.ndarray | bool):
        return operator.index(key)
    raise TypeError(
        f"a RemoteArray takes integers and slices of its axes, not {type(key).__name__}"
    )


class RemoteArray(Closing):
    """An array in a peer's memory, used by slices; made by `attach`.

    ``a[10:20]`` reads, ``a[10:20] = values`` writes, both one-sided and blocking. `get_item`,
    `set_item` and `fetch_add` are for single elements by their flat index, and fast.

    Parameters
    ----------
    connection : Connection
        To the peer; it is closed with this, unless it is shared.
    remote : RemoteBuffer
        The array.
    is_shared : bool
        Whether others use the connection, too.
    """

    def __init__(
        self, connection: Connection, remote: RemoteBuffer, *, is_shared: bool = False
    ) -> None:
        self._connection = connection
        self._is_shared = is_shared
        self._link = connection._link
        self._hub = connection._hub
        self._remote = remote
        self._size = remote.size
        self._access = int(remote.access)
        self._itemsize = remote.itemsize
        self._strides = [
            self._itemsize * math.prod(remote.shape[axis + 1 :]) for axis in range(remote.ndim)
        ]
        self._is_signed = self.dtype.kind == "i"
        self._has_words = self._itemsize == 8 and self.dtype.kind in "iu"
        self._lock = _Lock()
        self._renew()

    def _renew(self) -> None:
        """Make memory for one element on its way, and for one word; with the lock."""
        self._item = np.zeros(1, self.dtype)
        self._word = np.zeros(1, np.uint64)
        pd = self._connection.pd
        self._regions = [pd.register(self._item, SINK), pd.register(self._word, SINK)]
        self._item_segment = self._regions[0].segment()
        self._word_segment = self._regions[1].segment()
        self._elements = _Elements(self._link.qp, self._item, self._remote, self._size)
        self._byte_segment = self._regions[1].segment(0, 1)

    def _do(self, kind: str, segment: Segment, where: tuple[int, int], *values: int) -> None:
        try:
            _transfers.do(self._link, kind, segment, where, *values, keeps=self._regions)
        except RdmaError:
            raise  # it is over
        except BaseException:
            self._renew()  # the request goes on with the memory that it has
            raise

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self._remote.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its elements."""
        return self._remote.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self._remote.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._size

    @property
    def nbytes(self) -> int:
        """Bytes of it."""
        return self._remote.nbytes

    @property
    def connection(self) -> Connection:
        """The connection to its owner, for what does not block."""
        return self._connection

    @property
    def remote(self) -> RemoteBuffer:
        """What the owner gave, for calls of the connection."""
        return self._remote

    def __len__(self) -> int:
        """Return the length of axis 0."""
        return len(self._remote)

    def __repr__(self) -> str:
        """Return what it is and where its owner is."""
        where = _address.text(self._connection.peer_address)
        return f"<RemoteArray {self.dtype} {self.shape} at {where}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return a copy of all of it: ``np.asarray(a)``."""
        if copy is False:
            raise ValueError("a RemoteArray is another process's: reading it makes a copy")
        return self.get() if dtype is None else self.get().astype(dtype, copy=False)

    def __getitem__(self, key: Any) -> Any:
        """Read a part: what NumPy returns for the same key, as a copy.

        Parameters
        ----------
        key : int, slice, ``...``, or tuple of those
            What lies between the first and the last element of a part is read, too.

        Raises
        ------
        IndexError
            It is outside.
        RdmaError
            The connection has ended.
        """
        part, at = self._part(key)
        if not part.size:
            return np.empty(part.shape, part.dtype)
        # From the first to the last byte; a stride may be negative.
        steps = [(n - 1) * stride for n, stride in zip(part.shape, part.strides, strict=True)]
        before = -sum(min(step, 0) for step in steps)
        nbytes = before + sum(max(step, 0) for step in steps) + part.itemsize
        raw = np.empty(nbytes, np.uint8)
        begin = at - before
        self._connection.read(raw, self._remote.bytes_view()[begin : begin + nbytes]).result()
        found: NDArray[Any] = np.ndarray(part.shape, part.dtype, raw, before, part.strides)
        if not found.flags.c_contiguous:
            found = found.copy()
        return found if part.ndim or key is ... or ... in _keys(key) else found[()]

    def _part(self, key: Any) -> tuple[NDArray[Any], int]:
        """Return a view with the form of a part, whose memory is none, and where it begins."""
        keys = tuple(each if each is ... else _plain(each) for each in _keys(key))
        # With an ellipsis NumPy returns a view, also of a single element, and reads nothing.
        shadow = np.lib.stride_tricks.as_strided(self._item, self.shape, self._strides)
        part = shadow[keys if ... in keys else (*keys, ...)]
        at = part.__array_interface__["data"][0] - shadow.__array_interface__["data"][0]
        return part, at

    def __setitem__(self, key: Any, values: ArrayLike) -> None:
        """Write a part; it is in the owner's memory when this returns.

        Parameters
        ----------
        key : int, slice with step 1, ``...``, or tuple of those
            Of a part that is contiguous.
        values : array_like
            What NumPy would broadcast to it.

        Raises
        ------
        RdmaError
            A ValueError: the part is not contiguous. A PermissionError: it is not shared as
            writable. The connection has ended.
        """
        self._check(Access.REMOTE_WRITE)
        part, at = self._part(key)
        if not part.flags.c_contiguous:
            raise error(
                Status.INVALID_PARAMETER,
                f"the part {key!r} of shape {self.shape} is not contiguous",
                hint="write rows one by one, or Connection.write_many for many pieces",
            )
        if (
            type(values) is np.ndarray
            and (values.shape, values.dtype) == (part.shape, part.dtype)
            and values.flags.c_contiguous
        ):
            source = values  # it may be used again when this returns
        else:
            source = np.empty(part.shape, part.dtype)
            source[...] = values
        if source.nbytes:
            target = self._remote.bytes_view()[at : at + source.nbytes]
            written = self._connection.write(source, target)
            self.fence()
            written.result()

    def get(self, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read all of it.

        Parameters
        ----------
        out : ndarray, optional
            Where to; of its shape and dtype, contiguous.
        """
        if out is None:
            out = np.empty(self.shape, self.dtype)
        elif out.shape != self.shape or out.dtype != self.dtype:
            raise error(
                Status.INVALID_PARAMETER,
                f"get: out is {out.dtype} {out.shape}, the array {self.dtype} {self.shape}",
            )
        if out.nbytes:
            self._connection.read(out, self._remote).result()
        return out

    def put(self, values: ArrayLike) -> None:
        """Write all of it; see `__setitem__`."""
        self[...] = values

    def fence(self) -> None:
        """Wait until all writes of this connection are in the owner's memory."""
        if self._remote.nbytes:
            with self._lock:
                self._do("read", self._byte_segment, (self._remote.address, self._remote.token))

    def get_item(self, index: SupportsIndex) -> Any:
        """Read one element by its flat index.

        Parameters
        ----------
        index : int
            0 to ``size - 1``, or from the end.

        Raises
        ------
        IndexError
            It is outside.
        RdmaError
            The connection has ended.
        """
        if not self._link._backlog:
            found = self._elements.get(index)
            if found is not None:
                return found
        where = self._place(index)
        with self._lock:
            self._do("read", self._item_segment, where)
            return self._item[0]

    def set_item(self, index: SupportsIndex, value: Any) -> None:
        """Write one element by its flat index; `fence` says when it is there.

        Parameters
        ----------
        index : int
            As of `get_item`.
        value : scalar
            Of the array's dtype.

        Raises
        ------
        RdmaError
            As of `__setitem__`.
        """
        if not self._access & _WRITE:
            self._refuse(Access.REMOTE_WRITE)
        if not self._link._backlog and self._elements.set(index, value):
            return
        where = self._place(index)
        with self._lock:
            self._item[0] = value
            self._do("write", self._item_segment, where)

    def fetch_add(self, index: SupportsIndex, n: int) -> int:
        """Add to an element of 8 bytes, atomically, and return what it was before.

        Parameters
        ----------
        index : int
            As of `get_item`.
        n : int
            -2**63 to 2**64 - 1; the sum is taken modulo 2**64.

        Raises
        ------
        RdmaError
            A ValueError: the elements are not integers of 8 bytes. Else as of `__setitem__`.
        """
        if not self._has_words:
            raise error(
                Status.INVALID_PARAMETER,
                f"fetch_add: of {self.dtype}; it takes integers of 8 bytes",
            )
        if not self._access & _ATOMIC:
            self._refuse(Access.REMOTE_ATOMIC)
        found = None if self._link._backlog else self._elements.fetch_add(index, n)
        if found is None:
            where = self._place(index)
            with self._lock:
                self._do("fetch_add", self._word_segment, where, n)
                found = int(self._word[0])
        return found - (1 << 64) if self._is_signed and found >> 63 else found

    def _check(self, right: Access) -> None:
        if not self._access & right:
            self._refuse(right)

    def _refuse(self, right: Access) -> NoReturn:
        raise RdmaPermissionError(
            Status.ACCESS_VIOLATION,
            f"the array is shared without {right.name}",
            hint="its owner gives share(..., writable=True)",
        )

    def _place(self, index: SupportsIndex) -> tuple[int, int]:
        place = operator.index(index)
        if place < 0:
            place += self._size
        if not 0 <= place < self._size:
            raise IndexError(f"index {index} is out of bounds for {self._size} elements")
        return self._remote.address + place * self._itemsize, self._remote.token

    def close(self) -> None:
        """Let go of it, and close the connection unless that is shared."""
        if not self._regions:
            return
        if not self._is_shared:
            self._connection.close()
        for region in self._regions:
            region.close()
        self._regions = []
