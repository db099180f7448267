# SPDX-License-Identifier: Apache-2.0
"""The sending end of one file: reads the source and writes it into the receiver's windows.

The source is read into a few registered buffers that rotate. A buffer is posted first and added to
the checksum afterwards, while its bytes leave; the sum of every window travels behind it, and the
receiver compares it with what has arrived. Bytes that the receiver has already are compared first,
by the checksums of steps of them; those that agree are not sent.
"""

from __future__ import annotations

import time
from collections import deque

from ndverbs import Access, crc32c
from ndverbs._closing import Closing
from ndverbs.cli.filecopy.channel import Channel
from ndverbs.cli.filecopy.protocol import (
    STEP,
    Check,
    Commit,
    CopyError,
    Done,
    Have,
    Keep,
    Progress,
    Reason,
    Window,
    Wrote,
    malformed,
    unexpected,
)
from ndverbs.cli.filecopy.source import SourceFile

CHUNK = 1 << 20  # bytes of one write; fits the L2 cache of today's cores with its checksum
MOST_WINDOWS = 64  # of a receiver; far more than ours has open
CHUNKS = 8  # writes under way at once; a receiver of ours has no more windows open


class Sending(Closing):
    """One file on its way: which buffers are free, which windows are open, how far it is.

    Parameters
    ----------
    channel, source
        Their owners close them.
    silence
        Seconds that the receiver may need for one answer.
    progress
        Called with the number of bytes that have left.
    """

    def __init__(
        self,
        channel: Channel,
        source: SourceFile,
        silence: float,
        progress: Progress | None = None,
    ) -> None:
        self._channel = channel
        self._source = source
        self._silence = silence
        self._progress = progress
        self._there = 0  # bytes that the receiver says it has
        self._offered = 0  # end of the last window
        self._windows: deque[Window] = deque()
        # Small files need small buffers.
        self._chunk = max(min(CHUNK, source.size), 1)
        self._count = max(min(CHUNKS, -(-source.size // self._chunk)), 1)
        self._memory = channel.allocate(self._count * self._chunk)
        self._region = channel.register(self._memory, Access.LOCAL_READ)
        self._free = deque(range(self._count))
        self._lengths = [0] * self._count
        self._left = 0  # bytes whose write has completed

    def close(self) -> None:
        """Give the buffers back."""
        self._region.close()

    def run(self, time_to_finish: float = 0.0) -> int:
        """Send the file; returns its CRC32C, which the receiver has confirmed.

        Parameters
        ----------
        time_to_finish
            Seconds that the receiver may need at the end, beyond `silence`.

        Raises
        ------
        CopyError
            The source failed or changed, or the receiver did not get it.
        """
        crc = self._send_content()
        self._source.check_unchanged()
        self._channel.send(Commit(self._source.size, crc), self._silence)
        answer = self._channel.receive(self._silence + time_to_finish, "to finish the file")
        if not isinstance(answer, Done):
            raise unexpected(answer)
        if (answer.size, answer.crc) != (self._source.size, crc):
            raise CopyError(
                Reason.CHECKSUM,
                f"the receiver stored crc32c {answer.crc:08x}, sent was {crc:08x}",
            )
        return crc

    def _send_content(self) -> int:
        size = self._source.size
        self._take_in()  # messages that came with another one
        while size and not (self._there or self._windows):
            self._pump()
        position, crc = self._agree() if self._there else (0, 0)
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
            self._lengths[slot] = length
            self._channel.write(
                self._region.segment(start, length),
                window.address + position - window.offset,
                window.token,
                slot,
            )
            crc = crc32c(view, crc)
            position += length
            if position == end:
                # Behind its writes on the same queue pair, so the receiver sees it after them.
                self._channel.send(Wrote(window.offset, window.length, crc), self._silence)
                self._windows.popleft()
            self._channel.poll()
            self._take_in()
        while len(self._free) < self._count:
            self._pump()
        return crc

    def _agree(self) -> tuple[int, int]:
        """Return how many of the receiver's bytes are those of the source, and their CRC32C."""
        if self._windows:
            raise malformed("a window before what is there was compared")
        before = now = 0, 0
        while now[0] < self._there:
            end = min(now[0] + STEP, self._there)
            before, now = now, (end, self._checksum(*now, end))
            self._channel.send(Check(*now), self._silence)
            answer = self._channel.receive(self._silence, "to compare what it has")
            if not isinstance(answer, Keep):
                raise unexpected(answer)
            if answer.length != end:
                if answer.length not in (before[0], 0):
                    raise malformed(f"{answer.length} bytes kept, of {before[0]} that agree")
                now = before if answer.length else (0, 0)
                break
            self._left = end
            self._show()
        self._offered = self._left = now[0]
        self._take_in()  # windows may have come with the answer
        return now

    def _checksum(self, position: int, crc: int, end: int) -> int:
        while position < end:
            piece = self._memory[: min(self._chunk, end - position)]
            self._source.read_into(piece, position)
            crc = crc32c(piece, crc)
            position += len(piece)
        return crc

    def _pump(self) -> None:
        self._channel.pump(time.monotonic() + self._silence, "to offer or take memory")
        self._take_in()

    def _take_in(self) -> None:
        for slot in self._channel.take_written():
            self._free.append(slot)
            self._left += self._lengths[slot]
            self._channel.has_sent = True
        while (message := self._channel.take()) is not None:
            if isinstance(message, Have) and self._there == self._offered == 0:
                if not 0 < message.length <= self._source.size:
                    raise malformed(f"{message.length} bytes are there of {self._source.size}")
                self._there = message.length
                continue
            if not isinstance(message, Window):
                raise unexpected(message)
            if message.offset != self._offered:
                raise malformed(f"a window at byte {message.offset}, not {self._offered}")
            if message.length > self._source.size - message.offset:
                raise malformed("a window beyond the end of the file")
            if len(self._windows) == MOST_WINDOWS:
                raise malformed(f"more than {MOST_WINDOWS} windows at once")
            self._offered += message.length
            self._windows.append(message)
        self._show()

    def _show(self) -> None:
        if self._progress is not None:
            self._progress(self._left)
