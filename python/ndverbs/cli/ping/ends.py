# SPDX-License-Identifier: Apache-2.0
"""The ends of `ndverbs ping`: who sends a message and waits for it, and who sends it back.

A responder is known by the private data of its accept. Each message comes back as it is; a client
sends the next one when it has the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

import numpy as np

from ndverbs import Access, Adapter, Connector, Flag, RdmaError, Result, Status, _address
from ndverbs._closing import Closing
from ndverbs.cli.failure import CommandError
from ndverbs.cli.terminal import waiting

MARK = b"ndverbs ping 1"
MAX_SIZE = 1 << 16
# What strangers can make a responder hold: 64 connections with two messages each.
_MOST_CLIENTS = 64
_IDLE_S = 60.0
_ACCEPT_S = 10.0
_PROMPT_S = 0.5  # then a terminal is told that the answer is waited for


class _End(Closing):
    """A queue pair that sends one message at a time, and places for two that arrive."""

    def __init__(self, adapter: Adapter) -> None:
        self._stack = contextlib.ExitStack()
        enter = self._stack.enter_context
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            self.cq = enter(adapter.create_cq(4))
            pd = enter(adapter.create_pd())
            self.qp = enter(
                pd.create_qp(self.cq, self.cq, receive_queue_depth=2, initiator_queue_depth=2)
            )
            # Pages that no message touches cost nothing.
            self._places = np.zeros((2, MAX_SIZE), np.uint8)
            enter(pd.register(self._places, Access.LOCAL_WRITE))
            self.receive(0)
            on_failure.pop_all()

    def receive(self, place: int) -> None:
        self.qp.receive(self._places[place], context=place)

    def send(self, place: int, size: int) -> None:
        self.qp.send(self._places[place, :size], flags=Flag.SILENT_SUCCESS)

    def close(self) -> None:
        self._stack.close()


class Messages(Closing):
    """The client: a connection to a responder, and one message after the other.

    Raises
    ------
    CommandError
        The peer is no responder.
    RdmaError
        There is no connection.
    """

    def __init__(self, adapter: Adapter, address: tuple[str, int], size: int, timeout: float):
        self._size, self._timeout, self._place = size, timeout, 0
        where = _address.text(address)
        with contextlib.ExitStack() as stack:
            self._end = stack.enter_context(_End(adapter))
            self._connector = stack.enter_context(adapter.create_connector())
            self._connector.connect(
                self._end.qp,
                None,
                address,
                inbound_read_limit=0,
                outbound_read_limit=0,
                private_data=MARK,
                timeout=timeout,
            )
            # A device may have padded it.
            if not self._connector.connection_data.private_data.startswith(MARK):
                raise CommandError(
                    f"{where} answers no messages; run `ndverbs ping --listen` there, or time its "
                    "connection set-up with --connect"
                )
            self._connector.complete_connect(timeout=timeout)
            self.transport = self._connector.transport
            self._stack = stack.pop_all()

    def round(self) -> float:
        """Send a message and wait until it is back; returns the seconds."""
        self._place = 1 - self._place  # the other one has the receive that waits
        begin = time.perf_counter()
        self._end.send(self._place, self._size)
        self._await()
        elapsed = time.perf_counter() - begin
        self._end.receive(self._place)
        return elapsed

    def _await(self) -> None:
        while not (results := self._end.cq.poll(1)):
            try:
                self._end.cq.wait(min(_PROMPT_S, self._timeout))
            except TimeoutError:
                self._wait_on()
        if results[0].status != Status.SUCCESS:
            raise CommandError(_why(results[0]))
        if results[0].bytes_transferred != self._size:
            raise CommandError("the answer is not what was sent: the peer is no responder")

    def _wait_on(self) -> None:
        """Wait for the rest of the time, and say so: no answer came as promptly as they do."""
        with waiting("waiting for the answer"):
            try:
                self._end.cq.wait(max(self._timeout - _PROMPT_S, 0.0))
            except TimeoutError:
                raise CommandError(f"no answer in {self._timeout:g} s") from None

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(RdmaError):
            self._connector.disconnect(timeout=1)
        self._stack.close()


class SetUps(Closing):
    """Connections to a listener of any program, one after the other; a refusal is an answer."""

    transport = ""

    def __init__(self, adapter: Adapter, address: tuple[str, int], timeout: float) -> None:
        self._adapter, self._address, self._timeout = adapter, address, timeout
        self._stack = contextlib.ExitStack()
        self._cq = self._stack.enter_context(adapter.create_cq(4))
        self._pd = self._stack.enter_context(adapter.create_pd())

    def round(self) -> float:
        """Make a connection and end it; returns the seconds until it was made or rejected."""
        with (
            self._pd.create_qp(
                self._cq, self._cq, receive_queue_depth=1, initiator_queue_depth=1
            ) as qp,
            self._adapter.create_connector() as connector,
        ):
            begin = time.perf_counter()
            try:
                connector.connect(qp, None, self._address, timeout=self._timeout)
            except ConnectionRefusedError as error:
                if error.errno is not None:  # the system's: no listener is there
                    raise
                return time.perf_counter() - begin
            connector.complete_connect(timeout=self._timeout)
            elapsed = time.perf_counter() - begin
            self.transport = connector.transport
            with contextlib.suppress(RdmaError):
                connector.disconnect(timeout=1)
        return elapsed

    def close(self) -> None:
        """Give back what all rounds share."""
        self._stack.close()


def _why(result: Result) -> str:
    return f"the connection has ended: {result.detail or result.status.name}"


async def respond(adapter: Adapter, address: tuple[str, int], say: Callable[[str], None]) -> None:
    """Send messages back until the task is cancelled; `say` is called with where it listens."""
    clients: set[asyncio.Task[None]] = set()
    with adapter.create_listener() as listener:
        listener.listen(address)
        say(_address.text(listener.local_address))
        while True:
            connector = await listener.get_connector_async()
            task = asyncio.create_task(_serve(adapter, connector, len(clients) < _MOST_CLIENTS))
            clients.add(task)
            task.add_done_callback(clients.discard)


async def _serve(adapter: Adapter, connector: Connector, has_place: bool) -> None:
    """Serve one client until it leaves, fails, or has said nothing for a minute."""
    with connector, contextlib.suppress(RdmaError):
        if not has_place or not connector.connection_data.private_data.startswith(MARK):
            connector.reject(MARK)
            return
        with _End(adapter) as end:
            await connector.accept_async(
                end.qp,
                inbound_read_limit=0,
                outbound_read_limit=0,
                private_data=MARK,
                timeout=_ACCEPT_S,
            )
            while True:
                while not (results := end.cq.poll(1)):
                    if not await end.cq.wait_async(_IDLE_S):
                        return
                if results[0].status != Status.SUCCESS:
                    return
                place = 0 if results[0].request_context == 0 else 1
                # A client that does not wait for the answer ends here: the queue is full.
                end.receive(1 - place)
                end.send(place, results[0].bytes_transferred)
