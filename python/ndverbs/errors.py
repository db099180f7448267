# SPDX-License-Identifier: Apache-2.0
"""Exceptions; which status raises which class is said by the list of statuses in C++.

Every class derives from RdmaError, which is an OSError, and from the builtin that people already
catch: ``except TimeoutError`` and ``except ndverbs.RdmaError`` both see a timeout.
"""

from __future__ import annotations

import builtins
import errno as _errno
import logging
import warnings
from typing import TYPE_CHECKING

from ndverbs._native import Status, _error_classes

if TYPE_CHECKING:
    from ndverbs._native import Result


class RdmaError(OSError):
    """Something failed: what, on what, with which values, and what to try.

    Parameters
    ----------
    status : Status
        NDK's status.
    what : str
        What failed, on what, with which values.
    context : object, optional
        The ``context`` of the request that failed, where the error comes from a completion.
    detail : str, optional
        What the device, the peer or the system reported.
    hint : str, optional
        What to try.
    os_error : int, optional
        ``errno`` where a system call said no; it becomes ``errno`` of the OSError.

    Attributes
    ----------
    status : Status
        As given, like `what`, `context`, `detail` and `hint`.
    posted : int or None
        How many rows `QueuePair.post_many` posted before the one that it is about.
    errno : int or None
        ``os_error``, None where no system call was involved. Of a request on a connection that has
        ended: ECONNRESET when the peer or the network ended it, ECONNABORTED when this side did. Of
        what broke a stream it is always a number, the one that SO_ERROR gives.
    """

    status: Status
    what: str
    context: object
    detail: str | None
    hint: str | None
    posted: int | None = None

    def __init__(
        self,
        status: Status | int,
        what: str,
        *,
        context: object = None,
        detail: str | None = None,
        hint: str | None = None,
        os_error: int = 0,
    ) -> None:
        if os_error:
            super().__init__(os_error, what)
        else:
            super().__init__(what)
        self.status = Status(status)
        self.what = what
        self.context = context
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        """Return what failed, what was reported, and the remedy."""
        text = self.what
        if self.detail:
            text += f" ({self.detail})"
        if self.hint:
            text += f"; {self.hint}"
        return text

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by what was given, so that subclasses and chains survive processes."""
        return (
            _rebuilt,
            (
                type(self),
                int(self.status),
                self.what,
                self.context,
                self.detail,
                self.hint,
                self.errno or 0,
            ),
        )


class ClosedError(RdmaError):
    """A call on an object that is closed, or whose adapter is."""


class RdmaConnectionRefusedError(RdmaError, builtins.ConnectionRefusedError):
    """No listener is at the address, or the peer rejected the connection."""


class RdmaConnectionResetError(RdmaError, builtins.ConnectionResetError):
    """The peer ended the connection."""


class RdmaConnectionAbortedError(RdmaError, builtins.ConnectionAbortedError):
    """The connection ended before it was made, or this side gave it up."""


class RdmaBrokenPipeError(RdmaError, builtins.BrokenPipeError):
    """The sending direction of a stream was shut down."""


class RdmaTimeoutError(RdmaError, builtins.TimeoutError):
    """The time was over; posted requests go on, an attempt to connect is abandoned."""


class RdmaPermissionError(RdmaError, builtins.PermissionError):
    """Memory without the right that the request needs."""


class RdmaBufferError(RdmaError, builtins.BufferError):
    """Memory that cannot be registered or used: not contiguous, empty, read-only, gone."""


class RdmaValueError(RdmaError, builtins.ValueError):
    """An argument that cannot be right."""


_CLASSES: dict[Status, type[RdmaError]] = {
    status: globals()[name] for status, name in _error_classes().items()
}

# Where the status alone does not tell.
_CLASSES_BY_ERRNO: dict[int, type[RdmaError]] = {
    _errno.EPIPE: RdmaBrokenPipeError,
    _errno.ECONNRESET: RdmaConnectionResetError,
    _errno.ECONNABORTED: RdmaConnectionAbortedError,
    _errno.ECONNREFUSED: RdmaConnectionRefusedError,
}


def error_class(status: Status | int) -> type[RdmaError]:
    """Return the class that a status raises."""
    return _CLASSES.get(Status(status), RdmaError)


def error(
    status: Status | int,
    what: str,
    *,
    context: object = None,
    detail: str | None = None,
    hint: str | None = None,
    os_error: int = 0,
) -> RdmaError:
    """Make the exception of the class that the status raises; parameters as of RdmaError."""
    return error_class(status)(
        status, what, context=context, detail=detail, hint=hint, os_error=os_error
    )


def number_text(number: int) -> str:
    """Return an integer for a message: Python does not write those of thousands of digits."""
    length = number.bit_length()
    return str(number) if length <= 128 else f"of {length} bits"


_HINTS = {
    Status.REMOTE_RESOURCES: "the peer's region must be registered still, with this right and size"
}


def error_from_result(result: Result) -> RdmaError:
    """Make the exception that a failed completion stands for.

    Parameters
    ----------
    result : Result
        A completion whose status is not SUCCESS.

    Returns
    -------
    RdmaError
        Of the status's class, with the request's context and detail.
    """
    name = result.type.name.lower()
    return error(
        result.status,
        f"{name} completed with {result.status.name}",
        context=result.request_context,
        detail=result.detail,
        hint=_HINTS.get(result.status),
    )


def from_core(status: int, what: str, hint: str, os_error: int, is_buffer: bool) -> RdmaError:
    """Make the exception for an error of the C++ core, which calls this."""
    kind = RdmaBufferError if is_buffer else error_class(status)
    if kind is RdmaError:
        kind = _CLASSES_BY_ERRNO.get(os_error, kind)
    return kind(status, what, hint=hint or None, os_error=os_error)


def _rebuilt(
    kind: type[RdmaError],
    status: int,
    what: str,
    context: object,
    detail: str | None,
    hint: str | None,
    os_error: int,
) -> RdmaError:
    return kind(status, what, context=context, detail=detail, hint=hint, os_error=os_error)


class OverrunWarning(RuntimeWarning):
    """A completion queue holds less than its queue pairs may have outstanding at once.

    It dies, and its queue pairs with it, when more requests end than it holds before the
    program polls. Said once per queue, also to the logger ``ndverbs``.
    """


def warn_of_overrun(depth: int, promised: int) -> None:
    """Say that a completion queue is too small; to the caller of the caller."""
    text = (
        f"the completion queue holds {depth} completions, but its queues may have {promised} "
        f"requests outstanding at once: it overruns when they end before a poll; create it "
        f"with create_cq({promised}), or the queue pairs with smaller queues"
    )
    logging.getLogger("ndverbs").warning(text)
    warnings.warn(text, OverrunWarning, stacklevel=2)
