# SPDX-License-Identifier: Apache-2.0
"""What is under way in the queue pair of a link, until its completion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ndverbs._native import OperationType, Result, Status
from ndverbs.connection._request import Request

if TYPE_CHECKING:
    from ndverbs.connection._link import Link
    from ndverbs.connection._memory import Slice

_SUCCESS = Status.SUCCESS
# As a Result begins: what is left of a queue that died.
CANCELLED: Any = (Status.CANCELLED, 0, None, 0, OperationType.SEND, 0, None, None)


class Pending(Protocol):
    """What is under way in the queue pair."""

    def completed(self, result: Result) -> None:
        """Take its completion."""


class SentFrame:
    """A frame under way, with the slice that it lies in and whose last bytes it carries."""

    __slots__ = ("done", "link", "used")

    def __init__(self, link: Link, used: Slice | None, done: object) -> None:
        self.link = link
        self.used = used
        self.done = done

    def completed(self, result: Result) -> None:
        """Take its completion: the slice is free."""
        if self.used is not None:
            self.link.hub.sends.give(self.used)
        self.link.frames -= 1
        if isinstance(self.done, Request):
            self.done._finish(None, None if result[0] is _SUCCESS else self.link.failure_of(result))
