# SPDX-License-Identifier: Apache-2.0
"""A comm of distributed: its messages are those of a Connection."""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Collection
from typing import Any

from dask import config
from dask.utils import parse_timedelta
from distributed.comm.addressing import unparse_host_port
from distributed.comm.core import Comm, CommClosedError
from distributed.comm.utils import from_frames, to_frames

from ndverbs.connection import Connection
from ndverbs.dask import _frames
from ndverbs.errors import RdmaError

logger = logging.getLogger("distributed.comm.ndverbs")

PREFIX = "ndverbs://"
_live: weakref.WeakSet[NdverbsComm] = weakref.WeakSet()


class NdverbsComm(Comm):
    """A comm of distributed over a `Connection`; its addresses begin with ``ndverbs://``.

    Small frames travel in the message. Those of 16 KiB and more stay where they are, and the
    reader's `read` takes them out of the writer's memory, each into an allocation of its own that
    begins at a multiple of 64 bytes. So what waits for a reader costs only its writer's memory.

    Parameters
    ----------
    connection : Connection
        It belongs to the comm from here on.
    peer_address : str, optional
        The peer as the program has named it, without the scheme; where it connects from when
        omitted.
    deserialize : bool
        Whether `read` gives objects, or leaves them serialized.
    """

    def __init__(
        self, connection: Connection, peer_address: str | None = None, deserialize: bool = True
    ) -> None:
        self._connection = connection
        self._is_closed = False
        super().__init__(deserialize=deserialize)
        # distributed's handshake reads these two.
        self._local_addr = PREFIX + unparse_host_port(*connection.local_address)
        self._peer_addr = PREFIX + (peer_address or unparse_host_port(*connection.peer_address))
        self._transport = connection.transport
        self._transport_reason = connection.transport_reason
        _live.add(self)

    @property
    def connection(self) -> Connection:
        """The Connection below: `Connection.stats` and `Connection.trace` say what it did."""
        return self._connection

    @property
    def local_address(self) -> str:
        """Where this end is, as ``ndverbs://host:port``."""
        return self._local_addr

    @property
    def peer_address(self) -> str:
        """Where the peer is."""
        return self._peer_addr

    @property
    def extra_info(self) -> dict[str, str]:
        """What carries it: ``transport`` and ``transport_reason``, as of the Connection."""
        return {"transport": self._transport, "transport_reason": self._transport_reason}

    async def read(self, deserializers: Collection[str] | None = None) -> Any:
        """Wait for a message, and take its large frames out of the writer's memory.

        Raises
        ------
        CommClosedError
            It is closed, or the peer has gone and all it has sent was read.

        Notes
        -----
        One that is cancelled, or fails, aborts the comm, as distributed's do.
        """
        if self._is_closed:
            raise CommClosedError(f"in {self!r}: closed by this side")
        try:
            frames = await _frames.receive(self._connection)
        except RdmaError as cause:
            self.abort()
            raise CommClosedError(f"in {self!r}: {cause}") from cause
        except BaseException:
            self.abort()
            raise
        try:
            return await from_frames(
                frames,
                deserialize=self.deserialize,
                deserializers=deserializers,
                allow_offload=self.allow_offload,
            )
        except EOFError as cause:
            self.abort()
            raise CommClosedError(f"in {self!r}: the message is truncated") from cause

    async def write(
        self, msg: Any, serializers: Collection[str] | None = None, on_error: str = "message"
    ) -> int:
        """Send a message, without waiting for the reader; return its size in bytes.

        Memory of arrays and buffers in it must not be changed until the peer has read it.

        Raises
        ------
        CommClosedError
            It is closed, or the peer has gone.

        Notes
        -----
        One that fails, serialization apart, aborts the comm.
        """
        if self.closed():
            raise CommClosedError(f"in {self!r}: write to a closed comm")
        frames = await to_frames(
            msg,
            allow_offload=self.allow_offload,
            serializers=serializers,
            on_error=on_error,
            context={
                "sender": self.local_info,
                "recipient": self.remote_info,
                **self.handshake_options,
            },
            # In pieces a frame would be put together again by a copy.
            frame_split_size=sys.maxsize,
        )
        try:
            return _frames.send(self._connection, frames)
        except RdmaError as cause:
            self.abort()
            raise CommClosedError(f"in {self!r}: {cause}") from cause
        except BaseException:
            self.abort()
            raise

    async def close(self) -> None:
        """Close it: the peer can still read what was written.

        Waits until it has, as long as ``distributed.comm.timeouts.tcp`` of Dask's configuration
        lets a peer be silent. What the peer has not read by then is lost to it.
        """
        if self._is_closed:
            return
        self._is_closed = True
        silence = config.get("distributed.comm.timeouts.tcp")
        await self._connection.close_async(parse_timedelta(silence, default="seconds"))

    def abort(self) -> None:
        """End it at once."""
        self._is_closed = True
        self._connection.abort()

    def closed(self) -> bool:
        """Return whether it has ended, by either side; `read` has what the peer sent before."""
        return self._is_closed or self._connection.closed

    def __del__(self) -> None:
        """Warn of one that was not closed; its Connection, which goes with it, tells the peer."""
        if getattr(self, "_is_closed", True) or self.closed() or sys.is_finalizing():
            return
        logger.warning("Closing dangling comm %s", repr(self))  # a record must not keep it


def comms() -> list[dict[str, Any]]:
    """Return what the open ``ndverbs://`` comms of this process are, a dict for each.

    Returns
    -------
    list of dict
        ``local`` and ``peer``, the addresses; ``transport`` and ``transport_reason``; and what
        `Connection.stats` counts. ``client.run(ndverbs.dask.comms)`` asks all workers, and
        `ndverbs.table` shows them.
    """
    return [
        {
            "local": comm.local_address,
            "peer": comm.peer_address,
            **comm.extra_info,
            **comm.connection.stats(),
        }
        for comm in _open()
    ]


def pooled_bytes(_: object) -> int:
    """Return how much receive memory this process keeps for later: a metric of workers."""
    adapters = {id(comm.connection.adapter): comm.connection for comm in _open()}
    return sum(connection.stats()["pooled_bytes"] for connection in adapters.values())


def _open() -> list[NdverbsComm]:
    return [comm for comm in list(_live) if not comm.closed()]
