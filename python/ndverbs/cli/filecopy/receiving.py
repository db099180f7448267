# SPDX-License-Identifier: Apache-2.0
"""The receiving end of one file: staging buffers that the sender writes into, and the file.

The sender's bytes land in registered memory of this process, never in a mapping of the file, so a
disk that fails is an error and no signal. When the sender hands a window back, its remote access
ends first; then the checksum is taken and compared; then the buffer is written to the file. Bytes
that an earlier copy has left are compared with the sender's checksums step by step, never trusted.
Memory and disk that a sender can take are bounded: one buffer until it has filled it, then a few,
and the disk in pieces a little ahead of the bytes that have arrived.
"""

from __future__ import annotations

from collections import deque

from ndverbs import Access, MemoryRegion, crc32c
from ndverbs._closing import Closing
from ndverbs.cli.filecopy.channel import Channel
from ndverbs.cli.filecopy.protocol import (
    STEP,
    Check,
    Commit,
    CopyError,
    Have,
    Keep,
    Message,
    Progress,
    Reason,
    Window,
    Wrote,
    malformed,
    unexpected,
)
from ndverbs.cli.filecopy.target import PartialFile

WINDOW = 1 << 20  # bytes of a staging buffer; fits the L2 cache with its checksum and its write
WINDOWS = 8  # open at once, after the first one is full
RESERVED = 64 << 20  # bytes of disk taken ahead of what has arrived


class _Staged:
    """A staging buffer that the sender may write to; `offer` is the message that says so."""

    def __init__(self, channel: Channel, buffer: memoryview, offset: int) -> None:
        self.buffer = buffer
        self._region: MemoryRegion = channel.register(buffer, Access.REMOTE_WRITE)
        self.offer = Window(offset, len(buffer), self._region.address, self._region.remote_token)

    def close(self) -> None:
        """End remote access; the buffer stays."""
        self._region.close()


class Receiving(Closing):
    """One file that arrives: the windows that are open, and the checksum of those before.

    Parameters
    ----------
    channel, partial
        Their owners close them.
    silence
        Seconds that the sender has for one window.
    progress
        Called with the number of bytes that are in the file.
    """

    def __init__(
        self,
        channel: Channel,
        partial: PartialFile,
        silence: float,
        progress: Progress | None = None,
    ) -> None:
        self._channel = channel
        self._partial = partial
        self._silence = silence
        self._progress = progress
        self._offered = 0  # end of the last window
        self._reserved = 0  # bytes that have room on the disk
        self._windows: deque[_Staged] = deque()
        self._crc = 0
        # Small files need small buffers.
        self._window = max(min(WINDOW, partial.size), 1)
        self._count = max(min(WINDOWS, -(-partial.size // self._window)), 1)
        self._memory = channel.allocate(self._count * self._window)
        self._next = 0  # the buffer of the next window

    def run(self) -> int:
        """Return the CRC32C of the whole file once the sender has committed it.

        Raises
        ------
        CopyError
            The sender failed or broke the protocol, or the file could not be written.
        """
        if self._partial.present:
            self._agree()
        self._offer_some()
        while self._windows:
            message = self._receive()
            if not isinstance(message, Wrote):
                raise unexpected(message)
            offer = self._windows[0].offer
            if (message.offset, message.length) != (offer.offset, offer.length):
                raise malformed(
                    f"bytes {message.offset} to {message.offset + message.length} were not due"
                )
            window = self._windows.popleft()
            window.close()
            self._store(window.buffer, message)
            self._channel.has_sent = True
            self._show(message.offset + message.length)
            self._offer_some()
        message = self._receive()
        if not isinstance(message, Commit):
            raise unexpected(message)
        if (message.size, message.crc) != (self._partial.size, self._crc):
            raise CopyError(
                Reason.CHECKSUM,
                f"{self._partial.size} bytes with crc32c {self._crc:08x} arrived, the sender "
                f"sent {message.size} with {message.crc:08x}",
            )
        return self._crc

    def close(self) -> None:
        """Close the windows that are open."""
        while self._windows:
            self._windows.popleft().close()

    def _agree(self) -> None:
        """Compare the bytes that are there with the sender's, and go on behind those that agree."""
        there = self._partial.present
        self._channel.send(Have(there), self._silence)
        good = 0
        while good < there:
            end = min(good + STEP, there)
            crc = self._partial.checksum(good, end, self._crc)
            check = self._receive()
            if not isinstance(check, Check):
                raise unexpected(check)
            if check.size != end:
                raise malformed(f"a checksum of {check.size} bytes, {end} were due")
            if check.crc != crc:
                break
            good, self._crc = end, crc
            self._show(good)
            if good < there:
                self._channel.send(Keep(good), self._silence)
        kept = self._partial.keep(good)
        if kept == 0:
            self._crc = 0
        self._offered = self._reserved = kept
        self._channel.send(Keep(kept), self._silence)

    def _show(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done)

    def _receive(self) -> Message:
        return self._channel.receive(self._silence, "to send more of the file")

    def _offer_some(self) -> None:
        """Open as many windows as there may be: one until the sender has filled it."""
        most = self._count if self._channel.has_sent else 1
        while len(self._windows) < most and self._offer():
            pass

    def _offer(self) -> bool:
        """Open the next window; False at the end of the file."""
        length = min(self._window, self._partial.size - self._offered)
        if length == 0:
            return False
        self._reserve(self._offered + length)
        start = self._next * self._window
        self._next = (self._next + 1) % self._count
        window = _Staged(self._channel, self._memory[start : start + length], self._offered)
        self._windows.append(window)
        self._offered += length
        self._channel.send(window.offer, self._silence)
        return True

    def _reserve(self, end: int) -> None:
        """Take room on the disk up to `end` at least."""
        if end <= self._reserved:
            return
        if self._channel.has_sent:
            end = min(max(end, self._reserved + RESERVED), self._partial.size)
        self._partial.extend(self._reserved, end - self._reserved)
        self._reserved = end

    def _store(self, buffer: memoryview, wrote: Wrote) -> None:
        """Add a buffer that has arrived to the checksum, compare, and write it to the file."""
        self._crc = crc32c(buffer, self._crc)
        if self._crc != wrote.crc:
            raise CopyError(
                Reason.CHECKSUM,
                f"bytes {wrote.offset} to {wrote.offset + wrote.length} do not have the sender's "
                "checksum",
            )
        self._partial.write(wrote.offset, buffer)
