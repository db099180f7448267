# SPDX-License-Identifier: Apache-2.0
"""The connection socket of WSK: requests, and callbacks on the adapter's callback thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ndverbs import _address, _native
from ndverbs._address import Address
from ndverbs._buffers import Buffer, bytes_of
from ndverbs._closing import Closing
from ndverbs._native import Adapter, Status
from ndverbs._sharing import adapter_for
from ndverbs.errors import ClosedError, RdmaError, error
from ndverbs.socket.options import CONNECT_S, Options
from ndverbs.wsk import _events
from ndverbs.wsk._control import Controls, Owner, as_bind_failure
from ndverbs.wsk._events import Events, OnDisconnect, OnReceive, OnSendBacklog
from ndverbs.wsk._indication import DataIndication
from ndverbs.wsk._names import CONNECTION_EVENTS, EventMask, Flag
from ndverbs.wsk._request import Promise, Request, weakly

_LARGEST_FIRST_DATA = 65535


class Socket(Events, Controls, Closing):
    """A connection socket; `ndverbs.wsk.socket` makes one, unbound.

    Parameters
    ----------
    adapter, on_receive, on_disconnect, on_send_backlog
        As of `ndverbs.wsk.socket`.
    """

    _owner = Owner.CONNECTION

    def __init__(
        self,
        adapter: Adapter | str | None = None,
        *,
        on_receive: OnReceive | None = None,
        on_disconnect: OnDisconnect | None = None,
        on_send_backlog: OnSendBacklog | None = None,
        _stream: _native.Stream | None = None,
        _options: Options | None = None,
    ) -> None:
        super().__init__(on_receive, on_disconnect, on_send_backlog)
        self._adapter = adapter_for(adapter)
        self._options = _options or Options()
        self._local: tuple[str, int] | None = None
        self._endpoint: _native.SharedEndpoint | None = None
        self._changing = threading.Lock()  # which stream is this socket's
        self._stream = _stream or self._adapter._create_stream(self._options.native)
        if _stream is not None:
            self._was_connected = True
            self._enabled = _events.static.mask & CONNECTION_EVENTS
        self._hear()
        self._prod()  # of what came before

    def __repr__(self) -> str:
        """Return its state."""
        return f"<wsk.Socket {'closed' if self.closed else self._stream.phase}>"

    # ---- making a connection ----------------------------------------------------------------

    def bind(self, local: Address) -> None:
        """WskBind: take a local address; a socket must be bound before it connects."""
        self._check_open()
        if self._local is not None:
            raise error(Status.INVALID_DEVICE_STATE, "bind: the socket is bound already")
        host, port = _address.resolve(local)
        if "create_shared_endpoint" in self._adapter.info.features:
            try:
                self._endpoint = self._adapter.create_shared_endpoint((host, port))
            except RdmaError as failure:
                raise as_bind_failure(failure) from failure
            host, port = self._endpoint.local_address
        self._local = host, port

    def connect(self, remote: Address, *, timeout: float | None = 10) -> Request[int]:
        """WskConnect: connect; the request is done when the connection is made.

        After one that failed, the socket may connect again.
        """
        self._check_open()
        if self._local is None:
            raise error(
                Status.INVALID_DEVICE_STATE,
                "connect: the socket is not bound",
                hint="bind() it first; port 0 lets the system choose",
            )
        promise: Promise[int] = Promise()
        request = Request("connect", promise=promise, on_cancel=self._give_up_connecting)
        with self._changing:
            if self._connecting is not None:
                is_first = False
            else:
                is_first, self._connecting = True, promise
        if not is_first:
            promise.settle(
                error(
                    Status.INVALID_DEVICE_STATE,
                    "connect: another connect is under way",
                    hint="wait for its request, or cancel() it",
                )
            )
            return request
        try:
            self._renew_stream()
            self._stream._start_connect(
                self._endpoint or (self._local if self._local[1] else None),
                _address.resolve(remote),
                timeout if timeout is not None else CONNECT_S,
            )
        except BaseException as failure:
            self._connecting = None
            promise.settle(failure)
            if not isinstance(failure, RdmaError):
                raise
        return request

    def _renew_stream(self) -> None:
        """Take another stream when the last one's attempt failed."""
        with self._changing:
            if self._was_connected or self._stream.phase != "over":
                return
            self._stream.set_event_callback(None)
            self._stream.close()
            self._stream = self._adapter._create_stream(self._options.native)
            self._forget_end()
            self._hear()

    def _give_up_connecting(self) -> None:
        self._stream.abort()

    def connect_ex(
        self, remote: Address, data: Buffer | None = None, flags: int = 0, *, timeout: float = 10
    ) -> Request[int]:
        """WskConnectEx: connect and send first data, up to 65535 bytes; then both are done."""
        if flags:
            raise error(Status.INVALID_PARAMETER, f"connect_ex: flags {flags} must be 0")
        first = bytes_of("connect_ex", data if data is not None else b"")
        if first.nbytes > _LARGEST_FIRST_DATA:
            raise error(
                Status.BUFFER_OVERFLOW,
                f"connect_ex: {first.nbytes} bytes of first data; at most {_LARGEST_FIRST_DATA} go",
            )
        promise: Promise[int] = Promise()

        def sent(request: Request[int]) -> None:
            promise.settle(request.exception(), request.information)

        def connected(request: Request[int]) -> None:
            failure = request.exception()
            if failure is None and first.nbytes:
                try:
                    self.send(first).add_done_callback(sent)
                except Exception as refused:
                    promise.settle(refused)
            else:
                promise.settle(failure)

        self.connect(remote, timeout=timeout).add_done_callback(connected)
        return Request("connect_ex", promise=promise, on_cancel=self._give_up_connecting)

    @property
    def local_address(self) -> tuple[str, int]:
        """WskGetLocalAddress: where it is bound."""
        self._check_open()
        if self._stream.phase in ("connected", "over"):
            try:
                return self._stream.local_address
            except RdmaError:
                pass  # it never connected
        if self._local is None:
            raise error(Status.INVALID_DEVICE_STATE, "local_address: the socket is not bound")
        return self._local

    @property
    def remote_address(self) -> tuple[str, int]:
        """WskGetRemoteAddress: the peer's address."""
        self._check_open()
        return self._stream.peer_address

    # ---- data -------------------------------------------------------------------------------

    def send(self, buffer: Buffer, flags: int = 0) -> Request[int]:
        """WskSend: send from the caller's memory; done when the device has sent all of it.

        Parameters
        ----------
        buffer
            C-contiguous memory, which must not change until the request is done.
        flags : int
            NODELAY changes nothing: everything is sent at once.
        """
        self._check_open()
        if flags & ~int(Flag.NODELAY):
            raise error(
                Status.NOT_SUPPORTED,
                f"send: flags {flags:#x} are not supported on streams, NODELAY apart",
            )
        return Request("send", transfer=self._stream.submit_send(buffer))

    def receive(self, buffer: Buffer | None = None, flags: int = 0) -> Request[int]:
        """WskReceive: fill the caller's memory; done with the first bytes, 0 at the end.

        Parameters
        ----------
        buffer
            Writable C-contiguous memory. Of no length, the request takes nothing and makes
            receive events go on.
        flags : int
            WAITALL: done when it is full. DRAIN: without a buffer, discards all until the end.
        """
        self._check_open()
        if flags & ~int(Flag.WAITALL | Flag.DRAIN):
            raise error(
                Status.NOT_SUPPORTED,
                f"receive: flags {flags:#x} are not supported on streams, WAITALL and DRAIN apart",
            )
        is_drain, is_all = bool(flags & Flag.DRAIN), bool(flags & Flag.WAITALL)
        nbytes = 0 if buffer is None else bytes_of("receive", buffer).nbytes
        if is_drain and (is_all or nbytes):
            raise error(
                Status.INVALID_PARAMETER, "receive: DRAIN takes neither WAITALL nor a buffer"
            )
        if nbytes == 0 and not is_drain:
            promise: Promise[int] = Promise()
            promise.settle()
            self._resume()
            return Request("receive", promise=promise)
        with self._calling:
            if self._running & EventMask.RECEIVE:
                return self._receive_later(buffer, is_all, is_drain)
            return self._submit_receive(buffer, is_all, is_drain)

    def _submit_receive(self, buffer: Buffer | None, is_all: bool, is_drain: bool) -> Request[int]:
        transfer = self._stream.submit_receive(buffer, is_all=is_all, is_drain=is_drain)
        self._receives += 1
        request: Request[int] = Request("receive", transfer=transfer)
        request.add_done_callback(weakly(self._on_received))
        return request

    def _receive_later(self, buffer: Buffer | None, is_all: bool, is_drain: bool) -> Request[int]:
        """Return a receive made inside a receive event; it begins behind the event."""
        promise: Promise[int] = Promise()
        made: list[Request[int]] = []

        def cancel() -> None:
            if made:
                made[0].cancel()
            else:
                promise.settle(error(Status.CANCELLED, "receive: the request was cancelled"))

        def finished(done: Request[int]) -> None:
            promise.settle(done.exception(), done.information)

        request = Request("receive", promise=promise, on_cancel=cancel)

        def begin() -> None:
            try:
                if promise.done():
                    return
                if self.closed:
                    raise error(Status.CANCELLED, "receive: the socket was closed")
                made.append(self._submit_receive(buffer, is_all, is_drain))
                made[0].add_done_callback(finished)
            except Exception as failure:
                promise.settle(failure)

        self._deferred.append(begin)
        return request

    def _on_received(self, _: Request[int]) -> None:
        with self._calling:
            self._receives -= 1
        self._resume()

    def receive_indications(self, limit: int = 16) -> list[DataIndication]:
        """Take received bytes without a copy: retained indications, none when nothing is there.

        Not inside a receive event, which shows these bytes; on other threads it waits for its end.
        """
        self._check_open()
        taken: list[DataIndication] = []
        with self._calling:
            if self._running & EventMask.RECEIVE:
                raise error(
                    Status.INVALID_DEVICE_STATE,
                    "receive_indications: the receive event that runs shows these bytes",
                    hint="retain() its indications, or return how many bytes were accepted",
                )
            while len(taken) < limit:
                try:
                    view = self._stream.take(_events.MOST_INDICATED)
                except RdmaError:
                    if taken:
                        break  # the next call says why no more came
                    raise
                if view is None:
                    break
                taken.append(DataIndication(view, self))
        if self._stream.is_peer_shut:
            self._prod(EventMask.DISCONNECT)
        return taken

    def release(self, indications: DataIndication | Sequence[DataIndication]) -> None:
        """WskRelease: give indications back that were retained."""
        given = [indications] if isinstance(indications, DataIndication) else list(indications)
        for one in given:
            if not isinstance(one, DataIndication) or not one.is_retained:
                raise error(Status.INVALID_PARAMETER, "release: not an indication that is retained")
            if not one.is_of(self):
                raise error(
                    Status.INVALID_PARAMETER,
                    "release: the indication is another socket's",
                    hint="release it there, or call its own release()",
                )
        for one in given:
            one.release()

    def send_ex(self, *_: object) -> None:
        """WskSendEx: reserved."""
        raise error(Status.NOT_IMPLEMENTED, "send_ex: WskSendEx is reserved for system use")

    def receive_ex(self, *_: object) -> None:
        """WskReceiveEx: reserved."""
        raise error(Status.NOT_IMPLEMENTED, "receive_ex: WskReceiveEx is reserved for system use")

    # ---- the end ----------------------------------------------------------------------------

    def disconnect(self, data: Buffer | None = None, *, abortive: bool = False) -> Request[int]:
        """WskDisconnect: end the sending direction, behind all sends and final data; or abort.

        Receiving goes on after a graceful one, until the peer ends, too.
        """
        self._check_open()
        if abortive:
            if data is not None:
                raise error(
                    Status.INVALID_PARAMETER, "disconnect: an abortive one sends no final data"
                )
            if self._stream.phase in ("fresh", "connecting"):
                raise error(Status.INVALID_DEVICE_STATE, "disconnect: the socket is not connected")
            self._is_local_abort = True
            self._stream.abort()
            promise: Promise[int] = Promise()
            promise.settle()
            return Request("disconnect", promise=promise)
        if data is not None and bytes_of("disconnect", data).nbytes:
            self._stream.submit_send(data)
        return Request("disconnect", operation=self._stream._start_disconnect())

    def close(self) -> None:
        """WskCloseSocket: end all requests with CANCELLED; abortive unless both ends are over.

        Waits for a callback that runs on another thread.
        """
        with self._changing:
            if self._stream.closed:
                return
            self._enabled = EventMask(0)
            self._is_local_abort = True
            try:
                self._stream.set_event_callback(None)
                if self._stream.phase != "over":
                    self._stream.abort()
            except ClosedError:
                pass  # the adapter was faster
            self._stream.close()
        if self._endpoint is not None:
            self._endpoint.close()
        connecting = self._connecting
        if connecting is not None:
            connecting.settle(error(Status.CANCELLED, "connect: the socket was closed"))
        with self._calling:
            pass

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._stream.closed

    # ---- control ----------------------------------------------------------------------------

    def _inspected_as(self) -> int:
        if not self._stream.inspect_id:
            raise error(Status.INVALID_DEVICE_REQUEST, "control: the socket was not inspected")
        return self._stream.inspect_id

    @property
    def ideal_send_backlog(self) -> int:
        """How many bytes of sends to keep under way; SendBacklog events tell when it changes."""
        self._check_connected("ideal_send_backlog")
        return self._stream.ideal_send_backlog

    @property
    def receive_backlog(self) -> int:
        """Bytes received and not yet delivered."""
        self._check_connected("receive_backlog")
        return self._stream.readable

    def _apply_options(self) -> None:
        self._options.apply(self._stream)

    def _check_open(self) -> None:
        if self._stream.closed:
            raise error(Status.FILE_FORCED_CLOSED, "the socket is closed")

    def _check_connected(self, what: str) -> None:
        if self._stream.phase not in ("connected", "over"):
            raise error(
                Status.INVALID_DEVICE_STATE,
                f"{what}: the socket is not connected",
                hint="connect it first, and wait for the request",
            )
