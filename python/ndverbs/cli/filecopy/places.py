# SPDX-License-Identifier: Apache-2.0
"""Places of a copy server: which clients are served, which wait, and which give way.

A connection holds a place from its arrival to its end. It first asks, which costs little: one that
has not said what it wants gives its place to the next arrival, the longest idle one first. A
connection that has said it waits for its turn, and then copies; one that copies and leaves the
server waiting gives its turn to the next one, after a patience that is short until it has filled
its first window. So silent strangers hold places only until other connections need them.

It owns no thread and no connection: a guest is any object with the members of `Guest`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ndverbs.cli.filecopy.protocol import CopyError, Failure, Reason

PATIENCE_FIRST = 2.0  # seconds for the first window while others wait; 4 Mbit/s need that
PATIENCE = 20.0  # seconds for any later one: a source may pause
_LOOK = 1.0  # seconds after which a guest that waits is looked at again


class Guest(Protocol):
    """A client that holds a place."""

    idle_since: float | None  # `time.monotonic()` since when it keeps the server waiting
    has_sent: bool  # whether it has filled a window

    def give_way(self, failure: Failure) -> None:
        """End it, without waiting and without failing."""

    def check(self) -> None:
        """Raise CopyError when it is gone; without waiting."""


class Places:
    """A number of places, and a smaller number of turns; for any thread.

    Parameters
    ----------
    turns
        How many guests copy at once.
    total
        How many guests there are at once.
    patience_first, patience
        Seconds that a guest may keep the server waiting while others wait for their turn.
    """

    def __init__(
        self,
        turns: int,
        total: int,
        *,
        patience_first: float = PATIENCE_FIRST,
        patience: float = PATIENCE,
    ) -> None:
        self._turns = turns
        self._total = total
        self._patience = {False: patience_first, True: patience}
        self._changed = threading.Condition()  # guards the four below
        self._asking: set[Guest] = set()
        self._line: deque[Guest] = deque()
        self._copying: set[Guest] = set()
        self._failure: CopyError | None = None

    def enter(self, guest: Guest) -> bool:
        """Take a place in, the longest idle guest that is still asking giving way; or return False.

        A guest that gave way has no place from then on, though its end may take a moment.
        """
        with self._changed:
            if self._failure is not None:
                return False
            if len(self._asking) + len(self._line) + len(self._copying) >= self._total:
                now = time.monotonic()
                oldest = max(self._asking, key=lambda g: _idle(g, now), default=None)
                if oldest is None:
                    return False
                self._asking.discard(oldest)
                oldest.give_way(Failure(Reason.BUSY, "others came, and no request had come"))
            self._asking.add(guest)
            return True

    def take_turn(self, guest: Guest, on_wait: Callable[[], None]) -> None:
        """Wait until `guest` may copy; `on_wait` is called when that is not at once.

        Raises
        ------
        CopyError
            It gave way, `stop` was called, or `Guest.check` finds that it is gone.
        """
        with self._changed:
            if guest not in self._asking:
                raise CopyError(Reason.BUSY, "it had given way before its request came")
            self._asking.discard(guest)
            self._line.append(guest)
            has_turn = self._take_if_free(guest)
        try:
            if not has_turn:
                on_wait()
            while not has_turn:
                guest.check()
                with self._changed:
                    if self._failure is not None:
                        raise self._failure
                    has_turn = self._take_if_free(guest)
                    if not has_turn:
                        is_first = self._line[0] is guest
                        self._changed.wait(min(_LOOK, self._make_room()) if is_first else _LOOK)
        except BaseException:
            with self._changed:
                self._line.remove(guest)
                self._changed.notify_all()
            raise

    def leave(self, guest: Guest) -> None:
        """Give the place back, whatever it was; twice does nothing."""
        with self._changed:
            self._asking.discard(guest)
            self._copying.discard(guest)
            self._changed.notify_all()

    def stop(self, failure: CopyError) -> None:
        """Let no connection in any more, and end every wait with `failure`."""
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def _take_if_free(self, guest: Guest) -> bool:
        """Let a guest copy that is the first in the line, when a turn is free."""
        if self._line[0] is not guest or len(self._copying) >= self._turns:
            return False
        self._line.popleft()
        self._copying.add(guest)
        self._changed.notify_all()
        return True

    def _make_room(self) -> float:
        """Let one guest give way that is idle for too long; returns seconds until the next look."""
        now = time.monotonic()
        left = {g: self._patience[g.has_sent] - _idle(g, now) for g in self._copying}
        first = min(left, key=lambda g: left[g])
        if left[first] > 0:
            return left[first]
        self._copying.discard(first)
        seconds = f"{_idle(first, now):.0f} s"
        first.give_way(Failure(Reason.BUSY, f"nothing came for {seconds}, and others waited"))
        return 0.0


def _idle(guest: Guest, now: float) -> float:
    return 0.0 if guest.idle_since is None else now - guest.idle_since
