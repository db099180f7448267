# SPDX-License-Identifier: Apache-2.0
"""Coroutine twins of the calls that wait for a peer, set on the classes when ndverbs is imported.

They run in any asyncio loop and start no thread of their own: operations report through the
adapter's callback thread, completions through the queue's descriptor. asyncio itself is imported
when the first of them is awaited.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, Self, TypedDict, Unpack

from ndverbs import _address, _native
from ndverbs._address import Address
from ndverbs._native import (
    CompletionQueue,
    Connector,
    Listener,
    Operation,
    Result,
    SharedEndpoint,
    Status,
)
from ndverbs.errors import RdmaError, error

if TYPE_CHECKING:
    import asyncio

    from ndverbs._native import QueuePair

# The core ends an attempt at its timeout and says what it waited for; this is when we give up.
_GRACE_S = 0.25
# An iteration that always finds completions lets other tasks run after this many.
_RESULTS_PER_TURN = 64
# Later than any loop lives.
_A_YEAR_S = 365 * 86400.0


class _Options(TypedDict, total=False):
    """Keyword arguments for the native call, which checks all of them; this one is read here."""

    timeout: float | None


async def _connect_async(
    self: Connector,
    qp: QueuePair,
    local: Address | SharedEndpoint | None,
    peer: Address,
    **options: Unpack[_Options],
) -> None:
    operation = self._start_connect(
        qp,
        local if local is None or isinstance(local, SharedEndpoint) else await _resolved(local),
        await _resolved(peer),
        **options,
    )
    await _made(self, operation, _with_grace(options.get("timeout", 10)), "connect")


async def _connect_with_shared_endpoint_async(
    self: Connector,
    qp: QueuePair,
    endpoint: SharedEndpoint,
    peer: Address,
    **options: Unpack[_Options],
) -> None:
    if not isinstance(endpoint, SharedEndpoint):
        raise TypeError("endpoint must be a SharedEndpoint")
    # The native call takes an endpoint where it takes a local address.
    await _connect_async(self, qp, endpoint, peer, **options)


async def _complete_connect_async(
    self: Connector,
    on_disconnect: Callable[[], object] | None = None,
    *,
    timeout: float | None = 10,
) -> None:
    operation = self._start_complete_connect(on_disconnect)
    await _made(self, operation, timeout, "complete_connect")


async def _accept_async(self: Connector, qp: QueuePair, **options: Unpack[_Options]) -> None:
    operation = self._start_accept(qp, **options)
    await _made(self, operation, _with_grace(options.get("timeout", 60)), "accept")


async def _disconnect_async(self: Connector, timeout: float | None = 5) -> None:
    await _outcome(self._start_disconnect(timeout), _with_grace(timeout), "disconnect")


async def _get_connector_async(self: Listener, timeout: float | None = None) -> Connector:
    import asyncio

    try:
        async with asyncio.timeout(timeout):
            while True:
                # Ask first and look then, so that no arrival falls in between.
                arrival = self._wait_for_arrival()
                try:
                    connector = self._take()
                    if connector is not None:
                        return connector
                    await wait_for_completion(arrival)
                    arrival.result()
                finally:
                    arrival.abandon()
    except TimeoutError as cause:
        raise error(
            Status.IO_TIMEOUT, f"get_connector: no peer asked for a connection within {timeout} s"
        ) from cause


async def _wait_async(self: CompletionQueue, timeout: float | None = None) -> bool:
    import asyncio

    if self._is_ready():
        return True
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout):
            while True:
                woken = loop.create_future()
                watch = _watch(self, loop, woken)
                try:
                    # Watch, arm, look again, sleep: a completion in between wakes the descriptor.
                    self.arm()
                    if self._is_ready():
                        return True
                    await woken
                finally:
                    watch.leave(woken)
                if self._is_ready():
                    return True
    except TimeoutError as cause:
        raise error(
            Status.IO_TIMEOUT,
            f"wait_async: no completion within {timeout} s",
            hint="posted requests go on; wait again",
        ) from cause


class _Results:
    """Completions of one queue, one at a time, so that none is lost when the iteration ends."""

    def __init__(self, queue: CompletionQueue) -> None:
        self._queue = queue
        self._taken = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        import asyncio

        self._taken += 1
        if self._taken % _RESULTS_PER_TURN == 0:
            await asyncio.sleep(0)
        while True:
            # poll() would also make progress, and so keep the adapter's own thread from serving
            # the connections for a while; only the ring is wanted here.
            if self._queue._is_ready():
                results = self._queue.poll(1)
                if results:
                    return results[0]
            await _wait_async(self._queue)


def _iterate(self: CompletionQueue) -> _Results:
    return _Results(self)


async def _made(
    connector: Connector, operation: Operation, timeout: float | None, what: str
) -> None:
    """Wait for an operation that makes a connection; nothing of it remains when interrupted."""
    try:
        await _outcome(operation, timeout, what)
    except BaseException:
        # It may have been made at this very moment. What the peer says to its end is too late.
        with contextlib.suppress(RdmaError):
            if connector.state == "accepted":
                connector.reject()
            elif connector.state == "connected":
                connector._start_disconnect(0)
        raise


async def _outcome(operation: Operation, timeout: float | None, what: str) -> None:
    """Wait for an operation and raise its failure; abandon it when interrupted."""
    import asyncio

    try:
        async with asyncio.timeout(timeout):
            await wait_for_completion(operation)
    except TimeoutError as cause:
        raise error(Status.IO_TIMEOUT, f"{what}: not done within {timeout} s") from cause
    finally:
        if not operation.done():
            operation.abandon()
    operation.result()


class _Completion(Protocol):
    def add_done_callback(self, function: Callable[[object], object], /) -> object: ...


async def wait_for_completion(completion: _Completion) -> None:
    """Wait until something that takes done-callbacks is done.

    The callback, which native objects hold, keeps neither the loop nor the coroutine: a loop that
    is closed meanwhile goes, and the coroutine that waits in it ends as a cancelled one does.
    """
    import asyncio

    loop = asyncio.get_running_loop()
    done = loop.create_future()
    waiting = weakref.ref(done)

    def report(_: object) -> None:
        future = waiting()
        if future is not None:
            # RuntimeError: the loop is closed, and no coroutine waits any more.
            with contextlib.suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(_settle, future)

    completion.add_done_callback(report)
    # While the loop is open, it is the loop that keeps the coroutine.
    kept = loop.call_later(_A_YEAR_S, _keep, done)
    try:
        await done
    finally:
        kept.cancel()


def _keep(_: object) -> None:
    pass


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _resolved(address: Address) -> tuple[str, int]:
    """Resolve a host name on an executor's thread, because that may block."""
    import asyncio

    host, port = _address.split(address)
    if _address.is_numeric(host):
        return host, port
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, _address.resolve, (host, port))


