# SPDX-License-Identifier: Apache-2.0
"""The command `ndverbs capture`: a program with capture on, and one file of what it moved."""

from __future__ import annotations

import argparse
import os
import signal
from types import FrameType
from typing import TYPE_CHECKING

from ndverbs.cli._arguments import Commands
from ndverbs.cli.failure import CommandError, complain

if TYPE_CHECKING:
    from pathlib import Path

# As env and shells have them.
_CANNOT_RUN, _NOT_FOUND, _KILLED = 126, 127, 128


def add(commands: Commands) -> None:
    """Declare the command."""
    capture = commands.add_parser(
        "capture",
        usage="ndverbs capture [-h] -o FILE -- PROGRAM [ARGUMENT ...]",
        help="run a program, and write what its connections move to a file for Wireshark",
        description="Run PROGRAM with NDVERBS_CAPTURE in its environment, by which every adapter "
        "that it and its children open is captured where its provider can, and make one pcapng "
        "file of it at the end. Connections go over TCP, not through memory, and a connection with "
        "both ends captured is in the file once. The exit code is PROGRAM's: 128 + N when signal N "
        "has killed it, 127 when there is no such program, 126 when it cannot be run.",
        epilog="The file holds all payload: it is as secret as the data, and only its owner can "
        "read it. `ndverbs decode FILE` prints it.",
        allow_abbrev=False,
    )
    capture.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="replaced at the end if it exists"
    )
    capture.add_argument("program", metavar="PROGRAM", nargs=argparse.REMAINDER)
    capture.set_defaults(run=run, is_report=False, usage=capture.error)


def run(given: argparse.Namespace) -> int:
    """Run the program and merge what was captured; returns the program's exit code."""
    import shutil
    import tempfile
    from pathlib import Path

    program = given.program[1:] if given.program[:1] == ["--"] else given.program
    if not program:
        given.usage("the program is missing: ndverbs capture -o FILE -- PROGRAM")
    output = Path(given.output).absolute()
    if output.exists() and not output.is_file():
        raise CommandError(f"{given.output} is no regular file; name another one")
    try:
        # Beside the result, which is so known to be writable before the program runs.
        folder = Path(tempfile.mkdtemp(prefix=".ndverbs-capture-", dir=output.parent))
    except OSError as error:
        raise CommandError(f"{given.output} cannot be written: {error.strerror}") from error
    try:
        return _capture(program, folder, output, given.output)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _capture(program: list[str], folder: Path, output: Path, named: str) -> int:
    import shutil

    from ndverbs.cli.capture.merging import merge

    try:
        code = _run(program, {**os.environ, "NDVERBS_CAPTURE": str(folder)})
    except OSError as error:
        folder.rmdir()
        complain(f"ndverbs: {program[0]} cannot be run: {error.strerror}")
        return _NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_RUN
    try:
        packets, connections, adapters = merge(sorted(folder.glob("*.pcap")), folder / "merged")
        os.replace(folder / "merged", output)
    except OSError as error:
        raise CommandError(
            f"{named} cannot be written: {error.strerror}; {folder} has the captures of the "
            "adapters"
        ) from error
    shutil.rmtree(folder)
    complain(
        f"{named}: {packets:,} packets, connections: {connections:,}, adapters: {adapters:,}"
        if adapters
        else f"{named} is empty: {program[0]} opened no adapter that can be captured"
    )
    return code


def _run(program: list[str], environment: dict[str, str]) -> int:
    """Run a program to its end, whatever signals come; returns its exit code."""
    import subprocess

    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        # Ctrl-C reaches the program without us: it is of the terminal's foreground as we are.
        if number != signal.SIGINT:
            process.send_signal(number) if process else early.append(number)

    # A handler, not SIG_IGN, which the program would inherit; what is ignored stays so for both.
    caught = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]
    previous = [signal.signal(number, pass_on) for number in caught]
    try:
        process = subprocess.Popen(program, env=environment)
        for number in early:
            process.send_signal(number)
        code = process.wait()
    finally:
        for number, handler in zip(caught, previous, strict=True):
            signal.signal(number, handler)
    return code if code >= 0 else _KILLED - code
