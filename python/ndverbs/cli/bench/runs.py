# SPDX-License-Identifier: Apache-2.0
"""What one run measures."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Literal

from ndverbs._native import OperationType, _BenchPlan

Operation = Literal["write", "read", "send", "fetch_add", "connect", "register", "idle"]
Measure = Literal["latency", "bandwidth", "rate"]

# The operations that move data; the others are about what has to be there for it.
_DATA = ("write", "read", "send", "fetch_add")
# Silent requests between two visible ones of a ping-pong.
_LATENCY_SIGNALS = 32
_WARM_UP_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Run:
    """What one run measures; the same on both ends."""

    operation: Operation
    measure: Measure
    size: int
    depth: int = 16
    iterations: int = 0
    seconds: float = 1.0
    queue_pairs: int = 1
    visible: bool = False
    sleeps: bool = False
    crc: bool | None = None
    python: bool = False
    many: bool = False
    plain: bool = False
    direct: bool = True
    adapter: str | None = None

    @property
    def is_latency(self) -> bool:
        """Return whether one request at a time is timed."""
        return self.measure == "latency"

    @property
    def moves_data(self) -> bool:
        """Return whether requests are what is timed."""
        return self.operation in _DATA

    @property
    def is_fetch(self) -> bool:
        """Return whether the peer's answer completes a request, which is a round trip then."""
        return self.operation in ("read", "fetch_add")

    @property
    def warm_up(self) -> int:
        """Return how many operations precede the clock."""
        most = 200 if self.is_latency else max(self.depth, min(1000, _WARM_UP_BYTES // self.size))
        return min(most, self.iterations) if self.iterations else most

    @property
    def signal_every(self) -> int:
        """Return how many requests one completion stands for; the rest succeed silently."""
        if self.is_fetch or self.python or self.visible or self.measure == "bandwidth":
            return 1
        return _LATENCY_SIGNALS if self.is_latency else max(1, self.depth // 4)

    def plan(self, *, is_initiator: bool) -> _BenchPlan:
        """Return this run as the C++ loops take it."""
        # The others need connections, over which nothing is sent.
        name = self.operation if self.moves_data else "send"
        return _BenchPlan(
            is_initiator=is_initiator,
            is_latency=self.is_latency,
            operation=OperationType[name.upper()],
            size=self.size,
            depth=1 if self.is_latency else self.depth,
            iterations=self.iterations,
            seconds=self.seconds,
            warm_up=self.warm_up,
            signal_every=self.signal_every,
            sleeps=self.sleeps,
        )


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """Return what is told of a latency, by the names that the C++ loops have for it."""
    ordered = sorted(samples)
    count = len(ordered)
    return {
        "median": ordered[count // 2],
        "p99": ordered[count - 1 - count // 100],
        "p999": ordered[count - 1 - count // 1000],
        "minimum": ordered[0],
        "mean": statistics.fmean(ordered),
    }
