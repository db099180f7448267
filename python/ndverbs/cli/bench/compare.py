# SPDX-License-Identifier: Apache-2.0
"""``ndverbs bench compare``: what the project promises, each figure beside its rivals.

The table of figures is `entries`. Ours and the rivals take turns, round by round, and a ratio is
the median over the rounds. Latencies are medians of single operations on both sides; bandwidths and
rates are averages over a run on both sides.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from subprocess import SubprocessError
from typing import Any

from ndverbs._native import (
    Adapter,
    _bench_copy_memory,
    _bench_copy_to_process,
    _bench_store_ping_pong,
)
from ndverbs.cli.bench import baseline, connections, footprint, report, rivals, stream
from ndverbs.cli.bench.channel import BenchError
from ndverbs.cli.bench.ends import Peer, measure, open_adapter
from ndverbs.cli.bench.rivals import Figure
from ndverbs.cli.bench.rows import Row, own_row, rival_row
from ndverbs.cli.bench.runs import Measure, Operation, Run
from ndverbs.errors import RdmaError

_MIB = 1 << 20
_ROUNDS = 5
# As `Run.seconds`, for a tool that a busy machine slows down a hundred times.
_FI_PINGPONG_S = 0.02
_NATIVE = "python -c 'from ndverbs import _native as n; print(n.{})'"
_DEMO_MIB = 400


class Bench:
    """What the entries take their figures with: adapter, peer, and the ways of streams."""

    def __init__(self, args: argparse.Namespace, stack: contextlib.ExitStack) -> None:
        self.args = args
        self._stack = stack
        self._adapters: dict[bool, Adapter] = {}
        self._takers: dict[str, stream.Taker] = {}
        self.peer = stack.enter_context(Peer())
        self.transport: str | None = None

    def run(self, operation: Operation, kind: Measure, size: int, **fields: Any) -> Run:
        """Return a run of this length."""
        depth = {"latency": 1, "bandwidth": 16, "rate": 64}[kind]
        length = {"iterations": self.args.iterations or 0, "seconds": self.args.seconds}
        return Run(
            operation,
            kind,
            size,
            adapter=self.args.adapter,
            **{"depth": depth, **length, **fields},
        )

    def figure(self, run: Run) -> Figure:
        """Take the main figure of a run: the median of a latency, else GB/s or requests/s."""
        if run.direct not in self._adapters:
            self._adapters[run.direct] = self._stack.enter_context(open_adapter(run))
        result = measure(self._adapters[run.direct], self.peer, run)
        self.transport = result["transport"]
        name = report.title_of(run) + " median" * run.is_latency
        return Figure(report.figures(run, result)[name][0], report.command_of(run))

    def stream(self, way: str, is_latency: bool, size: int) -> Figure:
        """Take the main figure of a stream, ours or another's."""
        adapter = self.args.adapter
        if way not in self._takers:
            self._takers[way] = stream.taker(self._stack, way, adapter)
        run = stream.StreamRun(is_latency, size, self.args.iterations)
        command = stream.command_of(run, "Python", adapter)
        command += f" --against {way}" * (way != "Python")
        return Figure(self._takers[way](run)["median" if is_latency else ""], command)


Take = Callable[[Bench], Figure]


@dataclass(frozen=True)
class Rival:
    """What a figure of ours is compared with; `program` is a name of `rivals`, None for its own."""

    name: str
    take: Take
    target: float | None = None
    program: str | None = None


@dataclass(frozen=True)
class Entry:
    """A figure of ours, its unit, and what it is compared with."""

    name: str
    unit: str
    take: Take
    rivals: tuple[Rival, ...] = ()
    target: float | None = None


# ---- the ways of taking a figure ------------------------------------------------------------


def _ours(operation: Operation, kind: Measure, size: int, **fields: Any) -> Take:
    return lambda bench: bench.figure(bench.run(operation, kind, size, **fields))


def _each(take: Take) -> Take:
    """Turn requests a second into microseconds of each."""

    def taken(bench: Bench) -> Figure:
        figure = take(bench)
        return Figure(1e6 / figure.value, figure.command)

    return taken


def _ucx(test: str, size: int, target: float | None, *, is_each: bool = False) -> Rival:
    def take(bench: Bench) -> Figure:
        return rivals.ucx_shared(test, size, bench.args.seconds, bench.args.iterations)

    return Rival(f"UCX {test}", _each(take) if is_each else take, target, "ucx")


