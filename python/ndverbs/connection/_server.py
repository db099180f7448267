# SPDX-License-Identifier: Apache-2.0
"""Server: where peers connect; the hand-shakes go on beside each other, and beside the program."""

from __future__ import annotations

import copy
import time
import warnings
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Self

from ndverbs import _address
from ndverbs._address import Address
from ndverbs._native import Adapter, Connector, Operation, Status
from ndverbs._sharing import adapter_for
from ndverbs.connection import _link
from ndverbs.connection._connection import Connection, Limit
from ndverbs.connection._hub import Hub, hub_for
from ndverbs.connection._link import Link
from ndverbs.connection._request import Request
from ndverbs.errors import ClosedError, RdmaError, error

_BACKLOG = 128
_ACCEPT_S = 10.0
_BUSY = b"ndverbs: the server's backlog is full"


class Server:
    """Where peers connect; made by `ndverbs.listen`.

    A context manager, and an iterator of Connections, also of an asyncio loop
    (``async for connection in server``). Hand-shakes need no call of `accept`: they go on beside
    each other. Up to `backlog` Connections are being made or wait to be accepted; more peers are
    turned away.
    """

    def __init__(
        self,
        adapter: Adapter,
        address: Address,
        private_data: bytes,
        *,
        backlog: int = _BACKLOG,
        on_connection: Callable[[Connection], object] | None = None,
    ) -> None:
        if backlog < 1:
            raise error(Status.INVALID_PARAMETER, f"listen: a backlog of {backlog}; 1 is the least")
        self._backlog = backlog
        self._adapter = adapter
        self._private_data = private_data
        self._on_connection = on_connection  # in place of accept
        self._making: set[Link] = set()
        self._ready: deque[Link] = deque()
        self._acceptors: deque[Request[Link]] = deque()
        self._is_stopped = False
        # For those who wait; each link has a hub with room of its own.
        self._hub: Hub = hub_for(adapter, 0)
        arrived = weakref.WeakMethod(self._arrived)

        def call(connector: Connector) -> None:
            function = arrived()
            if function is not None:
                function(connector)

        self._listener = adapter.create_listener(call)
        try:
            self._listener.listen(_address.resolve(address))
            self._hub.serve(self)
        except BaseException:
            self._is_stopped = True
            self._listener.close()
            raise
        self._local = self._listener.local_address

    @property
    def address(self) -> str:
        """Where it listens, as ``"host:port"``."""
        return _address.text(self._local)

    def __repr__(self) -> str:
        """Return its address and what waits."""
        if self._is_stopped:
            return f"<Server {self.address}, stopped>"
        return f"<Server {self.address}, {len(self._ready)} waiting>"

    # ---- hand-shakes, on the adapter's callback thread

    def _arrived(self, connector: Connector) -> None:
        if self._is_stopped or len(self._making) + len(self._ready) >= self._backlog:
            connector.reject(_BUSY)
            return
        try:
            link = Link(hub_for(self._adapter, _link.DEPTH), is_active=False)
        except RdmaError as failure:
            connector.reject(f"ndverbs: {failure.what}"[:64].encode())
            return
        link.connector = connector
        link.peer_private_data = connector.connection_data.private_data
        link.on_open = self._opened
        making = self._making
        link.on_over.append(making.discard)
        self._making.add(link)
        try:
            operation = connector._start_accept(
                link.qp,
                private_data=self._private_data,
                on_disconnect=_weak_call(link),
                timeout=_ACCEPT_S,
            )
        except RdmaError as failure:
            with link.hub.lock:
                link.fail(failure)
            link.hub.tell()
            return

        def accepted(done: Operation) -> None:
            with link.hub.lock:
                try:
                    done.result()
                    if link.state == "opening":
                        link.start(connector)
                except RdmaError as failure:
                    link.fail(failure)
            link.hub.attend()
            link.hub.tell()

        operation.add_done_callback(accepted)

    def _opened(self, link: Link) -> None:
        """Hand a connection out that has just been made; with its hub's lock."""
        link.hub.later(self._hand_out, link)

    def _hand_out(self, link: Link) -> None:
        hub = self._hub
        with hub.lock:
            self._making.discard(link)
            if not self._is_stopped:
                if self._on_connection is not None:
                    hub.later(self._on_connection, Connection(link))
                elif self._acceptors:
                    self._acceptors.popleft()._finish(link)
                else:
                    self._ready.append(link)
                link = None  # type: ignore[assignment]
        if link is not None:
            _end(link)
        hub.tell()

    # ---- the program

    def accept(self, timeout: float | None = None) -> Connection:
        """Wait for a peer's Connection.

        Parameters
        ----------
        timeout : float, optional
            Seconds; None waits without a limit.

        Raises
        ------
        RdmaError
            A TimeoutError: no peer has connected.
        ClosedError
            It is stopped.

        Notes
        -----
        Gives the GIL up while it waits, and ends within 100 ms of Ctrl-C.
        """
        request: Request[Link] = Request(self._hub)
        try:
            self._ask(request)
            return Connection(request.result(timeout))
        except BaseException as failure:
            self._take_back(request)
            if isinstance(failure, TimeoutError):
                raise _no_peer("accept", timeout) from None
            raise

    async def accept_async(self, timeout: float | None = None) -> Connection:
        """Wait for a peer's Connection in a loop; see `accept`."""
        async with Limit(timeout, "accept_async", _no_peer):
            request: Request[Link] = Request(self._hub)
            try:
                self._ask(request)
                return Connection(await request)
            except BaseException:
                self._take_back(request)
                raise

    def _ask(self, request: Request[Link]) -> None:
        with self._hub.lock:
            if self._is_stopped:
                raise ClosedError(Status.INVALID_DEVICE_STATE, "accept: the server is stopped")
            if self._ready:
                request._finish(self._ready.popleft())
            else:
                self._acceptors.append(request)

    def _take_back(self, request: Request[Link]) -> None:
        """Give the connection of an acceptor that was interrupted to the next one."""
        with self._hub.lock:
            if not request.done():
                if request in self._acceptors:
                    self._acceptors.remove(request)
                request._finish(None)
                return
        if request._exception is None:
            self._hand_out(request._result)

    def __iter__(self) -> Iterator[Connection]:
        """Iterate over Connections as they come, until it is stopped."""
        while True:
            try:
                yield self.accept()
            except ClosedError:
                return

    async def __aiter__(self) -> AsyncIterator[Connection]:
        """Iterate over Connections as they come, until it is stopped."""
        while True:
            try:
                yield await self.accept_async()
            except ClosedError:
                return

    def stop(self) -> None:
        """Listen no more, and close what was never handed out; accepted Connections stay.

        Once more does nothing. It does not wait.
        """
        hub = self._hub
        with hub.lock:
            if self._is_stopped:
                return
            self._is_stopped = True
            hub.servers.discard(self)
            links = [*self._making, *self._ready]
            self._making.clear()
            self._ready.clear()
            acceptors, self._acceptors = self._acceptors, deque()
            for request in acceptors:
                request._finish(
                    None,
                    ClosedError(Status.INVALID_DEVICE_STATE, "accept: the server was stopped"),
                )
        self._listener.close()
        for link in links:
            _end(link)
        hub.tell()

    close = stop

    def _died(self, failure: RdmaError) -> None:
        """End it with its adapter; with the hub's lock."""
        self._is_stopped = True
        for request in self._acceptors:
            request._finish(None, failure)
        self._acceptors.clear()

    def __del__(self) -> None:
        """Stop it, with a warning, when it was not stopped."""
        if getattr(self, "_is_stopped", True):
            return
        warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        self._listener.close()
        for link in [*self._making, *self._ready]:
            link.abandon()

    def __enter__(self) -> Self:
        """Return it; it is stopped at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    async def __aenter__(self) -> Self:
        """Return it; it is stopped at the end."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()


