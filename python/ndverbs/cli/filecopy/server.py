# SPDX-License-Identifier: Apache-2.0
"""The receiving end of file copies: a listener, and what one connection may do.

Every connection has its own thread, protection domain and time limits, and maps only a few
windows of its file at once, so that neither a large file nor a slow or hostile client costs more
than that; a client that has not sent a byte yet gets one small window. Which clients are served,
and which give way, is in `places`. The client's bytes land in the mapping of the new file by RDMA;
they are read back for the checksum before the file gets its name.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable

from ndverbs import Access, Adapter, Connector, Listener, MemoryRegion, RdmaError
from ndverbs._address import text as address_text
from ndverbs._closing import Closing
from ndverbs.cli.filecopy.channel import BUSY, Channel
from ndverbs.cli.filecopy.places import PATIENCE, PATIENCE_FIRST, Places
from ndverbs.cli.filecopy.protocol import (
    Commit,
    CopyError,
    Done,
    Failure,
    Flags,
    Message,
    Reason,
    Request,
    Window,
    Wrote,
    malformed,
)
from ndverbs.cli.filecopy.target import PartialFile, check_target, open_parent, shown, split_name

WINDOW = 16 << 20  # bytes; what a client fills between two messages
WINDOWS = 4  # open at once for one connection
FIRST_WINDOW = 1 << 20  # bytes; the only window until it is full
MAX_ACTIVE = 16  # copies at once
MAX_QUEUED = 64  # connections beyond those: they ask, or wait for their turn
REQUEST_TIME = 10.0  # seconds that a client has to say what it wants
SILENCE = 60.0  # seconds that a client has for one window
STOP_TIME = 10.0  # seconds that connections get to end when the server stops
_READ_BACK = 1 << 20  # bytes read back at once for the checksum
_MADV_POPULATE_WRITE = 23  # linux/mman.h, since 5.14

Log = Callable[[str], None]


class Server(Closing):
    """Serve a directory; a context manager whose end stops every connection.

    Parameters
    ----------
    directory
        What clients may write into.
    address
        Where to listen; port 0 lets the system choose.
    adapter
        As of `Adapter.open`.
    log
        Called with one line per copy, from any thread.
    max_active, max_queued
        Copies at once, and connections beyond those.
    request_time, silence
        Seconds that a client has for its request, and for each window.
    patience_first, patience
        As of `Places`.
    is_unnamed
        Whether files may do without a name while they are received.
    """

    def __init__(
        self,
        directory: str,
        address: tuple[str, int],
        *,
        adapter: str | None = None,
        log: Log = lambda line: None,
        max_active: int = MAX_ACTIVE,
        max_queued: int = MAX_QUEUED,
        request_time: float = REQUEST_TIME,
        silence: float = SILENCE,
        patience_first: float = PATIENCE_FIRST,
        patience: float = PATIENCE,
        is_unnamed: bool = True,
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
            channel = Channel(self._adapter, connector)
            channel.peer = f"the client at {peer}"
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
        self._log(f"{peer}: turned away, too many connections")
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
                self._log(f"{peer}: {self._store(channel, peer)}")
        except (CopyError, RdmaError) as error:
            self._log(f"{peer}: {error}")
        except Exception as error:  # a defect of ours ends this connection and no other
            self._log(f"{peer}: internal error: {error!r}")
        finally:
            self._places.leave(channel)
            with self._lock:
                self._channels.discard(channel)
                self._threads.discard(threading.current_thread())

    def _store(self, channel: Channel, peer: str) -> str:
        """Receive one file; returns what the log says about it."""
        started = time.perf_counter()
        with contextlib.ExitStack() as stack:
            # Windows stay registered until the peer knows, so that its writes break nothing.
            try:
                request = channel.receive(self._request_time, "to say what it wants")
                if not isinstance(request, Request):
                    raise _unexpected(request)
                self._places.take_turn(
                    channel,
                    lambda: self._log(f"{peer}: waits, {self._max_active} copies are under way"),
                )
                partial = stack.enter_context(self._open(request))
                reception = _Reception(channel, partial, self._silence)
                stack.callback(reception.close)
                crc = reception.run()
                partial.publish(
                    force=bool(request.flags & Flags.FORCE), sync=bool(request.flags & Flags.SYNC)
                )
            except CopyError as error:
                channel.farewell(Failure(error.reason, error.text))
                raise
            channel.send(Done(request.size, crc), self._silence)
            channel.finish()
        seconds = time.perf_counter() - started
        return f"stored {shown(request.name)}, {request.size} bytes in {seconds:.2f} s"

    def _open(self, request: Request) -> PartialFile:
        components = split_name(request.name)
        parent = open_parent(self._root, components)
        try:
            check_target(parent, components[-1], force=bool(request.flags & Flags.FORCE))
        except BaseException:
            os.close(parent)
            raise
        return PartialFile(parent, components[-1], request.size, is_unnamed=self._is_unnamed)


class _OpenWindow:
    """A piece of the file, mapped and registered; `offer` is what the client gets to know.

    Only a program that may open the file on this machine, and truncates it meanwhile, can turn an
    access to the mapping into a SIGBUS; a file without a name cannot be opened by others.
    """

    def __init__(self, channel: Channel, partial: PartialFile, offset: int, length: int) -> None:
        partial.extend(offset, length)
        self._mapping = mmap.mmap(partial.fd, length, offset=offset)
        # Where the disk turns out to be full after all, this says so instead of a SIGBUS.
        try:
            self._mapping.madvise(_MADV_POPULATE_WRITE)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a kernel before 5.14
                raise CopyError(
                    Reason.INPUT_OUTPUT, f"the file cannot be written: {error.strerror}"
                ) from None
        self._region: MemoryRegion = channel.register(self._mapping, Access.REMOTE_WRITE)
        self.offer = Window(offset, length, self._region.address, self._region.remote_token)

    def close(self) -> None:
        """End remote access, then give the mapping back."""
        self._region.close()
        # The export may be given back a moment later; then the mapping goes with its last user.
        with contextlib.suppress(BufferError):
            self._mapping.close()


class _Reception:
    """The content of one file: windows that are open, and the checksum of those before."""

    def __init__(self, channel: Channel, partial: PartialFile, silence: float) -> None:
        self._channel = channel
        self._partial = partial
        self._silence = silence
        self._offered = 0  # end of the last window
        self._windows: deque[_OpenWindow] = deque()
        self._crc = 0
        self._buffer = memoryview(bytearray(min(_READ_BACK, max(partial.size, 1))))

    def run(self) -> int:
        """Return the CRC of the whole file once the client has committed it."""
        self._offer()
        while self._windows:
            message = self._receive()
            if not isinstance(message, Wrote):
                raise _unexpected(message)
            offer = self._windows[0].offer
            if (message.offset, message.length) != (offer.offset, offer.length):
                raise malformed(
                    f"bytes {message.offset} to {message.offset + message.length} were not due"
                )
            self._windows.popleft().close()
            if self._channel.has_sent:
                self._offer()  # before the checksum: the client goes on meanwhile
            self._read_back(message)
            self._channel.has_sent = True
            while len(self._windows) < WINDOWS and self._offer():
                pass
        message = self._receive()
        if not isinstance(message, Commit):
            raise _unexpected(message)
        if (message.size, message.crc) != (self._partial.size, self._crc):
            raise CopyError(
                Reason.CHECKSUM,
                f"{self._partial.size} bytes with crc32 {self._crc:08x} arrived, the client "
                f"sent {message.size} with {message.crc:08x}",
            )
        return self._crc

    def close(self) -> None:
        """Close the windows that are open."""
        while self._windows:
            self._windows.popleft().close()

    def _receive(self) -> Message:
        return self._channel.receive(self._silence, "to send more of the file")

    def _offer(self) -> bool:
        """Open the next window; False at the end of the file."""
        most = WINDOW if self._channel.has_sent else FIRST_WINDOW
        length = min(most, self._partial.size - self._offered)
        if length == 0:
            return False
        window = _OpenWindow(self._channel, self._partial, self._offered, length)
        self._windows.append(window)
        self._offered += length
        self._channel.send(window.offer, self._silence)
        return True

    def _read_back(self, wrote: Wrote) -> None:
        """Add a window to the checksum, as a reader of the file sees it."""
        position, end = wrote.offset, wrote.offset + wrote.length
        while position < end:
            piece = self._buffer[: min(len(self._buffer), end - position)]
            try:
                count = os.preadv(self._partial.fd, [piece], position)
            except OSError as error:
                raise CopyError(
                    Reason.INPUT_OUTPUT, f"the file cannot be read back: {error.strerror}"
                ) from None
            if count == 0:
                raise CopyError(Reason.INPUT_OUTPUT, "another program shortened the file")
            self._crc = zlib.crc32(piece[:count], self._crc)
            position += count
        if self._crc != wrote.crc:
            raise CopyError(
                Reason.CHECKSUM,
                f"bytes {wrote.offset} to {end} do not have the client's checksum",
            )


def _unexpected(message: Message) -> CopyError:
    return malformed(f"a {type(message).__name__} where none belongs")


def _peer_text(connector: Connector) -> str:
    try:
        return address_text(connector.peer_address)
    except RdmaError:
        return "a peer that is gone"
