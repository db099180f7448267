# SPDX-License-Identifier: Apache-2.0
"""One connection of a file copy: control messages both ways, and writes towards the peer.

Owns the queue pair, its completion queue, its protection domain and the memory of the messages,
which is bounded: ``RECEIVES + SENDS + 1`` messages. Knows messages as bytes of `protocol`,
and nothing of files. One thread uses a channel; `farewell` and `give_way` may come from others.
"""

from __future__ import annotations

import contextlib
import mmap
import threading
import time
from collections import deque

from ndverbs import (
    Access,
    Adapter,
    Connector,
    MemoryRegion,
    OperationType,
    RdmaError,
    Result,
    Segment,
    Status,
)
from ndverbs._closing import Closing
from ndverbs.cli.filecopy.protocol import (
    MAX_MESSAGE,
    CopyError,
    Failure,
    Message,
    Reason,
    decode,
    encode,
    malformed,
)

RECEIVES = 16  # more than a peer that keeps to the protocol has under way
SENDS = 8
MOST_WAITING = 2 * RECEIVES  # messages that have come and are not looked at
_FAREWELL = RECEIVES + SENDS  # the slot of the one message that another thread may send
BUSY = b"NDCP busy"  # private data of a reject
_WRITE = 1 << 32  # contexts from here on are writes, below it message slots


def fact(error: RdmaError) -> str:
    """Return what failed, without the remedy, which is one for callers of the API."""
    return f"{error.what} ({error.detail})" if error.detail else error.what


