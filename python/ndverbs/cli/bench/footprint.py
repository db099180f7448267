# SPDX-License-Identifier: Apache-2.0
"""What idle connections cost in memory: ``ndverbs bench idle``, and its row of ``bench compare``.

Each figure is of two fresh processes, because memory that an earlier run has freed hides what a
connection takes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from ndverbs._native import Adapter
from ndverbs.cli.bench.channel import BenchError, Channel
from ndverbs.cli.bench.rows import Row, spread
from ndverbs.cli.bench.runs import Run

COUNT = 100
_TARGET_KIB = 8.0
# Limits that only mean failure.
_LIMIT_S = 30.0
_MOST_S = 120.0
_SMALL = {"receive_queue_depth": 1, "initiator_queue_depth": 1}


def connect(adapter: Adapter, channel: Channel, run: Run) -> dict[str, Any]:
    """Make connections and look at the memory of both ends: the active side."""
    host, port = channel.expect("offer")
    transport = ""
    with contextlib.ExitStack() as closing:
        pd = closing.enter_context(adapter.create_pd())
        cq = closing.enter_context(adapter.create_cq(2 * (run.iterations + 1)))
        before = 0
        for _ in range(run.iterations + 1):
            qp = closing.enter_context(pd.create_qp(cq, cq, **_SMALL))
            connector = closing.enter_context(adapter.create_connector())
            connector.connect(qp, None, (host, port), timeout=_LIMIT_S, crc=run.crc)
            connector.complete_connect(timeout=_LIMIT_S)
            transport = connector.transport
            before = before or resident_kib()  # with all that the first one brings
        grown = resident_kib() - before
        channel.send(over=True)
        theirs = channel.expect("over")
        return {"memory": max(grown, theirs) / run.iterations, "transport": transport}


def accept(adapter: Adapter, channel: Channel, run: Run, host: str) -> None:
    """Be the passive side of `connect`."""
    with contextlib.ExitStack() as closing:
        listener = closing.enter_context(adapter.create_listener())
        pd = closing.enter_context(adapter.create_pd())
        cq = closing.enter_context(adapter.create_cq(2 * (run.iterations + 1)))
        listener.listen((host, 0))
        channel.send(offer=[host, listener.local_address[1]])
        before = 0
        for _ in range(run.iterations + 1):
            qp = closing.enter_context(pd.create_qp(cq, cq, **_SMALL))
            connector = closing.enter_context(listener.get_connector(timeout=_LIMIT_S))
            connector.accept(qp, timeout=_LIMIT_S, crc=run.crc)
            before = before or resident_kib()
        grown = resident_kib() - before
        channel.expect("over")
        channel.send(over=grown)


def resident_kib() -> int:
    """Return the memory of this process that is there, shared or not."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, *rest = line.split()
        if name == "Rss:":
            return int(rest[0])
    raise BenchError("/proc/self/smaps_rollup does not say how much memory this process has")


def compared(args: argparse.Namespace, rounds: int) -> list[Row]:
    """Return the row of a direct connection's memory beyond that of one over TCP."""
    beyond: list[float] = []
    transport = None
    for _ in range(rounds):
        direct, transport = _of_a_connection(args, is_direct=True)
        plain, _ = _of_a_connection(args, is_direct=False)
        beyond.append(direct - plain)
    return [
        Row(
            "idle connection, memory of an end beyond TCP's",
            statistics.median(beyond),
            "KiB",
            target=_TARGET_KIB,
            spread=spread(beyond),
            command="ndverbs bench idle, less that of NDVERBS_DIRECT=off ndverbs bench idle",
            transport=transport,
        )
    ]


def _of_a_connection(args: argparse.Namespace, *, is_direct: bool) -> tuple[float, str]:
    command = [sys.executable, "-m", "ndverbs", "bench", "idle", "--runs", "1", "--json", "-"]
    command += ["--iterations", str(args.iterations)] if args.iterations else []
    command += ["--adapter", args.adapter] if args.adapter else []
    environment = dict(os.environ)
    if not is_direct:
        environment["NDVERBS_DIRECT"] = "off"
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_MOST_S,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        raise BenchError(f"bench idle failed: {done.stderr.strip()[-300:]}")
    said = json.loads(done.stdout)
    (row,) = said["rows"]
    return row["value"], said["transports"][row["name"]]
