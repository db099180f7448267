# SPDX-License-Identifier: Apache-2.0
"""The client of a copy server: its connection, and the requests over it, one after the other.

How the bytes of a file travel is in `sending` and `receiving`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from ndverbs import Adapter, RdmaError
from ndverbs._address import text as address_text
from ndverbs._closing import Closing
from ndverbs.cli.filecopy.channel import Channel
from ndverbs.cli.filecopy.names import split_name
from ndverbs.cli.filecopy.protocol import (
    MAX_NAME,
    CopyError,
    Done,
    Entries,
    Entry,
    Failure,
    Fetch,
    Flags,
    Found,
    List,
    MakeDirectory,
    Message,
    More,
    Progress,
    Reason,
    Store,
    malformed,
    unexpected,
)
from ndverbs.cli.filecopy.receiving import Receiving
from ndverbs.cli.filecopy.sending import CHUNKS, Sending
from ndverbs.cli.filecopy.source import SourceFile
from ndverbs.cli.filecopy.target import PartialFile

CONNECT_TIME = 30.0  # seconds; a busy server lets clients wait
SILENCE = 120.0  # seconds that a server may need for one answer
SLOWEST_DISK = 20e6  # bytes per second at which a disk takes and gives a file at least
MAX_ENTRIES = 1_000_000  # of one directory; a hostile server must not fill our memory


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy did: `seconds` are until the file had its name."""

    size: int
    seconds: float
    crc: int


class Client(Closing):
    """A connection to a copy server. It ends with the first request that fails.

    Parameters
    ----------
    address
        Host and port of the server.
    adapter
        Stays open; its owner closes it.
    connect_timeout, silence
        Seconds to wait for the connection, and for each answer.

    Raises
    ------
    CopyError
        There is no server, or it is too busy.
    """

    def __init__(
        self,
        address: tuple[str, int],
        adapter: Adapter,
        *,
        connect_timeout: float = CONNECT_TIME,
        silence: float = SILENCE,
    ) -> None:
        self._silence = silence
        self._channel = Channel(adapter, write_depth=CHUNKS)
        self._channel.peer = f"the server at {address_text(address)}"
        try:
            self._connect(address, connect_timeout)
        except BaseException:
            self.close()
            raise

    def store(
        self,
        source: SourceFile,
        target: str,
        *,
        flags: Flags = Flags.NONE,
        progress: Progress | None = None,
    ) -> Copied:
        """Copy an open file to the server.

        Parameters
        ----------
        source
            Read from its start; its owner closes it.
        target
            Name below the directory that the server serves.
        flags
            What is done beside the copy.
        progress
            Called with the number of bytes that have left.

        Raises
        ------
        CopyError
            The copy failed; nothing has the target's name that had it not before.
        """
        started = time.perf_counter()
        passes = bool(flags & (Flags.SYNC | Flags.VERIFY)) + bool(flags & Flags.VERIFY)
        try:
            with Sending(self._channel, source, self._silence, progress) as sending:
                self._send(Store(_encoded(target), source.size, flags))
                crc = sending.run(passes * source.size / SLOWEST_DISK)
        except CopyError as error:
            if error.reason is Reason.SOURCE:
                # So that the server's log knows; it drops the file in any case.
                failure = Failure(error.reason, "the source failed at the client")
                self._channel.farewell(failure)
            raise
        except RdmaError as error:
            raise CopyError(Reason.CONNECTION, str(error)) from error
        return Copied(source.size, time.perf_counter() - started, crc)

    def fetch(
        self,
        name: str,
        open_target: Callable[[int], PartialFile],
        *,
        flags: Flags = Flags.NONE,
        progress: Progress | None = None,
    ) -> Copied:
        """Copy a file of the server here.

        Parameters
        ----------
        name
            Name below the directory that the server serves.
        open_target
            Called with the size of the file.
        flags
            SYNC and VERIFY; the others are for `open_target`.
        progress
            Called with the number of bytes that are in the file.

        Raises
        ------
        CopyError
            The copy failed; nothing has the target's name that had it not before.
        """
        started = time.perf_counter()
        with contextlib.ExitStack() as stack:
            # Windows stay registered until the server knows, so that its writes break nothing.
            try:
                self._send(Fetch(_encoded(name)))
                found = self._receive("to find the file")
                if not isinstance(found, Found):
                    raise unexpected(found)
                partial = stack.enter_context(open_target(found.size))
                receiving = Receiving(self._channel, partial, self._silence, progress)
                crc = stack.enter_context(receiving).run()
                self._send(Done(found.size, crc))  # the server need not wait for our disk
                if flags & Flags.VERIFY:
                    partial.verify(crc)
                partial.publish(sync=bool(flags & Flags.SYNC))
            except CopyError as error:
                self._channel.farewell(Failure(error.reason, "the copy failed at the client"))
                raise
            except RdmaError as error:
                raise CopyError(Reason.CONNECTION, str(error)) from error
        return Copied(found.size, time.perf_counter() - started, crc)

    def make_directory(self, name: str) -> None:
        """Make a directory at the server, unless it exists.

        Raises
        ------
        CopyError
            The server refuses.
        """
        self._send(MakeDirectory(_encoded(name)))
        answer = self._receive("to make a directory")
        if not isinstance(answer, Done):
            raise unexpected(answer)

    def list(self, name: str) -> list[Entry]:
        """Return what a directory of the server holds; of a file, one entry without a name.

        Raises
        ------
        CopyError
            The server refuses, or names what no directory can hold.
        """
        entries: list[Entry] = []
        self._send(List(_encoded(name)))
        while True:
            answer = self._receive("to list a directory")
            if not isinstance(answer, Entries):
                raise unexpected(answer)
            entries += answer.entries
            if len(entries) > MAX_ENTRIES:
                raise malformed(f"more than {MAX_ENTRIES} entries in a directory")
            if answer.is_last:
                break
            if not answer.entries:
                raise malformed("a part of a directory without an entry")
            self._send(More())
        if [entry.name for entry in entries] == [b""]:
            return entries
        for entry in entries:
            # They become names here.
            if len(split_name(entry.name)) != 1:
                raise malformed("an entry whose name is a path")
        return sorted(entries, key=lambda entry: entry.name)

    def finish(self) -> None:
        """End the connection in order; never fails."""
        self._channel.finish()

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def _send(self, message: Message) -> None:
        self._channel.send(message, self._silence)

    def _receive(self, what: str) -> Message:
        return self._channel.receive(self._silence, what)

    def _connect(self, address: tuple[str, int], timeout: float) -> None:
        channel = self._channel
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
            raise CopyError(
                Reason.CONNECTION, f"no connection to {channel.peer}: {error}"
            ) from error


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
    """Copy an open file to a server, over a connection of its own; see `Client`.

    An adapter is opened for the copy when omitted. `Copied.seconds` has the connect in it.
    """
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        adapter = adapter or stack.enter_context(Adapter.open())
        client = stack.enter_context(
            Client(address, adapter, connect_timeout=connect_timeout, silence=silence)
        )
        copied = client.store(source, target, flags=flags, progress=progress)
        seconds = time.perf_counter() - started
        client.finish()
    return Copied(copied.size, seconds, copied.crc)


def _encoded(name: str) -> bytes:
    encoded = os.fsencode(name)
    if len(encoded) > MAX_NAME:
        raise CopyError(
            Reason.BAD_NAME, f"the name has {len(encoded)} bytes, {MAX_NAME} are the most"
        )
    return encoded