class Channel(Closing):
    """Messages and writes over one queue pair; `connect` or `accept` comes first.

    Parameters
    ----------
    adapter
        Stays open; its owner closes it.
    connector
        What a listener got; closed with the channel.
    write_depth
        How many writes may be under way at once.
    """

    def __init__(
        self, adapter: Adapter, connector: Connector | None = None, *, write_depth: int = 0
    ) -> None:
        self.peer = "the peer"
        # For the owner's rules about idle peers; only read by other threads.
        self.idle_since: float | None = time.monotonic()  # until when the peer owes nothing: None
        self.has_sent = False  # the owner's: whether the peer has proven useful
        self._adapter = adapter
        self._lock = threading.Lock()  # guards _is_ending
        self._is_ending = False
        self._connector = connector
        self._inbox: deque[bytes] = deque()
        self._free_sends = list(range(RECEIVES, RECEIVES + SENDS))
        self._written: list[int] = []
        self._broken: str | None = None
        self._gave_way: Failure | None = None
        # Anonymous memory is page-aligned, and costs nothing until it is used.
        self._memory = mmap.mmap(-1, (_FAREWELL + 1) * MAX_MESSAGE, flags=mmap.MAP_PRIVATE)
        # A queue that overflows is dead: every request has its place. One more for the farewell.
        self._cq = adapter.create_cq(RECEIVES + SENDS + 1 + write_depth)
        self._pd = adapter.create_pd()
        self._qp = self._pd.create_qp(
            self._cq,
            self._cq,
            receive_queue_depth=RECEIVES,
            initiator_queue_depth=SENDS + 1 + write_depth,
            max_receive_sge=1,
            max_initiator_sge=1,
            inline_size=0,
        )
        self._region = self._pd.register(self._memory, Access.LOCAL_WRITE)
        for slot in range(RECEIVES):
            self._post_receive(slot)

    def connect(self, address: str | tuple[str, int], timeout: float) -> None:
        """Connect to a listener; raises what `Connector.connect` raises."""
        self._connector = self._adapter.create_connector()
        self._connector.connect(
            self._qp, None, address, inbound_read_limit=0, outbound_read_limit=0, timeout=timeout
        )
        self._connector.complete_connect(timeout=timeout)

    def was_turned_away(self) -> bool:
        """Return whether the failed `connect` met a server that is too busy."""
        with contextlib.suppress(RdmaError):
            # A device may have padded it.
            return self._connector is not None and (
                self._connector.connection_data.private_data.startswith(BUSY)
            )
        return False

    def accept(self, timeout: float) -> None:
        """Accept what the listener got; raises what `Connector.accept` raises."""
        assert self._connector is not None
        try:
            self._connector.accept(
                self._qp, inbound_read_limit=0, outbound_read_limit=0, timeout=timeout
            )
        except RdmaError as error:
            if self._gave_way is not None:
                raise self._gone(fact(error)) from None
            raise

    def register(self, memory: object, access: Access) -> MemoryRegion:
        """Register memory in this channel's own protection domain."""
        return self._pd.register(memory, access)  # type: ignore[arg-type]

    def allocate(self, nbytes: int) -> memoryview:
        """Return page-aligned memory to `register`, which a peer of this host maps."""
        return self._adapter.alloc_array(nbytes, "u1").data

    def send(self, message: Message, timeout: float) -> None:
        """Send one message; a full queue is waited for.

        Raises
        ------
        CopyError
            The peer is gone, or takes nothing for `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while not self._free_sends:
            self.pump(deadline, "to take a message")
        self._post_send(self._free_sends.pop(), message)

    def receive(self, timeout: float, what: str) -> Message:
        """Return the next message of the peer.

        Raises
        ------
        CopyError
            The peer sent a failure, something else than a message, nothing for `timeout`
            seconds, or is gone. `what` completes "waited 5 s for".
        """
        deadline = time.monotonic() + timeout
        while not self._inbox:
            self.pump(deadline, what)
        return self._next()

    def take(self) -> Message | None:
        """Return the next message if one is there; raises as `receive` does."""
        return self._next() if self._inbox else None

    def write(self, source: Segment, address: int, token: int, context: int) -> None:
        """Write to the peer's memory; `context` comes back from `take_written`."""
        try:
            self._qp.write(source, (address, token), context=_WRITE + context)
        except RdmaError as error:
            raise self._gone(fact(error)) from error

    def take_written(self) -> list[int]:
        """Return the contexts of the writes that completed since the last call."""
        written, self._written = self._written, []
        return written

    def pump(self, deadline: float, what: str) -> None:
        """Sleep until something completes, and take it in.

        Raises
        ------
        CopyError
            As `receive` does; a message that came before the end of the connection still counts.
        """
        if self._broken is not None:
            raise self._gone(self._broken)
        try:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self.idle_since = self.idle_since or time.monotonic()
            self._cq.wait(left)
            self.poll()
        except TimeoutError:
            raise CopyError(
                Reason.TIMED_OUT, f"{self.peer} was silent for too long; waited for it {what}"
            ) from None
        except RdmaError as error:
            raise self._gone(fact(error)) from error

    def poll(self) -> None:
        """Take in what has completed, without waiting; raises CopyError as `check` does."""
        try:
            self._take_in(self._cq.poll(64))
        except RdmaError as error:
            raise self._gone(fact(error)) from error
        # A peer that does not take our messages must not fill our memory with its own.
        if len(self._inbox) > MOST_WAITING:
            raise malformed(f"{len(self._inbox)} messages before its turn")

    def check(self) -> None:
        """Raise CopyError when the peer is gone, or says too much before it is its turn."""
        self.poll()
        if self._broken is not None:
            raise self._gone(self._broken)

    def farewell(self, failure: Failure) -> None:
        """Tell the peer why the connection ends, and end it; for any thread, never fails."""
        with self._lock:
            if self._is_ending:
                return
            self._is_ending = True
        self._say_last(failure)
        self._disconnect()

    def give_way(self, failure: Failure) -> None:
        """As `farewell`, without waiting: the peer may miss the reason, the owner does not."""
        with self._lock:
            if self._is_ending:
                return
            self._is_ending = True
        self._gave_way = failure
        self._say_last(failure)
        if self._connector is not None:
            self._connector.close()

    def finish(self) -> None:
        """End the connection after everything that was sent; never fails."""
        with self._lock:
            if self._is_ending:
                return
            self._is_ending = True
        self._disconnect()

    def close(self) -> None:
        """Give back everything; what was posted is dropped."""
        if self._connector is not None:
            self._connector.close()
        for part in (self._qp, self._region, self._pd, self._cq):
            part.close()

    def _say_last(self, failure: Failure) -> None:
        # Completions are left to the thread that uses the channel: it may be asleep over them.
        with contextlib.suppress(CopyError, RdmaError, ValueError):
            self._post(_FAREWELL, failure)

    def _disconnect(self) -> None:
        if self._connector is None:
            return
        # Posted requests still go out; the peer has a moment to say that it is done, too.
        try:
            self._connector.disconnect(timeout=2)
        except RdmaError:  # not connected yet, or the peer has no such moment to spare
            self._connector.close()

    def _next(self) -> Message:
        self.idle_since = None
        message = decode(self._inbox.popleft())
        if isinstance(message, Failure):
            raise CopyError(message.reason, message.text)
        return message

    def _post_receive(self, slot: int) -> None:
        self._qp.receive(self._region.segment(slot * MAX_MESSAGE, MAX_MESSAGE), context=slot)

    def _post_send(self, slot: int, message: Message) -> None:
        try:
            self._post(slot, message)
        except RdmaError as error:
            raise self._gone(fact(error)) from error

    def _post(self, slot: int, message: Message) -> None:
        data = encode(message)
        if len(data) > MAX_MESSAGE:
            raise malformed(f"a message of {len(data)} bytes; {MAX_MESSAGE} are the most")
        start = slot * MAX_MESSAGE
        self._memory[start : start + len(data)] = data
        self._qp.send(self._region.segment(start, len(data)), context=slot)

    def _take_in(self, results: list[Result]) -> None:
        for result in results:
            context = result.request_context
            assert isinstance(context, int)
            if result.status != Status.SUCCESS:
                # The first one tells why; those after it were flushed.
                if self._broken is None or result.detail:
                    self._broken = result.detail or result.status.name.lower()
            elif context >= _WRITE:
                self._written.append(context - _WRITE)
            elif result.type == OperationType.SEND:
                if context != _FAREWELL:
                    self._free_sends.append(context)
            else:
                start = context * MAX_MESSAGE
                self._inbox.append(self._memory[start : start + result.bytes_transferred])
                # In error it is refused, and the flush of the others tells that.
                with contextlib.suppress(RdmaError):
                    self._post_receive(context)

    def _gone(self, why: str) -> CopyError:
        if self._gave_way is not None:
            return CopyError(self._gave_way.reason, f"it gave way: {self._gave_way.text}")
        # A failure that the peer sent before it left says more than the broken connection.
        with contextlib.suppress(RdmaError):
            self._take_in(self._cq.poll(64))
        while self._inbox:
            try:
                message = self._next()
            except CopyError as error:
                return error
            del message
        return CopyError(Reason.CONNECTION, f"{self.peer} ended the connection ({why})")
