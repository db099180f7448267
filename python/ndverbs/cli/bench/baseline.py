# SPDX-License-Identifier: Apache-2.0
"""The rows of ``bench compare --baseline PYTHON``: our TCP beside that of an older ndverbs.

Both are the command ``ndverbs bench``, of this interpreter and of PYTHON, in pairs that take turns
at going first. The ratio is the median over the pairs; its interval is found by bootstrap.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from ndverbs.cli.bench.channel import BenchError
from ndverbs.cli.bench.rows import Row, ratios

_PAIRS = 15
_TARGET = 0.97
_MOST_S = 300.0
_OPERATIONS = ("write", "read", "send", "stream")
# Of a latency the median counts; older versions name it like the row, or with "median" behind it.
_ELSEWHERE = re.compile(r" (p99|p99\.9|min|mean)$| CPU ")
_DRAWS = 10_000
_SEED = 20  # any: the interval of the same figures is the same


def rows(args: argparse.Namespace) -> list[Row]:
    """Take all pairs, one operation after the other."""
    _output([args.baseline, "-c", "import ndverbs"])
    found: list[Row] = []
    for operation in _OPERATIONS:
        arguments = ["-m", "ndverbs", "bench", operation, "--runs", "1", "--json", "-"]
        if args.iterations:
            arguments += ["--iterations", str(args.iterations)]
        elif operation != "stream":
            arguments += ["--seconds", f"{args.seconds:g}"]
        arguments += ["--adapter", args.adapter] if args.adapter else []
        ours: list[dict[str, tuple[float, str]]] = []
        theirs: list[dict[str, tuple[float, str]]] = []
        ways = [(sys.executable, ours), (args.baseline, theirs)]
        for _ in range(args.runs or _PAIRS):
            for python, taken in ways:
                taken.append(_figures([python, *arguments]))
            ways.reverse()
        found += _rows(ours, theirs, [args.baseline, *arguments])
    return found


def _rows(
    ours: Sequence[dict[str, tuple[float, str]]],
    theirs: Sequence[dict[str, tuple[float, str]]],
    command: Sequence[str],
) -> list[Row]:
    found = []
    for name, (_, unit) in ours[0].items():
        if name not in theirs[0]:
            continue
        values = [each[name][0] for each in theirs]
        pairs = ratios([each[name][0] for each in ours], values, unit)
        lowest, highest = interval(pairs)
        ratio = statistics.median(pairs)
        found.append(
            Row(
                f"TCP, direct off: {name} / baseline (95 %: {lowest:.2f} to {highest:.2f})",
                statistics.median(values),
                unit,
                ratio,
                _TARGET,
                (highest - lowest) / ratio,
                f"NDVERBS_DIRECT=off {shlex.join(command)}",
                verdict=ratio >= _TARGET or highest >= 1.0,
            )
        )
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median, by bootstrap."""
    draws = np.random.default_rng(_SEED).choice(np.array(values), (_DRAWS, len(values)))
    lowest, highest = np.percentile(np.median(draws, axis=1), [2.5, 97.5])
    return float(lowest), float(highest)


def _figures(command: Sequence[str]) -> dict[str, tuple[float, str]]:
    """Return the main figures of a version with their units, by names that all versions share."""
    return {
        row["name"].removesuffix(" median"): (row["value"], row["unit"])
        for row in json.loads(_output(command))["rows"]
        if not _ELSEWHERE.search(row["name"])
    }


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_MOST_S,
            env={**os.environ, "NDVERBS_DIRECT": "off"},
            check=False,
        )
    except OSError as error:
        raise BenchError(f"--baseline {command[0]} cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise BenchError(f"{shlex.join(command)} failed: {done.stderr.strip()[-300:]}")
    return done.stdout
