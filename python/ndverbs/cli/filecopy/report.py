# SPDX-License-Identifier: Apache-2.0
"""What `ndverbs cp` shows: a progress bar, and what to do about a failure."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, TextIO

from ndverbs.cli import terminal
from ndverbs.cli.filecopy.protocol import CopyError, Reason

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress

# What the user of `cp` can do; the text of the failure comes before it.
REMEDIES = {
    Reason.PROTOCOL: "use the same ndverbs release on both ends",
    Reason.BAD_NAME: "name a file below the served directory, such as data/file.bin",
    Reason.NO_DIRECTORY: "make the directory first, or choose another",
    Reason.NOT_A_FILE: "choose another name, and for what is below it end it with /",
    Reason.TARGET_EXISTS: "choose another name, or replace it with --force",
    Reason.DISK_FULL: "make room on that disk, or choose another",
    Reason.NO_PERMISSION: "let the user of that end write there, or choose another directory",
    Reason.INPUT_OUTPUT: "see that disk, and the server's log",
    Reason.CHECKSUM: "copy again; if it stays, test memory and disk of both machines",
    Reason.TIMED_OUT: "is `ndverbs serve` on that port? Try again when it is less busy",
    Reason.BUSY: "try again later",
    Reason.STOPPING: "start the server again",
    Reason.SOURCE: "check the source file and copy again, a directory with -r",
    Reason.CONNECTION: "see that `ndverbs serve` runs there and that the address is right",
    Reason.NOT_ALLOWED: "start the server without that option, or use another server",
}


def sentence(error: CopyError) -> str:
    """Return what failed and what the user can do."""
    return f"{error.text}; {REMEDIES[error.reason]}"


class ProgressBar:
    """Bytes, share, rate and time left on one line of a terminal; silent anywhere else."""

    def __init__(self, stream: TextIO, total: int = 0, *, is_quiet: bool = False) -> None:
        self._stream = stream
        self._total = total
        self._status = terminal.Status(stream, is_quiet=is_quiet)
        console = None if is_quiet else terminal.console(stream)
        self._rich = _rich_bar(console) if console else None
        self._before = 0  # bytes of the files before this one
        self._size = 0  # of this one
        self._started = time.monotonic()
        self._next = self._started + 0.2  # a copy that is over by then needs no bar
        self._has_drawn = False

    def waiting(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Say what the body waits for, in place of the bar."""
        return terminal.waiting(what, self._stream, is_quiet=not self._status.is_shown)

    def expect(self, size: int) -> None:
        """Add to the total what is known to come."""
        self._total += size

    def begin(self, size: int) -> None:
        """Begin with the next file, of `size` bytes; `show` counts from its start."""
        self._before += self._size
        self._size = size
        self._total = max(self._total, self._before + size)  # nothing said that it would come

    def show(self, done: int) -> None:
        """Draw, at most ten times a second."""
        if not self._status.is_shown:
            return
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 0.1
        self._has_drawn = True
        if self._rich is None:
            self._status.say(self.line(self._before + done, now - self._started))
            return
        with contextlib.suppress(OSError):  # a terminal that is gone is no reason to end the copy
            self._rich.start()  # again, when it was cleared
            (task,) = self._rich.task_ids
            self._rich.update(task, completed=self._before + done, total=self._total, refresh=True)

    def clear(self) -> None:
        """Clear the line, for another output or at the end."""
        if self._has_drawn:
            with contextlib.suppress(OSError):
                (self._status.clear if self._rich is None else self._rich.stop)()

    def line(self, done: int, seconds: float) -> str:
        """Return what stands on the line after `seconds`."""
        share = min(done / self._total, 1.0) if self._total else 1.0
        rate = done / seconds if seconds > 0 else 0.0
        left = f"{max(self._total - done, 0) / rate:.0f} s left" if rate else "waiting"
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
        self.clear()


def _rich_bar(console: Console) -> RichProgress:
    from rich import progress

    made = progress.Progress(
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
        auto_refresh=False,  # drawn by the copy itself: no thread runs beside it
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    made.add_task("")
    return made
