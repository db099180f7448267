# SPDX-License-Identifier: Apache-2.0
"""The command line: which commands there are, exit codes, and what the user sees of a failure.

A command is a module with `add(commands)`, which declares its arguments and sets the defaults `run`
and `is_report` (it does nothing but write to standard output), and `run(given)`, which imports what
it works with: nothing of a command is loaded before it is called. Exit codes: 0, 1 for
a failure, with one sentence, 2 for wrong usage, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence

from ndverbs.cli import completion, decode, doctor, info
from ndverbs.cli.bench import command as bench
from ndverbs.cli.capture import command as capture
from ndverbs.cli.demo import command as demo
from ndverbs.cli.failure import INTERRUPTED, CommandError, complain
from ndverbs.cli.filecopy import cp, serve
from ndverbs.cli.ping import command as ping

_COMMANDS = (
    info,
    doctor,
    serve,
    cp,
    demo,
    ping,
    bench,
    capture,
    decode,
    completion,
)  # as help lists them


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    has_output = _open_standard_streams()
    try:
        given = parser().parse_args(arguments)
        if not has_output and given.is_report:
            raise CommandError(
                "standard output is closed, and this command does nothing but write there; "
                "redirect it to a file"
            )
        run: Callable[[argparse.Namespace], int] = given.run
        code = run(given)
        sys.stdout.flush()  # here, where a reader that has gone is dealt with
        return code
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does: that is no failure to talk about.
        _drop_output()
        return 1
    except (CommandError, OSError) as error:
        complain(f"ndverbs: {error}")
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            return 1
        _drop_output()  # or the interpreter tries once more, and has words of its own about it
        return 1


def _open_standard_streams() -> bool:
    """Give closed standard streams to the null device; return whether there is an output.

    Otherwise the next file or socket that is opened gets the number of the stream, and what
    the process writes there goes into it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest number that is free; children may inherit it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # None where it was closed; nothing can be lost that is not flushed when the process ends.
    has_output = sys.stdout is not None
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    return has_output


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    made = argparse.ArgumentParser(
        prog="ndverbs",
        description="RDMA over any network: see the adapters, copy files, measure.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action=_Version)
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands)
    return made


class _Version(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, **_: object) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version and exit")

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        from importlib.metadata import version

        print("ndverbs", version("ndverbs"))
        parser.exit()
