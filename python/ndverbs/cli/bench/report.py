# SPDX-License-Identifier: Apache-2.0
"""What ``ndverbs bench`` times and prints: writes, reads and sends between two processes.

The loops are C++ (src/bench), or with ``--python`` the same in Python. ``--against`` runs other
tools in turn with ours and prints ratios of medians.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ndverbs._native import Adapter
from ndverbs.cli.bench import rivals as bench_rivals
from ndverbs.cli.bench.ends import Peer, measure
from ndverbs.cli.bench.loops import BenchError
from ndverbs.cli.bench.runs import Measure, Operation, Row, Run

_DEFAULT_SIZES: dict[Measure, int] = {"latency": 8, "bandwidth": 1 << 20, "rate": 8}
_MANY_DEPTH = 1024
_DEFAULT_DEPTHS: dict[Measure, int] = {"latency": 1, "bandwidth": 16, "rate": 64}
# Calls that one measurement of user CPU is spread over; the kernel counts it in ticks.
_PYTHON_PAIRS = 100_000


def run(args: argparse.Namespace) -> int:
    """Take the figures and print them; returns the exit code."""
    lacking = [text for name in args.against if (text := bench_rivals.missing(name))]
    for text in lacking:
        print(f"ndverbs bench: not compared with {text}", file=sys.stderr)
    rivals = [name for name in args.against if bench_rivals.missing(name) is None]
    rows: list[Row] = []
    machine = describe_machine()
    if args.operation == "stream":
        from ndverbs.cli.bench import stream

        args.against = rivals
        rows = stream.rows(args)
    else:
        runs = list(_runs(args))
        with Adapter.open(args.adapter) as adapter, Peer() as peer:
            for run in runs:
                _check(adapter, run)
            for run in runs:
                rows += _rows(adapter, peer, run, args.runs, rivals)
    report = {
        "rows": [dataclasses.asdict(row) for row in rows],
        "machine": machine,
        "missing": lacking,
    }
    if args.json == "-":
        print(json.dumps(report, indent=1))
        return 0
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n")
    print(format_table(rows))
    return 0


def _runs(args: argparse.Namespace) -> Iterator[Run]:
    measures: list[Measure] = []
    if args.lat:
        measures.append("latency")
    if args.bw:
        measures.append("bandwidth")
    if args.rate:
        measures.append("rate")
    operation: Operation = args.operation
    for kind in measures or ("latency", "bandwidth", "rate"):
        for size in args.sizes or [_DEFAULT_SIZES[kind]]:
            is_many = args.many and args.python and kind == "rate" and operation != "send"
            is_pairs = args.python and kind == "rate" and not is_many
            default_depth = _MANY_DEPTH if is_many else _DEFAULT_DEPTHS[kind]
            iterations = args.iterations or (_PYTHON_PAIRS if is_pairs else 0)
            yield Run(
                operation=operation,
                measure=kind,
                size=size,
                depth=1 if kind == "latency" else args.depth or default_depth,
                iterations=iterations,
                seconds=args.seconds,
                sleeps=args.wait,
                crc=args.crc,
                python=args.python,
                many=is_many,
                adapter=args.adapter,
            )


def _check(adapter: Adapter, run: Run) -> None:
    """Refuse before the first run what a later one could not do."""
    if run.size > adapter.info.max_transfer_length:
        raise BenchError(
            f"size {run.size} exceeds {adapter.info.name}'s max_transfer_length, "
            f"{adapter.info.max_transfer_length}"
        )
    limits = run.plan(is_initiator=True).limits
    most = adapter.info.max_initiator_queue_depth
    if limits["initiator_queue_depth"] > most or limits["receive_queue_depth"] > (
        adapter.info.max_receive_queue_depth
    ):
        raise BenchError(f"depth {run.depth} is too much for {adapter.info.name}'s queues ({most})")
    if run.operation == "write" and run.is_latency and run.sleeps:
        raise BenchError(
            "a Write raises no completion at its target, which cannot sleep for it: "
            "leave --wait out, or time send"
        )


def _rows(
    adapter: Adapter, peer: Peer, run: Run, count: int, rivals: Sequence[str]
) -> Iterator[Row]:
    """Run ours and the rivals in turn and yield the rows of their medians."""
    compared = [name for name in rivals if bench_rivals.can_measure(name, run)]
    ours: list[dict[str, float]] = []
    theirs: dict[str, list[bench_rivals.Figure]] = {name: [] for name in compared}
    for _ in range(count):
        ours.append(_figures(run, measure(adapter, peer, run)))
        for name in compared:
            theirs[name].append(bench_rivals.measure(name, run))
    title = f"{run.operation} {run.measure} {run.size} B"
    title += " CRC" * bool(run.crc) + " Python" * run.python
    title += " many" * run.many + " wait" * run.sleeps
    command = command_of(run)
    for label, unit in _labels(run, ours[0]):
        values = [figures[label] for figures in ours]
        name = f"{title} {label}".rstrip()
        yield Row(name, statistics.median(values), unit, None, None, _spread(values), command)
    unit = "us" if run.is_latency else _unit(run)
    for name, figures in theirs.items():
        values = [figure.value * (1e6 if run.is_latency else 1) for figure in figures]
        label = bench_rivals.latency_label(name) if run.is_latency else ""
        # The ratio is that of the pairs: each was taken on the machine as it was at that moment.
        yield Row(
            f"{title} {label}".rstrip() + f" / {name}",
            statistics.median(values),
            unit,
            statistics.median(
                each[label] / value for each, value in zip(ours, values, strict=True)
            ),
            _target(name, run),
            _spread(values),
            figures[0].command,
        )


def _figures(run: Run, result: dict[str, float]) -> dict[str, float]:
    """Return the figures of one run by label; the main one has none."""
    operations, elapsed = result["operations"], result["elapsed"]
    if run.is_latency:
        one_way = 1e6 if run.operation == "read" else 0.5e6
        return {
            "median": result["median"] * one_way,
            "p99": result["p99"] * one_way,
            "min": result["minimum"] * one_way,
            "mean": elapsed / operations * one_way,
        }
    if run.measure == "bandwidth":
        return {"": operations * run.size / elapsed / 1e9}
    figures = {"": operations / elapsed}
    if run.python:
        figures["user CPU per request and poll"] = result["user"] / operations * 1e6
        figures["system CPU per request and poll"] = result["system"] / operations * 1e6
    return figures


def _labels(run: Run, figures: dict[str, float]) -> Iterator[tuple[str, str]]:
    for label in figures:
        yield label, "us" if run.is_latency or label else _unit(run)


def _unit(run: Run) -> str:
    return "GB/s" if run.measure == "bandwidth" else "1/s"


def _target(name: str, run: Run) -> float | None:
    """Return the ratio that the project has promised for the pair, if any."""
    if run.crc or run.python:
        return None
    is_promised = (
        name == "iperf3" and run.operation in ("write", "read") and run.size == 1 << 20
    ) or (name == "fi_pingpong" and run.operation == "send" and run.is_latency and run.size == 8)
    return 1.0 if is_promised else None


def _spread(values: Sequence[float]) -> float | None:
    median = statistics.median(values)
    return (max(values) - min(values)) / median if len(values) > 1 and median else None


def command_of(run: Run) -> str:
    """Return the command line that takes this figure alone."""
    option = {"latency": "--lat", "bandwidth": "--bw", "rate": "--rate"}[run.measure]
    parts = ["ndverbs bench", run.operation, option, f"--sizes {run.size}"]
    if not run.is_latency:
        parts.append(f"--depth {run.depth}")
    length = f"--iterations {run.iterations}" if run.iterations else f"--seconds {run.seconds:g}"
    parts.append(length)
    parts += ["--crc"] * bool(run.crc) + ["--no-crc"] * (run.crc is False)
    parts += ["--wait"] * run.sleeps + ["--python"] * run.python + ["--many"] * run.many
    if run.adapter:
        parts.append(f"--adapter {run.adapter}")
    return " ".join(parts)


def describe_machine() -> dict[str, str | float | None]:
    """Return what a figure depends on beside the program."""
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "cpu": _first_match("/proc/cpuinfo", "model name"),
        "python": platform.python_version(),
        "rmem_max": _number("/proc/sys/net/core/rmem_max"),
        "wmem_max": _number("/proc/sys/net/core/wmem_max"),
        "congestion_control": _text("/proc/sys/net/ipv4/tcp_congestion_control"),
        "load": os.getloadavg()[0],
    }


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:  # not there in every network namespace
        return None


def _number(path: str) -> int | None:
    text = _text(path)
    return int(text) if text else None


def _first_match(path: str, key: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned text, command lines below."""
    head = ("", "value", "unit", "ratio", "target", "spread")
    cells = [head]
    for row in rows:
        target = "" if row.target is None else ("<= " if row.unit == "us" else ">= ")
        target += "" if row.target is None else f"{row.target:.1f}"
        cells.append(
            (
                row.name,
                f"{row.value:.0f}" if row.value >= 1000 else f"{row.value:.3f}",
                row.unit,
                "" if row.ratio is None else f"{row.ratio:.2f}",
                target,
                "" if row.spread is None else f"{row.spread:.0%}",
            )
        )
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    lines = []
    for line in cells:
        first, *rest = (
            text.ljust(width) if i in (0, 2) else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        lines.append("  ".join((first, *rest)).rstrip())
    commands = dict.fromkeys(row.command for row in rows)
    return "\n".join([*lines, "", *(f"$ {command}" for command in commands)])
