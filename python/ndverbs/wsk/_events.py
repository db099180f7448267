# SPDX-License-Identifier: Apache-2.0
"""The events of a WSK connection socket; their callbacks run on the adapter's callback thread.

Which event is due follows from the state that the stream is in, not from the bits of a native
event: these may come in another order, or twice. A callback that raises does not keep the others
from being called.
"""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar, cast

from ndverbs import _native
from ndverbs._native import Adapter, Status
from ndverbs.errors import ClosedError, RdmaError, error
from ndverbs.wsk._indication import DataIndication
from ndverbs.wsk._names import CONNECTION_EVENTS, EventMask, Flag
from ndverbs.wsk._request import Promise, weakly

if TYPE_CHECKING:
    from ndverbs.wsk._connection import Socket

OnReceive = Callable[["Socket", "list[DataIndication]", Flag], "Status | int | None"]
OnDisconnect = Callable[["Socket", Flag], object]
OnSendBacklog = Callable[["Socket", int], object]
F = TypeVar("F", bound=Callable[..., object])

# Bits of the native event callback.
_CONNECTED = 1
_BACKLOG = 32
# The most that one indication shows.
MOST_INDICATED = 1 << 20


class Static:
    """Events that are on in every socket, for good: chosen before the first one is made."""

    def __init__(self) -> None:
        self.mask = EventMask(0)
        self._is_settled = False

    def choose(self, mask: int) -> None:
        """WSK_SET_STATIC_EVENT_CALLBACKS; see `ndverbs.wsk.set_static_event_callbacks`."""
        mask = operator.index(mask)
        if mask & ~int(CONNECTION_EVENTS | EventMask.ACCEPT):
            raise error(Status.INVALID_PARAMETER, f"static callbacks: {mask:#x} is no event")
        if self._is_settled:
            raise error(
                Status.INVALID_DEVICE_STATE, "static callbacks are chosen before the first socket"
            )
        self.mask = EventMask(mask)

    def settled(self) -> EventMask:
        """Return the events for a socket that is being made; no others are chosen from now on."""
        self._is_settled = True
        return self.mask


static = Static()


