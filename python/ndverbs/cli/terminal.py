# SPDX-License-Identifier: Apache-2.0
"""What a person at a terminal sees: one line while a command works, and reports in colour.

The line is on standard error. Elsewhere it is not written, so that a log or a pipe has reports and
failures only, and reports are plain; they also are without the library rich (``ndverbs[cli]``).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

CLEAR = "\r\x1b[K"
# Seconds: what is over by then needs no line; and how often the seconds on it are counted.
_PATIENCE = 0.5
_TICK = 1.0


def console(stream: TextIO) -> Console | None:
    """Return what draws on a stream in colour; None where it has to be plain.

    That is on what is no terminal, where NO_COLOR is set, and without the library.
    """
    if not stream.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(file=stream, highlight=False)


def show(*parts: str | tuple[str, str]) -> None:
    """Print a line to standard output; of a pair the second is its style, where there is colour."""
    if colourful := console(sys.stdout):
        from rich.text import Text

        colourful.print(Text.assemble(*parts), soft_wrap=True)
    else:
        print("".join(part if isinstance(part, str) else part[0] for part in parts))


class Status:
    """A line that says what takes so long; a context manager that leaves an empty one.

    It is written by `say` alone: nothing runs beside what the command does.

    Attributes
    ----------
    is_shown
        Whether there is a terminal to write to.
    """

    def __init__(self, stream: TextIO | None = None, *, is_quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self.is_shown = not is_quiet and self._stream.isatty()

    def say(self, what: str) -> None:
        """Show it in place of what was said before, cut to the width of the terminal."""
        self._write(CLEAR + what[: shutil.get_terminal_size().columns - 1])

    def clear(self) -> None:
        """Leave an empty line, for another output or at the end."""
        self._write(CLEAR)

    def __enter__(self) -> Status:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Clear the line."""
        self.clear()

    def _write(self, text: str) -> None:
        # A terminal that is gone is no reason to end the command.
        if self.is_shown:
            with contextlib.suppress(OSError):
                self._stream.write(text)
                self._stream.flush()


@contextlib.contextmanager
def waiting(what: str, stream: TextIO | None = None, *, is_quiet: bool = False) -> Iterator[None]:
    """Say what the body waits for, and for how many seconds it has."""
    stream = stream or sys.stderr
    if is_quiet or not stream.isatty():
        yield
        return
    is_over = threading.Event()
    thread = threading.Thread(target=_count, args=(what, stream, is_over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _count(what: str, stream: TextIO, is_over: threading.Event) -> None:
    started = time.monotonic()
    pause = _PATIENCE
    with Status(stream) as status:
        while not is_over.wait(pause):
            pause = _TICK
            seconds = int(time.monotonic() - started)
            status.say(f"{what}, {seconds} s" if seconds else what)
