# SPDX-License-Identifier: Apache-2.0
"""Peers: the Connections of one rank to all others.

Who begins dials; the dialled rank's program takes no part: its server accepts beside it. So there
is no order in which ranks can block each other, and two ranks that both begin have two Connections,
one of each.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ndverbs._closing import Closing
from ndverbs._native import Adapter, Status
from ndverbs._sharing import adapter_for
from ndverbs.connection import Connection, Server, connect
from ndverbs.errors import ClosedError, error
from ndverbs.mpi._together import together
from ndverbs.mpi._window import Window

if TYPE_CHECKING:
    from mpi4py import MPI
    from numpy.typing import NDArray

# What a rank says when it dials: version 1, the number of the group, its rank.
_HELLO = struct.Struct("<4sIQI")
_MAGIC = b"NDMP"
_VERSION = 1
# By which Open MPI's and MPICH's mpiexec tell a rank how many it has started.
_STARTED = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
OnConnection = Callable[[int, Connection], object]


class Peers(Closing):
    """The Connections of this rank to all ranks of a communicator; made by `connect_all`.

    ``peers[rank]`` is the Connection that this rank has to another, or to itself; the first use
    dials it, from any thread, and the other rank's program need not take part. It is directed: what
    this rank sends on it the other receives from ``peers.accepted(this_rank)``, where answers can
    be sent, too.

    A context manager: its end is `close`, that of a block which an exception leaves is `abort`.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        adapter: Adapter,
        host: str | None,
        on_connection: OnConnection | None,
        timeout: float | None,
    ) -> None:
        self._comm = comm
        self._adapter = adapter
        self._timeout = timeout
        self._on_connection = on_connection
        self._dialled: list[Connection | None] = [None] * comm.size
        self._dialling = [threading.Lock() for _ in range(comm.size)]
        self._accepted: dict[int, Connection] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        number = int(comm.bcast(secrets.randbits(64)))
        self._number = number
        self._hello = _HELLO.pack(_MAGIC, _VERSION, number, comm.rank)
        is_one_host = _is_one_host(comm)
        self._server: Server | None = None

        def begin() -> str:
            where = (host or _own_host(is_one_host), 0)
            self._server = Server(adapter, where, b"", on_connection=self._arrived)
            return self._server.address

        try:
            self._addresses = together(comm, "connect_all", begin)
        except BaseException:
            self.abort()
            raise

    @property
    def rank(self) -> int:
        """The rank of this process."""
        return self._comm.rank

    @property
    def adapter(self) -> Adapter:
        """The adapter; ``adapter.alloc_array`` makes memory that ranks of one host map."""
        return self._adapter

    def __len__(self) -> int:
        """Return the number of ranks."""
        return len(self._dialled)

    def __repr__(self) -> str:
        """Return the rank, and how many Connections there are."""
        dialled = sum(each is not None for each in self._dialled)
        return (
            f"<Peers of rank {self.rank} of {len(self)}: {dialled} dialled, "
            f"{len(self._accepted)} accepted>"
        )

    def __getitem__(self, rank: int) -> Connection:
        """Return the Connection to a rank; the first use dials.

        Raises
        ------
        IndexError
            There is no such rank.
        RdmaError
            As `ndverbs.connect`; a rank that has ended refuses. The next use dials once more.

        Notes
        -----
        A Connection that has ended stays: its calls raise.
        """
        self._check(rank)
        found = self._dialled[rank]
        return self._dial(rank) if found is None else found

    def _check(self, rank: int) -> None:
        if not 0 <= rank < len(self._dialled):
            raise IndexError(f"rank {rank} is none of 0 to {len(self._dialled) - 1}")

    def _dial(self, rank: int) -> Connection:
        with self._dialling[rank]:
            found = self._dialled[rank]
            if found is None:
                if self._is_closed:
                    raise ClosedError(Status.INVALID_DEVICE_STATE, "the Peers are closed")
                found = self._dialled[rank] = connect(
                    self._addresses[rank],
                    adapter=self._adapter,
                    timeout=self._timeout,
                    private_data=self._hello,
                )
            return found

    def accepted(self, rank: int, timeout: float | None = None) -> Connection:
        """Wait for the Connection that a rank has dialled to this one, and return it.

        Parameters
        ----------
        rank : int
            The other's, or this one's.
        timeout : float, optional
            Seconds; None waits without a limit.

        Raises
        ------
        IndexError
            There is no such rank.
        RdmaError
            A TimeoutError: the rank has not dialled. ClosedError: this was closed.
        """
        self._check(rank)
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or rank in self._accepted, timeout)
            if self._is_closed:
                raise ClosedError(Status.INVALID_DEVICE_STATE, "the Peers are closed")
            if rank not in self._accepted:
                raise error(
                    Status.IO_TIMEOUT,
                    f"accepted: rank {rank} has not dialled rank {self.rank} within {timeout} s",
                )
            return self._accepted[rank]

    def _arrived(self, connection: Connection) -> None:
        """Take a Connection that was dialled to this rank, on the adapter's callback thread."""
        said = connection.peer_private_data[: _HELLO.size]
        if len(said) == _HELLO.size:
            magic, version, number, rank = _HELLO.unpack(said)
            if (magic, version, number) == (_MAGIC, _VERSION, self._number) and rank < len(self):
                with self._changed:
                    before = self._accepted.get(rank)
                    if not self._is_closed:
                        self._accepted[rank] = connection
                        self._changed.notify_all()
                if before is not None:
                    before.abort()  # the rank has given it up and dialled again
                if not self._is_closed:
                    if self._on_connection is not None:
                        self._on_connection(rank, connection)
                    return
        connection.abort()

    def window(self, array: NDArray[Any], *, writable: bool = True) -> Window:
        """Make an array of every rank a window of all: a call of all ranks.

        Parameters
        ----------
        array : ndarray
            This rank's part, C-contiguous; shapes and dtypes may differ between ranks. Of
            ``peers.adapter.alloc_array`` it is mapped by the ranks of the same host, which is the
            fastest.
        writable : bool
            Whether other ranks may write this rank's part, and, where the elements are 8 bytes, add
            atomically.

        Returns
        -------
        Window

        Raises
        ------
        RdmaError
            A BufferError: `array` is not contiguous. CANCELLED: another rank has failed.
        """
        assert self._server is not None
        return Window(self, self._server._hub.pd, array, writable=writable)

    def close(self) -> None:
        """Close all Connections, when all ranks are here: a call of all ranks.

        Once more does nothing.
        """
        if not self._is_closed:
            self._comm.Barrier()
            self._end(Connection.close)

    def abort(self) -> None:
        """End all Connections at once, and wait for no rank, nor for what was sent."""
        self._end(Connection.abort)

    def _end(self, end: Callable[[Connection], None]) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._server is not None:
            self._server.stop()
        for each in [*self._dialled, *self._accepted.values()]:
            if each is not None:
                end(each)

    def __exit__(self, *exception: object) -> None:
        """Close it, or abort it when an exception ends the block."""
        if exception[0] is None:
            self.close()
        else:
            self.abort()


