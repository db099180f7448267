# SPDX-License-Identifier: Apache-2.0
"""Windows of ndverbs beside those of MPI: ``python -m ndverbs.mpi.bench``.

Two ranks of one host, for every mpiexec that there is, in turns: rank 0 times single operations on
the window of rank 1, whose program waits in MPI meanwhile, or sleeps in Python. Each figure is the
median of many short windows of time, in which all that is compared takes turns; a ratio is the
median of the ratios of such windows, and above 1 where ndverbs is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ndverbs.mpi import Window, connect_all
from ndverbs.mpi._launchers import NAMES, launcher

_BYTES = 1 << 20
_WINDOW_S = 0.01
_SLEEP_S = 0.5
_MOST_S = 300.0
_KINDS = {"mapped": "Win.Allocate", "ordinary": "Win.Create"}
Operation = Callable[[], object]


def _operations(window: Window, rival: Any) -> dict[str, tuple[Operation, Operation]]:
    """Return, by name, what ndverbs and MPI do with the first words, or all, of rank 1."""
    from mpi4py import MPI

    part = window[1]
    word, found = np.ones(1, np.uint64), np.zeros(1, np.uint64)
    ours, theirs = np.ones(_BYTES // 8, np.uint64), np.ones(_BYTES // 8, np.uint64)
    word_spec, found_spec = [word, MPI.UINT64_T], [found, MPI.UINT64_T]
    whole_spec = [theirs, MPI.UINT64_T]

    def put_word() -> None:
        part.set_item(0, 1)
        part.fence()

    def get_theirs() -> None:
        rival.Get(found_spec, 1, 0)
        rival.Flush(1)

    def put_theirs() -> None:
        rival.Put(word_spec, 1, 0)
        rival.Flush(1)

    def add_theirs() -> None:
        rival.Fetch_and_op(word_spec, found_spec, 1, 0, MPI.SUM)
        rival.Flush(1)

    def get_all_theirs() -> None:
        rival.Get(whole_spec, 1, 0)
        rival.Flush(1)

    def put_all_theirs() -> None:
        rival.Put(whole_spec, 1, 0)
        rival.Flush(1)

    return {
        "get 8 B": (lambda: part.get_item(0), get_theirs),
        "put 8 B": (put_word, put_theirs),
        "fetch_add": (lambda: part.fetch_add(0, 1), add_theirs),
        "get 1 MiB": (lambda: part.get(ours), get_all_theirs),
        "put 1 MiB": (lambda: part.put(ours), put_all_theirs),
    }


def _timed(operation: Operation, count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        operation()
    return (time.perf_counter() - begin) / count


def _compared(ours: Operation, theirs: Operation, windows: int) -> list[tuple[float, float]]:
    counts = [max(1, int(_WINDOW_S / _timed(each, 2))) for each in (ours, theirs)]
    return [(_timed(ours, counts[0]), _timed(theirs, counts[1])) for _ in range(windows)]


def _rank(path: Path, windows: int) -> None:
    """Be one of the two ranks; rank 0 writes what it has measured."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    rows: list[dict[str, Any]] = []
    with connect_all(comm) as peers:
        for kind in _KINDS:
            if kind == "mapped":
                memory = peers.adapter.alloc_array(_BYTES // 8, np.uint64)
                rival = MPI.Win.Allocate(_BYTES, comm=comm)
            else:
                memory = np.zeros(_BYTES // 8, np.uint64)
                theirs = np.zeros(_BYTES, np.uint8)
                rival = MPI.Win.Create(theirs, comm=comm)
            with peers.window(memory) as window:
                for row in _rows_of(comm, window, rival, windows):
                    rows.append({"memory": kind, "against": _KINDS[kind], **row})
            rival.Free()
        transport = peers[1].transport
    if comm.rank == 0:
        path.write_text(json.dumps({"transport": transport, "rows": rows}))


def _rows_of(comm: Any, window: Window, rival: Any, windows: int) -> Iterator[dict[str, Any]]:
    if comm.rank == 0:
        rival.Lock(1)
        operations = _operations(window, rival)
        for name, pair in operations.items():
            yield {"operation": name, "windows": _compared(*pair, windows)}
        comm.Barrier()
        both = []
        for operation in operations["get 1 MiB"]:
            comm.recv(source=1)  # it sleeps from now on
            both.append(_timed(operation, 1))
            comm.send(None, 1)
        yield {"operation": "get 1 MiB, it sleeps", "windows": [tuple(both)]}
        rival.Unlock(1)
    else:
        comm.Barrier()
        for _ in range(2):
            comm.send(None, 0)
            time.sleep(_SLEEP_S)
            comm.recv(source=0)
    comm.Barrier()


def _measure(names: list[str], rounds: int, windows: int) -> dict[str, Any]:
    """Run the jobs of all mpiexec programs in turns; return their rows, and what is missing."""
    found: dict[tuple[str, str, str, str], list[tuple[float, float]]] = {}
    missing, transports = [], set()
    with tempfile.TemporaryDirectory() as folder:
        launchers = []
        for name in names:
            each = launcher(name, Path(folder))
            if isinstance(each, str):
                missing.append(each)
            else:
                launchers.append(each)
        for _ in range(rounds):
            for each in launchers:
                path = Path(folder) / each.name
                command = [*each.command(2), sys.executable, "-m", __spec__.name]
                subprocess.run(
                    [*command, "--rank", str(path), "--windows", str(windows)],
                    stdin=subprocess.DEVNULL,
                    env=each.environment,
                    timeout=_MOST_S,
                    check=True,
                )
                said = json.loads(path.read_text())
                transports.add(said["transport"])
                for row in said["rows"]:
                    key = (row["operation"], row["memory"], each.name, row["against"])
                    found.setdefault(key, []).extend(row["windows"])
    return {
        "rows": [_summed(*key, pairs) for key, pairs in sorted(found.items())],
        "transports": sorted(transports),
        "missing": missing,
    }


def _summed(
    operation: str, memory: str, mpi: str, against: str, pairs: list[tuple[float, float]]
) -> dict[str, Any]:
    return {
        "operation": operation,
        "memory": memory,
        "against": f"{mpi} {against}",
        "ndverbs_s": statistics.median(ours for ours, _ in pairs),
        "mpi_s": statistics.median(theirs for _, theirs in pairs),
        "ratio": statistics.median(theirs / ours for ours, theirs in pairs),
    }


def main() -> int:
    """Run the program; the exit code says whether an mpiexec was found."""
    parser = argparse.ArgumentParser(
        prog="python -m ndverbs.mpi.bench", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--mpi", choices=NAMES, action="append", help="this one alone (all)")
    parser.add_argument("--rounds", type=int, default=3, help="jobs of each mpiexec (3)")
    parser.add_argument("--windows", type=int, default=25, help="windows of time in a job (25)")
    parser.add_argument("--json", action="store_true", help="write the figures as JSON")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank is not None:
        _rank(given.rank, given.windows)
        return 0
    measured = _measure(given.mpi or list(NAMES), given.rounds, given.windows)
    if given.json:
        print(json.dumps(measured, indent=1))
    else:
        print(f"{'':22}{'memory':10}{'against':24}{'ndverbs':>10}{'MPI':>12}{'ratio':>9}")
        for row in measured["rows"]:
            print(
                f"{row['operation']:22}{row['memory']:10}{row['against']:24}"
                f"{1e6 * row['ndverbs_s']:8.2f}µs{1e6 * row['mpi_s']:10.2f}µs{row['ratio']:8.2f}x"
            )
    for why in measured["missing"]:
        print(f"left out: {why}", file=sys.stderr)
    return 0 if measured["rows"] else os.EX_UNAVAILABLE


if __name__ == "__main__":
    sys.exit(main())
