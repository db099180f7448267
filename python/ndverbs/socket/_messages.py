# SPDX-License-Identifier: Apache-2.0
"""The calls of a socket over several buffers: sendmsg, recvmsg, recvmsg_into."""

from __future__ import annotations

import errno
import socket as _socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from ndverbs._buffers import Buffer, bytes_of
from ndverbs._native import Status
from ndverbs.errors import RdmaBufferError

# Buffers of sendmsg() that are so small together leave as one message.
_GATHERED = 64 * 1024
_Ancillary: TypeAlias = list[tuple[int, int, bytes]]  # always empty


class Messages:
    """The calls of `ndverbs.Socket` for them."""

    if TYPE_CHECKING:

        def send(self, data: Buffer, flags: int = 0, /) -> int:
            """Of the socket."""

        def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
            """Of the socket."""

        def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
            """Of the socket."""

    def sendmsg(
        self,
        buffers: Iterable[Buffer],
        ancdata: Iterable[object] = (),
        flags: int = 0,
        address: None = None,
        /,
    ) -> int:
        """Send several buffers, one behind the other; there is no ancillary data."""
        if list(ancdata) or address is not None:
            raise OSError(errno.EOPNOTSUPP, "a stream has no ancillary data and no addresses")
        pieces = [bytes_of("sendmsg", buffer) for buffer in buffers]
        if sum(piece.nbytes for piece in pieces) <= _GATHERED:
            return self.send(b"".join(pieces), flags)
        total = 0
        for data in pieces:
            try:
                sent = self.send(data, flags)
            except OSError:  # the next call says why
                if total:
                    break
                raise
            total += sent
            if sent < data.nbytes:
                break
        return total

    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, _Ancillary, int, None]:
        """Receive; there is no ancillary data."""
        _check_ancillary(ancbufsize)
        return self.recv(bufsize, flags), [], 0, None

    def recvmsg_into(
        self, buffers: Iterable[Buffer], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, _Ancillary, int, None]:
        """Receive into the first buffers that have room for what is there."""
        _check_ancillary(ancbufsize)
        views = [_writable("recvmsg_into", buffer) for buffer in buffers]
        if flags & (_socket.MSG_PEEK | _socket.MSG_WAITALL) and len(views) > 1:
            # Of all of them together; one call has one timeout.
            data = memoryview(self.recv(sum(view.nbytes for view in views), flags))
            total = data.nbytes
            for view in views:
                piece = data[: view.nbytes]
                view[: piece.nbytes] = piece
                data = data[piece.nbytes :]
            return total, [], 0, None
        total = 0
        for view in views:
            if view.nbytes == 0:
                continue
            try:
                got = self.recv_into(view, 0, flags)
            except OSError:  # nothing more is there yet, or the next call says why
                if total:
                    break
                raise
            total += got
            if got < view.nbytes:
                break
            flags |= _socket.MSG_DONTWAIT  # only the first bytes are waited for
        return total, [], 0, None


def _check_ancillary(size: int) -> None:
    if size < 0:
        raise ValueError("invalid ancillary data buffer length")


def _writable(call: str, buffer: Buffer) -> memoryview:
    view = bytes_of(call, buffer)
    if view.readonly:
        raise RdmaBufferError(
            Status.ACCESS_DENIED,
            f"{call}: the {type(buffer).__name__} is read-only, and this would write into it",
            hint="pass writable memory, such as a bytearray",
        )
    return view
