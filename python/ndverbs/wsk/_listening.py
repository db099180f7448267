# SPDX-License-Identifier: Apache-2.0
"""The listening socket of WSK: accept requests and events, and conditional accept."""

from __future__ import annotations

import contextlib
import operator
import threading
from collections import deque
from collections.abc import Callable

from ndverbs._address import Address
from ndverbs._closing import Closing
from ndverbs._native import Adapter, Status
from ndverbs._sharing import adapter_for
from ndverbs.errors import ClosedError, RdmaError, error
from ndverbs.socket.options import Options, backlog_of
from ndverbs.wsk import _events
from ndverbs.wsk._connection import Socket
from ndverbs.wsk._control import Controls, Owner, as_bind_failure
from ndverbs.wsk._names import CONNECTION_EVENTS, EventMask, InspectAction
from ndverbs.wsk._request import Promise, Request, weakly

OnAccept = Callable[["ListeningSocket", Socket, tuple[str, int], tuple[str, int]], "Status | None"]
OnInspect = Callable[
    ["ListeningSocket", int, tuple[str, int], tuple[str, int]], "InspectAction | int"
]
OnAbort = Callable[["ListeningSocket", int], object]


class ListeningSocket(Controls, Closing):
    """A socket that listens; `ndverbs.wsk.listen` makes one.

    Connections that come before the application accepts them wait, up to the backlog.
    """

    _owner = Owner.LISTENING

    def __init__(
        self,
        address: Address,
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
        self._on_accept = on_accept
        self._on_inspect = on_inspect
        self._on_abort = on_abort
        self._enabled = _events.static.settled() & EventMask.ACCEPT
        self._inherited = EventMask(0)
        self._lock = threading.RLock()
        self._waiting: deque[Promise[Socket]] = deque()  # accept requests
        self._is_telling = False  # an accept event
        self._is_closed = False
        try:
            self._native = self._adapter._create_stream_listener(
                address,
                self._options.native,
                backlog_of(backlog),
                on_inspect=weakly(self._inspect) if on_inspect else None,
                on_abort=weakly(self._abort) if on_abort else None,
                on_ready=weakly(self._deliver),
            )
        except RdmaError as failure:
            raise as_bind_failure(failure) from failure

    def __repr__(self) -> str:
        """Return where it listens."""
        return f"<wsk.ListeningSocket {'closed' if self._is_closed else self.local_address}>"

    @property
    def on_accept(self) -> OnAccept | None:
        """The callback of accept events; one that is set later gets the connections that wait."""
        return self._on_accept

    @on_accept.setter
    def on_accept(self, function: OnAccept | None) -> None:
        self._on_accept = function
        self._deliver_soon()

    @property
    def local_address(self) -> tuple[str, int]:
        """WskGetLocalAddress: where it listens."""
        return self._native.local_address

    def accept(self, timeout: float | None = None) -> Socket:
        """Wait for a connection; all its event callbacks are off."""
        request = self.accept_request()
        try:
            return request.result(timeout)
        except BaseException:
            request.cancel()
            request.add_done_callback(_close_what_came)
            raise

    def accept_request(self) -> Request[Socket]:
        """WskAccept: a request whose information is the next connection's socket."""
        self._check_open()
        promise: Promise[Socket] = Promise()
        request = Request("accept", promise=promise, on_cancel=lambda: self._cancel(promise))
        with self._lock:
            self._check_open()
            self._waiting.append(promise)
        self._deliver()
        return request

    def _cancel(self, promise: Promise[Socket]) -> None:
        with self._lock:
            if promise not in self._waiting:
                return  # it gets its connection just now
            self._waiting.remove(promise)
        promise.settle(error(Status.CANCELLED, "accept: the request was cancelled"))

    def set_event_callbacks(self, mask: int) -> Status:
        """SO_WSK_EVENT_CALLBACK: switch ACCEPT on or, with DISABLE, off.

        Connection events that are switched on here are on, too, in sockets that accept events
        bring; they can never be switched off here.
        """
        self._check_open()
        mask = operator.index(mask)
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
        self._deliver_soon()
        return Status.SUCCESS

    def inspect_complete(self, inspect_id: int, action: int) -> None:
        """WskInspectComplete: answer a request that an inspect event has put off."""
        self._check_open()
        if action not in (InspectAction.ACCEPT, InspectAction.REJECT):
            raise error(
                Status.INVALID_PARAMETER,
                f"inspect_complete: {action!r} is neither accept nor reject",
            )
        self._native.inspect_complete(operator.index(inspect_id), action == InspectAction.ACCEPT)

    @property
    def _is_conditional(self) -> bool:
        return self._on_inspect is not None

    def _apply_options(self) -> None:
        self._native.set_options(self._options.native)

    def close(self) -> None:
        """WskCloseSocket: end accept requests with CANCELLED and reset what was not accepted."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
        self._native.close()
        self._end_requests()

    def _end_requests(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for promise in waiting:
            promise.settle(error(Status.CANCELLED, "accept: the listening socket was closed"))

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._is_closed or self._native.closed

    # ---- on the callback thread, or the thread of an accept request -------------------------

    def _deliver_soon(self) -> None:
        with contextlib.suppress(ClosedError):
            self._native._call_soon(lambda _: self._deliver())

    def _deliver(self) -> None:
        """Hand waiting connections to requests, oldest first, else to the accept event."""
        while True:
            with self._lock:
                if not self._waiting and not self._may_tell():
                    return
                try:
                    stream = self._native.accept(0)
                except ClosedError:
                    break
                if stream is None:
                    return
                promise = self._waiting.popleft() if self._waiting else None
            try:
                made = Socket(self._adapter, _stream=stream, _options=self._options.copy())
            except BaseException as failure:  # the adapter is being closed
                if promise is None:
                    raise
                promise.settle(failure)
                continue
            if promise is not None:
                promise.settle(information=made)
            else:
                self._tell_accept(made)
        self._end_requests()

    def _may_tell(self) -> bool:
        """Return whether an accept event may run: one at a time, on the callback thread."""
        return (
            bool(self._enabled & EventMask.ACCEPT)
            and self._on_accept is not None
            and not self._is_telling
            and self._adapter._is_callback_thread()
        )

    def _tell_accept(self, made: Socket) -> None:
        function, answer = self._on_accept, None
        self._is_telling = True
        try:
            local, remote = made.local_address, made.remote_address
        except RdmaError:  # it is gone already
            made.close()
            self._is_telling = False
            return
        try:
            assert function is not None
            answer = function(self, made, local, remote)
        except BaseException:
            made.close()
            self._deliver_soon()  # those behind it
            raise
        finally:
            self._is_telling = False
        if answer == Status.REQUEST_NOT_ACCEPTED:
            made.close()
        elif self._inherited:
            with contextlib.suppress(ClosedError):
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
        if self.closed:
            raise error(Status.FILE_FORCED_CLOSED, "the listening socket is closed")


def _close_what_came(request: Request[Socket]) -> None:
    """Close the connection that came while its accept() gave up."""
    if request.status == Status.SUCCESS:
        request.result().close()
