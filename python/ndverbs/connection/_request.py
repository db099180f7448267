# SPDX-License-Identifier: Apache-2.0
"""Request: what a call of a Connection has begun, as a future that can be awaited, too."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from ndverbs.connection._hub import Hub

_PENDING = "RUNNING"  # as concurrent.futures names what cannot be cancelled any more
_FINISHED = "FINISHED"
T = TypeVar("T")


class Request(Future[T], Generic[T]):
    """What a call of a Connection has begun.

    A ``concurrent.futures.Future``: `result` waits and gives the value or raises why it failed,
    `exception`, `done` and `add_done_callback` are those of the standard library, and its `wait`
    and `as_completed` take Requests. ``await request`` does the same in any asyncio loop.

    A timeout, or a cancelled ``await``, ends the waiting and nothing else: the request goes on, and
    keeps its arrays until the device is done with them. So does one that nothing refers to.

    Notes
    -----
    `cancel` returns False: what is posted cannot be taken back. The requests of
    :mod:`ndverbs.wsk` are another class, ``ndverbs.wsk.Request``.
    """

    # Future's own fields, as a class has them: most requests end before any is changed. The list is
    # replaced, never changed.
    _state = _PENDING
    _result: Any = None
    _exception: BaseException | None = None
    _done_callbacks: list[Callable[..., object]] = []  # noqa: RUF012
    _shared: threading.Condition | None = None
    _keeps: object = None
    _noted: list[Any] | None = None

    def __init__(self, hub: Hub) -> None:
        # Not Future's: it makes a condition variable, which costs more than the request.
        self._hub = hub

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]
        """What the standard library's `wait` and `as_completed` ask for."""
        with self._hub.lock:
            if self._shared is None:
                self._shared = threading.Condition()
                self._waiters: list[Any] = []
        self._hub.attend()
        return self._shared

    def cancel(self) -> bool:
        """Return False: what is posted cannot be taken back."""
        return False

    def cancelled(self) -> bool:
        """Return False."""
        return False

    def running(self) -> bool:
        """Return whether it is under way."""
        return self._state is not _FINISHED

    def done(self) -> bool:
        """Return whether it has ended, well or not."""
        return self._state is _FINISHED

    def result(self, timeout: float | None = None) -> T:
        """Wait until it has ended, and return its value.

        Parameters
        ----------
        timeout : float, optional
            Seconds; None waits without a limit.

        Raises
        ------
        RdmaError
            Why it failed; a TimeoutError: it goes on.

        Notes
        -----
        Gives the GIL up while it waits, and ends within 100 ms of Ctrl-C.
        """
        if self._state is not _FINISHED:
            self._hub.wait_for(self, timeout)
        if self._exception is not None:
            try:
                raise self._exception
            finally:
                self = None  # type: ignore[assignment]
        return cast(T, self._result)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait until it has ended, and return why it failed, or None.

        Parameters
        ----------
        timeout : float, optional
            Seconds; None waits without a limit.

        Raises
        ------
        RdmaError
            A TimeoutError: it goes on.
        """
        if self._state is not _FINISHED:
            self._hub.wait_for(self, timeout)
        return self._exception

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call `fn` with this once it has ended, now if it has.

        Parameters
        ----------
        fn : callable
            Called on the thread that sees the end. Its exceptions go to
            ``sys.unraisablehook``.
        """
        self._add_callback(fn)
        self._hub.attend()

    def _add_callback(self, fn: Callable[[Future[T]], object]) -> None:
        with self._hub.lock:
            is_done = self._state is _FINISHED
            if not is_done:
                self._done_callbacks = [*self._done_callbacks, fn]
        if is_done:
            self._hub.call(fn, self)

    def __await__(self) -> Generator[Any, None, T]:
        """Wait in the running loop."""
        if self._state is not _FINISHED:
            yield from self._hub.wait_in_loop(self).__await__()
        return self.result(0)

    def _finish(self, value: T | None, failure: BaseException | None = None) -> None:
        """End it; with the hub's lock. Those who wait hear of it when that is given back."""
        if self._state is _FINISHED:
            return
        self._result, self._exception = value, failure
        if self._keeps is not None:
            self._hub.dropped.append(self._keeps)  # the last reference may run a finalizer
            self._keeps = None
        if self._noted is not None:
            self._noted[3:] = (time.perf_counter(), failure is None)
        self._state = _FINISHED
        self._hub.finished(self)

    def __repr__(self) -> str:
        """Return what it is and where it stands."""
        if self._state is not _FINISHED:
            return "<Request under way>"
        if self._exception is not None:
            return f"<Request failed: {self._exception}>"
        return f"<Request done: {self._result!r}>"
