# SPDX-License-Identifier: Apache-2.0
"""What ``ndverbs bench`` times and prints: what a queue pair does, between two processes.

The loops are C++ (src/bench), or with ``--python`` the same in Python. ``--against`` runs other
tools in turn with ours and prints ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ndverbs._native import Adapter
from ndverbs.cli.bench import footprint
from ndverbs.cli.bench import rivals as bench_rivals
from ndverbs.cli.bench.channel import BenchError
from ndverbs.cli.bench.ends import Peer, measure
from ndverbs.cli.bench.rows import Row, format_table, own_row, print_table, rival_row
from ndverbs.cli.bench.runs import Measure, Operation, Run
from ndverbs.cli.terminal import Status, console

_DEFAULT_SIZES: dict[Measure, int] = {"latency": 8, "bandwidth": 1 << 20, "rate": 8}
_ROUNDS = 3
_REGISTER_SIZES = (4096, 1 << 20)
_MANY_DEPTH = 1024
_DEFAULT_DEPTHS: dict[Measure, int] = {"latency": 1, "bandwidth": 16, "rate": 64}
# Calls that one measurement of user CPU is spread over; the kernel counts it in ticks.
_PYTHON_PAIRS = 100_000
_PERCENTILES = {"median": "median", "p99": "p99", "p999": "p99.9", "minimum": "min", "mean": "mean"}


def run(args: argparse.Namespace) -> int:
    """Take the figures and print them; returns the exit code."""
    if args.plot:
        from ndverbs.cli.bench import plot

        plot.check()
    lacking = [text for name in args.against if (text := bench_rivals.missing(name))]
    for text in lacking:
        print(f"ndverbs bench: not compared with {text}", file=sys.stderr)
    args.against = [name for name in args.against if bench_rivals.missing(name) is None]
    machine = describe_machine()
    with Status() as status:
        rows, more = _take(args, status.say)
    for text in more:
        print(f"ndverbs bench: not compared with {text}", file=sys.stderr)
    lacking += more
    report = {
        "rows": [row.as_json() for row in rows],
        "transports": {row.name: row.transport for row in rows if row.transport},
        "machine": machine,
        "missing": lacking,
    }
    if args.plot:
        plot.save(args.plot, rows, machine)
    if args.json == "-":
        print(json.dumps(report, indent=1))
        return 0
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n")
    if colourful := console(sys.stdout):
        print_table(rows, colourful)
    else:
        print(format_table(rows))
    return 0


def _take(args: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Take the figures; returns rows, and sentences about rivals that were found to be missing."""
    if args.operation == "compare":
        from ndverbs.cli.bench import compare

        return compare.rows(args, say)
    args.runs = args.runs or _ROUNDS
    if args.operation == "stream":
        from ndverbs.cli.bench import stream

        return stream.rows(args, say), []
    rows: list[Row] = []
    runs = list(_runs(args))
    with Adapter.open(args.adapter) as adapter, Peer() as peer:
        for run in runs:
            _check(adapter, run)
        for run in runs:
            rows += _rows(adapter, peer, run, args.runs, args.against, say)
    return rows, []


def _runs(args: argparse.Namespace) -> Iterator[Run]:
    operation: Operation = args.operation
    measures: list[Measure] = []
    if args.lat:
        measures.append("latency")
    if args.bw:
        measures.append("bandwidth")
    if args.rate:
        measures.append("rate")
    if operation in ("connect", "register", "idle"):
        measures = ["latency"]
    elif operation == "fetch_add":
        measures = measures or ["latency", "rate"]
    sizes = args.sizes
    if operation == "register":
        sizes = sizes or _REGISTER_SIZES
    for kind in measures or ("latency", "bandwidth", "rate"):
        for size in sizes or [_DEFAULT_SIZES[kind]]:
            is_batched = operation in ("write", "read")
            is_many = args.many and args.python and kind == "rate" and is_batched
            is_pairs = args.python and kind == "rate" and not is_many
            default_depth = _MANY_DEPTH if is_many else _DEFAULT_DEPTHS[kind]
            default_count = footprint.COUNT if operation == "idle" else 0
            iterations = args.iterations or (_PYTHON_PAIRS if is_pairs else default_count)
            yield Run(
                operation=operation,
                measure=kind,
                size=size,
                depth=1 if kind == "latency" else args.depth or default_depth,
                iterations=iterations,
                seconds=args.seconds,
                queue_pairs=args.queue_pairs,
                visible=args.visible,
                sleeps=args.wait,
                crc=args.crc,
                python=args.python,
                many=is_many,
                plain=args.plain,
                adapter=args.adapter,
            )


def _check(adapter: Adapter, run: Run) -> None:
    """Refuse before the first run what a later one could not do."""
    info = adapter.info
    if run.size > info.max_transfer_length and run.moves_data:
        raise BenchError(
            f"size {run.size} exceeds {info.name}'s max_transfer_length, {info.max_transfer_length}"
        )
    limits = run.plan(is_initiator=True).limits
    most = info.max_initiator_queue_depth
    if limits["initiator_queue_depth"] > most or limits["receive_queue_depth"] > (
        info.max_receive_queue_depth
    ):
        raise BenchError(f"depth {run.depth} is too much for {info.name}'s queues ({most})")
    if run.operation == "fetch_add":
        if "atomics" not in info.extensions:
            raise BenchError(f"{info.name} has no atomics, which fetch_add is one of")
        if run.size != 8 or run.measure == "bandwidth":
            raise BenchError(
                f"fetch_add works on 8 bytes, not {run.size}: leave --sizes and --bw out"
            )
    if run.queue_pairs > 1 and (run.python or not run.moves_data):
        raise BenchError(
            f"--queue-pairs {run.queue_pairs} is for write, read, send and fetch_add "
            "without --python"
        )
    depth = run.queue_pairs * (limits["initiator_queue_depth"] + limits["receive_queue_depth"])
    if depth > info.max_cq_depth:
        raise BenchError(
            f"--queue-pairs {run.queue_pairs} needs a completion queue of {depth} entries; "
            f"{info.name} has {info.max_cq_depth}: give less of them, or a smaller --depth"
        )
    if run.operation == "write" and run.is_latency and run.sleeps:
        raise BenchError(
            "a Write raises no completion at its target, which cannot sleep for it: "
            "leave --wait out, or time send"
        )


