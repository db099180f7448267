# SPDX-License-Identifier: Apache-2.0
"""One array for everybody: `share` serves it, `attach` finds it, and no program of the owner runs.

The peer asks by a message, ``NDSH``, a version and the name; the answer is the RemoteBuffer under
that name, or bytes that say why not. All that follows is one-sided. The questions of a process are
answered in a loop of its own, on a daemon thread, which lives while something is shared.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
from typing import TYPE_CHECKING, Any, ClassVar

from ndverbs import _address
from ndverbs._address import Address
from ndverbs._closing import Closing
from ndverbs._native import Access, Adapter, MemoryRegion, Status, _Lock
from ndverbs.connection._connection import Connection
from ndverbs.connection._memory import memory_of
from ndverbs.connection._remote_array import RemoteArray
from ndverbs.connection._server import Server, connect, listen
from ndverbs.errors import RdmaError, error

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAGIC = b"NDSH\x01"
_ASK_S = 5.0
_EXIT_S = 1.0
_MOST_NAME = 1024


class Share(Closing):
    """An array that peers reach by a name; made by `share`.

    Closing it ends their access at once. The array is exported meanwhile, so it can be neither
    resized nor freed.
    """

    def __init__(self, host: _Host, name: str, region: MemoryRegion) -> None:
        self._host = host
        self._region = region
        self.name = name
        self.address = f"{host.address}/{name}"

    def close(self) -> None:
        """End it; no byte of the array is read or written by a peer afterwards."""
        self._region.close()
        self._host.remove(self.name, self._region)

    def __repr__(self) -> str:
        """Return where it is found."""
        return f"<Share {self.address}>"

    def __del__(self) -> None:
        """End it with its last reference; this thread may have any lock: it collects garbage."""
        host, region = getattr(self, "_host", None), getattr(self, "_region", None)
        if host is not None and region is not None and not region.closed:
            region.close()
            host.remove_soon(self.name, region)


class _Host:
    """What one address of this process serves."""

    _all: ClassVar[dict[str, _Host]] = {}  # by address
    _lock = _Lock()

    def __init__(self, server: Server) -> None:
        self.server = server
        self.address = server.address
        self.shares: dict[str, MemoryRegion] = {}
        self._loop = asyncio.new_event_loop()
        self._connections: set[Connection] = set()
        self._thread = threading.Thread(target=self._run, name="ndverbs-share", daemon=True)

    @classmethod
    def add(
        cls,
        address: Address,
        adapter: Adapter | str | None,
        name: str,
        array: Any,
        access: Access,
    ) -> Share:
        """Serve one more array at an address."""
        with cls._lock:
            key = _address.text(_address.resolve(address))
            host = cls._all.get(key)
            is_new = host is None
            if host is None:
                host = cls(listen(address, adapter=adapter))
            elif name in host.shares:
                raise error(
                    Status.SHARING_VIOLATION,
                    f"share: {name!r} is shared at {host.address} already",
                    hint="close that one, or give another name",
                )
            try:
                # The domain of a hub is that of all its links.
                region = host.server._hub.pd.register(array, access)
            except BaseException:
                if is_new:
                    host.server.stop()
                raise
            host.shares[name] = region
            if is_new:
                cls._all[host.address] = host
                host._thread.start()
            return Share(host, name, region)

    def remove_soon(self, name: str, region: MemoryRegion) -> None:
        """Serve an array no longer, from the thread of this host on."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self.remove, name, region)

    def remove(self, name: str, region: MemoryRegion) -> None:
        """Serve an array no longer; the last one ends the server."""
        with self._lock:
            if self.shares.get(name) is not region:
                return
            del self.shares[name]
            if self.shares:
                return
            self._forget()
        self.server.stop()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end)

    def _forget(self) -> None:
        """Leave the address to another; with the lock."""
        if self._all.get(self.address) is self:
            del self._all[self.address]

    def _end(self) -> None:
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except asyncio.CancelledError:
            pass
        finally:
            for connection in self._connections:
                connection.abort()
            self._connections.clear()
            self._loop.close()
            with self._lock:
                self._forget()  # where the adapter was closed below its shares

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            with contextlib.suppress(RdmaError):  # the adapter was closed
                async for connection in self.server:
                    tasks.create_task(self._answer(connection))

    async def _answer(self, connection: Connection) -> None:
        self._connections.add(connection)
        connection.on_closed(self._connections.discard)
        with contextlib.suppress(RdmaError):
            try:
                # Whatever it is, no more than that is read: a stranger may lend anything.
                question = await connection.receive_async(_ASK_S, allocate=_room_to_ask)
            except RdmaError:
                connection.abort()
                return
            name = ""
            if len(question) == 1 and question[0].startswith(_MAGIC):
                name = question[0][len(_MAGIC) :].decode(errors="replace")
            region = self.shares.get(name)
            if region is not None:
                connection.send({name: region.remote()})
                return
            names = ", ".join(sorted(self.shares)) or "nothing"
            connection.send(f"{self.address} shares {names}".encode())
            await connection.close_async()


