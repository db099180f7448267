# SPDX-License-Identifier: Apache-2.0
"""The sending end of a file copy: reads the source and writes it into the server's windows.

The source is read into a few registered buffers that rotate: while some are on their way, the
next is filled and added to the checksum. The CRC of every window travels with it and the server
compares it with what it reads back.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ndverbs import Access, Adapter, RdmaError
from ndverbs._address import text as address_text
from ndverbs.cli.filecopy.channel import Channel
from ndverbs.cli.filecopy.protocol import (
    MAX_NAME,
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
from ndverbs.cli.filecopy.source import SourceFile

CHUNK = 2 << 20  # bytes of one write; fits the L2 cache of today's cores with its checksum
CHUNKS = 12  # writes under way at once
CONNECT_TIME = 30.0  # seconds; a busy server lets clients wait
SILENCE = 120.0  # seconds that a server may need for one answer
SLOWEST_DISK = 20e6  # bytes per second that `sync` must at least reach


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy did: `seconds` are from before the connect until the file had its name."""

    size: int
    seconds: float
    crc: int


Progress = Callable[[int], None]


def copy_file(
    source: SourceFile,
    address: tuple[str, int],
    target: str,
    *,
    flags: Flags = Flags.NONE,
    adapter: Adapter | None = None,
    progress: Progress | None = None,
    connect_timeout: float = CONNECT_TIME,
    silence: float = SILENCE,
) -> Copied:
    """Copy an open file to a server.

    Parameters
    ----------
    source
        Read from its start; its owner closes it.
    address
        Host and port of the server.
    target
        Name below the directory that the server serves.
    flags
        Whether to replace a file, and whether to wait for the disk.
    adapter
        One is opened for the copy when omitted.
    progress
        Called with the number of bytes that have left.
    connect_timeout, silence
        Seconds to wait for the connection, and for each answer.

    Raises
    ------
    CopyError
        The copy failed; nothing has the target's name that had it not before.
    """
    started = time.perf_counter()
    name = os.fsencode(target)
    if len(name) > MAX_NAME:
        raise CopyError(
            Reason.BAD_NAME, f"the target's name has {len(name)} bytes, {MAX_NAME} are the most"
        )
    try:
        with contextlib.ExitStack() as stack:
            if adapter is None:
                adapter = stack.enter_context(Adapter.open())
            channel = stack.enter_context(Channel(adapter, write_depth=CHUNKS))
            transfer = _Transfer(channel, source, progress, silence)
            stack.callback(transfer.close)
            channel.peer = f"the server at {address_text(address)}"
            _connect(channel, address, connect_timeout)
            crc = transfer.run(name, flags)
            seconds = time.perf_counter() - started
            channel.finish()
    except RdmaError as error:
        raise CopyError(Reason.CONNECTION, str(error)) from error
    return Copied(source.size, seconds, crc)


def _connect(channel: Channel, address: tuple[str, int], timeout: float) -> None:
    try:
        channel.connect(address, timeout)
    except TimeoutError as error:
        raise CopyError(
            Reason.TIMED_OUT, f"{channel.peer} did not answer within {timeout:g} s"
        ) from error
    except RdmaError as error:
        if channel.was_turned_away():
            raise CopyError(
                Reason.BUSY, f"{channel.peer} has too many connections already"
            ) from error
        raise CopyError(Reason.CONNECTION, f"no connection to {channel.peer}: {error}") from error


class _Transfer:
    """One copy: which buffers are free, which windows are open, how far the file is."""

    def __init__(
        self, channel: Channel, source: SourceFile, progress: Progress | None, silence: float
    ) -> None:
        self._channel = channel
        self._source = source
        self._progress = progress
        self._silence = silence
        self._offered = 0  # end of the last window
        self._windows: deque[Window] = deque()
        # Small files need small buffers.
        self._chunk = max(min(CHUNK, source.size), 1)
        count = max(min(CHUNKS, -(-source.size // self._chunk)), 1)
        buffers = np.empty(count * self._chunk, np.uint8)
        self._memory = buffers.data
        self._region = channel.register(buffers, Access.LOCAL_READ)
        self._free = deque(range(count))
        self._count = count
        self._lengths = [0] * count
        self._left = 0  # bytes whose write has completed

    def close(self) -> None:
        """Give the buffers back."""
        self._region.close()

    def run(self, name: bytes, flags: Flags) -> int:
        """Return the CRC of the file, which the server has confirmed."""
        self._channel.send(Request(name, self._source.size, flags), self._silence)
        try:
            crc = self._send_content()
            self._source.check_unchanged()
        except CopyError as error:
            if error.reason is Reason.SOURCE:
                # So that the server's log knows; it drops the file in any case.
                self._channel.farewell(Failure(error.reason, "the source failed at the client"))
            raise
        self._channel.send(Commit(self._source.size, crc), self._silence)
        silence = self._silence
        if flags & Flags.SYNC:
            silence += self._source.size / SLOWEST_DISK
        answer = self._channel.receive(silence, "to finish the file")
        if not isinstance(answer, Done):
            raise _unexpected(answer)
        if (answer.size, answer.crc) != (self._source.size, crc):
            raise CopyError(
                Reason.CHECKSUM, f"the server stored crc32 {answer.crc:08x}, sent was {crc:08x}"
            )
        return crc

    def _send_content(self) -> int:
        size = self._source.size
        position = crc = 0
        while position < size:
            while not (self._windows and self._free):
                self._pump()
            window = self._windows[0]
            end = window.offset + window.length
            slot = self._free.popleft()
            length = min(self._chunk, end - position)
            start = slot * self._chunk
            view = self._memory[start : start + length]
            self._source.read_into(view, position)
            crc = zlib.crc32(view, crc)
            self._lengths[slot] = length
            self._channel.write(
                self._region.segment(start, length),
                window.address + position - window.offset,
                window.token,
                slot,
            )
            position += length
            if position == end:
                # Behind its writes on the same queue pair, so the server sees it after them.
                self._channel.send(Wrote(window.offset, window.length, crc), self._silence)
                self._windows.popleft()
            self._channel.poll()
            self._take_in()
        while len(self._free) < self._count:
            self._pump()
        return crc

    def _pump(self) -> None:
        self._channel.pump(time.monotonic() + self._silence, "to offer or take memory")
        self._take_in()

    def _take_in(self) -> None:
        for slot in self._channel.take_written():
            self._free.append(slot)
            self._left += self._lengths[slot]
        while (message := self._channel.take()) is not None:
            if not isinstance(message, Window):
                raise _unexpected(message)
            if message.offset != self._offered:
                raise malformed(f"a window at byte {message.offset}, not {self._offered}")
            if message.length > self._source.size - message.offset:
                raise malformed("a window beyond the end of the file")
            self._offered += message.length
            self._windows.append(message)
        if self._progress is not None:
            self._progress(self._left)


def _unexpected(message: Message) -> CopyError:
    return malformed(f"a {type(message).__name__} where none belongs")
