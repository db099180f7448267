# SPDX-License-Identifier: Apache-2.0
"""How a command fails: the exception, the exit code of Ctrl-C, and a line on standard error."""

from __future__ import annotations

import contextlib
import sys

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class CommandError(Exception):
    """What went wrong and what to try, for the user's eyes."""


def complain(line: str) -> None:
    """Write a line to standard error; a reader that is gone does not end the command."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
