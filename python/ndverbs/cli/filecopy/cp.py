# SPDX-License-Identifier: Apache-2.0
"""The command `ndverbs cp`: one file to a server."""

from __future__ import annotations

import argparse
import contextlib
import sys

from ndverbs import RdmaError, _address
from ndverbs.cli._arguments import Commands, add_adapter, seconds
from ndverbs.cli.failure import CommandError


def add(commands: Commands) -> None:
    """Declare the command."""
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
    cp.add_argument(
        "--verify",
        action="store_true",
        help="read the file back from the server's disk before it gets its name",
    )
    cp.add_argument("-q", "--quiet", action="store_true", help="print failures only")
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
    """Copy one file to a server and say what happened; returns the exit code."""
    from ndverbs import Adapter
    from ndverbs.cli.filecopy.client import CONNECT_TIME, copy_file
    from ndverbs.cli.filecopy.names import shown
    from ndverbs.cli.filecopy.protocol import CopyError, Flags
    from ndverbs.cli.filecopy.report import REMEDIES, ProgressBar
    from ndverbs.cli.filecopy.source import SourceFile

    source: str = given.source
    address, name = split_target(given.target)
    flags = Flags.FORCE if given.force else Flags.NONE
    flags |= Flags.SYNC if given.sync else Flags.NONE
    flags |= Flags.VERIFY if given.verify else Flags.NONE
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(SourceFile(source))
            array = file.describe_array() if source.endswith(".npy") else None
            opened = stack.enter_context(Adapter.open(given.adapter))
            bar = stack.enter_context(ProgressBar(sys.stderr, file.size, is_quiet=given.quiet))
            copied = copy_file(
                file,
                _address.resolve(address),
                name,
                flags=flags,
                adapter=opened,
                progress=bar.show,
                connect_timeout=given.timeout or CONNECT_TIME,
            )
    except CopyError as error:
        raise CommandError(f"{error.text}; {REMEDIES[error.reason]}") from error
    if not given.quiet:
        what = f" ({array})" if array else ""
        rate = copied.size / copied.seconds / 1e9
        print(
            f"{shown(source)}{what} to {given.target}: {copied.size:,} bytes in "
            f"{copied.seconds:.2f} s, {rate:.2f} GB/s, crc32c {copied.crc:08x} on both ends"
        )
    return 0


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
