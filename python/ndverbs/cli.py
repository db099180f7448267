# SPDX-License-Identifier: Apache-2.0
"""The command line: ``ndverbs`` and ``python -m ndverbs``.

Owns arguments, exit codes and what the user sees; the work is done by the modules that each
command imports when it is called. Exit codes: 0, 1 for a failure told in one sentence, 2 for
wrong usage, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeAlias

DEFAULT_ADDRESS = "127.0.0.1:7471"
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class CommandError(Exception):
    """What went wrong and what to try, for the user's eyes."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    has_output = _open_standard_streams()
    try:
        given = _parser(sys.argv[1:] if arguments is None else list(arguments))
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
        # Whoever read our output has gone, as `head` does: that is no failure to talk about.
        _drop_output()
        return 1
    except (CommandError, OSError) as error:
        complain(f"ndverbs: {error}")
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            return 1
        _drop_output()  # or the interpreter tries once more, and has words of its own about it
        return 1


def complain(line: str) -> None:
    """Write a line to standard error; that nobody can read it is no reason to end."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _open_standard_streams() -> bool:
    """Give closed standard streams to the null device; return whether there is an output.

    Otherwise the next file or socket that is opened gets the number of the stream, and what anybody
    writes there goes into it.
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


def _parser(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="ndverbs",
        description="RDMA over any network: see the adapters, copy files, measure.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_info(commands)
    _add_doctor(commands)
    _add_serve(commands)
    _add_cp(commands)
    _add_demo(commands)
    bench = commands.add_parser("bench", help="time writes, reads and sends", allow_abbrev=False)
    bench.set_defaults(run=_run_bench, is_report=False)
    if _command_of(arguments) == "bench":
        # Only this command's arguments live in a module that is slow to import.
        from ndverbs import bench as bench_module

        bench_module.add_arguments(bench)
    return parser.parse_args(arguments)


def _command_of(arguments: list[str]) -> str | None:
    return next((argument for argument in arguments if not argument.startswith("-")), None)


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


# argparse has no public name for it.
_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_adapter(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--adapter", metavar="NAME", help="as `ndverbs info` lists them (default: soft)"
    )


def _add_info(commands: _Commands) -> None:
    info = commands.add_parser(
        "info", help="show adapters, their limits, and what is missing", allow_abbrev=False
    )
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(run=_run_info, is_report=True)


def _add_doctor(commands: _Commands) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="check what each provider needs, with remedies",
        description="Check what each provider needs. The exit code is 1 when something is wrong "
        "that PROVIDER needs; without PROVIDER, that the soft provider needs.",
        allow_abbrev=False,
    )
    doctor.add_argument("provider", nargs="?", metavar="PROVIDER", choices=("soft", "verbs"))
    doctor.add_argument("--json", action="store_true", help="print a JSON list")
    doctor.set_defaults(run=_run_doctor, is_report=True)


def _add_serve(commands: _Commands) -> None:
    serve = commands.add_parser(
        "serve",
        help="receive files by RDMA into a directory",
        description="Receive files from `ndverbs cp` into a directory, until Ctrl-C.",
        epilog="There is neither encryption nor authentication: whoever reaches the address can "
        "write new files into the directory, and replace files with `cp --force`.",
        allow_abbrev=False,
    )
    serve.add_argument(
        "address",
        nargs="?",
        default=DEFAULT_ADDRESS,
        metavar="ADDRESS",
        help=f"host:port or [v6]:port; port 0: any (default: {DEFAULT_ADDRESS})",
    )
    serve.add_argument(
        "directory", nargs="?", default=".", metavar="DIRECTORY", help="default: the current one"
    )
    _add_adapter(serve)
    serve.add_argument(
        "--connections",
        type=_positive,
        default=None,
        metavar="N",
        help="serve so many at once; more wait (default: 16)",
    )
    serve.add_argument(
        "--silence",
        type=_seconds,
        default=None,
        metavar="SECONDS",
        help="end a connection that sends nothing for so long (default: 60)",
    )
    # Ends the server with the program that started it, however that one ends: see demo.py.
    serve.add_argument("--until-eof", action="store_true", help=argparse.SUPPRESS)
    serve.set_defaults(run=_run_serve, is_report=False)


def _add_cp(commands: _Commands) -> None:
    cp = commands.add_parser(
        "cp",
        help="copy a file to a server by RDMA",
        description="Copy a file to `ndverbs serve`. The target appears under its name when it "
        "is complete and both ends have compared checksums.",
        allow_abbrev=False,
    )
    cp.add_argument("source", metavar="SRC", help="a file; a .npy file is checked first")
    cp.add_argument(
        "target",
        metavar="HOST:PORT:DST",
        help="or [v6]:PORT:DST; DST is relative to the served directory",
    )
    cp.add_argument("-f", "--force", action="store_true", help="replace DST if it exists")
    cp.add_argument(
        "--sync", action="store_true", help="wait until the file is on the server's disk"
    )
    cp.add_argument("-q", "--quiet", action="store_true", help="print failures only")
    _add_adapter(cp)
    cp.add_argument(
        "--timeout",
        type=_seconds,
        default=None,
        metavar="SECONDS",
        help="wait so long for the connection (default: 30)",
    )
    cp.set_defaults(run=_run_cp, is_report=False)


def _add_demo(commands: _Commands) -> None:
    demo = commands.add_parser(
        "demo",
        help="copy a real file between two processes, check it, and compare with TCP",
        allow_abbrev=False,
    )
    demo.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="what to copy (default: 400 MiB made of files of this machine)",
    )
    demo.add_argument(
        "--rounds", type=_positive, default=3, metavar="N", help="copies each way (default: 3)"
    )
    demo.add_argument(
        "--size",
        type=_positive,
        default=400,
        metavar="MIB",
        help="of the file that is made when none is named (default: 400)",
    )
    demo.set_defaults(run=_run_demo, is_report=True)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e7:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value


def _run_info(given: argparse.Namespace) -> int:
    from ndverbs import info

    print(info.as_json() if given.json else info.as_text())
    return 0


def _run_doctor(given: argparse.Namespace) -> int:
    from ndverbs import doctor

    return doctor.run(given.provider, is_json=given.json)


def _run_serve(given: argparse.Namespace) -> int:
    from ndverbs import copy

    return copy.serve(
        given.address,
        given.directory,
        adapter=given.adapter,
        connections=given.connections,
        silence=given.silence,
        is_until_eof=given.until_eof,
    )


def _run_cp(given: argparse.Namespace) -> int:
    from ndverbs import copy

    return copy.cp(
        given.source,
        given.target,
        force=given.force,
        sync=given.sync,
        is_quiet=given.quiet,
        adapter=given.adapter,
        timeout=given.timeout,
    )


def _run_demo(given: argparse.Namespace) -> int:
    from ndverbs import demo

    return demo.run(given.file, rounds=given.rounds, size=given.size << 20)


def _run_bench(given: argparse.Namespace) -> int:
    from ndverbs import bench

    return bench.main(given)
