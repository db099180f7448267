# SPDX-License-Identifier: Apache-2.0
"""The calls of a Connection on the peer's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ndverbs._native import Access, MemoryRegion
from ndverbs.connection import _messages, _transfers
from ndverbs.connection._hub import Hub
from ndverbs.connection._link import Link
from ndverbs.connection._memory import memory_of
from ndverbs.connection._parts import Outgoing
from ndverbs.connection._request import Request
from ndverbs.connection._transfers import Progress
from ndverbs.remote import RemoteBuffer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


# Longer requests may have to be split, and take longer than what is saved.
_SHORT = 1 << 20


def _is_plain(array: Any) -> bool:
    # Objects of Python's are refused by the ordinary way.
    return type(array) is np.ndarray and array.nbytes <= _SHORT and not array.dtype.hasobject


class OneSided:
    """What a Connection does with the peer's memory, without the peer's program."""

    _link: Link
    _hub: Hub

    def register(self, array: Any, access: Access = Access.LOCAL_WRITE) -> MemoryRegion:
        """Register an array in place, for the peer or for many requests.

        Parameters
        ----------
        array : buffer
            Also what has ``__array_interface__`` or host ``__dlpack__``, and Fortran order.
        access : Access
            What may be done with it; what may be written to is a sink of `read`, too.

        Raises
        ------
        TypeError
            Of a buffer that is none, or an `access` that is no Access.
        RdmaError
            As `ProtectionDomain.register`.
        """
        if not isinstance(access, int):
            raise TypeError(
                f"register: access is an ndverbs.Access, such as Access.REMOTE_READ | "
                f"Access.REMOTE_WRITE, not {access!r}"
            )
        is_written = access & ~Access.REMOTE_READ != 0
        if int(access) & int(Access.LOCAL_WRITE):
            access = access | Access.RDMA_READ_SINK
        return self._hub.pd.register(memory_of("register", array, is_written=is_written), access)

    def write(
        self,
        src: Any,
        dst: RemoteBuffer,
        notify: bytes | None = None,
        *,
        progress: Progress = None,
    ) -> Request[int]:
        """Write into the peer's memory, without the peer's program.

        Parameters
        ----------
        src : array or buffer
            As many bytes as `dst` has, or fewer.
        dst : RemoteBuffer
            With the right REMOTE_WRITE.
        notify : bytes-like, optional
            A message that the peer receives when the data is there.
        progress : callable or True, optional
            Called with the bytes that are done, now and then; True prints a line.

        Returns
        -------
        Request of int
            The bytes; ends when `src` may be used again. With a `notify` that the peer has
            received, or a later read, they are in the peer's memory for certain.

        Raises
        ------
        RdmaError
            As `QueuePair.write`; also by the Request.
        """
        if notify is None and progress is None and _is_plain(src):
            link = self._link
            at_once = _transfers.begin_at_once(
                link, "write", link.qp._write_at_once, src, dst, src.nbytes
            )
            if at_once is not None:
                return at_once
        outgoing = None if notify is None else Outgoing(notify)
        request = _transfers.begin(self._link, "write", src, dst, progress)
        if outgoing is not None:
            with self._hub.lock:
                self._link.check_open()
                _messages.queue(self._link, outgoing, Request(self._hub))
                _messages.push(self._link)
        return request

    def read(self, dst: Any, src: RemoteBuffer, *, progress: Progress = None) -> Request[Any]:
        """Read from the peer's memory, without the peer's program.

        Parameters
        ----------
        dst : array or buffer
            Writable; as many bytes as `src` has, or fewer.
        src : RemoteBuffer
            With the right REMOTE_READ.
        progress : callable or True, optional
            As of `write`.

        Returns
        -------
        Request
            Gives `dst`, when the data is there.

        Raises
        ------
        RdmaError
            As `QueuePair.read`; also by the Request.
        """
        if progress is None and _is_plain(dst):
            link = self._link
            at_once = _transfers.begin_at_once(link, "read", link.qp._read_at_once, dst, src, dst)
            if at_once is not None:
                return at_once
        return _transfers.begin(self._link, "read", dst, src, progress)

    def fetch_add(self, dst: RemoteBuffer, n: int) -> Request[int]:
        """Add to a 64-bit word of the peer's memory, atomically.

        Parameters
        ----------
        dst : RemoteBuffer
            8 bytes at a multiple of 8, with the right REMOTE_ATOMIC.
        n : int
            -2**63 to 2**64 - 1; the sum is taken modulo 2**64.

        Returns
        -------
        Request of int
            What the word was before, unsigned, or signed when `dst` is of a signed dtype.

        Raises
        ------
        RdmaError
            As `QueuePair.fetch_add`; also by the Request.
        """
        return _transfers.begin_atomic(self._link, "fetch_add", dst, n)

    def compare_swap(self, dst: RemoteBuffer, expected: int, new: int) -> Request[int]:
        """Replace a 64-bit word of the peer's memory if it is as expected, atomically.

        Parameters
        ----------
        dst : RemoteBuffer
            As of `fetch_add`.
        expected, new : int
            -2**63 to 2**64 - 1.

        Returns
        -------
        Request of int
            What the word was before: it was replaced when that is `expected`.

        Raises
        ------
        RdmaError
            As `QueuePair.compare_swap`; also by the Request.
        """
        return _transfers.begin_atomic(self._link, "compare_swap", dst, expected, new)

    def write_many(self, src: Any, dst: RemoteBuffer, spans: ArrayLike) -> Request[int]:
        """Write many pieces of one array into the peer's memory.

        Parameters
        ----------
        src : array or buffer
            Where the pieces come from.
        dst : RemoteBuffer
            Where they go, with the right REMOTE_WRITE.
        spans : (n, 3) array of uint64
            For each piece its offset in `src`, its offset in `dst`, its length, in bytes.

        Returns
        -------
        Request of int
            The bytes of all pieces; ends when the last one is done.

        Raises
        ------
        RdmaError
            A ValueError: spans of another shape, or that lie outside; else as `write`.
        """
        return _transfers.begin_many(self._link, "write_many", src, dst, spans)

    def read_many(self, dst: Any, src: RemoteBuffer, spans: ArrayLike) -> Request[int]:
        """Read many pieces of the peer's memory into one array.

        Parameters
        ----------
        dst : array or buffer
            Where the pieces go; writable.
        src : RemoteBuffer
            Where they come from, with the right REMOTE_READ.
        spans : (n, 3) array of uint64
            For each piece its offset in `dst`, its offset in `src`, its length, in bytes.

        Returns
        -------
        Request of int
            The bytes of all pieces; ends when all are there.

        Raises
        ------
        RdmaError
            As `write_many`.
        """
        return _transfers.begin_many(self._link, "read_many", dst, src, spans)