class Events:
    """The events of `ndverbs.wsk.Socket`."""

    _adapter: Adapter
    _stream: _native.Stream

    if TYPE_CHECKING:

        def _check_open(self) -> None: ...
        def _check_connected(self, what: str) -> None: ...
        @property
        def closed(self) -> bool:
            """Whether the socket is closed."""

    def __init__(
        self,
        on_receive: OnReceive | None,
        on_disconnect: OnDisconnect | None,
        on_send_backlog: OnSendBacklog | None,
    ) -> None:
        self._on_receive = on_receive
        self._on_disconnect = on_disconnect
        self._on_send_backlog = on_send_backlog
        static.settled()
        self._connecting: Promise[int] | None = None
        self._was_connected = False
        self._enabled = EventMask(0)
        # Held while a callback runs: one at a time, and close() waits for it.
        self._calling = threading.RLock()
        self._running = EventMask(0)
        self._is_stopped = False  # an indication was not wholly accepted
        self._told_end: Flag | None = None
        self._owes_backlog = False
        self._is_local_abort = False
        self._receives = 0  # requests that are not done
        self._deferred: list[Callable[[], None]] = []

    @property
    def on_receive(self) -> OnReceive | None:
        """The callback for received data; one that is set later is called for data that waits."""
        return self._on_receive

    @on_receive.setter
    def on_receive(self, function: OnReceive | None) -> None:
        self._on_receive = function
        self._prod(EventMask.RECEIVE)

    @property
    def on_disconnect(self) -> OnDisconnect | None:
        """The callback for the peer's end; one that is set later is called for an earlier end."""
        return self._on_disconnect

    @on_disconnect.setter
    def on_disconnect(self, function: OnDisconnect | None) -> None:
        self._on_disconnect = function
        self._prod(EventMask.DISCONNECT)

    @property
    def on_send_backlog(self) -> OnSendBacklog | None:
        """The callback for changes of the ideal send backlog."""
        return self._on_send_backlog

    @on_send_backlog.setter
    def on_send_backlog(self, function: OnSendBacklog | None) -> None:
        self._on_send_backlog = function

    def set_event_callbacks(self, mask: int) -> Status:
        """SO_WSK_EVENT_CALLBACK: switch callbacks on, or with DISABLE one off.

        Returns
        -------
        Status
            SUCCESS, or PENDING when the callback to be switched off runs just now; it is off when
            it returns. (WSK says EVENT_PENDING.)
        """
        self._check_open()
        mask = operator.index(mask)
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
            if events & static.mask:
                raise error(
                    Status.INVALID_DEVICE_REQUEST,
                    "set_event_callbacks: the event is switched on statically, for good",
                )
            self._enabled &= ~events
            return Status.PENDING if self._running & events else Status.SUCCESS
        self._enabled |= events
        self._prod(events)
        return Status.SUCCESS

    # ---- inside -----------------------------------------------------------------------------

    def _hear(self) -> None:
        """Have the native stream call this socket back."""
        self._stream.set_event_callback(weakly(self._on_event))

    def _prod(self, events: EventMask = CONNECTION_EVENTS) -> None:
        """Have the callback thread look for events that are due, if one of `events` is on."""
        if self._enabled & events:
            with contextlib.suppress(ClosedError):  # then no event is due
                self._stream._call_soon(self._on_event)

    def _forget_end(self) -> None:
        """Forget the end of an attempt to connect: the next one has an end of its own."""
        self._told_end = None
        self._is_local_abort = self._is_stopped = False

    def _resume(self) -> None:
        """Report what a receive that is done has made due: more data, or the end behind it."""
        self._is_stopped = False
        with contextlib.suppress(ClosedError):
            is_end = self._stream.is_peer_shut or self._stream.phase == "over"
            self._prod(EventMask.RECEIVE | (EventMask.DISCONNECT if is_end else EventMask(0)))

    # ---- on the callback thread -------------------------------------------------------------

    def _on_event(self, bits: int) -> None:
        try:
            self._settle_connect(bits)
            self._owes_backlog |= bool(bits & _BACKLOG)
            if not self.closed:
                self._tell_data()
                self._tell_end()
                self._tell_backlog()
        except ClosedError:
            if not self.closed and not self._adapter.closed:
                self._prod()
                raise
        except BaseException:
            self._prod()  # what comes behind the callback that raised
            raise

    def _settle_connect(self, bits: int) -> None:
        promise = self._connecting
        if promise is None:
            return
        try:
            phase = self._stream.phase
            is_connected = bool(bits & _CONNECTED) or phase == "connected"
            if not is_connected and phase != "over":
                return
            if not is_connected:
                self._stream.raise_failure()
            failure = None
            self._was_connected = True
            self._enabled |= static.mask & CONNECTION_EVENTS
        except ClosedError:
            failure = error(Status.CANCELLED, "connect: the socket was closed")
        except RdmaError as caught:
            failure = caught
        self._connecting = None
        promise.settle(failure)

    def _tell_data(self) -> None:
        while self._is_due(EventMask.RECEIVE, self._on_receive) and not self._is_stopped:
            with self._calling:
                try:
                    with self._telling(EventMask.RECEIVE, lambda: self._on_receive) as function:
                        if function is None or self._receives:
                            return
                        view = self._stream.look(MOST_INDICATED)
                        if view is None:
                            return
                        self._indicate(view, function)
                finally:
                    deferred, self._deferred = self._deferred, []
                    for begin in deferred:
                        begin()

    def _indicate(self, view: _native.StreamView, function: OnReceive) -> None:
        indication = DataIndication(view, self)
        flags = Flag.NONE
        if self._stream.is_short_of_memory:
            flags |= Flag.RELEASE_ASAP
        if self._stream.readable == len(view):
            flags |= Flag.ENTIRE_MESSAGE
        accepted = 0
        try:
            answer = function(cast("Socket", self), [indication], flags)
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
        if self._is_local_abort or not self._was_connected:
            return
        if not self._is_due(EventMask.DISCONNECT, self._on_disconnect):
            return
        if stream.phase == "over" and self._is_broken():
            flags = Flag.ABORTIVE
        elif stream.is_peer_shut and stream.readable == 0:
            flags = Flag.NONE  # behind the data
        else:
            return
        if self._told_end in (flags, Flag.ABORTIVE):
            return
        with self._telling(EventMask.DISCONNECT, lambda: self._on_disconnect) as function:
            if function is not None:
                self._told_end = flags
                function(cast("Socket", self), flags)

    def _is_broken(self) -> bool:
        if not self._stream.is_peer_shut:
            return True
        try:
            self._stream.raise_failure()
        except ClosedError:
            raise
        except RdmaError:
            return True
        return False

    def _tell_backlog(self) -> None:
        owes, self._owes_backlog = self._owes_backlog, False
        if not owes:
            return
        with self._telling(EventMask.SEND_BACKLOG, lambda: self._on_send_backlog) as function:
            if function is not None:
                function(cast("Socket", self), self._stream.ideal_send_backlog)

    def _is_due(self, kind: EventMask, function: Callable[..., object] | None) -> bool:
        """Return whether an event is switched on and has a callback."""
        return function is not None and not self.closed and bool(self._enabled & kind)

    @contextlib.contextmanager
    def _telling(self, kind: EventMask, callback: Callable[[], F | None]) -> Iterator[F | None]:
        """Give the callback, if it may be called now, and let no other one run meanwhile."""
        with self._calling:
            # Noted, then asked: the thread that switches the event off sees the one or prevents
            # the other.
            self._running |= kind
            try:
                function = callback()
                yield function if self._is_due(kind, function) else None
            finally:
                self._running &= ~kind