def _weak_call(link: Link) -> Callable[[], None]:
    """Return what a connector calls at the end; it does not keep the link."""
    found = weakref.ref(link)

    def call() -> None:
        alive = found()
        if alive is not None:
            alive.disconnected()

    return call


def _end(link: Link) -> None:
    with link.hub.lock:
        link.fail(error(Status.CANCELLED, "the server was stopped"))
    link.hub.tell()


def listen(
    address: Address = "127.0.0.1:7471",
    *,
    adapter: Adapter | str | None = None,
    private_data: bytes = b"",
    backlog: int = _BACKLOG,
) -> Server:
    """Listen for Connections.

    Parameters
    ----------
    address : str or (str, int)
        ``"host:port"``, ``"[v6]:port"`` or ``(host, port)``; port 0 lets the system choose.
        RDMA has neither encryption nor authentication: listen where you trust everybody.
    adapter : Adapter or str, optional
        One of yours, or a name; the environment variable NDVERBS_ADAPTER, else the first provider,
        when omitted. ``"auto"`` is the RDMA device that has the address. The process shares what is
        opened here by name.
    private_data : bytes-like
        For every peer that connects; at most ``info.max_callee_data``.
    backlog : int
        How many Connections may be being made or wait for `Server.accept`; more peers are turned
        away, and may try again.

    Returns
    -------
    Server

    Raises
    ------
    RdmaError
        As `Listener.listen`.

    See Also
    --------
    ndverbs.wsk : Winsock Kernel's sockets, whose ``listen`` is another one.
    """
    opened = _adapter_at(adapter, address)
    return Server(opened, address, bytes(private_data), backlog=backlog)


