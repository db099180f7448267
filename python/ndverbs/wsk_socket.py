# SPDX-License-Identifier: Apache-2.0
"""The connection socket of WSK: requests, and events that the adapter's callback thread tells."""

from __future__ import annotations

import socket as _socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, Self

from ndverbs import _native
from ndverbs import address as _address
from ndverbs._native import Adapter, Status
from ndverbs.errors import ClosedError, RdmaError, error
from ndverbs.sharing import adapter_for
from ndverbs.socket_options import CONNECT_S, Options
from ndverbs.wsk_indication import DataIndication
from ndverbs.wsk_names import (
    CONNECTION_EVENTS,
    EventMask,
    Flag,
    Ioctl,
    Option,
    RequestType,
)
from ndverbs.wsk_options import as_bind_failure, option
from ndverbs.wsk_request import Promise, Request, weakly

Address = str | tuple[Any, ...]
Buffer = Any  # what has a buffer: bytes, arrays, memoryviews
OnReceive = Callable[["Socket", "list[DataIndication]", Flag], "Status | int | None"]
OnDisconnect = Callable[["Socket", Flag], object]
OnSendBacklog = Callable[["Socket", int], object]

# Bits of the native event callback.
_CONNECTED, _BROKEN = 1, 8
_BACKLOG = 32
# The most that one indication shows.
_INDICATED = 1 << 20
_LARGEST_FIRST_DATA = 65535

# Switched on for every socket that is made later; see set_static_event_callbacks().
static_events = EventMask(0)