def _fi_pingpong(kind: Measure, size: int) -> Rival:
    def take(bench: Bench) -> Figure:
        run = bench.run("send", kind, size, seconds=_FI_PINGPONG_S)
        figure = rivals.fi_pingpong(run, "shm", "rdm")
        scale = 1e6 if kind == "latency" else 1
        return Figure(figure.value * scale, figure.command)

    return Rival("fi_pingpong over shm", take, None, "fi_pingpong")


def _tool(name: str, operation: Operation, kind: Measure, size: int) -> Rival:
    def take(bench: Bench) -> Figure:
        figure = rivals.measure(name, bench.run(operation, kind, size))
        scale = 1e6 if kind == "latency" else 1
        return Figure(figure.value * scale, figure.command)

    return Rival({"socket": "TCP socket"}.get(name, name), take, None, name)


def _store(bench: Bench) -> Figure:
    seconds = min(0.1, bench.args.seconds)
    call = f"_bench_store_ping_pong(seconds={seconds:g})"
    return Figure(_bench_store_ping_pong(seconds=seconds) * 1e6, _NATIVE.format(call))


def _memcpy(bench: Bench) -> Figure:
    seconds = min(0.5, bench.args.seconds)
    call = f"_bench_copy_memory(size={_MIB}, seconds={seconds:g})"
    each = _bench_copy_memory(size=_MIB, seconds=seconds)
    return Figure(_MIB / each / 1e9, _NATIVE.format(call))


def _process_vm(bench: Bench) -> Figure:
    seconds = min(0.5, bench.args.seconds)
    each = _bench_copy_to_process(
        pid=bench.peer.pid, address=bench.peer.memory(_MIB), size=_MIB, seconds=seconds
    )
    call = f"_bench_copy_to_process(pid=PID, address=ADDRESS, size={_MIB}, seconds={seconds:g})"
    return Figure(_MIB / each / 1e9, _NATIVE.format(call))


def _stream(way: str, is_latency: bool, size: int) -> Take:
    return lambda bench: bench.stream(way, is_latency, size)


def _streams(is_latency: bool, size: int) -> tuple[Rival, ...]:
    ways = {
        "pipe": ("multiprocessing.Pipe", 1.5),
        "unix": ("AF_UNIX socket", 1.5),
        "socket": ("TCP socket", None),
        "pyzmq": ("pyzmq", None),
        "mpi4py": ("mpi4py", None),
    }
    return tuple(
        Rival(name, _stream(way, is_latency, size), target, way)
        for way, (name, target) in ways.items()
    )


# ---- the table ------------------------------------------------------------------------------


def entries(has_device: bool) -> Iterator[Entry]:
    """Yield the figures that two processes take by queue pairs and streams."""
    store = Rival("raw store", _store)

    def device(operation: Operation, kind: Measure, size: int) -> tuple[Rival, ...]:
        return (_tool("perftest", operation, kind, size),) * has_device

    def sent(size: int, target: float) -> Entry:
        return Entry(
            f"Send {size} B latency",
            "us",
            _ours("send", "latency", size),
            (
                _ucx("tag_lat", size, target),
                store,
                _fi_pingpong("latency", size),
                _tool("socket", "send", "latency", size),
                *device("send", "latency", size),
            ),
        )

    yield Entry(
        "Write 8 B latency",
        "us",
        _ours("write", "latency", 8),
        (_ucx("ucp_put_lat", 8, 0.9), store, *device("write", "latency", 8)),
    )
    yield Entry(
        "Write 8 B rate, with completions",
        "1/s",
        _ours("write", "rate", 8, visible=True),
        (_ucx("ucp_put_bw", 8, 0.5), *device("write", "rate", 8)),
    )
    yield Entry(
        "Write 8 B rate, silent",
        "1/s",
        _ours("write", "rate", 8),
        (_ucx("ucp_put_bw", 8, 1.0),),
    )
    memcpy = Rival("memcpy", _memcpy, 0.95)
    yield Entry(
        "Write 1 MiB into alloc_array",
        "GB/s",
        _ours("write", "bandwidth", _MIB),
        (
            _ucx("ucp_put_bw", _MIB, 1.0),
            memcpy,
            _tool("iperf3", "write", "bandwidth", _MIB),
            _tool("socket", "write", "bandwidth", _MIB),
            *device("write", "bandwidth", _MIB),
        ),
    )
    yield Entry(
        "Read 1 MiB from alloc_array",
        "GB/s",
        _ours("read", "bandwidth", _MIB),
        (_ucx("ucp_get", _MIB, 1.0), memcpy, *device("read", "bandwidth", _MIB)),
    )
    yield Entry(
        "Write 1 MiB into a NumPy array",
        "GB/s",
        _ours("write", "bandwidth", _MIB, plain=True),
        (Rival("process_vm_writev", _process_vm, 0.95),),
    )
    yield sent(8, 1.5)
    yield sent(256, 1.5)
    yield sent(4096, 1.0)
    yield Entry(
        "Send 1 MiB",
        "GB/s",
        _ours("send", "bandwidth", _MIB),
        (
            _ucx("tag_bw", _MIB, 1.5),
            _fi_pingpong("bandwidth", _MIB),
            *device("send", "bandwidth", _MIB),
        ),
    )
    yield Entry(
        "Send 8 B latency, both ends asleep",
        "us",
        _ours("send", "latency", 8, sleeps=True),
        (Rival("our TCP", _ours("send", "latency", 8, sleeps=True, direct=False), 1.5),),
    )
    yield Entry(
        "Python: one write and poll",
        "us",
        _each(_ours("write", "rate", 8, python=True)),
        target=0.40,
    )
    yield Entry(
        "Python: a write of post_many and poll_into",
        "us",
        _each(_ours("write", "rate", 8, python=True, many=True, depth=1024)),
        (_ucx("ucp_put_bw", 8, 0.5, is_each=True),),
    )
    yield Entry(
        "Python: nd.Socket, round trip 64 B",
        "us",
        _stream("Python", True, 64),
        (*_streams(True, 64), store),
    )
    yield Entry(
        "Python: nd.Socket, stream 64 KiB",
        "GB/s",
        _stream("Python", False, 65536),
        _streams(False, 65536),
    )


