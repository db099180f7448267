# SPDX-License-Identifier: Apache-2.0
"""The command `ndverbs cp`: files and directories to a server, and from it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from ndverbs import RdmaError, _address
from ndverbs.cli._arguments import Commands, add_adapter, seconds
from ndverbs.cli.failure import CommandError, complain

if TYPE_CHECKING:
    from ndverbs.cli.filecopy.client import Copied
    from ndverbs.cli.filecopy.transfers import Transfers

# What --json has of a source that was copied.
_Fields: TypeAlias = "dict[str, object]"

# What lies on a server; a local name that looks so is written ./name.
_REMOTE = re.compile(r"(\[[^\]]*\]|[^:/\[\]]*):\d+:.", re.DOTALL)


def add(commands: Commands) -> None:
    """Declare the command."""
    cp = commands.add_parser(
        "cp",
        help="copy files to a server by RDMA, and from it",
        description="Copy files to `ndverbs serve`, or from it. What is on the server is written "
        "HOST:PORT:NAME, or [v6]:PORT:NAME, with a NAME relative to the served directory. A target "
        "appears under its name when it is complete and both ends have compared checksums.",
        epilog="DST is the name of the copy. When it ends with / or is `.`, and when there are "
        "several SRC, it is the directory that holds the copies under their own names. A local "
        "name that looks like HOST:PORT:NAME is written ./HOST:PORT:NAME.",
        allow_abbrev=False,
    )
    cp.add_argument("sources", metavar="SRC", nargs="+", help="a .npy file here is checked first")
    cp.add_argument("target", metavar="DST", help="on the server, or here when SRC is on one")
    cp.add_argument(
        "-r",
        "--recursive",
        action="store_true",
        help="copy directories with all below them; links and devices are named and left out",
    )
    cp.add_argument("-f", "--force", action="store_true", help="replace what exists")
    cp.add_argument(
        "--resume",
        action="store_true",
        help="go on with what an earlier copy with --resume has left, after comparing checksums; "
        "when this one is interrupted, leave what has arrived",
    )
    cp.add_argument(
        "--sync", action="store_true", help="wait until the file is on the target's disk"
    )
    cp.add_argument(
        "--verify",
        action="store_true",
        help="read the file back from the target's disk before it gets its name",
    )
    cp.add_argument("-q", "--quiet", action="store_true", help="print failures only")
    cp.add_argument(
        "--json",
        action="store_true",
        help="print an object with `copies` and `failures`, however it ends, and no lines",
    )
    add_adapter(cp)
    cp.add_argument(
        "--timeout",
        type=seconds,
        default=None,
        metavar="SECONDS",
        help="wait so long for the connection (default: 30)",
    )
    cp.set_defaults(run=run, is_report=False)


def run(given: argparse.Namespace) -> int:
    """Copy, and say what happened; returns the exit code."""
    copies: list[_Fields] = []
    failures: list[str] = []
    try:
        files, failed = _run(given, copies, failures)
    except (CommandError, OSError) as error:
        failures.append(str(error))
        raise
    finally:
        if given.json:
            print(json.dumps({"copies": copies, "failures": failures}, indent=2))
    if failed:
        raise CommandError(
            f"{failed:,} of {files + failed:,} were not copied; the lines above say why"
        )
    return 0


def _run(given: argparse.Namespace, copies: list[_Fields], failures: list[str]) -> tuple[int, int]:
    """Copy, and add what was copied and what was not to the lists; returns files and failures."""
    from ndverbs import Adapter
    from ndverbs.cli.filecopy.client import CONNECT_TIME
    from ndverbs.cli.filecopy.protocol import CopyError, Flags
    from ndverbs.cli.filecopy.report import ProgressBar, sentence
    from ndverbs.cli.filecopy.transfers import Transfers, make_folder

    is_fetch = any(map(is_remote, given.sources))
    address, sources, target, where = split_fetch(given) if is_fetch else split_store(given)
    flags = Flags.NONE
    for name in ("force", "sync", "verify", "resume"):
        flags |= Flags[name.upper()] if getattr(given, name) else Flags.NONE
    is_folder = len(sources) > 1 or target.endswith("/") or target in (".", "..")
    try:
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(ProgressBar(sys.stderr, is_quiet=given.quiet))

            def tell(line: str) -> None:
                failures.append(line)
                bar.clear()
                complain(f"ndverbs: {line}")

            transfers = stack.enter_context(
                Transfers(
                    _address.resolve(address),
                    stack.enter_context(Adapter.open(given.adapter)),
                    connect_timeout=given.timeout or CONNECT_TIME,
                    flags=flags,
                    bar=bar,
                    complain=tell,
                )
            )
            if given.recursive and is_folder and is_fetch:
                make_folder(target)
            elif given.recursive and is_folder:
                transfers.make_directory(target.rstrip("/") or target)
            for source in sources:
                copy = partial(
                    _fetch if is_fetch else _store,
                    transfers,
                    source,
                    target,
                    where,
                    is_folder=is_folder,
                    is_recursive=given.recursive,
                )
                done = copy() if len(sources) == 1 else transfers.attempt(copy)
                if done:
                    line, fields = done
                    copies.append(fields)
                    if not (given.quiet or given.json):
                        bar.clear()
                        print(line)
            transfers.finish()
            return transfers.files, transfers.failed
    except CopyError as error:
        raise CommandError(sentence(error)) from error


def _store(
    transfers: Transfers,
    source: str,
    target: str,
    where: str,
    *,
    is_folder: bool,
    is_recursive: bool,
) -> tuple[str, _Fields]:
    """Copy one source to the server; returns what to say about it."""
    from ndverbs.cli.filecopy.names import shown

    name = target.rstrip("/") or target  # a server refuses "/"
    if is_folder:
        last = os.path.basename(os.path.abspath(source))
        name = last if name == "." else f"{name}/{last}"
    array = ""
    if is_recursive and os.path.isdir(source):
        said, fields = _tree(transfers, lambda: transfers.store_tree(source, name))
    else:
        copied, array = transfers.store_file(source, name)
        said, fields = _file(copied)
    named = {"source": source, "target": where + name}
    return f"{shown(source)}{array} to {where}{name}: {said}", named | fields


def _fetch(
    transfers: Transfers,
    source: str,
    target: str,
    where: str,
    *,
    is_folder: bool,
    is_recursive: bool,
) -> tuple[str, _Fields]:
    """Copy one source of the server here; returns what to say about it."""
    from ndverbs.cli.filecopy.names import shown

    source = source.rstrip("/") or source
    is_tree = is_recursive and transfers.is_directory(source)
    path = target
    if source != "." and (is_folder or (os.path.isdir(target) and not is_tree)):
        path = os.path.join(target, source.rpartition("/")[2])
    if is_tree:
        said, fields = _tree(transfers, lambda: transfers.fetch_tree(source, path))
    else:
        said, fields = _file(transfers.fetch_file(source, path))
    named = {"source": where + source, "target": path}
    return f"{where}{source} to {shown(path)}: {said}", named | fields


def _tree(transfers: Transfers, copy: Callable[[], None]) -> tuple[str, _Fields]:
    started = time.perf_counter()
    files, size = transfers.files, transfers.size
    copy()
    files, size = transfers.files - files, transfers.size - size
    passed = time.perf_counter() - started
    said = (
        f"{files:,} files, {size:,} bytes in {passed:.2f} s, {size / passed / 1e9:.2f} GB/s, "
        "crc32c of each on both ends"
    )
    return said, {"files": files, "bytes": size, "seconds": passed}


def _file(copied: Copied) -> tuple[str, _Fields]:
    rate = copied.size / copied.seconds / 1e9
    said = (
        f"{copied.size:,} bytes in {copied.seconds:.2f} s, {rate:.2f} GB/s, "
        f"crc32c {copied.crc:08x} on both ends"
    )
    crc = f"{copied.crc:08x}"
    return said, {"bytes": copied.size, "seconds": copied.seconds, "crc32c": crc}


def is_remote(text: str) -> bool:
    """Return whether an argument looks as what lies on a server does."""
    return _REMOTE.match(text) is not None


_Split: TypeAlias = tuple[tuple[str, int], list[str], str, str]


def split_store(given: argparse.Namespace) -> _Split:
    """Return address, sources, target and what stands before the target's name."""
    address, name = split_target(given.target)
    return address, given.sources, name, given.target.removesuffix(name)


