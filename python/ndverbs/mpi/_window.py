# SPDX-License-Identifier: Apache-2.0
"""Window: an array on every rank, of which each rank reads and writes the others' parts."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ndverbs._closing import Closing
from ndverbs._native import MemoryRegion, ProtectionDomain, Status
from ndverbs.connection import RemoteArray
from ndverbs.connection._share import shared_access
from ndverbs.errors import ClosedError
from ndverbs.mpi._together import together
from ndverbs.remote import RemoteBuffer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ndverbs.mpi._peers import Peers


class Window(Closing):
    """An array on every rank; made by `Peers.window`.

    ``window[rank]`` is a `RemoteArray` of a rank's part, this rank's own too; its first use dials.
    All that is done with it is one-sided: the rank's program takes no part, it may compute or
    sleep.

    A context manager: its end is `close`, that of a block which an exception leaves ends this
    rank's part alone.
    """

    def __init__(
        self, peers: Peers, pd: ProtectionDomain, array: NDArray[Any], *, writable: bool
    ) -> None:
        self._peers = peers
        self._array = array
        self._region: MemoryRegion | None = None
        self._is_closed = False
        self._views: dict[int, RemoteArray] = {}
        self._lock = threading.Lock()

        def register() -> RemoteBuffer:
            access = shared_access("window", array, writable=writable)
            if not array.nbytes:  # which cannot be registered, and need not be
                return RemoteBuffer(0, 0, 0, array.dtype, array.shape, access)
            self._region = pd.register(array, access)
            return self._region.remote()

        try:
            self._remotes = together(peers._comm, "window", register)
        except BaseException:
            self._end()
            raise

    @property
    def array(self) -> NDArray[Any]:
        """The part of this rank."""
        return self._array

    def __len__(self) -> int:
        """Return the number of ranks."""
        return len(self._remotes)

    def __repr__(self) -> str:
        """Return this rank's part, and how many ranks there are."""
        array = self._array
        return f"<Window {array.dtype} {array.shape} of rank {self._peers.rank} of {len(self)}>"

    def __getitem__(self, rank: int) -> RemoteArray:
        """Return a rank's part; the first use dials.

        Raises
        ------
        IndexError, RdmaError
            As ``peers[rank]``. ClosedError: the window is closed.
        """
        found = self._views.get(rank)
        if found is not None:
            return found
        connection = self._peers[rank]
        with self._lock:
            if self._is_closed:
                raise ClosedError(Status.INVALID_DEVICE_STATE, "the Window is closed")
            found = self._views.get(rank)
            if found is None:
                found = RemoteArray(connection, self._remotes[rank], is_shared=True)
                self._views[rank] = found
            return found

    def fence(self) -> None:
        """Wait until the writes of all ranks are there: a call of all ranks.

        What any rank has written before this call is in the memory of the rank that it wrote to
        when the call returns, and what is written behind it comes after what others have read
        before. ``window[rank].fence()`` is of this rank's writes to one rank alone, and no call of
        others.

        Raises
        ------
        RdmaError
            A Connection has ended.
        """
        for view in list(self._views.values()):
            view.fence()
        self._peers._comm.Barrier()

    def close(self) -> None:
        """End it, when all ranks are here and their writes are done: a call of all ranks.

        Once more does nothing.
        """
        if not self._is_closed:
            self.fence()
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._is_closed = True
            region, self._region = self._region, None
            views, self._views = self._views, {}
        for view in views.values():
            view.close()
        if region is not None:
            region.close()

    def __exit__(self, *exception: object) -> None:
        """Close it, or end this rank's part when an exception ends the block."""
        if exception[0] is None:
            self.close()
        else:
            self._end()
