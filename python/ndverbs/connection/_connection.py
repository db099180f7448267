# SPDX-License-Identifier: Apache-2.0
"""Connection: messages, one-sided access to the peer's memory, and their end."""

from __future__ import annotations

import asyncio
import time
import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Self

from ndverbs import _address
from ndverbs._native import (
    Adapter,
    Flag,
    ProtectionDomain,
    QueuePair,
    Status,
)
from ndverbs.connection import _messages, _wire
from ndverbs.connection._link import Link, closed_here
from ndverbs.connection._one_sided import OneSided
from ndverbs.connection._request import Request
from ndverbs.connection._trace import Trace
from ndverbs.connection._wire import Message
from ndverbs.errors import RdmaError, RdmaTimeoutError, error
from ndverbs.remote import RemoteBuffer

if TYPE_CHECKING:
    pass


# A transfer that reports goes in pieces of this size.
_REPORTED_PIECE = 16 << 20
_FLUSH_S = 5.0
_DISCONNECT_S = 2.0
# Of rows of write_many every so manieth completes, so that the queue never stands still.
_ROWS_A_COMPLETION = 32
_SILENT = int(Flag.SILENT_SUCCESS)
Progress = Callable[[int], object] | Literal[True] | None


class Connection(OneSided):
    """A connection to a peer: messages of any size, and the memory that it has given access to.

    Made by `ndverbs.connect` and by `Server.accept`. It may be used from any thread and in any
    loop. Queues, credits and registrations are its own affair; `qp`, `pd` and `adapter` reach the
    objects below.

    What begins something returns a `Request`, a future that can be awaited, too. Small parts of
    messages (below 16 KiB) travel in the message; larger ones are lent: the peer reads them out of
    the caller's memory when its program asks for the message, and the Request ends then. So the
    memory of either side is bounded by what its own program does.

    Arrays may be unregistered: they are registered for the request. ``send`` and the one-sided
    calls take whatever has a buffer, ``__array_interface__`` or host ``__dlpack__``, arrays in
    Fortran order too.

    Notes
    -----
    After the end, what had arrived is delivered; then every call raises
    RdmaBrokenPipeError when the peer has closed in order, else RdmaConnectionResetError, with the
    cause. A Connection that is dropped open is aborted, with a ResourceWarning.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._hub = link.hub

    def __repr__(self) -> str:
        """Return its peer and where it stands."""
        link = self._link
        state = "closed" if self.closed else link.state
        return f"<Connection {_address.text(link.addresses[1])}, {state}>"

    # ---- messages

    def send(self, value: Any) -> Request[None]:
        """Send a message; it never waits for the peer.

        Parameters
        ----------
        value : bytes-like, array, RemoteBuffer, {str: RemoteBuffer}, or list or tuple of those
            One message. ``bytes`` arrive as bytes, arrays as arrays with dtype and shape, other
            buffers as writable memoryviews, a list or tuple as a list. NumPy's scalars are
            arrays without axes.

        Returns
        -------
        Request of None
            Ends when the memory may be used again: of a message below 16 KiB at once or when it
            has been sent, of a larger part when the peer's program has received it.

        Raises
        ------
        TypeError, RdmaError
            What cannot be sent; a Connection that has ended.

        Notes
        -----
        Messages wait in this process while the peer takes none: see `unsent_bytes` and `drained`.
        """
        return _messages.begin_send(self._link, value)

    def receive(
        self,
        timeout: float | None = None,
        *,
        allocate: Callable[[list[int]], Any] | None = None,
    ) -> Any:
        """Wait for a message and return its value.

        Parameters
        ----------
        timeout : float, optional
            Seconds, for all of it; None waits without a limit.
        allocate : callable, optional
            Gets the sizes of the message's parts in bytes, returns writable buffers of these sizes
            (one, or a list), and they are returned, filled. Nothing large moves before.

        Returns
        -------
        bytes, ndarray, memoryview, RemoteBuffer, dict of those, or list
            What the peer sent, see `send`. Large parts lie in memory that begins at a multiple of
            64 bytes and is used again when nothing refers to it any more.

        Raises
        ------
        RdmaError
            A TimeoutError: no message is lost, the next call has it. A ConnectionResetError or
            BrokenPipeError: the Connection has ended, and all messages have been delivered.

        Notes
        -----
        Gives the GIL up while it waits, and ends within 100 ms of Ctrl-C.
        """
        until = None if timeout is None else time.monotonic() + timeout
        message = self._next("receive", timeout)
        try:
            return _messages.take(self._link, message, allocate, until)
        except BaseException as failure:
            _messages.give_back(self._link, message)
            # Else the read has failed, not the time.
            if isinstance(failure, RdmaTimeoutError) and until and time.monotonic() >= until:
                raise _no_message("receive", timeout) from None
            raise

    def receive_buffer(self, timeout: float | None = None) -> RemoteBuffer:
        """Wait for a message that is a RemoteBuffer, and return it.

        Parameters
        ----------
        timeout : float, optional
            Seconds; None waits without a limit.

        Raises
        ------
        RdmaError
            INVALID_DEVICE_REQUEST: the next message is something else, which `receive` has.
        RdmaError
            As `receive`.
        """
        found: RemoteBuffer = self._remote(self._next("receive_buffer", timeout), _wire.REMOTE)
        return found

    def receive_buffers(self, timeout: float | None = None) -> dict[str, RemoteBuffer]:
        """Wait for a message that names RemoteBuffers, and return them by name.

        Parameters
        ----------
        timeout : float, optional
            Seconds; None waits without a limit.

        Raises
        ------
        RdmaError
            As `receive_buffer`.
        """
        found: dict[str, RemoteBuffer]
        found = self._remote(self._next("receive_buffers", timeout), _wire.REMOTES)
        return found

    async def receive_async(
        self,
        timeout: float | None = None,
        *,
        allocate: Callable[[list[int]], Any] | None = None,
    ) -> Any:
        """Wait for a message in a loop; one that is cancelled loses no message.

        Parameters
        ----------
        timeout, allocate
            As `receive`.

        Raises
        ------
        RdmaError
            As `receive`.
        """
        async with Limit(timeout, "receive_async"):
            message = await self._next_async()
            try:
                return await _messages.take_async(self._link, message, allocate)
            except BaseException:
                _messages.give_back(self._link, message)
                raise

    async def receive_buffer_async(self, timeout: float | None = None) -> RemoteBuffer:
        """Wait for a RemoteBuffer in a loop; see `receive_buffer`."""
        async with Limit(timeout, "receive_buffer_async"):
            found: RemoteBuffer = self._remote(await self._next_async(), _wire.REMOTE)
            return found

    async def receive_buffers_async(self, timeout: float | None = None) -> dict[str, RemoteBuffer]:
        """Wait for RemoteBuffers in a loop; see `receive_buffers`."""
        async with Limit(timeout, "receive_buffers_async"):
            found: dict[str, RemoteBuffer]
            found = self._remote(await self._next_async(), _wire.REMOTES)
            return found

    def _next(self, call: str, timeout: float | None) -> Message:
        try:
            return _messages.next_now(self._link) or _messages.next_message(self._link, timeout)
        except RdmaTimeoutError:
            raise _no_message(call, timeout) from None

    async def _next_async(self) -> Message:
        return _messages.next_now(self._link) or await _messages.next_message_async(self._link)

    def _remote(self, message: Message, kind: int) -> Any:
        try:
            return _messages.take_remote(self._link, message, kind)
        except BaseException:
            _messages.give_back(self._link, message)
            raise

    # ---- what it is

    @property
    def closed(self) -> bool:
        """Whether it has ended, by whichever side; messages may still be there to be received."""
        return self._link.state == "over" or self._link.is_gone

    @property
    def unsent_bytes(self) -> int:
        """Bytes of messages that wait for the peer, lent parts apart."""
        return self._link.unsent_bytes

    async def drained(self) -> None:
        """Wait, in a loop, until no message waits to be sent.

        Raises
        ------
        RdmaError
            The Connection has ended.
        """
        request: Request[None] = Request(self._hub)
        with self._hub.lock:
            self._link.check_open()
            if not self.unsent_bytes:
                return
            self._link.drainers.append(request)
        await request

    def on_closed(self, callback: Callable[[Connection], object]) -> None:
        """Call a function when it has ended, once; now if it has.

        Parameters
        ----------
        callback : callable
            Gets this Connection: in the running loop, when this is called in one, else on the
            thread that sees the end. Its exceptions go to ``sys.unraisablehook``, or to the loop's
            handler.
        """
        loop: asyncio.AbstractEventLoop | None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None

        dropped = weakref.ref(self)  # a Connection that is dropped ends, whatever was asked for

        def over(_: Link) -> None:
            here = dropped()
            if here is None:
                return
            if loop is None:
                callback(here)
            elif not loop.is_closed():
                loop.call_soon_threadsafe(callback, here)

        with self._hub.lock:
            is_over = self._link.state == "over"
            if not is_over:
                self._link.on_over.append(over)
        if is_over:
            self._hub.call(over, self._link)

    @property
    def peer_private_data(self) -> bytes:
        """What the peer gave as ``private_data``; a device may have padded it with zeros."""
        return self._link.peer_private_data

    @property
    def local_address(self) -> tuple[str, int]:
        """Where this end is, as (host, port)."""
        return self._link.addresses[0]

    @property
    def peer_address(self) -> tuple[str, int]:
        """Where the peer is, as (host, port)."""
        return self._link.addresses[1]

    @property
    def transport(self) -> str:
        """What carries it, as `Connector.transport`; ``"closed"`` after the end."""
        connector = self._link.connector
        if connector is None or self.closed:
            return "closed"
        try:
            return connector.transport
        except RdmaError:
            return "closed"

    @property
    def transport_reason(self) -> str:
        """Why `transport` is not a faster one, as `Connector.transport_reason`."""
        connector = self._link.connector
        if connector is None or self.closed:
            return "the Connection has ended"
        try:
            return connector.transport_reason
        except RdmaError:
            return "the Connection has ended"

    @property
    def qp(self) -> QueuePair:
        """The queue pair. Requests of your own complete in the Connection's queue: post none."""
        return self._link.qp

    @property
    def pd(self) -> ProtectionDomain:
        """The protection domain, which Connections of one adapter share."""
        return self._hub.pd

    @property
    def adapter(self) -> Adapter:
        """The adapter."""
        return self._hub.adapter

    def stats(self) -> dict[str, Any]:
        """Return counters by name: messages, bytes lent and taken, what waits, registrations.

        Returns
        -------
        dict
            ``messages_sent``, ``messages_received``, ``bytes_lent`` and ``bytes_taken`` (large
            parts that the peer, or this side, read), ``unsent_bytes``, ``unreceived`` (messages),
            ``under_way`` (requests), and of all Connections of the adapter ``registrations`` (what
            the cache of registrations did) and ``pooled_bytes`` (memory kept for receives).
        """
        link = self._link
        with self._hub.lock:
            return {
                **link.counts,
                "unsent_bytes": self.unsent_bytes,
                "unreceived": len(link.inbox),
                "under_way": len(link._pending) + len(link._backlog),
                "registrations": self._hub.registrations.stats(),
                "pooled_bytes": self._hub.pool.nbytes,
            }

    def trace(self) -> Trace:
        """Return the last requests, up to 256: what, how many bytes, when and how long.

        Returns
        -------
        Trace
            A list of dicts, see there; a notebook shows it as bars in time and as a table.
        """
        return self._link.notes.trace()

    # ---- the end

    def close(self, timeout: float = _FLUSH_S) -> None:
        """End it in order: what was sent goes out, and lent memory is waited for.

        Once more does nothing. What the peer has not taken within the time is lost, and its
        Requests fail.

        Parameters
        ----------
        timeout : float
            Seconds that the peer has to take what was sent.
        """
        quiet = self._begin_close()
        if quiet is None:
            return
        try:
            quiet.result(timeout)
            if self._link.state != "over" and self._link.connector is not None:
                self._link.connector.disconnect(_DISCONNECT_S)
        except RdmaError:
            pass  # it is over, whatever the peer did
        finally:
            self.abort()

    async def close_async(self, timeout: float = _FLUSH_S) -> None:
        """End it in order, in a loop; see `close`."""
        quiet = self._begin_close()
        if quiet is None:
            return
        try:
            async with asyncio.timeout(timeout):
                await quiet
            if self._link.state != "over" and self._link.connector is not None:
                await self._link.connector.disconnect_async(_DISCONNECT_S)
        except (RdmaError, TimeoutError):
            pass
        finally:
            self.abort()

    def _begin_close(self) -> Request[None] | None:
        link = self._link
        quiet: Request[None] = Request(self._hub)
        with self._hub.lock:
            if link.state in ("over", "closing"):
                return None
            if link.is_gone or link.channel is None:
                link.fail(closed_here())
                return None
            link.say_goodbye(quiet)
        self._hub.tell()
        return quiet

    def abort(self) -> None:
        """End it at once: what is under way fails."""
        with self._hub.lock:
            self._link.fail(closed_here())
        self._hub.tell()

    def __enter__(self) -> Self:
        """Return it; it is closed at the end, after an exception aborted."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close it, or abort it when an exception ends the block."""
        if kind is None:
            self.close()
        else:
            self.abort()

    async def __aenter__(self) -> Self:
        """Return it; it is closed at the end, after an exception aborted."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close it, or abort it when an exception ends the block."""
        if kind is None:
            await self.close_async()
        else:
            self.abort()

    def __del__(self) -> None:
        """Abort it, with a warning, when it was not closed."""
        link = getattr(self, "_link", None)
        if link is None or link.state == "over":
            return
        if not link.is_gone:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        link.abandon()


def _no_message(call: str, seconds: float | None) -> RdmaError:
    return error(
        Status.IO_TIMEOUT,
        f"{call}: no message within {seconds} s",
        hint="no message is lost: receive again",
    )


class Limit:
    """An asyncio timeout whose error says what was waited for."""

    def __init__(
        self,
        seconds: float | None,
        call: str,
        late: Callable[[str, float | None], RdmaError] = _no_message,
    ) -> None:
        self._seconds = seconds
        self._call = call
        self._late = late
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *about: Any) -> None:
        try:
            await self._timeout.__aexit__(*about)
        except TimeoutError as cause:
            raise self._late(self._call, self._seconds) from cause