def split_fetch(given: argparse.Namespace) -> _Split:
    """Return address, sources, target and what stands before the names of the sources.

    Raises
    ------
    CommandError
        They are not all on one server, or the target is on one, too.
    """
    as_local = "a local name that looks like HOST:PORT:NAME is written ./HOST:PORT:NAME"
    if is_remote(given.target):
        raise CommandError(f"source and target are both on a server; name a local one: {as_local}")
    if not given.target:
        raise CommandError("the target has no name; `.` is the current directory")
    if not all(map(is_remote, given.sources)):
        raise CommandError(f"some sources are on a server and some are not: {as_local}")
    split = [split_target(source) for source in given.sources]
    address = split[0][0]
    if any(other != address for other, _ in split):
        raise CommandError("the sources are on several servers; copy from one after the other")
    return (
        address,
        [name for _, name in split],
        given.target,
        given.sources[0].removesuffix(split[0][1]),
    )


def split_target(target: str) -> tuple[tuple[str, int], str]:
    """Return address and name of "host:port:name" or "[v6]:port:name".

    Raises
    ------
    CommandError
        It does not have that form.
    """
    from ndverbs.cli.filecopy.names import shown

    form = "the target is written HOST:PORT:DST, or [v6]:PORT:DST for IPv6"
    start = target.find("]") + 1 if target.startswith("[") else 0
    colon = target.find(":", start)
    end = target.find(":", colon + 1)
    if colon < 0 or end < 0:
        raise CommandError(f"{shown(target)} is no target: {form}")
    try:
        address = _address.split(target[:end])
    except RdmaError as error:
        raise CommandError(f"{error}; {form}") from error
    name = target[end + 1 :]
    if not name:
        raise CommandError(f"{shown(target)} names no file: {form}")
    return address, name