def rows(args: argparse.Namespace, say: Callable[[str], None]) -> tuple[list[Row], list[str]]:
    """Take all figures; returns the rows, and sentences about rivals that are not there."""
    only = [text.lower() for text in args.only or ()]

    def is_wanted(name: str) -> bool:
        return not only or any(text in name.lower() for text in only)

    found: list[Row] = []
    lacking: dict[str, None] = {}
    rounds = args.runs or _ROUNDS
    with contextlib.ExitStack() as stack:
        bench = Bench(args, stack)
        for entry in entries(rivals.has_device(args.adapter)):
            if is_wanted(entry.name):
                found += _rows(bench, entry, rounds, lacking, say)
    found += connections.compared(args, rounds, is_wanted, say)
    if is_wanted("demo"):
        found += _demo(rounds, args.iterations, say)
    if is_wanted("idle connection"):
        say("idle connection")
        found += footprint.compared(args, rounds)
    if args.baseline and is_wanted("TCP, direct off"):
        say("TCP, direct off, beside the baseline")
        found += baseline.rows(args)
    return found, list(lacking)


def _rows(
    bench: Bench,
    entry: Entry,
    rounds: int,
    lacking: dict[str, None],
    say: Callable[[str], None],
) -> Iterator[Row]:
    present = []
    for rival in entry.rivals:
        if rival.program and (text := rivals.missing(rival.program)):
            lacking[text] = None
        else:
            present.append(rival)
    ours: list[Figure] = []
    theirs: dict[str, list[Figure]] = {rival.name: [] for rival in present}
    bench.transport = transport = None
    for number in range(1, rounds + 1):
        what = f"{entry.name}, run {number} of {rounds}"
        say(what)
        ours.append(entry.take(bench))
        transport = bench.transport
        for rival in list(present):
            say(f"{what}: {rival.name}")
            try:
                theirs[rival.name].append(rival.take(bench))
            except (BenchError, RdmaError, OSError, SubprocessError) as failure:
                present.remove(rival)
                lacking[f"{rival.name} ({entry.name}): {failure}"] = None
    values = [figure.value for figure in ours]
    yield own_row(
        entry.name, values, entry.unit, ours[0].command, target=entry.target, transport=transport
    )
    for rival in present:
        figures = theirs[rival.name]
        yield rival_row(
            f"{entry.name} / {rival.name}",
            values,
            [figure.value for figure in figures],
            entry.unit,
            figures[0].command,
            target=rival.target,
        )


def _demo(rounds: int, iterations: int | None, say: Callable[[str], None]) -> Sequence[Row]:
    from ndverbs.cli.demo import comparison

    size = (1 if iterations else _DEMO_MIB) << 20
    copied, rdma, tcp = comparison.measured(None, rounds=rounds, size=size, say=say)
    ours, theirs = ([copied / each / 1e9 for each in way.seconds] for way in (rdma, tcp))
    command = f"ndverbs demo --rounds {rounds} --size {size >> 20}"
    name = "demo, copy of a file"
    return [
        own_row(name, ours, "GB/s", command),
        rival_row(f"{name} / TCP with the same ends", ours, theirs, "GB/s", command, target=1.3),
    ]
