# SPDX-License-Identifier: Apache-2.0
"""What the Connections of one adapter share: their completion queue, and who looks at it.

A thread that waits for a request leads: it sleeps over the queue, hands completions out, and wakes
those that wait for others. A loop that waits watches the queue's descriptor. When no thread of the
program is there for a moment and something is unfinished, the attendant, a daemon thread, does it.

The lock guards the state of the hub and of all its links. Calls of the program's are made without
it: what ends under the lock is noted, and told behind it.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ndverbs._native import Adapter, Result, Status, _call_and_report, _Lock
from ndverbs.connection._memory import Pool, Registrations, Slab
from ndverbs.connection._request import Request
from ndverbs.connection._watching import Attendant, Watch
from ndverbs.errors import ClosedError, RdmaError, error

if TYPE_CHECKING:
    import asyncio

    from ndverbs.connection._link import Link
    from ndverbs.connection._server import Server

_FIRST_DEPTH = 2048
_BATCH = (256,)
_A_DAY_S = 86400.0
# What the interpreter's exit waits for a thread that has the lock.
_EXIT_S = 1.0
# A loop whose requests end at once lets other tasks run after so many.
_TURNS_A_ROUND = 64

_hubs: weakref.WeakValueDictionary[int, Hub] = weakref.WeakValueDictionary()
_hubs_lock = _Lock()


def hub_for(adapter: Adapter, depth: int) -> Hub:
    """Return a hub of the adapter that has room for `depth` requests more, and keeps it."""
    with _hubs_lock:
        hub = _hubs.get(id(adapter))
        if hub is None or hub.cq.closed or not hub.has_room(depth):
            hub = Hub(adapter)  # links of the one before go on with that
            if not hub.has_room(depth):
                raise error(
                    Status.INSUFFICIENT_RESOURCES,
                    f"a completion queue of {hub.info.name} holds {hub.cq.depth} requests, a "
                    f"Connection needs {depth}",
                )
            _hubs[id(adapter)] = hub
        return hub


def _renew_lock() -> None:
    global _hubs_lock
    _hubs_lock = _Lock()  # a thread that only the parent has may hold the old one


os.register_at_fork(after_in_child=_renew_lock)
_every: weakref.WeakSet[Hub] = weakref.WeakSet()


def _end_every() -> None:
    """End all links before the interpreter stops threads, of which one may have a hub's lock."""
    for hub in list(_every):
        hub.end()


atexit.register(_end_every)


