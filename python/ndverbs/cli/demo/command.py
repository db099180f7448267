# SPDX-License-Identifier: Apache-2.0
"""The command `ndverbs demo`."""

from __future__ import annotations

import argparse

from ndverbs.cli._arguments import Commands, positive


def add(commands: Commands) -> None:
    """Declare the command."""
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
        "--rounds", type=positive, default=3, metavar="N", help="copies each way (default: 3)"
    )
    demo.add_argument(
        "--size",
        type=positive,
        default=400,
        metavar="MIB",
        help="of the file that is made when none is named (default: 400)",
    )
    demo.add_argument("--json", action="store_true", help="print the report as a JSON object")
    demo.set_defaults(run=run, is_report=True)


def run(given: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from ndverbs.cli.demo import comparison

    return comparison.run(
        given.file, rounds=given.rounds, size=given.size << 20, is_json=given.json
    )
