# SPDX-License-Identifier: Apache-2.0
"""The client of a copy server: its connection, and one file over it.

How the bytes travel is in `sending`.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass

from ndverbs import Adapter, RdmaError
from ndverbs._address import text as address_text
from ndverbs.cli.filecopy.channel import Channel
from ndverbs.cli.filecopy.protocol import (
    MAX_NAME,
    CopyError,
    Failure,
    Flags,
    Reason,
    Request,
)
from ndverbs.cli.filecopy.sending import CHUNKS, Progress, Sending
from ndverbs.cli.filecopy.source import SourceFile

CONNECT_TIME = 30.0  # seconds; a busy server lets clients wait
SILENCE = 120.0  # seconds that a server may need for one answer
SLOWEST_DISK = 20e6  # bytes per second at which a disk takes and gives a file at least


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy did: `seconds` are from before the connect until the file had its name."""

    size: int
    seconds: float
    crc: int


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
        Whether to replace a file, to wait for the disk, and to read the file back from it.
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
            channel.peer = f"the server at {address_text(address)}"
            sending = stack.enter_context(Sending(channel, source, silence, progress))
            _connect(channel, address, connect_timeout)
            channel.send(Request(name, source.size, flags), silence)
            crc = _send(channel, sending, source.size, flags)
            seconds = time.perf_counter() - started
            channel.finish()
    except RdmaError as error:
        raise CopyError(Reason.CONNECTION, str(error)) from error
    return Copied(source.size, seconds, crc)


def _send(channel: Channel, sending: Sending, size: int, flags: Flags) -> int:
    passes = bool(flags & (Flags.SYNC | Flags.VERIFY)) + bool(flags & Flags.VERIFY)
    try:
        return sending.run(passes * size / SLOWEST_DISK)
    except CopyError as error:
        if error.reason is Reason.SOURCE:
            # So that the server's log knows; it drops the file in any case.
            channel.farewell(Failure(error.reason, "the source failed at the client"))
        raise


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
