# SPDX-License-Identifier: Apache-2.0
"""The server of file copies: a listener, and what one connection may do.

Every connection has its own thread, protection domain and time limits, and a few staging buffers,
so that neither a large file nor a slow or hostile client costs more than that; a client that has
not sent a byte yet gets one of them. Which clients are served and which give way is in `places`,
how a file travels in `receiving` and `sending`, which names are allowed in `names`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

from ndverbs import Adapter, Connector, Listener, RdmaError
from ndverbs._address import text as address_text
from ndverbs._closing import Closing
from ndverbs.cli.filecopy.channel import BUSY, Channel, fact
from ndverbs.cli.filecopy.events import Event
from ndverbs.cli.filecopy.names import (
    PARTIAL_PREFIX,
    make_directory,
    open_directory,
    open_parent,
    shown,
    split_name,
)
from ndverbs.cli.filecopy.places import PATIENCE, PATIENCE_FIRST, Places
from ndverbs.cli.filecopy.protocol import (
    CopyError,
    Done,
    Entries,
    Entry,
    EntryKind,
    Failure,
    Fetch,
    Flags,
    Found,
    List,
    MakeDirectory,
    Message,
    More,
    Reason,
    Store,
    unexpected,
)
from ndverbs.cli.filecopy.receiving import Receiving
from ndverbs.cli.filecopy.sending import CHUNKS, Sending
from ndverbs.cli.filecopy.source import SourceFile
from ndverbs.cli.filecopy.target import PartialFile

MAX_ACTIVE = 16  # copies at once
MAX_QUEUED = 64  # connections beyond those: they ask, or wait for their turn
REQUEST_TIME = 10.0  # seconds that a client has to say what it wants
SILENCE = 60.0  # seconds that a client has for one window
STOP_TIME = 10.0  # seconds that connections get to end when the server stops

Log = Callable[[Event], None]


class Server(Closing):
    """Serve a directory; a context manager whose end stops every connection.

    Parameters
    ----------
    directory
        Below which all names are.
    address
        Where to listen; port 0 lets the system choose.
    adapter
        As of `Adapter.open`.
    log
        Called with what happens, from any thread.
    max_active, max_queued
        Copies at once, and connections beyond those.
    request_time, silence
        Seconds that a client has for its request, and for each window.
    patience_first, patience
        As of `Places`.
    is_unnamed
        Whether files may do without a name while they are received.
    may_store, may_fetch
        Whether clients may store files, and whether they may fetch and list them.
    """

    def __init__(
        self,
        directory: str,
        address: tuple[str, int],
        *,
        adapter: str | None = None,
        log: Log = lambda event: None,
        max_active: int = MAX_ACTIVE,
        max_queued: int = MAX_QUEUED,
        request_time: float = REQUEST_TIME,
        silence: float = SILENCE,
        patience_first: float = PATIENCE_FIRST,
        patience: float = PATIENCE,
        is_unnamed: bool = True,
        may_store: bool = True,
        may_fetch: bool = True,
    ) -> None:
        self._log = log
        self._max_active = max_active
        self._places = Places(
            max_active, max_active + max_queued, patience_first=patience_first, patience=patience
        )
        # More than the places: those that gave way end a moment later.
        self._max_threads = 2 * (max_active + max_queued)
        self._request_time = request_time
        self._silence = silence
        self._is_unnamed = is_unnamed
        self._may_store = may_store
        self._may_fetch = may_fetch
        self._lock = threading.Lock()  # guards the three below
        self._channels: set[Channel] = set()
        self._threads: set[threading.Thread] = set()
        self._is_stopping = False
        self._stack = contextlib.ExitStack()
        try:
            self._root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._stack.callback(os.close, self._root)
            self._adapter: Adapter = self._stack.enter_context(Adapter.open(adapter))
            self._listener: Listener = self._stack.enter_context(self._adapter.create_listener())
            self._listener.listen(address)
        except BaseException:
            self._stack.close()
            raise

    @property
    def address(self) -> tuple[str, int]:
        """Host and port where it listens."""
        return self._listener.local_address

    def serve_forever(self) -> None:
        """Accept connections until an exception, such as KeyboardInterrupt, ends it."""
        while True:
            with contextlib.suppress(TimeoutError):
                self._admit(self._listener.get_connector(timeout=3600))

    def close(self) -> None:
        """Stop listening, tell the clients, wait for the connections to end."""
        with self._lock:
            if self._is_stopping:
                return
            self._is_stopping = True
            channels = list(self._channels)
            threads = list(self._threads)
        self._listener.close()
        # Each farewell may take a moment; they take it together.
        stopping = Failure(Reason.STOPPING, "the server is being stopped")
        self._places.stop(CopyError(stopping.reason, stopping.text))
        farewells = [threading.Thread(target=c.farewell, args=(stopping,)) for c in channels]
        for farewell in farewells:
            farewell.start()
        deadline = time.monotonic() + STOP_TIME
        for thread in [*farewells, *threads]:
            thread.join(max(deadline - time.monotonic(), 0))
        self._stack.close()
        # The other threads wake because the adapter is closed.
        for thread in threads:
            thread.join(max(deadline - time.monotonic(), 1))

    def _admit(self, connector: Connector) -> None:
        peer = _peer_text(connector)
        channel = None
        # Without memory, descriptors or threads it is turned away, and the next one may have luck.
        with contextlib.suppress(RdmaError, OSError, RuntimeError):
            channel = Channel(self._adapter, connector, write_depth=CHUNKS)
            channel.peer = "the client"
            # A daemon: a disk that hangs must not keep the process.
            thread = threading.Thread(target=self._work, args=(channel, peer), daemon=True)
            # Under the lock, so that it does not end before it is known.
            with self._lock:
                has_room = not self._is_stopping and len(self._threads) < self._max_threads
                if has_room and self._places.enter(channel):
                    thread.start()
                    self._threads.add(thread)
                    self._channels.add(channel)
                    return
        self._log(Event("refused", peer, "turned away, too many connections"))
        with contextlib.suppress(RdmaError):
            connector.reject(BUSY)
        if channel is not None:
            self._places.leave(channel)
            channel.close()
        connector.close()

    def _work(self, channel: Channel, peer: str) -> None:
        try:
            with channel:
                channel.accept(self._request_time)
                self._answer_all(channel, peer)
        except CopyError as error:
            self._log(Event("failed", peer, error.text))
        except RdmaError as error:
            self._log(Event("failed", peer, f"the connection failed: {fact(error)}"))
        except Exception as error:  # a defect of ours ends this connection and no other
            self._log(Event("failed", peer, f"internal error, please report this: {error!r}"))
        finally:
            self._places.leave(channel)
            with self._lock:
                self._channels.discard(channel)
                self._threads.discard(threading.current_thread())

    def _answer_all(self, channel: Channel, peer: str) -> None:
        """Answer one request after the other, until the client leaves."""
        with contextlib.ExitStack() as stack:
            # Windows stay registered until the peer knows, so that its writes break nothing.
            try:
                first = channel.receive(self._request_time, "to say what it wants")
                if not isinstance(first, Store | Fetch | List | MakeDirectory):
                    raise unexpected(first)
                self._places.take_turn(
                    channel,
                    lambda: self._log(
                        Event("waiting", peer, f"waits, {self._max_active} copies are under way")
                    ),
                )
                request: Message | None = first
                while request is not None:
                    started = time.perf_counter()
                    done = self._answer(channel, peer, request, stack)
                    stack.close()
                    self._log(done._replace(seconds=time.perf_counter() - started))
                    request = self._next_request(channel)
            except CopyError as error:
                channel.farewell(Failure(error.reason, error.text))
                raise
        channel.finish()

    def _next_request(self, channel: Channel) -> Message | None:
        try:
            return channel.receive(self._silence, "to say what else it wants")
        except CopyError as error:
            # Nothing is half done here, however the client left.
            if error.reason is Reason.CONNECTION:
                return None
            raise

    def _answer(
        self, channel: Channel, peer: str, request: Message, stack: contextlib.ExitStack
    ) -> Event:
        """Do what was asked; returns what the log says about it."""
        match request:
            case Store() | MakeDirectory() if not self._may_store:
                raise CopyError(Reason.NOT_ALLOWED, "the server takes no files (--read-only)")
            case Fetch() | List() if not self._may_fetch:
                raise CopyError(Reason.NOT_ALLOWED, "the server gives no files out (--write-only)")
            case Store():
                self._store(channel, request, stack)
                return _copied("stored", peer, request.name, request.size)
            case Fetch():
                size = self._give(channel, request, stack)
                return _copied("sent", peer, request.name, size)
            case List():
                count = self._list(channel, request, stack)
                text = f"listed {shown(request.name)}, {count} entries"
                return Event("listed", peer, text, os.fsdecode(request.name))
            case MakeDirectory():
                make_directory(self._root, request.name)
                channel.send(Done(0, 0), self._silence)
                text = f"made the directory {shown(request.name)}"
                return Event("made", peer, text, os.fsdecode(request.name))
            case _:
                raise unexpected(request)

    def _store(self, channel: Channel, request: Store, stack: contextlib.ExitStack) -> None:
        flags = request.flags
        components = split_name(request.name)
        partial = stack.enter_context(
            PartialFile(
                open_parent(self._root, components),
                components[-1],
                request.size,
                is_unnamed=self._is_unnamed,
                is_kept=bool(flags & Flags.RESUME),
                force=bool(flags & Flags.FORCE),
                may_compare=self._may_fetch,
            )
        )
        crc = stack.enter_context(Receiving(channel, partial, self._silence)).run()
        if flags & Flags.VERIFY:
            partial.verify(crc)
        partial.publish(sync=bool(flags & Flags.SYNC))
        channel.send(Done(request.size, crc), self._silence)

    def _give(self, channel: Channel, request: Fetch, stack: contextlib.ExitStack) -> int:
        source = stack.enter_context(SourceFile(os.fsdecode(request.name), root=self._root))
        sending = stack.enter_context(Sending(channel, source, self._silence))
        channel.send(Found(source.size), self._silence)
        sending.run()
        return source.size

    def _list(self, channel: Channel, request: List, stack: contextlib.ExitStack) -> int:
        count = length = 0
        part: list[Entry] = []
        for entry in self._entries(request.name, stack):
            if length > Entries.FULL:
                channel.send(Entries(tuple(part), is_last=False), self._silence)
                message = channel.receive(self._silence, "to ask for more entries")
                if not isinstance(message, More):
                    raise unexpected(message)
                part, length = [], 0
            part.append(entry)
            length += entry.length
            count += 1
        channel.send(Entries(tuple(part), is_last=True), self._silence)
        return count

    def _entries(self, name: bytes, stack: contextlib.ExitStack) -> Iterator[Entry]:
        try:
            fd = open_directory(self._root, name)
        except CopyError as error:
            if error.reason is not Reason.NO_DIRECTORY:
                raise
            with SourceFile(os.fsdecode(name), root=self._root) as source:
                yield Entry(b"", EntryKind.FILE, source.size)
            return
        stack.callback(os.close, fd)
        for found in stack.enter_context(os.scandir(fd)):
            if not found.name.startswith(PARTIAL_PREFIX):
                yield _entry(found)


def _copied(kind: str, peer: str, name: bytes, size: int) -> Event:
    return Event(kind, peer, f"{kind} {shown(name)}, {size} bytes", os.fsdecode(name), size)


def _entry(found: os.DirEntry[str]) -> Entry:
    name = os.fsencode(found.name)
    with contextlib.suppress(OSError):  # it may be gone, or not be ours to look at
        if found.is_dir(follow_symlinks=False):
            return Entry(name, EntryKind.DIRECTORY, 0)
        if found.is_file(follow_symlinks=False):
            return Entry(name, EntryKind.FILE, found.stat(follow_symlinks=False).st_size)
    return Entry(name, EntryKind.OTHER, 0)


def _peer_text(connector: Connector) -> str:
    try:
        return address_text(connector.peer_address)
    except RdmaError:
        return "a peer that is gone"
