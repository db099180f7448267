# SPDX-License-Identifier: Apache-2.0
"""Who looks at a hub's queue when no thread of the program waits: loops, and the attendant."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from ndverbs.connection._request import Request
from ndverbs.errors import RdmaError

if TYPE_CHECKING:
    import asyncio

    from ndverbs.connection._hub import Hub

# The attendant looks after this long whether the program is there, and asks less and less often.
_GLANCE_S = 0.02
_LONGEST_GLANCE_S = 0.5
_SPIN_S = 2e-4
_VAIN_SPINS = 4
_SPIN_TRIAL = 64


class Watch:
    """A loop's watch over the descriptor of a hub's queue; the loop keeps it as its reader."""

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop) -> None:
        self._fd = -1
        # A loop watches a number once and forgets it when the queue closes: use one of our own.
        self._fd = os.dup(hub.cq._watch_fileno())
        self._hub = weakref.ref(hub)
        self._loop = weakref.ref(loop)
        self._is_watching = False
        self._last_sleep = 1.0
        self._is_spinning = False
        self._vain_spins = 0
        weakref.finalize(hub, _end_watch, weakref.ref(self)).atexit = False

    def __del__(self) -> None:
        """Give the descriptor back: the loop is closed, or has forgotten it."""
        with contextlib.suppress(OSError):
            os.close(self._fd)

    async def wait(self, request: Request[Any]) -> None:
        """Wait until a request has ended."""
        if await self._spin(request):
            return
        began = time.perf_counter()
        await self._sleep(request)
        self._last_sleep = time.perf_counter() - began

    async def _spin(self, request: Request[Any]) -> bool:
        """Look for a moment, while other tasks run, where the last sleep was short; True: it ended.

        A sleep of the loop costs more than some turns of it. One task at a time does so, and after
        a few times in vain only now and then, as waits do that block (`CompletionQueue.wait`).
        """
        import asyncio

        if self._is_spinning or self._last_sleep > 2 * _SPIN_S:
            return False
        self._vain_spins += 1
        if self._vain_spins > _VAIN_SPINS and self._vain_spins % _SPIN_TRIAL:
            return False
        hub = self._hub()
        assert hub is not None
        self._is_spinning = True
        try:
            until = time.perf_counter() + min(self._last_sleep, _SPIN_S)
            while time.perf_counter() < until:
                await asyncio.sleep(0)
                with hub.lock:
                    hub._drain_or_die()
                if hub.has_news:
                    hub.tell()
                if request.done():
                    self._vain_spins = 0
                    return True
        finally:
            self._is_spinning = False
        return False

    async def _sleep(self, request: Request[Any]) -> None:
        """Sleep until a request has ended."""
        hub, loop = self._hub(), self._loop()
        assert hub is not None
        assert loop is not None
        woken = loop.create_future()
        waiting = weakref.ref(woken)
        thread = threading.get_ident()

        def report(_: object) -> None:
            with counted.lock:
                counted.sleepers -= 1
            future = waiting()
            if future is None:
                return
            if threading.get_ident() == thread:
                _settle(future)
            else:
                # RuntimeError: the loop is closed, and no coroutine waits any more.
                with contextlib.suppress(RuntimeError):
                    future.get_loop().call_soon_threadsafe(_settle, future)

        counted = hub
        with hub.lock:
            hub.sleepers += 1
        request._add_callback(report)
        if not self._is_watching:
            self._is_watching = True
            loop.add_reader(self._fd, self._ready)
        if not woken.done():
            self._ready()
        await woken

    def _ready(self) -> None:
        """Look at the queue, and be woken when it has something again."""
        hub = self._hub()
        if hub is None:
            self._stop()
            return
        try:
            with hub.lock:
                hub.cq._end_watch()
                hub.drain()
            hub.tell()
            # Also for the tasks of other loops: this one has ended their watch, too.
            while hub.sleepers:
                with hub.lock:
                    if not hub.cq._begin_watch():
                        return
                    hub.cq._end_watch()
                    hub.drain()
                hub.tell()
        except RdmaError as failure:
            with hub.lock:
                hub._died(failure)
            self._stop()
            hub.tell()

    def _stop(self) -> None:
        loop = self._loop()
        if self._is_watching and loop is not None:
            self._is_watching = False
            loop.remove_reader(self._fd)

    def end(self) -> None:
        """Stop watching: the hub has gone."""
        loop = self._loop()
        if loop is not None and not loop.is_closed():
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._stop)


def _end_watch(watch: weakref.ref[Watch]) -> None:
    found = watch()
    if found is not None:
        found.end()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Attendant:
    """A daemon thread that looks at a hub's queue while the program does not."""

    def __init__(self, hub: Hub) -> None:
        # What this thread still uses goes with this object, so that no number means another file.
        self._fd = self._woken = -1
        self._fd = os.dup(hub.cq.fileno())
        self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._hub = weakref.ref(hub, self._gone)
        self._is_woken = False
        self.thread = threading.Thread(target=self._run, name="ndverbs-attendant", daemon=True)
        self.thread.start()

    def __del__(self) -> None:
        """Give the descriptors back."""
        for fd in (self._fd, self._woken):
            with contextlib.suppress(OSError):
                os.close(fd)

    def wake(self) -> None:
        """Look soon."""
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(OSError):
                os.eventfd_write(self._woken, 1)

    def _gone(self, _: object) -> None:
        self._is_woken = False
        self.wake()

    def _run(self) -> None:
        glance = _GLANCE_S
        turns = -1
        while True:
            hub = self._hub()
            if hub is None or hub.is_ended:
                return
            if hub._turns != turns or hub._leading() is not None:
                # The program is there: look again after a while.
                turns = hub._turns
                if hub._deadlines:
                    hub.expire()  # which a thread that waits, or talks, does not look at
                hub.pool.trim()
                del hub
                is_woken = self._sleep(glance, is_quiet=True)
                glance = _GLANCE_S if is_woken else min(2 * glance, _LONGEST_GLANCE_S)
                continue
            glance = _GLANCE_S
            with contextlib.suppress(RdmaError):  # closed with its adapter: look() finds out
                hub.cq.arm()
            until = min(hub.expire(), hub.pool.trim())
            if not hub.look():
                return
            turns = hub._turns
            del hub
            self._sleep(until, is_quiet=False)

    def _sleep(self, seconds: float, *, is_quiet: bool) -> bool:
        """Sleep until it is woken, or, unless it is quiet, the queue has something."""
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        if not is_quiet:
            poll.register(self._fd, select.POLLIN)
        ready = poll.poll(max(0.0, seconds) * 1000)
        is_woken = any(fd == self._woken for fd, _ in ready)
        if is_woken:
            if is_quiet:
                # The program is there, and may wake it with each of its calls.
                time.sleep(_GLANCE_S)
            # In this order: a wake in between would write nothing for good after the other.
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._woken)
            self._is_woken = False
        return is_woken
