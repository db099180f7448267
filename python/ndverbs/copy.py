# SPDX-License-Identifier: Apache-2.0
"""What `ndverbs serve` and `ndverbs cp` do around the copy itself: words, bar, signals.

The copy is in `copy_server` and `copy_client`; what they say to each other in `copy_protocol`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import TextIO

from ndverbs import Adapter, RdmaError
from ndverbs.address import resolve, split
from ndverbs.address import text as address_text
from ndverbs.cli import INTERRUPTED, CommandError, complain
from ndverbs.copy_client import CONNECT_TIME, copy_file
from ndverbs.copy_protocol import CopyError, Flags, Reason
from ndverbs.copy_server import MAX_ACTIVE, SILENCE, Server
from ndverbs.copy_source import SourceFile
from ndverbs.copy_target import shown

# What the user of `cp` can do; the text of the failure comes before it.
_REMEDIES = {
    Reason.PROTOCOL: "use the same ndverbs release on both ends",
    Reason.BAD_NAME: "name a file below the served directory, such as data/file.bin",
    Reason.NO_DIRECTORY: "make the directory on the server first, or choose another",
    Reason.NOT_A_FILE: "choose another name",
    Reason.TARGET_EXISTS: "choose another name, or replace it with --force",
    Reason.DISK_FULL: "make room on the server, or serve another disk",
    Reason.NO_PERMISSION: "let the server's user write there, or serve another directory",
    Reason.INPUT_OUTPUT: "see the server's disk and its log",
    Reason.CHECKSUM: "copy again; if it stays, test memory and disk of both machines",
    Reason.TIMED_OUT: "is `ndverbs serve` on that port? Try again when it is less busy",
    Reason.BUSY: "try again later",
    Reason.STOPPING: "start the server again",
    Reason.SOURCE: "check the source file and copy again",
    Reason.CONNECTION: "see that `ndverbs serve` runs there and that the address is right",
}


class _Stopped(BaseException):
    """SIGTERM came."""


def serve(
    address: str,
    directory: str,
    *,
    adapter: str | None = None,
    connections: int | None = None,
    silence: float | None = None,
    is_until_eof: bool = False,
) -> int:
    """Serve a directory until a signal ends it; returns the exit code."""
    host, port = resolve(address)
    stop = threading.Event()

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        if not stop.is_set():  # never into the clean-up
            stop.set()
            raise _Stopped

    previous = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        with Server(
            directory,
            (host, port),
            adapter=adapter,
            log=complain,
            max_active=connections or MAX_ACTIVE,
            silence=silence or SILENCE,
        ) as server:
            if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
                complain(
                    f"warning: {host} is reachable from other machines, and there is neither "
                    "encryption nor authentication: whoever reaches it can write files here"
                )
            _say(f"serving {os.path.abspath(directory)} at {address_text(server.address)}")
            if is_until_eof:
                threading.Thread(target=_wait_for_eof, daemon=True).start()
            try:
                server.serve_forever()
            finally:
                # One signal is enough; a second one must not leave something behind.
                stop.set()
                signal.signal(signal.SIGINT, signal.SIG_IGN)
    except _Stopped:
        complain("stopped")
        return 0
    except KeyboardInterrupt:
        complain("stopped")
        return INTERRUPTED
    except OSError as error:
        if isinstance(error, RdmaError):
            raise
        raise CommandError(
            f"{shown(directory)} cannot be served: {error.strerror}; name a directory that can be "
            "read"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, previous)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return 0


def cp(
    source: str,
    target: str,
    *,
    force: bool = False,
    sync: bool = False,
    is_quiet: bool = False,
    adapter: str | None = None,
    timeout: float | None = None,
) -> int:
    """Copy one file to a server and say what happened; returns the exit code."""
    address, name = split_target(target)
    flags = (Flags.FORCE if force else Flags.NONE) | (Flags.SYNC if sync else Flags.NONE)
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(SourceFile(source))
            array = file.describe_array() if source.endswith(".npy") else None
            opened = stack.enter_context(Adapter.open(adapter))
            bar = stack.enter_context(ProgressBar(sys.stderr, file.size, is_quiet=is_quiet))
            copied = copy_file(
                file,
                resolve(address),
                name,
                flags=flags,
                adapter=opened,
                progress=bar.show,
                connect_timeout=timeout or CONNECT_TIME,
            )
    except CopyError as error:
        raise CommandError(f"{error.text}; {_REMEDIES[error.reason]}") from error
    if not is_quiet:
        what = f" ({array})" if array else ""
        rate = copied.size / copied.seconds / 1e9
        print(
            f"{shown(source)}{what} to {target}: {copied.size:,} bytes in "
            f"{copied.seconds:.2f} s, {rate:.2f} GB/s, crc32 {copied.crc:08x} on both ends"
        )
    return 0


def split_target(target: str) -> tuple[tuple[str, int], str]:
    """Return address and name of "host:port:name" or "[v6]:port:name".

    Raises
    ------
    CommandError
        It has not that form.
    """
    form = "the target is written HOST:PORT:DST, or [v6]:PORT:DST for IPv6"
    start = target.find("]") + 1 if target.startswith("[") else 0
    colon = target.find(":", start)
    end = target.find(":", colon + 1)
    if colon < 0 or end < 0:
        raise CommandError(f"{shown(target)} is no target: {form}")
    try:
        address = split(target[:end])
    except RdmaError as error:
        raise CommandError(f"{error}; {form}") from error
    name = target[end + 1 :]
    if not name:
        raise CommandError(f"{shown(target)} names no file: {form}")
    return address, name


class ProgressBar:
    """Bytes, share, rate and time left on one line of a terminal; silent anywhere else."""

    def __init__(self, stream: TextIO, total: int, *, is_quiet: bool = False) -> None:
        self._stream = stream
        self._total = total
        self._is_shown = not is_quiet and stream.isatty()
        self._started = time.monotonic()
        self._next = self._started + 0.2  # a copy that is over by then needs no bar
        self._has_drawn = False

    def show(self, done: int) -> None:
        """Draw, at most ten times a second."""
        if not self._is_shown:
            return
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 0.1
        self._has_drawn = True
        self._write("\r\x1b[K" + self.line(done, now - self._started))

    def line(self, done: int, seconds: float) -> str:
        """Return what stands on the line after `seconds`."""
        share = done / self._total if self._total else 1.0
        rate = done / seconds if seconds > 0 else 0.0
        left = f"{(self._total - done) / rate:.0f} s left" if rate else "waiting"
        filled = int(share * 24)
        return (
            f"[{'#' * filled}{'.' * (24 - filled)}] {share:4.0%} {done:,} bytes "
            f"{rate / 1e9:.2f} GB/s {left}"
        )

    def __enter__(self) -> ProgressBar:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Clear the line."""
        if self._has_drawn:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        # A terminal that is gone is no reason to end the copy.
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()


def _wait_for_eof() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def _say(line: str) -> None:
    print(line, flush=True)
