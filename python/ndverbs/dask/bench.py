# SPDX-License-Identifier: Apache-2.0
"""Time comms of ``ndverbs://`` beside those of ``tcp://``, in one interleaved run of two processes.

    python -m ndverbs.dask.bench [--rounds N] [--only SIZE ...]

The peer, one process for each way, answers a short message with an array, which arrives ready for
use. Each round times every way once; a ratio is the median of the rounds' ratios, above 1 where
ndverbs is faster or takes less. "direct off" keeps connections of one host on TCP.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from distributed.comm import CommClosedError, connect, listen
from distributed.protocol import to_serialize

_WAYS = {
    "tcp": ("tcp", {}),
    "direct": ("ndverbs", {}),
    "off": ("ndverbs", {"NDVERBS_DIRECT": "off"}),
}
# Bytes of the answer, and how many are timed in a round.
_SIZES = {0: 200, 1 << 20: 20, 8 << 20: 8, 64 << 20: 4}
_NAMES = {0: "tiny", 1 << 20: "1MiB", 8 << 20: "8MiB", 64 << 20: "64MiB"}
_LIMIT_S = 60.0


class _Timed(NamedTuple):
    seconds: float  # of one exchange, the median
    processor_s: float  # of both processes, all exchanges together


class _Peer:
    """A process that answers, and the comm to it."""

    def __init__(self, protocol: str, variables: dict[str, str]) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "ndverbs.dask.bench", "--serve", protocol],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **variables},
        )
        self.comm: Any = None

    async def connect(self) -> None:
        assert self._child.stdout is not None
        address = await asyncio.to_thread(self._child.stdout.readline)
        self.comm = await connect(address.strip(), timeout=_LIMIT_S)

    async def ask(self, nbytes: int) -> Any:
        await self.comm.write({"op": "get", "nbytes": nbytes})
        return await self.comm.read()

    async def processor_s(self) -> float:
        await self.comm.write({"op": "processor"})
        return float(await self.comm.read()) + time.process_time()

    async def time(self, nbytes: int, count: int) -> _Timed:
        began = await self.processor_s()
        took = []
        for _ in range(count):
            start = time.perf_counter()
            await self.ask(nbytes)
            took.append(time.perf_counter() - start)
        return _Timed(statistics.median(took), await self.processor_s() - began)

    async def close(self) -> None:
        if self.comm is not None:
            await self.comm.close()
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(_LIMIT_S)
        with self._child:  # closes what it wrote to, too
            pass


async def _serve(protocol: str) -> None:
    async def answer(comm: Any) -> None:
        arrays: dict[int, Any] = {}
        try:
            while True:
                question = await comm.read()
                if question["op"] == "processor":
                    await comm.write(time.process_time())
                    continue
                nbytes = question["nbytes"]
                if nbytes not in arrays:
                    arrays[nbytes] = np.ones(nbytes, np.uint8)
                await comm.write({"data": to_serialize(arrays[nbytes])} if nbytes else question)
        except CommClosedError:
            pass

    async with listen(f"{protocol}://127.0.0.1", answer) as listener:
        print(listener.contact_address, flush=True)
        await asyncio.to_thread(sys.stdin.read)  # until the parent closes it, or has gone


async def compare(rounds: int, sizes: Sequence[int]) -> list[str]:
    """Time all ways, and return the lines of the table."""
    peers = {name: _Peer(*way) for name, way in _WAYS.items()}
    found: dict[tuple[int, str], list[_Timed]] = {}
    try:
        for peer in peers.values():
            await peer.connect()
            for nbytes in sizes:
                await peer.time(nbytes, 2)  # warm
        for _ in range(rounds):
            for nbytes in sizes:
                for name, peer in peers.items():
                    timed = await peer.time(nbytes, _SIZES[nbytes])
                    found.setdefault((nbytes, name), []).append(timed)
        transports = [peer.comm.extra_info.get("transport", "TCP") for peer in peers.values()]
    finally:
        for peer in peers.values():
            await peer.close()
    ways = [f"{name} ({transport})" for name, transport in zip(peers, transports, strict=True)]
    lines = ["".join(f"{text:>24}" for text in ("frame", *ways))]
    for nbytes in sizes:
        taken = [found[nbytes, name] for name in peers]
        times = [[each.seconds * 1e6 for each in way] for way in taken]
        lines.append(_row(_NAMES[nbytes], "µs", times))
        if nbytes:
            scale = (1 << 30) / (nbytes * _SIZES[nbytes])
            spent = [[each.processor_s * scale for each in way] for way in taken]
            lines.append(_row("processor", "s/GiB", spent))
    return lines


def _row(what: str, unit: str, columns: list[list[float]]) -> str:
    texts = []
    for column in columns:
        ratio = statistics.median(tcp / own for tcp, own in zip(columns[0], column, strict=True))
        texts.append(f"{statistics.median(column):,.4g} {unit} {ratio:.2f} x")
    return "".join(f"{text:>24}" for text in (what, *texts))


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m ndverbs.dask.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", choices=_NAMES.values(), default=_NAMES.values())
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(_serve(given.serve))
        return
    sizes = [nbytes for nbytes, name in _NAMES.items() if name in given.only]
    print(*asyncio.run(compare(given.rounds, sizes)), sep="\n")


if __name__ == "__main__":
    main()