def _with_grace(timeout: float | None) -> float | None:
    return None if timeout is None else timeout + _GRACE_S


class _Watch:
    """The coroutines of one loop that sleep until one queue's descriptor is readable."""

    def __init__(self, queue: CompletionQueue, loop: asyncio.AbstractEventLoop) -> None:
        # A loop watches a number once and forgets it when the queue closes: use one of our own.
        self._fd = os.dup(queue.fileno())
        self._loop = loop
        self._key = (id(queue), id(loop))
        self._sleeping: set[asyncio.Future[None]] = set()
        self._is_watching = True
        _watches[self._key] = self
        loop.add_reader(self._fd, self._wake)

    def join(self, woken: asyncio.Future[None]) -> None:
        self._sleeping.add(woken)

    def leave(self, woken: asyncio.Future[None]) -> None:
        self._sleeping.discard(woken)
        if not self._sleeping:
            self._end()
            os.close(self._fd)

    def _wake(self) -> None:
        # Every sleeper looks for itself and arms again, with a watch of its own time: until
        # then the descriptor stays readable, and this loop would spin.
        self._end()
        for future in self._sleeping:
            _settle(future)

    def _end(self) -> None:
        if not self._is_watching:
            return
        self._is_watching = False
        if _watches.get(self._key) is self:
            del _watches[self._key]
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.remove_reader(self._fd)


# By queue and loop; only the loop's own thread touches its watches. The loop keeps them, as the
# readers of a descriptor: those of a loop that was closed go with it.
_watches: weakref.WeakValueDictionary[tuple[int, int], _Watch] = weakref.WeakValueDictionary()


def _watch(
    queue: CompletionQueue, loop: asyncio.AbstractEventLoop, woken: asyncio.Future[None]
) -> _Watch:
    watch = _watches.get((id(queue), id(loop))) or _Watch(queue, loop)
    watch.join(woken)
    return watch


def attach() -> None:
    """Set the coroutines on their classes, with the stub's pages; ndverbs does this once."""
    twins: dict[type, dict[str, Callable[..., object]]] = {
        Connector: {
            "connect_async": _connect_async,
            "connect_with_shared_endpoint_async": _connect_with_shared_endpoint_async,
            "complete_connect_async": _complete_connect_async,
            "accept_async": _accept_async,
            "disconnect_async": _disconnect_async,
        },
        Listener: {"get_connector_async": _get_connector_async},
        CompletionQueue: {"wait_async": _wait_async, "__aiter__": _iterate},
    }
    for cls, functions in twins.items():
        for name, function in functions.items():
            function.__name__ = name
            function.__qualname__ = f"{cls.__name__}.{name}"
            function.__doc__ = _native._page(function.__qualname__)
            if name.endswith("_async"):  # inspect finds the signature there
                twin = getattr(cls, name.removesuffix("_async"))
                function.__wrapped__ = twin  # type: ignore[attr-defined]
            setattr(cls, name, function)