def connect_all(
    comm: MPI.Intracomm,
    *,
    adapter: Adapter | str | None = None,
    host: str | None = None,
    on_connection: OnConnection | None = None,
    timeout: float | None = 30,
) -> Peers:
    """Let every rank of a communicator have a Connection to every other: a call of all ranks.

    Nothing is connected yet; ``peers[rank]`` dials when it is first used.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Such as ``MPI.COMM_WORLD``.
    adapter : Adapter or str, optional
        As of `ndverbs.listen`.
    host : str, optional
        The address of this rank's host at which the others reach it. None means the loopback
        address where all ranks share a host, else the one that the host's name has.
    on_connection : callable, optional
        Called with the rank and the Connection when a rank has dialled this one, on a thread of
        ndverbs, which it must not hold up.
    timeout : float, optional
        Seconds that dialling may take.

    Returns
    -------
    Peers

    Raises
    ------
    RdmaError
        A ValueError: `comm` is an intercommunicator. NOT_SUPPORTED: mpiexec is of another MPI than
        mpi4py, so that every rank is alone. CANCELLED: another rank has failed. Else as
        `ndverbs.listen`.
    """
    if comm.Is_inter():
        raise error(
            Status.INVALID_PARAMETER,
            "connect_all: takes an intracommunicator",
            hint="Merge() makes one of an intercommunicator",
        )
    _check_mpiexec()
    return Peers(comm, adapter_for(adapter), host, on_connection, timeout)


def _check_mpiexec() -> None:
    from mpi4py import MPI

    if MPI.COMM_WORLD.size > 1:
        return
    for name in _STARTED:
        with contextlib.suppress(KeyError, ValueError):
            count = int(os.environ[name])
            if count > 1:
                library = MPI.Get_library_version().split(",")[0].split("\n")[0].replace("\t", " ")
                raise error(
                    Status.NOT_SUPPORTED,
                    f"connect_all: mpiexec has started {count} ranks and each is alone, because "
                    f"mpi4py uses another MPI than mpiexec ({library.strip()})",
                    hint="take that one's mpiexec, or name a library by MPI4PY_LIBMPI",
                )


def _is_one_host(comm: MPI.Intracomm) -> bool:
    from mpi4py import MPI

    near = comm.Split_type(MPI.COMM_TYPE_SHARED)
    is_one = near.size == comm.size
    near.Free()
    return is_one


def _own_host(is_one_host: bool) -> str:
    if is_one_host:
        return "127.0.0.1"
    name = socket.gethostname()
    try:
        found = socket.gethostbyname(name)
    except OSError as cause:
        found = str(cause)
    if found.startswith("127.") or not found[:1].isdigit():
        raise error(
            Status.INVALID_ADDRESS,
            f"connect_all: the ranks are on several hosts, and this one's name {name!r} has no "
            f"address that others reach ({found})",
            hint="give connect_all the address by host=",
        )
    return found
