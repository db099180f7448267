# SPDX-License-Identifier: Apache-2.0
"""Requests of WSK, its IRPs: each completes exactly once, whatever its call returned."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Generator
from typing import Generic, Protocol, TypeVar, cast

from ndverbs import _native
from ndverbs._coroutines import wait_for_completion
from ndverbs._native import Operation, Status, StreamTransfer
from ndverbs.errors import RdmaError, error

T = TypeVar("T")


def weakly(method: Callable[..., object]) -> Callable[..., None]:
    """Return a callback that does not keep its object; native objects hold callbacks."""
    reference = weakref.WeakMethod(method)

    def call(*args: object) -> None:
        found = reference()
        if found is not None:
            found(*args)

    return call


class _Completion(Protocol):
    def done(self) -> bool: ...
    def result(self) -> None: ...
    def add_done_callback(self, function: Callable[[object], object], /) -> None: ...


class Promise(Generic[T]):
    """A completion that Python code settles, with what the request brought."""

    def __init__(self) -> None:
        self.information: T | int = 0
        self._changed = threading.Condition()
        self._is_done = False
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Promise[T]], object]] = []

    def done(self) -> bool:
        """Return whether it is settled."""
        return self._is_done

    def result(self) -> None:
        """Raise its failure, if it failed."""
        if self._error is not None:
            raise self._error.with_traceback(None)  # which would keep the frames of earlier calls

    def exception(self) -> BaseException | None:
        """Return its failure, None when it did not fail, without a new traceback."""
        return self._error

    def settle(self, failure: BaseException | None = None, information: T | int = 0) -> bool:
        """End it; False when it was ended before.

        A callback that raises neither stops the others nor the caller: its exception goes to
        ``sys.unraisablehook``.
        """
        with self._changed:
            if self._is_done:
                return False
            self.information, self._error, self._is_done = information, failure, True
            callbacks, self._callbacks = self._callbacks, []
            self._changed.notify_all()
        for function in callbacks:
            _native._call_and_report(function, self)
        return True

    def add_done_callback(self, function: Callable[[Promise[T]], object]) -> None:
        """Call `function(self)` once it is settled, at once if it is."""
        with self._changed:
            if not self._is_done:
                self._callbacks.append(function)
                return
        function(self)

    def sleep(self, timeout: float | None) -> bool:
        """Wait until it is settled; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_done, timeout)


class Request(Generic[T]):
    """A request under way, which brings a `T`.

    Attributes
    ----------
    status : Status
        PENDING, SUCCESS, or the status of its failure.
    information : object
        What it brought, once done: bytes sent or received, an accepted socket, else 0. Of a send
        that failed it is 0, too: how much of it the peer has received is not known.
    """

    def __init__(
        self,
        what: str,
        *,
        transfer: StreamTransfer | None = None,
        operation: Operation | None = None,
        promise: Promise[T] | None = None,
        on_cancel: Callable[[], object] | None = None,
    ) -> None:
        self._what = what
        self._transfer = transfer
        self._promise = promise
        completion: _Completion | None = promise or operation
        self._completion = completion or (transfer.operation if transfer else None)
        self._on_cancel = on_cancel

    def __repr__(self) -> str:
        """Return what it is and how far it is."""
        return f"<wsk.Request {self._what} {self.status.name}>"

    def done(self) -> bool:
        """Return whether it is completed."""
        return self._completion is None or self._completion.done()

    @property
    def status(self) -> Status:
        """PENDING, SUCCESS, or the status of its failure."""
        if not self.done():
            return Status.PENDING
        failure = self.exception()
        return (
            failure.status
            if isinstance(failure, RdmaError)
            else (Status.SUCCESS if failure is None else Status.UNSUCCESSFUL)
        )

    @property
    def information(self) -> T | int:
        """What it brought; 0 of one that is not done."""
        if not self.done():
            return 0
        if self._transfer is not None:
            is_lost = self._what == "send" and self.exception() is not None
            return 0 if is_lost else self._transfer.bytes_transferred
        return self._promise.information if self._promise is not None else 0

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is completed; return whether it is. Not inside a callback."""
        if self.done():
            return True
        if _native._is_callback_thread():
            raise error(
                Status.INVALID_DEVICE_STATE,
                f"{self._what}: a callback must not wait for a request",
                hint="add_done_callback() it, or wait on another thread",
            )
        if self._transfer is not None:
            return self._transfer.wait(timeout)
        if self._promise is not None:
            return self._promise.sleep(timeout)
        assert isinstance(self._completion, Operation)
        with contextlib.suppress(RdmaError):
            self._completion.wait(timeout)
        return self._completion.done()

    def result(self, timeout: float | None = None) -> T:
        """Wait, raise the failure, or return the information. A timeout leaves it running."""
        if not self.wait(timeout):
            raise error(Status.IO_TIMEOUT, f"{self._what}: not done within {timeout} s")
        if self._completion is not None:
            self._completion.result()
        return cast("T", self.information)

    def exception(self) -> BaseException | None:
        """Return the failure of a completed request, None when it went well."""
        if self._promise is not None:
            return self._promise.exception()
        try:
            if self._completion is not None:
                self._completion.result()
        except Exception as failure:
            return failure
        return None

    def cancel(self) -> None:
        """Ask for its end: it completes with CANCELLED unless it is done, or part of it is."""
        if self._transfer is not None:
            self._transfer.cancel()
        elif self._on_cancel is not None and not self.done():
            self._on_cancel()

    def add_done_callback(self, function: Callable[[Request[T]], object]) -> None:
        """Call `function(request)` once it is completed, at once if it is."""
        if self._completion is None:
            function(self)
        else:
            self._completion.add_done_callback(lambda _: function(self))

    def __await__(self) -> Generator[object, None, T]:
        """Wait in a coroutine; its cancellation asks for the request's."""
        return self._wait_async().__await__()

    async def _wait_async(self) -> T:
        try:
            await wait_for_completion(self)
        except BaseException:
            self.cancel()
            raise
        return self.result(0)