def _rows(
    adapter: Adapter,
    peer: Peer,
    run: Run,
    count: int,
    rivals: Sequence[str],
    say: Callable[[str], None],
) -> Iterator[Row]:
    """Run ours and the rivals in turn and yield the rows of their medians."""
    compared = [name for name in rivals if bench_rivals.can_measure(name, run)]
    ours: list[dict[str, tuple[float, str]]] = []
    theirs: dict[str, list[bench_rivals.Figure]] = {name: [] for name in compared}
    transport = None
    for number in range(1, count + 1):
        what = f"{title_of(run)}, run {number} of {count}"
        say(what)
        result = measure(adapter, peer, run)
        transport = result["transport"]
        ours.append(figures(run, result))
        for name in compared:
            say(f"{what}: {name}")
            theirs[name].append(bench_rivals.measure(name, run))
    command = command_of(run)
    for name, (_, unit) in ours[0].items():
        yield own_row(name, [each[name][0] for each in ours], unit, command, transport=transport)
    for rival, taken in theirs.items():
        name = title_of(run)
        name += f" {bench_rivals.latency_label(rival)}" * run.is_latency
        yield rival_row(
            f"{name} / {rival}",
            [each[name][0] for each in ours],
            [figure.value * (1e6 if run.is_latency else 1) for figure in taken],
            ours[0][name][1],
            taken[0].command,
            target=_target(rival, run),
        )


def title_of(run: Run) -> str:
    """Return the name of a run's figures, without what they say of it."""
    title = f"{run.operation} {run.measure} {run.size} B"
    title += f" {run.queue_pairs} queue pairs" * (run.queue_pairs > 1)
    title += " CRC" * bool(run.crc) + " Python" * run.python + " many" * run.many
    return title + " visible" * run.visible + " plain" * run.plain + " wait" * run.sleeps


def figures(run: Run, result: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Return the figures of one run with their units by name; the main one has the run's own."""
    if run.operation == "idle":
        return {"idle connection, memory of an end": (result["memory"], "KiB")}
    if not run.moves_data:
        size = f" {run.size} B" * (run.operation == "register")
        found = {
            f"{call}{size} {label}": (result[call][key] * 1e6, "us")
            for call in result
            if isinstance(result[call], dict)
            for key, label in _PERCENTILES.items()
        }
        if run.operation == "connect":
            found["connect rate"] = (result["operations"] / result["elapsed"], "1/s")
        return found
    title = title_of(run)
    operations, elapsed = result["operations"], result["elapsed"]
    if run.is_latency:
        one_way = 1e6 if run.is_fetch else 0.5e6
        result = {**result, "mean": elapsed / operations}
        return {
            f"{title} {label}": (result[key] * one_way, "us") for key, label in _PERCENTILES.items()
        }
    if run.measure == "bandwidth":
        gigabytes = operations * run.size / 1e9
        cpu = (result["cpu"] + result["peer_cpu"]) / gigabytes
        return {title: (gigabytes / elapsed, "GB/s"), f"{title} CPU of both ends": (cpu, "s/GB")}
    found = {title: (operations / elapsed, "1/s")}
    for kind in ("user", "system") if run.python else ():
        name = f"{title} {kind} CPU per request and poll"
        found[name] = (result[kind] / operations * 1e6, "us")
    return found


def _target(name: str, run: Run) -> float | None:
    """Return the ratio that the project has promised for the pair, if any."""
    if run.crc or run.python:
        return None
    is_promised = (
        name == "iperf3" and run.operation in ("write", "read") and run.size == 1 << 20
    ) or (name == "fi_pingpong" and run.operation == "send" and run.is_latency and run.size == 8)
    return 1.0 if is_promised else None


def command_of(run: Run) -> str:
    """Return the command line that takes this figure alone."""
    parts = ["ndverbs bench", run.operation]
    option = {"latency": "--lat", "bandwidth": "--bw", "rate": "--rate"}[run.measure]
    if run.moves_data:
        parts.append(option)
    if run.moves_data or run.operation == "register":
        parts.append(f"--sizes {run.size}")
    if not run.is_latency:
        parts.append(f"--depth {run.depth}")
    length = f"--iterations {run.iterations}" if run.iterations else f"--seconds {run.seconds:g}"
    parts.append(length)
    parts += [f"--queue-pairs {run.queue_pairs}"] * (run.queue_pairs > 1)
    parts += ["--crc"] * bool(run.crc) + ["--no-crc"] * (run.crc is False)
    parts += ["--wait"] * run.sleeps + ["--visible"] * run.visible + ["--plain"] * run.plain
    parts += ["--python"] * run.python + ["--many"] * run.many
    if run.adapter:
        parts.append(f"--adapter {run.adapter}")
    return "NDVERBS_DIRECT=off " * (not run.direct) + " ".join(parts)


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
