# SPDX-License-Identifier: Apache-2.0
"""What `ndverbs decode` prints: the frames of a capture, one a line."""

from __future__ import annotations

import argparse
import json

from ndverbs.cli._arguments import Commands
from ndverbs.cli.failure import CommandError


def add(commands: Commands) -> None:
    """Declare the command."""
    decode = commands.add_parser(
        "decode",
        help="print what a capture holds, one line for each frame",
        description="Print the frames of a capture that `ndverbs capture` or "
        "Adapter.open(capture=...) wrote: time of this machine's zone, sender > receiver, the "
        "RFCs' name of the frame, and its fields.",
        allow_abbrev=False,
    )
    decode.add_argument("file", metavar="FILE", help="pcapng or pcap")
    decode.add_argument("--json", action="store_true", help="print a JSON object in each line")
    decode.set_defaults(run=run, is_report=True)


def run(given: argparse.Namespace) -> int:
    """Print the frames; returns the exit code."""
    from ndverbs import _captures

    with open(given.file, "rb") as file:
        try:
            for frame in _captures.frames(file):
                if given.json:
                    time_ns, source, target, fields = frame
                    ends = {"time": time_ns / 1e9, "source": source, "target": target}
                    print(json.dumps(ends | fields))
                else:
                    print(_captures.line(frame))
        except _captures.CaptureError as error:
            raise CommandError(f"{given.file} {error}") from error
    return 0