def _room_to_ask(sizes: list[int]) -> list[bytearray]:
    if sum(sizes) > len(_MAGIC) + _MOST_NAME:
        raise error(Status.INVALID_BUFFER_SIZE, f"a question of {sum(sizes)} bytes")
    return [bytearray(size) for size in sizes]


def _end_every() -> None:
    """End the threads of all hosts before the interpreter stops them."""
    for host in list(_Host._all.values()):
        host.server.stop()
        with contextlib.suppress(RuntimeError):
            host._loop.call_soon_threadsafe(host._end)
        host._thread.join(_EXIT_S)


atexit.register(_end_every)


def shared_access(call: str, array: Any, *, writable: bool) -> Access:
    """Return the rights that peers are given; an array that would be copied is refused."""
    if memory_of(call, array, is_written=writable) is not array:
        raise error(
            Status.INVALID_PARAMETER,
            f"{call}: takes a C-contiguous ndarray",
            hint="np.asarray(x), or np.ascontiguousarray(x), which is a copy",
        )
    access = Access.REMOTE_READ
    if writable:
        access |= Access.REMOTE_WRITE
        if array.itemsize == 8:
            access |= Access.REMOTE_ATOMIC
    return access


def share(
    array: NDArray[Any],
    name: str = "x",
    address: Address = "127.0.0.1:7472",
    *,
    writable: bool = False,
    adapter: Adapter | str | None = None,
) -> Share:
    """Let peers read an array, and write it, without a program of this process taking part.

    Parameters
    ----------
    array : ndarray
        Contiguous. Changes of it are seen at once; see docs/consistency.md for what a reader sees
        meanwhile.
    name : str
        By which `attach` finds it.
    address : address
        Where; several arrays may be shared at one address. With port 0 the system chooses, and
        ``Share.address`` tells. RDMA has neither encryption nor authentication: listen where you
        trust everybody.
    writable : bool
        Whether peers may write, and, where the elements are 8 bytes, add atomically.
    adapter : Adapter or str, optional
        As of `listen`.

    Returns
    -------
    Share
        Keep it: the array is shared as long as it exists.

    Raises
    ------
    RdmaError
        SHARING_VIOLATION: the address is taken, or the name at it.
    """
    if not name or "/" in name or len(name.encode()) > _MOST_NAME:
        raise error(
            Status.INVALID_PARAMETER,
            f"share: the name {name[:60]!r} is empty, too long, or has a slash",
        )
    access = shared_access("share", array, writable=writable)
    return _Host.add(address, adapter, name, array, access)


def attach(
    address: str, timeout: float | None = 10, *, adapter: Adapter | str | None = None
) -> RemoteArray:
    """Find an array that another process shares.

    Parameters
    ----------
    address : str
        ``"host:port/name"``.
    timeout : float, optional
        Seconds.
    adapter : Adapter or str, optional
        As of `connect`.

    Returns
    -------
    RemoteArray

    Raises
    ------
    RdmaError
        A ConnectionRefusedError: nothing is shared there. A TimeoutError: it does not answer, or is
        no share. INVALID_PARAMETER: no array of that name; the message lists those that there are.
    """
    where, slash, name = address.partition("/")
    if not slash or not name:
        raise error(
            Status.INVALID_ADDRESS,
            f"attach: {address!r} names no array; an address is host:port/name",
        )
    connection = connect(where, adapter=adapter, timeout=timeout)
    try:
        connection.send(_MAGIC + name.encode())
        try:
            answer = connection.receive(timeout)
        except TimeoutError:
            raise error(
                Status.IO_TIMEOUT,
                f"attach: {where} has not answered within {timeout} s",
                hint="see that it was made by ndverbs.share, and that its program runs",
            ) from None
        if not isinstance(answer, dict) or name not in answer:
            said = answer.decode(errors="replace") if isinstance(answer, bytes) else "no answer"
            raise error(Status.INVALID_PARAMETER, f"attach: there is no {name!r}: {said}")
        return RemoteArray(connection, answer[name])
    except BaseException:
        connection.abort()
        raise