class Hub:
    """The completion queue that the links of one adapter share."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.info = adapter.info
        self.pd = adapter.create_pd()
        self.cq = adapter.create_cq(min(_FIRST_DEPTH, self.info.max_cq_depth))
        self.lock = _Lock()
        self.is_ended = False
        _every.add(self)
        self.receives = Slab(self.pd, 64 << 10)
        self.sends = Slab(self.pd, 4 << 10)
        self.words = Slab(self.pd, 8, chunk=4096)
        self.registrations = Registrations(self.pd)
        self.pool = Pool()
        self._promised = 0
        self._keys = itertools.count(1)
        self._links: dict[int, Link] = {}
        self.servers: weakref.WeakSet[Server] = weakref.WeakSet()
        self.abandoned: deque[Link] = deque()
        self._results: deque[Result] = deque()
        self._finished: deque[Request[Any]] = deque()
        self._calls: deque[tuple[Callable[..., object], Any]] = deque()
        self.dropped: deque[object] = deque()
        self._leader: _Waiter | None = None
        self._followers: list[_Waiter] = []
        self._watches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Watch] = (
            weakref.WeakKeyDictionary()
        )
        self._deadlines: dict[Link, float] = {}
        self.sleepers = 0  # tasks in loops that nothing has woken yet
        self._turns = 0
        self._attendant: Attendant | None = None

    # ---- links

    def has_room(self, depth: int) -> bool:
        """Promise `depth` completions more, where the queue has or gets room for them."""
        with self.lock:
            wanted = self._promised + depth
            if wanted > self.cq.depth:
                most = min(max(2 * self.cq.depth, wanted), self.info.max_cq_depth)
                with contextlib.suppress(RdmaError):  # not every device can
                    self.cq.resize(most)
            if wanted > self.cq.depth:
                return False
            self._promised = wanted
            return True

    def join(self, link: Link) -> int:
        """Return the key by which completions name a link; with the lock."""
        self._need_attendant()
        key = next(self._keys)
        self._links[key] = link
        return key

    def serve(self, server: Server) -> None:
        """Have a server hear of the adapter's end."""
        with self.lock:
            self._need_attendant()
            self.servers.add(server)

    def _need_attendant(self) -> None:
        if self._attendant is not None:
            return
        try:
            self._attendant = Attendant(self)
        except (OSError, RuntimeError) as cause:
            raise error(
                Status.INSUFFICIENT_RESOURCES,
                f"the first Connection needs two descriptors and a thread: {cause}",
            ) from cause

    def leave(self, key: int, depth: int) -> None:
        """Forget a link that has no request left, and its promise; with the lock."""
        self._links.pop(key, None)
        self._promised -= depth

    def set_deadline(self, link: Link, seconds: float | None) -> None:
        """Have `Link.expire` called later; with the lock."""
        if seconds is None:
            self._deadlines.pop(link, None)
        else:
            self._deadlines[link] = time.monotonic() + seconds
            self.attend()

    # ---- what has ended

    def drain(self) -> None:
        """Take completions and hand them out; with the lock."""
        self._turns += 1
        while self.abandoned:
            self.abandoned.popleft().fail(
                error(Status.CANCELLED, "the Connection was dropped without close")
            )
        results = self._results
        while True:
            # One call: a signal handler runs between two, and an exception of its would lose what
            # the first one took.
            results.extend(itertools.chain.from_iterable(map(self.cq.poll, _BATCH)))
            is_all = len(results) < _BATCH[0]
            while results:
                result = results[0]
                link = self._links.get(result[2])  # its qp_context
                try:
                    if link is not None:
                        link.completed(result)
                except BaseException as cause:
                    # An interrupt: what it interrupted is not known any more.
                    if link is not None:
                        link.break_off(cause)
                    raise
                finally:
                    results.popleft()
            if is_all:
                return

    def finished(self, request: Request[Any]) -> None:
        """Note that a request has ended; with the lock."""
        if self._leader is not None and self._leader.request is request:
            self.cq._nudge()
        for waiter in self._followers:
            if waiter.request is request:
                waiter.wake()
        if request._done_callbacks or request._shared is not None:
            self._finished.append(request)

    def later(self, function: Callable[..., object], argument: Any) -> None:
        """Call a function of the program's when the lock has been given back; with the lock."""
        self._calls.append((function, argument))

    @property
    def has_news(self) -> bool:
        """Whether there is something to `tell`."""
        return bool(self._finished or self._calls or self.dropped)

    def tell(self) -> None:
        """Make the calls that are due, and let go of the program's objects; without the lock."""
        self.dropped.clear()
        while self._finished:
            with self.lock:  # before anything is taken: it may be refused
                if not self._finished:
                    break  # another thread makes them
                request = self._finished.popleft()
                callbacks, request._done_callbacks = request._done_callbacks, []
            shared = request._shared
            if shared is not None:
                with shared:
                    for waiter in request._waiters:
                        waiter.add_result(request)
                    shared.notify_all()
            for function in callbacks:
                self.call(function, request)
        while self._calls:
            try:
                function, argument = self._calls.popleft()
            except IndexError:
                break
            self.call(function, argument)

    @staticmethod
    def call(function: Callable[..., object], argument: Any) -> None:
        """Call a function of the program's; its exception goes to ``sys.unraisablehook``."""
        try:
            function(argument)
        except Exception as failure:  # an interrupt goes on to the caller
            _call_and_report(_raise, failure)

    # ---- waiting

    def wait_for(self, request: Request[Any], timeout: float | None) -> None:
        """Wait until a request has ended.

        Raises
        ------
        RdmaError
            A TimeoutError.
        """
        with self.lock:
            self._drain_or_die()
        if self.has_news:
            self.tell()
        until = None if timeout is None else time.monotonic() + timeout
        while not request.done():
            me = _Waiter(request)
            try:
                with self.lock:
                    self._drain_or_die()
                    if request.done():
                        break
                    leader = self._leading()
                    if leader is None or leader.thread == me.thread:
                        # A signal handler waits inside the wait of its own thread, which goes on
                        # behind it.
                        me.outer = leader
                        self._leader = me
                    else:
                        me.follow()
                        self._followers.append(me)
                if self.has_news:
                    self.tell()  # of which one may bring what this thread waits for
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    raise error(
                        Status.IO_TIMEOUT,
                        f"not done within {timeout} s",
                        hint="the request goes on; wait again",
                    )
                if self._leader is me:
                    self.cq._wait(left)
                else:
                    me.sleep(left)
            except ClosedError as closed:
                with self.lock:
                    self._died(closed)
                    request._finish(None, closed)
            finally:
                me.is_here = False  # before any call, where another signal may come
                self._stop_waiting(me)
                if self.has_news:
                    self.tell()

    def _leading(self) -> _Waiter | None:
        """Return the waiter that sleeps over the queue; with the lock."""
        leader = self._leader
        return leader if leader is not None and leader.is_here else None

    def _stop_waiting(self, me: _Waiter) -> None:
        with self.lock:
            if self._leader is me:
                self._leader = me.outer
                if me.outer is not None:
                    self.cq._nudge()  # what it waits for may have ended meanwhile
            # One that was to lead may have left instead, because what it waited for had ended.
            self._followers = [each for each in self._followers if each.is_here]
            if self._followers and self._leading() is None:
                self._followers[0].wake()  # it leads when it looks

    async def wait_in_loop(self, request: Request[Any]) -> None:
        """Wait in the running loop until a request has ended."""
        import asyncio

        with self.lock:
            self._drain_or_die()
        self.tell()
        if request.done():
            if self._turns % _TURNS_A_ROUND == 0:
                await asyncio.sleep(0)  # other tasks run, too, where requests end at once
            return
        loop = asyncio.get_running_loop()
        watch = self._watches.get(loop)
        if watch is None:
            watch = self._watches[loop] = Watch(self, loop)
        await watch.wait(request)

    # ---- nobody looks

    def attend(self) -> None:
        """Have the attendant look soon: something is unfinished that no thread may wait for."""
        attendant = self._attendant  # which another thread may end now
        if attendant is not None:
            attendant.wake()

    def _drain_or_die(self) -> None:
        try:
            self.drain()
        except RdmaError as failure:
            self._died(failure)

    def _died(self, failure: RdmaError) -> None:
        """End all links: the queue is dead, or closed with its adapter; with the lock."""
        for link in list(self._links.values()):
            link.died(failure)
        self._links.clear()
        for server in list(self.servers):
            server._died(failure)
        self.servers.clear()

    def expire(self) -> float:
        """End links whose time is over; return the seconds until the next one's is."""
        with self.lock:
            now = time.monotonic()
            for link, when in list(self._deadlines.items()):
                if when <= now:
                    del self._deadlines[link]
                    link.expire()
            until = min(self._deadlines.values(), default=now + _A_DAY_S)
        self.tell()
        return until - now

    def end(self) -> None:
        """End all links, at the interpreter's exit, and wait for the attendant."""
        self.is_ended = True
        attendant = self._attendant
        if self.lock.acquire(_EXIT_S):
            try:
                self._died(error(Status.CANCELLED, "the interpreter ends"))
            finally:
                self.lock.__exit__()
        if attendant is not None:
            attendant.wake()
            attendant.thread.join(_EXIT_S)

    def look(self) -> bool:
        """Take what has completed, for the attendant; return whether it is needed further on."""
        with self.lock:
            self._drain_or_die()
            is_needed = bool(self._links or self.servers)
            if not is_needed:
                self._attendant = None
        self.tell()
        return is_needed

    def __repr__(self) -> str:
        """Return its adapter and how many links it has."""
        return f"<Hub of {self.info.name}, {len(self._links)} links>"


def _raise(failure: Exception) -> None:
    raise failure


class _Waiter:
    """A thread that waits for a request; one of a hub's leads, the others sleep."""

    def __init__(self, request: Request[Any]) -> None:
        self.request = request
        self.thread = threading.get_ident()
        self.is_here = True
        self.outer: _Waiter | None = None
        self._gate: Any = None

    def follow(self) -> None:
        """Be one that sleeps until it is woken; with the hub's lock."""
        self._gate = threading.Lock()
        self._gate.acquire()

    def sleep(self, seconds: float | None) -> None:
        """Sleep until another thread wakes this one."""
        self._gate.acquire(timeout=-1 if seconds is None else min(seconds, _A_DAY_S))

    def wake(self) -> None:
        """End the sleep; with the hub's lock."""
        if self._gate.locked():
            self._gate.release()
