# SPDX-License-Identifier: Apache-2.0
"""The listening socket of WSK: accept requests and events, and conditional accept."""

from __future__ import annotations

import contextlib
import socket as _socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Self

from ndverbs import wsk_socket
from ndverbs._native import Adapter, Status
from ndverbs.errors import ClosedError, RdmaError, error
from ndverbs.sharing import adapter_for
from ndverbs.socket_options import Options
from ndverbs.wsk_names import (
    CONNECTION_EVENTS,
    EventMask,
    InspectAction,
    Ioctl,
    Option,
    RequestType,
)
from ndverbs.wsk_options import as_bind_failure, option
from ndverbs.wsk_request import Promise, Request, weakly
from ndverbs.wsk_socket import Socket

OnAccept = Callable[["ListeningSocket", Socket, tuple[str, int], tuple[str, int]], "Status | None"]
OnInspect = Callable[
    ["ListeningSocket", int, tuple[str, int], tuple[str, int]], "InspectAction | int"
]
OnAbort = Callable[["ListeningSocket", int], object]


class ListeningSocket:
    """A socket that listens; `ndverbs.wsk.listen` makes one.

    Connections that come before anybody accepts them wait, up to the backlog.
    """

    def __init__(
        self,
        address: str | tuple[Any, ...],
        *,
        adapter: Adapter | str | None = None,
        backlog: int = 128,
        on_accept: OnAccept | None = None,
        on_inspect: OnInspect | None = None,
        on_abort: OnAbort | None = None,
        options: Options | None = None,
    ) -> None:
        self._adapter = adapter_for(adapter)
        self._options = options or Options()
        self.on_accept = on_accept
        self._on_inspect = on_inspect
        self._on_abort = on_abort
        self._is_exclusive = 0
        self._enabled = wsk_socket.static_events & EventMask.ACCEPT
        self._inherited = EventMask(0)
        self._lock = threading.RLock()
        self._waiting: deque[tuple[Promise, Request]] = deque()
        self._is_closed = False
        try:
            self._native = self._adapter._create_stream_listener(
                address,
                self._options.native,
                backlog,
                on_inspect=weakly(self._inspect) if on_inspect else None,
                on_abort=weakly(self._abort) if on_abort else None,
                on_ready=weakly(self._deliver),
            )
        except RdmaError as failure:
            raise as_bind_failure(failure) from failure

    def __repr__(self) -> str:
        """Return where it listens."""
        return f"<wsk.ListeningSocket {'closed' if self._is_closed else self.local_address}>"

    def __enter__(self) -> Self:
        """Return it; it is closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    @property
    def local_address(self) -> tuple[str, int]:
        """WskGetLocalAddress: where it listens."""
        return self._native.local_address

    def accept(self, timeout: float | None = None) -> Socket:
        """Wait for a connection; all its event callbacks are off."""
        request = self.accept_request()
        try:
            made: Socket = request.result(timeout)
        except BaseException:
            request.cancel()
            if request.status == Status.SUCCESS:
                request.information.close()  # it came in the very moment
            raise
        return made

    def accept_request(self) -> Request:
        """WskAccept: a request whose information is the next connection's socket."""
        self._check_open()
        promise = Promise()
        request = Request("accept", promise=promise, on_cancel=lambda: self._cancel(promise))
        with self._lock:
            self._waiting.append((promise, request))
        self._deliver()
        return request

    def _cancel(self, promise: Promise) -> None:
        with self._lock:
            self._waiting = deque(entry for entry in self._waiting if entry[0] is not promise)
        promise.settle(error(Status.CANCELLED, "accept: the request was cancelled"))

    def set_event_callbacks(self, mask: int) -> Status:
        """SO_WSK_EVENT_CALLBACK: switch ACCEPT on or, with DISABLE, off.

        Connection events that are switched on here are on, too, in sockets that accept events
        bring; they can never be switched off here.
        """
        self._check_open()
        events = EventMask(mask & ~int(EventMask.DISABLE))
        if int(events) & ~int(EventMask.ACCEPT | CONNECTION_EVENTS) or not events:
            raise error(
                Status.INVALID_PARAMETER,
                f"set_event_callbacks: {mask:#x} is no event of a listener",
            )
        if mask & EventMask.DISABLE:
            if events != EventMask.ACCEPT:
                raise error(
                    Status.INVALID_PARAMETER,
                    "set_event_callbacks: a listener switches only ACCEPT off, alone",
                )
            self._enabled = EventMask(0)
            return Status.SUCCESS
        self._enabled |= events & EventMask.ACCEPT
        self._inherited |= events & CONNECTION_EVENTS
        self._native._call_soon(lambda _: self._deliver())
        return Status.SUCCESS

    def inspect_complete(self, inspect_id: int, action: int) -> None:
        """WskInspectComplete: answer a request that an inspect event has put off."""
        self._check_open()
        if action not in (InspectAction.ACCEPT, InspectAction.REJECT):
            raise error(
                Status.INVALID_PARAMETER,
                f"inspect_complete: {action!r} is neither accept nor reject",
            )
        self._native.inspect_complete(inspect_id, action == InspectAction.ACCEPT)

    def control(
        self,
        request: RequestType,
        code: int,
        value: Any = None,
        *,
        level: int = _socket.SOL_SOCKET,
    ) -> Any:
        """WskControlSocket: set an option, which accepted sockets inherit, get one, or ioctl."""
        self._check_open()
        if request == RequestType.IOCTL:
            if code == Ioctl.SIO_ADDRESS_LIST_QUERY:
                return list(self._adapter.info.addresses)
            raise error(Status.NOT_SUPPORTED, f"control: ioctl {code:#x} means nothing here")
        is_set = request == RequestType.SET_OPTION
        if code == Option.SO_WSK_EVENT_CALLBACK and is_set:
            return self.set_event_callbacks(value)
        if code == Option.SO_CONDITIONAL_ACCEPT:
            if is_set:
                raise error(
                    Status.INVALID_DEVICE_STATE,
                    "control: conditional accept is chosen before the socket is bound",
                    hint="pass on_inspect to wsk.listen()",
                )
            return int(self._on_inspect is not None)
        answer = option(self, self._options, is_set, code, value, level)
        self._native.set_options(self._options.native)
        return answer

    def close(self) -> None:
        """WskCloseSocket: end accept requests with CANCELLED and reset what nobody accepted."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            waiting, self._waiting = list(self._waiting), deque()
        self._native.close()
        for promise, _ in waiting:
            promise.settle(error(Status.CANCELLED, "accept: the listening socket was closed"))

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._is_closed

    # ---- on the callback thread, or the thread of an accept request -------------------------

    def _deliver(self) -> None:
        """Hand waiting connections to requests, oldest first, else to the accept event."""
        while not self._is_closed:
            with self._lock:
                has_request = bool(self._waiting)
                by_event = bool(self._enabled & EventMask.ACCEPT) and self.on_accept is not None
                if not has_request and not by_event:
                    return
                # An accept event is told on the callback thread only.
                if not has_request and threading.current_thread().name != "ndverbs callbacks":
                    return
                try:
                    stream = self._native.accept(0)
                except ClosedError:
                    return
                if stream is None:
                    return
                promise, request = self._waiting.popleft() if has_request else (None, None)
            made = Socket(self._adapter, _stream=stream, _options=self._options.copy())
            if promise is not None and request is not None:
                request._information = made
                if not promise.settle():
                    made.close()
            else:
                self._tell_accept(made)

    def _tell_accept(self, made: Socket) -> None:
        assert self.on_accept is not None
        answer = None
        try:
            answer = self.on_accept(self, made, made.local_address, made.remote_address)
        except BaseException:
            made.close()
            raise
        if answer == Status.REQUEST_NOT_ACCEPTED:
            made.close()
        elif self._inherited and not made.closed:
            made.set_event_callbacks(self._inherited)

    def _inspect(self, event: tuple[int, tuple[str, int], tuple[str, int]]) -> None:
        inspect_id, local, peer = event
        assert self._on_inspect is not None
        action = InspectAction.REJECT
        try:
            action = InspectAction(self._on_inspect(self, inspect_id, local, peer))
        finally:
            if action != InspectAction.PEND:
                with contextlib.suppress(ClosedError):
                    self._native.inspect_complete(inspect_id, action == InspectAction.ACCEPT)

    def _abort(self, inspect_id: int) -> None:
        assert self._on_abort is not None
        self._on_abort(self, inspect_id)

    def _check_open(self) -> None:
        if self._is_closed:
            raise error(Status.FILE_FORCED_CLOSED, "the listening socket is closed")
