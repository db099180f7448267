# SPDX-License-Identifier: Apache-2.0
"""One end of a connection: its queue pair, what is under way on it, and how it begins and ends.

Everything here runs with the hub's lock, unless it is said. Completions come in by `completed`.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from ndverbs._native import Connector, OperationType, QueuePair, Result, Status
from ndverbs.connection import _frames, _wire
from ndverbs.connection._channel import Channel, Frame
from ndverbs.connection._hub import Hub
from ndverbs.connection._pending import CANCELLED, Pending
from ndverbs.connection._request import Request
from ndverbs.connection._trace import Notes
from ndverbs.connection._wire import Message, WireError
from ndverbs.errors import (
    RdmaBrokenPipeError,
    RdmaConnectionResetError,
    RdmaError,
    error,
    error_from_result,
)

if TYPE_CHECKING:
    from ndverbs.connection._memory import Slice
    from ndverbs.connection._messages import Lent

_SUCCESS = Status.SUCCESS
_RECEIVE = OperationType.RECEIVE
# Requests of the program's and frames of messages that are posted at once; more wait in Python.
INITIATOR_DEPTH = 128
_INLINE_SIZE = 256
DEPTH = _wire.CREDITS + INITIATOR_DEPTH
# What the peer may take for its part of the negotiation.
NEGOTIATION_S = 5.0
_FIRST_ORDER = 1 << 32  # contexts of receives are below it


class Link:
    """One end of a connection below its handle, which may go first.

    States: ``opening``, ``open``, ``closing`` (the last messages go out), ``over``.
    """

    def __init__(self, hub: Hub, *, is_active: bool) -> None:
        self.hub = hub
        self.is_active = is_active
        self.state = "opening"
        self.opened: Request[None] = Request(hub)
        self.failure: RdmaError | None = None
        self.is_orderly = False
        self.channel: Channel | None = None
        self.inbox: deque[Message] = deque()
        self.readers: deque[Request[Message]] = deque()
        self.drainers: list[Request[None]] = []
        self.quieters: list[Request[None]] = []
        self.lent: dict[int, Lent] = {}
        self.frames = 0
        self._held: Frame | None = None  # the next one, for which the queue had no room
        self.waiting_bytes = 0  # of messages behind requests for which there is no room
        self.peer_private_data = b""
        self.addresses = (("", 0), ("", 0))
        self.is_gone = False
        self.is_made = False  # the connection below
        self.is_greeted = False
        self.notes = Notes()
        self.connector: Connector | None = None
        self.on_open: Callable[[Link], None] | None = None
        self.on_over: list[Callable[[Link], object]] = []
        self.counts = dict.fromkeys(
            ("messages_sent", "messages_received", "bytes_lent", "bytes_taken"), 0
        )
        self._numbers = itertools.count(1)
        self._orders = itertools.count(_FIRST_ORDER)
        self._pending: dict[int, Pending] = {}
        self._backlog: deque[Callable[[], bool]] = deque()
        self._early: list[Result] = []
        self._posted = 0  # receives
        self._is_released = False
        self._memory: Slice | None = None
        self.key = 0
        with hub.lock:
            try:
                self.key = hub.join(self)
                self.qp: QueuePair = hub.pd.create_qp(
                    hub.cq,
                    hub.cq,
                    context=self.key,
                    receive_queue_depth=_wire.CREDITS,
                    initiator_queue_depth=INITIATOR_DEPTH,
                    max_receive_sge=1,
                    max_initiator_sge=min(4, hub.info.max_initiator_request_sge),
                    inline_size=min(_INLINE_SIZE, hub.info.max_inline_data_size),
                )
                self._inline_size = min(_INLINE_SIZE, hub.info.max_inline_data_size)
                self.at_once: dict[str, Callable[..., bool]] = {
                    "write": self.qp._write_at_once,
                    "read": self.qp._read_at_once,
                    "fetch_add": self.qp._fetch_add_at_once,
                    "compare_swap": self.qp._compare_swap_at_once,
                }
                self._memory = used = hub.receives.take()
                size = _wire.RECEIVE_SIZE
                self._places = [
                    used.region.segment(used.at + place * size, size)
                    for place in range(_wire.CREDITS)
                ]
                for place in range(_wire.CREDITS):
                    self._post_receive(place)
            except BaseException as cause:
                self.break_off(cause)
                raise

    # ---- the beginning

    def start(self, connector: Connector) -> None:
        """Begin the negotiation: the connection of the queue pair is made."""
        self.connector = connector
        self.addresses = (connector.local_address, connector.peer_address)
        self.is_made = True
        if self.is_active:
            _frames.send(self, _wire.negotiate_request(), None)
        else:
            self.hub.set_deadline(self, NEGOTIATION_S)
        early, self._early = self._early, []
        for result in early:
            self.completed(result)

    def _negotiate(self, data: memoryview) -> None:
        if self.is_active:
            _, granted, limits = _wire.read_negotiate_response(data)
            # The peer has posted one receive for us beside those that it grants.
            self.channel = Channel(limits, granted, _wire.CREDITS, 0)
            self.channel.queue(_wire.hello(), is_free=True)
        else:
            _, limits_or_none = _wire.read_negotiate_request(data)
            _frames.send(self, _wire.negotiate_response(limits_or_none, _wire.CREDITS), None)
            if limits_or_none is None:
                raise WireError("it speaks no version of SMB Direct that this side does")
            self.channel = Channel(limits_or_none, 0, 0, _wire.CREDITS)
        self.pump()

    def _greeted(self, message: Message) -> None:
        if self.is_greeted or self.channel is None:
            raise WireError("it says hello twice")
        if not self.is_active:
            self.channel.queue(_wire.hello(), is_free=True)
        refused = _wire.version_error(message.version)
        if refused is not None:
            self.pump()  # so that the peer can say so, too
            self.fail(refused)
            return
        self.is_greeted = True
        self.state = "open"
        self.hub.set_deadline(self, None)
        self.opened._finish(None)
        on_open, self.on_open = self.on_open, None
        if on_open is not None:
            on_open(self)

    def expire(self) -> None:
        """Its deadline has passed."""
        self.fail(
            error(
                Status.IO_TIMEOUT,
                f"the peer did not begin a Connection within {NEGOTIATION_S:g} s",
                hint="see that both sides use connect and listen of ndverbs",
            )
        )

    # ---- completions

    def completed(self, result: Result) -> None:
        """Take a completion of the queue pair."""
        status, nbytes, _, context, kind = result[:5]
        if not self.is_made and status is _SUCCESS and self.state != "over":
            # The peer is faster than the word that the connection is made.
            self._early.append(result)
        elif kind is _RECEIVE:
            self._posted -= 1
            if status is not _SUCCESS:
                self._ended_by(result)
            elif self.state != "over":
                try:
                    self._received(context, nbytes)
                except WireError as broken:
                    self.fail(
                        RdmaConnectionResetError(
                            Status.CONNECTION_ABORTED, f"the peer broke the protocol: {broken}"
                        )
                    )
        else:
            pending = self._pending.pop(context, None)
            if pending is not None:
                pending.completed(result)
            if status is not _SUCCESS:
                self._ended_by(result)
            elif self._backlog or self._held or (self.channel is not None and self.channel.is_due):
                self.pump()
        if self.quieters and self._is_quiet:
            for request in self.quieters:
                request._finish(None)
            self.quieters = []
        if self.state == "over":
            self._release_if_done()

    def _received(self, place: int, nbytes: int) -> None:
        assert self._memory is not None
        at = place * _wire.RECEIVE_SIZE
        frame = self._memory.view[at : at + nbytes]
        channel = self.channel
        if channel is None:
            data = bytes(frame)
            self._post_receive(place)
            self._negotiate(memoryview(data))
            return
        message = channel.received(frame)
        self._post_receive(place)
        if message is not None:
            if message.kind == _wire.MESSAGE:
                if not self.is_greeted:
                    raise WireError("its first message is no hello")
                self.counts["messages_received"] += 1
                self._deliver(message)
            elif message.kind == _wire.HELLO:
                self._greeted(message)
            elif message.kind == _wire.TAKEN:
                lent = self.lent.pop(message.number, None)
                if lent is None:
                    raise WireError(f"it has taken message {message.number}, which was not lent")
                lent.end(None)
            elif message.kind == _wire.GOODBYE:
                self.is_orderly = True
        if self._backlog or channel.is_due:
            self.pump()

    def _deliver(self, message: Message) -> None:
        if self.readers:
            self.readers.popleft()._finish(message)
        else:
            self.inbox.append(message)

    def _post_receive(self, place: int) -> None:
        if self.state == "over":
            return
        try:
            self.qp.receive(self._places[place], context=place)
        except RdmaError as failure:
            self.fail(self._as_end(failure))
        else:
            self._posted += 1

    # ---- requests

    def do(self, attempt: Callable[[], bool]) -> None:
        """Post something, behind all that waits to be posted; False of `attempt`: no room yet."""
        if self._backlog or not attempt():
            self._backlog.append(attempt)
            self.pump()

    def post(self, pending: Pending, call: Callable[..., object], *arguments: Any) -> bool:
        """Post a request; False: the queue is full.

        Raises
        ------
        RdmaError
            It cannot be posted.
        """
        return self._post(pending, lambda order: call(*arguments, context=order)) is not None

    def post_at_once(
        self, pending: Pending, call: Callable[..., bool], *arguments: Any
    ) -> bool | None:
        """Post a request that its call may do; True: it is done, None: the queue is full."""
        return self._post(pending, lambda order: call(*arguments, order))

    def _post(self, pending: Pending, call: Callable[[int], object]) -> bool | None:
        order = self.new_order(pending)
        try:
            is_done = bool(call(order))
        except BaseException as failure:
            if not isinstance(failure, Exception) or _is_of_the_program(failure):
                self.break_off(failure)  # whether it was posted is not known
                raise
            self.forget_order(order)
            if isinstance(failure, RdmaError) and failure.status is Status.NO_MORE_ENTRIES:
                return None
            raise
        if is_done:
            self.forget_order(order)
        return is_done

    def pump(self) -> None:
        """Post what waits and can be posted now."""
        channel = self.channel
        try:
            while self._backlog:
                attempt = self._backlog.popleft()  # one that ends the link is not asked again
                if not attempt():
                    self._backlog.appendleft(attempt)
                    return
            while channel is not None and self.frames < _frames.MOST_FRAMES:
                frame = self._held or channel.next_frame()
                if frame is None:
                    break
                self._held = None
                if not _frames.send(self, frame.data, frame.done):
                    self._held = frame
                    return
        except BaseException as cause:
            self.break_off(cause)  # what has come out of a queue is lost
            raise
        if self.drainers and not self.unsent_bytes:
            for request in self.drainers:
                request._finish(None)
            self.drainers = []

    def new_order(self, pending: Pending) -> int:
        """Return a context whose completion is given to `pending`."""
        order = next(self._orders)
        self._pending[order] = pending
        return order

    def forget_order(self, order: int) -> None:
        """Take back a context that no request has."""
        self._pending.pop(order, None)

    @property
    def unsent_bytes(self) -> int:
        """Bytes of messages that wait."""
        return self.waiting_bytes + (0 if self.channel is None else self.channel.unsent_bytes)

    @property
    def _is_quiet(self) -> bool:
        """Nothing waits to be posted or sent, is under way, or lent."""
        channel = self.channel
        return not (self._backlog or self._held or self.lent or self._pending) and (
            channel is None or channel.is_idle
        )

    def next_number(self) -> int:
        """Return the number of the next message."""
        return next(self._numbers) & 0xFFFFFFFF

    # ---- the end

    def say_goodbye(self, quiet: Request[None]) -> None:
        """Take no more from the program, and tell the peer that the end is one in order."""
        self.state = "closing"

        def attempt() -> bool:
            if self.state != "over" and self.channel is not None:
                self.channel.queue(_wire.control(_wire.GOODBYE), is_free=True)
            return True

        self.do(attempt)
        self.quieters.append(quiet)
        self.pump()
        self.hub.attend()

    def check_open(self) -> None:
        """Raise when the program may begin nothing any more."""
        if self.state == "over":
            self.raise_end()
        if self.state == "closing":
            raise closed_here()

    def raise_end(self) -> NoReturn:
        """Raise why it is over, an exception of the caller's own."""
        assert self.failure is not None
        raise copy.copy(self.failure) from None

    def abandon(self) -> None:
        """End it soon; without the lock, which this thread may have: it collects garbage."""
        self.hub.abandoned.append(self)
        self.hub.attend()

    def disconnected(self) -> None:
        """Hear that the peer has ended it, or that it broke; without the lock, on any thread."""
        if self.hub.is_ended:
            return  # at the interpreter's exit: a thread that was stopped may have the lock
        with self.hub.lock:
            self.is_gone = True
            with contextlib.suppress(RdmaError):
                self.hub.drain()  # what arrived before
            if self.state != "over":
                self._flush()
        self.hub.attend()
        self.hub.tell()

    def failure_of(self, result: Result) -> RdmaError:
        """Return the exception for a request that has failed."""
        # With IO_TIMEOUT the transport gave up: that is no TimeoutError, after which it goes on.
        if result[0] in (Status.CANCELLED, Status.CONNECTION_ABORTED, Status.IO_TIMEOUT):
            return self.failure or self._end_error(result.detail)
        return error_from_result(result)

    def _ended_by(self, result: Result) -> None:
        """End the connection, because a request of it has failed."""
        if self.state != "over":
            detail = result.detail
            if result[0] is not Status.CANCELLED:
                detail = f"{result[4].name.lower()} ended {result[0].name}" + (
                    f": {detail}" if detail else ""
                )
            self.fail(self._end_error(detail))

    def _as_end(self, failure: RdmaError) -> RdmaError:
        """Return the end of a connection that a posting call has found."""
        return self.failure or self._end_error(failure.detail or failure.what)

    def _end_error(self, detail: str | None) -> RdmaError:
        if self.state == "closing":
            return closed_here()
        if self.is_orderly:
            return RdmaBrokenPipeError(
                Status.CONNECTION_ABORTED, "the peer has closed the Connection"
            )
        what = "the Connection has ended" if self.state != "opening" else "the peer gave up"
        return RdmaConnectionResetError(Status.CONNECTION_ABORTED, what, detail=detail)

    def fail(self, failure: RdmaError) -> None:
        """End the connection at once; those who wait are told why."""
        if self.state == "over":
            return
        self.failure = failure
        self.state = "over"
        self.hub.set_deadline(self, None)
        self._flush()
        self._posted -= len(self._early)
        self._early.clear()
        backlog, self._backlog = self._backlog, deque()
        for attempt in backlog:
            attempt()  # each finds out
        unsent = [] if self.channel is None else self.channel.take_all()
        if self._held is not None:
            unsent.append(self._held.done)
            self._held = None
        for done in unsent:
            if isinstance(done, Request):
                done._finish(None, failure)
        for lent in self.lent.values():
            lent.end(failure)
        self.lent.clear()
        waiting: list[Request[Any]] = [*self.readers, *self.drainers, *self.quieters, self.opened]
        for request in waiting:
            request._finish(None, failure)
        self.readers.clear()
        self.drainers, self.quieters = [], []
        for function in self.on_over:
            self.hub.later(function, self)
        self.on_over = []
        self.on_open = None
        self.hub.attend()
        self._release_if_done()

    def _flush(self) -> None:
        qp = getattr(self, "qp", None)
        if qp is not None:
            with contextlib.suppress(RdmaError):
                qp.flush()

    def break_off(self, cause: BaseException) -> None:
        """End it after an exception that may have come anywhere, such as that of Ctrl-C.

        What was posted is not known: the queue pair goes, and with it whatever would complete.
        """
        self.died(
            RdmaConnectionResetError(
                Status.CONNECTION_ABORTED,
                f"the Connection was ended, because {type(cause).__name__} came in the middle of a "
                "call",
            )
        )

    def died(self, failure: RdmaError) -> None:
        """End it without its completions, whose queue is dead or closed."""
        self.fail(failure)
        qp = getattr(self, "qp", None)
        if qp is not None:
            qp.close()  # before any memory is given back
        pending, self._pending = self._pending, {}
        for each in pending.values():
            each.completed(CANCELLED)
        self._posted = 0
        self._release_if_done()

    def _release_if_done(self) -> None:
        """Give back what the link has, once no request names it."""
        if self._posted or self._pending or self._is_released:
            return
        self._is_released = True
        qp = getattr(self, "qp", None)
        if qp is not None:
            qp.close()
        if self.connector is not None:
            self.connector.close()
        if self._memory is not None:
            self.hub.receives.give(self._memory)
            self._memory = None
        self.hub.leave(self.key, DEPTH)


def _is_of_the_program(failure: BaseException) -> bool:
    """Return whether it comes out of code of the program's: of a signal handler or a finalizer."""
    at = failure.__traceback__
    while at is not None:
        if not at.tb_frame.f_globals.get("__name__", "").startswith("ndverbs."):
            return True
        at = at.tb_next
    return False


def closed_here() -> RdmaError:
    """Return what calls on a connection raise that this side has closed."""
    return RdmaBrokenPipeError(Status.CONNECTION_ABORTED, "the Connection was closed by this side")
