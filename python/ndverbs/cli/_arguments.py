# SPDX-License-Identifier: Apache-2.0
"""Arguments that several commands take, and how their values are read."""

from __future__ import annotations

import argparse
from typing import TypeAlias

from ndverbs._native import _default_adapter

# argparse has no public name for it.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_adapter(parser: argparse.ArgumentParser) -> None:
    """Add ``--adapter``."""
    parser.add_argument(
        "--adapter",
        metavar="NAME",
        help="as `ndverbs info` lists them (default: environment variable NDVERBS_ADAPTER, else "
        f"{_default_adapter})",
    )


def positive(text: str) -> int:
    """Return an integer of at least 1; argparse shows the error."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def seconds(text: str) -> float:
    """Return a duration; argparse shows the error."""
    value = float(text)
    if not 0 < value < 1e7:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value
