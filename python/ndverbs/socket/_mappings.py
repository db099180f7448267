# SPDX-License-Identifier: Apache-2.0
"""Memory that the peer of a socket writes to by offset: what rsockets call riomap."""

from __future__ import annotations

import errno
import operator
import os
from typing import TYPE_CHECKING

from ndverbs._buffers import Buffer

if TYPE_CHECKING:
    from ndverbs import _native


class Mappings:
    """The calls of `ndverbs.Socket` for it."""

    if TYPE_CHECKING:
        _timeout: float | None

        def _connected_stream(self) -> _native.Stream: ...

    def riomap(self, buffer: Buffer, offset: int | None = None) -> int:
        """Let the peer write to a buffer by offset, outside the stream.

        Parameters
        ----------
        buffer : writable, C-contiguous buffer
            Up to 4 GiB - 1; it is registered for remote writes, and kept, until `riounmap`.
        offset : int or None
            By which the peer names its first byte; None means its address.

        Returns
        -------
        int
            The offset.

        Notes
        -----
        The peer may write once it has received what is sent behind this call, and nothing tells
        when it did: agree in the stream. It takes one of the entries that the *peer's* socket
        has room for (its option `RDMA_IOMAPSIZE`, set before it connects; 0 unless set); without
        one left this raises OSError with ENOBUFS. Source: librdmacm, riomap with PROT_WRITE.
        """
        if offset is not None:
            offset = _checked_offset("riomap", offset)
        return self._connected_stream().map(buffer, offset)

    def riounmap(self, buffer: Buffer) -> None:
        """End the mapping of a buffer. A peer that still writes there loses the connection."""
        self._connected_stream().unmap(buffer)

    def riowrite(self, data: Buffer, offset: int) -> int:
        """Write into memory that the peer has mapped, in order with what is sent.

        Returns how much was written, which is all of it. It leaves from the caller's memory and
        returns when the device is done with it. OSError with EFAULT: the peer has nothing mapped
        there. After a timeout, or BlockingIOError of a socket that never waits, part of it may be
        written: write it again. Blocks for the socket's timeout, without the GIL.
        """
        transfer = self._connected_stream().submit_write(data, _checked_offset("riowrite", offset))
        try:
            if not transfer.wait(self._timeout):
                if self._timeout == 0:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
                raise TimeoutError("timed out")
        except BaseException:  # a signal's handler may raise, too
            transfer.cancel()
            raise
        transfer.operation.result()
        return transfer.bytes_transferred


def _checked_offset(call: str, offset: int) -> int:
    offset = operator.index(offset)
    if not 0 <= offset < 1 << 64:
        raise OSError(errno.EINVAL, f"{call}: the offset {offset} is not in 0 to 2**64 - 1")
    return offset