def connect(
    address: Address,
    *,
    adapter: Adapter | str | None = None,
    timeout: float | None = 10,
    private_data: bytes = b"",
) -> Connection:
    """Connect to a Server.

    Parameters
    ----------
    address : str or (str, int)
        ``"host:port"``, ``"[v6]:port"`` or ``(host, port)``.
    adapter : Adapter or str, optional
        As of `listen`; ``"auto"`` is the RDMA device that routes to the address.
    timeout : float, optional
        Seconds for all of it.
    private_data : bytes-like
        For the peer, before it accepts; at most ``info.max_caller_data``.

    Returns
    -------
    Connection

    Raises
    ------
    RdmaError
        As `Connector.connect`; NOT_SUPPORTED: the versions of both sides have none in common.

    Notes
    -----
    Gives the GIL up while it waits, and ends within 100 ms of Ctrl-C. A failed attempt leaves
    nothing, and may be repeated.
    """
    until = None if timeout is None else time.monotonic() + timeout
    host = _address.resolve(address)
    link, connector = _begin(adapter, host)
    try:
        connector.connect(link.qp, None, host, private_data=private_data, timeout=timeout)
        _answered(link, connector)
        connector.complete_connect(_weak_call(link), timeout=_left(until))
        _start(link, connector)
        _wait_opened(link, until)
    except BaseException as failure:
        _give_up(link, failure)
        raise
    return Connection(link)


async def connect_async(
    address: Address,
    *,
    adapter: Adapter | str | None = None,
    timeout: float | None = 10,
    private_data: bytes = b"",
) -> Connection:
    """Connect to a Server, in a loop; cancelling it leaves nothing.

    Parameters
    ----------
    address, adapter, timeout, private_data
        As `connect`. Numeric addresses need no other thread.

    Raises
    ------
    RdmaError
        As `connect`.
    """
    from ndverbs._coroutines import _resolved

    until = None if timeout is None else time.monotonic() + timeout
    host = await _resolved(address)
    link, connector = _begin(adapter, host)
    try:
        await connector.connect_async(
            link.qp, None, host, private_data=private_data, timeout=timeout
        )
        _answered(link, connector)
        await connector.complete_connect_async(_weak_call(link), timeout=_left(until))
        _start(link, connector)
        async with Limit(_left(until), "connect_async", _no_server):
            await link.opened
    except BaseException as failure:
        _give_up(link, failure)
        raise
    return Connection(link)


def _adapter_at(adapter: Adapter | str | None, address: Address) -> Adapter:
    if adapter == "auto":
        return adapter_for(f"auto:{_address.split(address)[0]}")
    return adapter_for(adapter)


def _begin(adapter: Adapter | str | None, host: tuple[str, int]) -> tuple[Link, Connector]:
    opened = _adapter_at(adapter, host)
    link = Link(hub_for(opened, _link.DEPTH), is_active=True)
    try:
        connector = link.connector = opened.create_connector()
    except BaseException as failure:
        _give_up(link, failure)
        raise
    return link, connector


def _answered(link: Link, connector: Connector) -> None:
    link.peer_private_data = connector.connection_data.private_data


def _start(link: Link, connector: Connector) -> None:
    with link.hub.lock:
        if link.state == "opening":
            link.start(connector)


def _wait_opened(link: Link, until: float | None) -> None:
    try:
        link.opened.result(_left(until))
    except TimeoutError:
        raise _no_server("connect", None) from None
    except RdmaError as failure:
        raise copy.copy(failure) from None


def _no_peer(call: str, seconds: float | None) -> RdmaError:
    return error(Status.IO_TIMEOUT, f"{call}: no peer connected within {seconds} s")


def _no_server(call: str, seconds: float | None) -> RdmaError:
    return error(
        Status.IO_TIMEOUT,
        f"{call}: the peer's listener is no Server of ndverbs, or its program does not run",
        hint="see that the peer uses ndverbs.listen",
    )


def _left(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic())


def _give_up(link: Link, cause: BaseException) -> None:
    why = cause if isinstance(cause, RdmaError) else error(Status.CANCELLED, "connect was given up")
    with link.hub.lock:
        link.fail(why)
    link.hub.tell()