class Socket:
    """A connection socket; `ndverbs.wsk.socket` makes one, unbound.

    Parameters
    ----------
    adapter, on_receive, on_disconnect, on_send_backlog
        As of `ndverbs.wsk.socket`.
    """

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
        self._adapter = adapter_for(adapter)
        self._options = _options or Options()
        self.on_receive = on_receive
        self.on_disconnect = on_disconnect
        self.on_send_backlog = on_send_backlog
        self._local: tuple[str, int] | None = None
        self._endpoint: _native.SharedEndpoint | None = None
        self._connecting: Promise | None = None
        self._enabled = EventMask(0)
        # Held while a callback runs: one at a time, and close() waits for it.
        self._calling = threading.RLock()
        self._running = EventMask(0)
        self._is_stopped = False  # an indication was not wholly accepted
        self._has_told_end = False
        self._is_local_abort = False
        self._receives = 0  # requests that are not done
        self._deferred: list[Callable[[], None]] = []
        self._is_exclusive = 0
        self._stream = _stream or self._adapter._create_stream(self._options.native)
        self._stream.set_event_callback(weakly(self._on_event))
        if _stream is not None:
            self._enabled = static_events & CONNECTION_EVENTS

    def __repr__(self) -> str:
        """Return its state."""
        return f"<wsk.Socket {'closed' if self.closed else self._stream.phase}>"

    def __enter__(self) -> Self:
        """Return it; it is closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

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

    def connect(self, remote: Address, *, timeout: float | None = 10) -> Request:
        """WskConnect: connect; the request is done when the connection is made."""
        self._check_open()
        if self._local is None:
            raise error(
                Status.INVALID_DEVICE_STATE,
                "connect: the socket is not bound",
                hint="bind() it first; port 0 lets the system choose",
            )
        promise = Promise()
        self._connecting = promise
        try:
            self._stream._start_connect(
                self._endpoint or (self._local if self._local[1] else None),
                _address.resolve(remote),
                timeout if timeout is not None else CONNECT_S,
            )
        except RdmaError as failure:
            self._connecting = None
            promise.settle(failure)
        return Request("connect", promise=promise, on_cancel=self._stream.abort)

    def connect_ex(
        self, remote: Address, data: Buffer | None = None, flags: int = 0, *, timeout: float = 10
    ) -> Request:
        """WskConnectEx: connect and send first data, up to 65535 bytes; then both are done."""
        if flags:
            raise error(Status.INVALID_PARAMETER, f"connect_ex: flags {flags} must be 0")
        first = memoryview(data if data is not None else b"").cast("B")
        if first.nbytes > _LARGEST_FIRST_DATA:
            raise error(
                Status.BUFFER_OVERFLOW,
                f"connect_ex: {first.nbytes} bytes of first data; at most {_LARGEST_FIRST_DATA} go",
            )
        promise = Promise()

        def connected(request: Request) -> None:
            failure = request.exception()
            if failure is None and first.nbytes:
                try:
                    self.send(first).add_done_callback(
                        lambda sent: promise.settle(sent.exception())
                    )
                except RdmaError as refused:
                    promise.settle(refused)
            else:
                promise.settle(failure)

        self.connect(remote, timeout=timeout).add_done_callback(connected)
        return Request(
            "connect_ex", promise=promise, on_cancel=self._stream.abort, information=first.nbytes
        )

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
        """WskGetRemoteAddress: whom it is connected to."""
        self._check_open()
        return self._stream.peer_address

    # ---- data -------------------------------------------------------------------------------

    def send(self, buffer: Buffer, flags: int = 0) -> Request:
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
                Status.NOT_SUPPORTED, f"send: flags {flags:#x} contain one that streams lack"
            )
        return Request("send", transfer=self._stream.submit_send(buffer))

    def receive(self, buffer: Buffer | None = None, flags: int = 0) -> Request:
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
                Status.NOT_SUPPORTED, f"receive: flags {flags:#x} contain one that streams lack"
            )
        is_drain, is_all = bool(flags & Flag.DRAIN), bool(flags & Flag.WAITALL)
        nbytes = 0 if buffer is None else memoryview(buffer).nbytes
        if is_drain and (is_all or nbytes):
            raise error(
                Status.INVALID_PARAMETER, "receive: DRAIN takes neither WAITALL nor a buffer"
            )
        if nbytes == 0 and not is_drain:
            promise = Promise()
            promise.settle()
            self._resume()
            return Request("receive", promise=promise)
        with self._calling:
            if self._running & EventMask.RECEIVE:
                return self._receive_later(buffer, is_all, is_drain)
            return self._submit_receive(buffer, is_all, is_drain)

    def _submit_receive(self, buffer: Any, is_all: bool, is_drain: bool) -> Request:
        transfer = self._stream.submit_receive(buffer, is_all=is_all, is_drain=is_drain)
        self._receives += 1
        request = Request("receive", transfer=transfer)
        request.add_done_callback(self._on_received)
        return request

    def _receive_later(self, buffer: Any, is_all: bool, is_drain: bool) -> Request:
        """Of a receive inside a receive event: what the event shows is settled first."""
        promise = Promise()
        request = Request("receive", promise=promise)

        def begin() -> None:
            try:
                made = self._submit_receive(buffer, is_all, is_drain)
            except RdmaError as failure:
                promise.settle(failure)
                return

            def finished(done: Request) -> None:
                request._information = done.information
                promise.settle(done.exception())

            made.add_done_callback(finished)

        self._deferred.append(begin)
        return request

    def _on_received(self, _: Request) -> None:
        with self._calling:
            self._receives -= 1
        self._resume()

    def receive_indications(self, limit: int = 16) -> list[DataIndication]:
        """Take received bytes without a copy: retained indications, none when nothing is there."""
        self._check_open()
        taken: list[DataIndication] = []
        while len(taken) < limit:
            view = self._stream.take(_INDICATED)
            if view is None:
                break
            taken.append(DataIndication(view))
        return taken

    def release(self, indications: DataIndication | Sequence[DataIndication]) -> None:
        """WskRelease: give indications back that were retained."""
        given = [indications] if isinstance(indications, DataIndication) else list(indications)
        for one in given:
            if not isinstance(one, DataIndication) or not one.is_retained:
                raise error(Status.INVALID_PARAMETER, "release: not an indication that is retained")
        for one in given:
            one.release()

    def send_ex(self, *_: object) -> None:
        """WskSendEx: reserved."""
        raise error(Status.NOT_IMPLEMENTED, "send_ex: WskSendEx is reserved for system use")

    def receive_ex(self, *_: object) -> None:
        """WskReceiveEx: reserved."""
        raise error(Status.NOT_IMPLEMENTED, "receive_ex: WskReceiveEx is reserved for system use")

    # ---- the end ----------------------------------------------------------------------------

    def disconnect(self, data: Buffer | None = None, *, abortive: bool = False) -> Request:
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
            promise = Promise()
            promise.settle()
            return Request("disconnect", promise=promise)
        if data is not None and memoryview(data).nbytes:
            self._stream.submit_send(data)
        return Request("disconnect", operation=self._stream._start_disconnect())

    def close(self) -> None:
        """WskCloseSocket: end all requests with CANCELLED; abortive unless both ends are over.

        Waits for a callback that runs on another thread.
        """
        if self._stream.closed:
            return
        self._enabled = EventMask(0)
        try:
            self._stream.set_event_callback(None)
            self._is_local_abort = True
            if self._stream.phase != "over":
                self._stream.abort()
        except ClosedError:
            pass  # the adapter was faster
        self._stream.close()
        if self._endpoint is not None:
            self._endpoint.close()
        if self._connecting is not None:
            self._connecting.settle(error(Status.CANCELLED, "connect: the socket was closed"))
        with self._calling:
            pass

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._stream.closed

    # ---- control ----------------------------------------------------------------------------

    def control(
        self,
        request: RequestType,
        code: int,
        value: Any = None,
        *,
        level: int = _socket.SOL_SOCKET,
    ) -> Any:
        """WskControlSocket: set an option, get one, or carry out an ioctl."""
        self._check_open()
        if request == RequestType.IOCTL:
            return self._ioctl(code)
        if request not in (RequestType.SET_OPTION, RequestType.GET_OPTION):
            raise error(Status.INVALID_PARAMETER, f"control: {request} is no request type")
        is_set = request == RequestType.SET_OPTION
        if code == Option.SO_WSK_EVENT_CALLBACK:
            if not is_set:
                raise error(Status.INVALID_PARAMETER, "control: event callbacks are only set")
            return self.set_event_callbacks(value)
        return option(self, self._options, is_set, code, value, level)

    def _ioctl(self, code: int) -> Any:
        if code == Ioctl.SIO_WSK_QUERY_IDEAL_SEND_BACKLOG:
            self._check_connected("ideal_send_backlog")
            return self._stream.ideal_send_backlog
        if code == Ioctl.SIO_WSK_QUERY_RECEIVE_BACKLOG:
            self._check_connected("receive_backlog")
            return self._stream.readable
        if code == Ioctl.SIO_WSK_QUERY_INSPECT_ID:
            if not self._stream.inspect_id:
                raise error(Status.INVALID_DEVICE_REQUEST, "control: the socket was not inspected")
            return self._stream.inspect_id
        if code == Ioctl.SIO_ADDRESS_LIST_QUERY:
            return list(self._adapter.info.addresses)
        raise error(Status.NOT_SUPPORTED, f"control: ioctl {code:#x} means nothing to a stream")

    @property
    def ideal_send_backlog(self) -> int:
        """How many bytes of sends to keep under way; SendBacklog events tell when it changes."""
        return int(self._ioctl(Ioctl.SIO_WSK_QUERY_IDEAL_SEND_BACKLOG))

    @property
    def receive_backlog(self) -> int:
        """Bytes received and not yet delivered."""
        return int(self._ioctl(Ioctl.SIO_WSK_QUERY_RECEIVE_BACKLOG))

    def set_event_callbacks(self, mask: int) -> Status:
        """SO_WSK_EVENT_CALLBACK: switch callbacks on, or with DISABLE one off.

        Returns
        -------
        Status
            SUCCESS, or PENDING when the callback to be switched off runs just now; it is off when
            it returns. (WSK says EVENT_PENDING.)
        """
        self._check_open()
        events = EventMask(mask & ~int(EventMask.DISABLE))
        if int(events) & ~int(CONNECTION_EVENTS) or not events:
            raise error(
                Status.INVALID_PARAMETER, f"set_event_callbacks: {mask:#x} is no connection event"
            )
        self._check_connected("set_event_callbacks")
        if mask & EventMask.DISABLE:
            if events not in tuple(EventMask):
                raise error(
                    Status.INVALID_PARAMETER,
                    "set_event_callbacks: events are switched off one at a time",
                )
            if events & static_events:
                raise error(
                    Status.INVALID_DEVICE_REQUEST,
                    "set_event_callbacks: the event is switched on statically, for good",
                )
            self._enabled &= ~events
            return Status.PENDING if self._running & events else Status.SUCCESS
        self._enabled |= events
        # On the callback thread, as everything that is told.
        self._prod()
        return Status.SUCCESS

    # ---- events, on the callback thread -----------------------------------------------------

    def _prod(self) -> None:
        """Have the callback thread look at what may be told."""
        self._stream._call_soon(self._on_event)

    def _resume(self) -> None:
        self._is_stopped = False
        if self._enabled & EventMask.RECEIVE and not self.closed:
            self._prod()

    def _on_event(self, bits: int) -> None:
        if bits & (_CONNECTED | _BROKEN) and self._connecting is not None:
            promise, self._connecting = self._connecting, None
            self._settle_connect(promise, bool(bits & _CONNECTED))
        if self.closed:
            return
        self._tell_data()
        self._tell_end()
        if bits & _BACKLOG:
            self._tell_backlog()

    def _settle_connect(self, promise: Promise, is_connected: bool) -> None:
        failure: BaseException | None = None
        self._enabled |= static_events & CONNECTION_EVENTS
        # It may have ended again by now.
        if not is_connected:
            try:
                self._stream.raise_failure()
            except RdmaError as caught:
                failure = caught
        promise.settle(failure)

    def _tell_data(self) -> None:
        while self._can_tell(EventMask.RECEIVE, self.on_receive) and not self._is_stopped:
            with self._calling:
                if self._receives or self.closed:
                    return
                view = self._stream.look(_INDICATED)
                if view is None:
                    return
                self._running |= EventMask.RECEIVE
                try:
                    self._indicate(view)
                finally:
                    self._running &= ~EventMask.RECEIVE
                    deferred, self._deferred = self._deferred, []
                    for begin in deferred:
                        begin()

    def _indicate(self, view: _native.StreamView) -> None:
        indication = DataIndication(view)
        flags = Flag.NONE
        if self._stream.is_short_of_memory:
            flags |= Flag.RELEASE_ASAP
        if self._stream.readable == len(view):
            flags |= Flag.ENTIRE_MESSAGE
        assert self.on_receive is not None
        accepted = 0
        try:
            answer = self.on_receive(self, [indication], flags)
            # Status is an integer, too: 0 is SUCCESS, of everything.
            if answer is None or answer is Status.SUCCESS:
                accepted = len(view)
            elif answer is Status.PENDING:
                indication.retain()
                accepted = len(view)
            elif answer is not Status.DATA_NOT_ACCEPTED:
                accepted = min(max(int(answer), 0), len(view))
        finally:
            if not indication.is_retained:
                self._is_stopped = accepted < len(view)
                if accepted and not self.closed:
                    view.consume(accepted)

    def _tell_end(self) -> None:
        stream = self._stream
        if self._has_told_end or self._is_local_abort or self.closed:
            return
        is_broken = bool(stream.error) and stream.phase == "over"
        # Data first, as far as the application takes it by events.
        if not is_broken and not (stream.is_peer_shut and stream.readable == 0):
            return
        if not self._can_tell(EventMask.DISCONNECT, self.on_disconnect):
            return
        self._has_told_end = True
        with self._calling:
            self._running |= EventMask.DISCONNECT
            try:
                assert self.on_disconnect is not None
                self.on_disconnect(self, Flag.ABORTIVE if is_broken else Flag.NONE)
            finally:
                self._running &= ~EventMask.DISCONNECT

    def _tell_backlog(self) -> None:
        if self.closed or not self._can_tell(EventMask.SEND_BACKLOG, self.on_send_backlog):
            return
        with self._calling:
            assert self.on_send_backlog is not None
            self.on_send_backlog(self, self._stream.ideal_send_backlog)

    def _can_tell(self, kind: EventMask, function: object) -> bool:
        return bool(self._enabled & kind) and function is not None and not self.closed

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
