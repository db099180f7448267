# SPDX-License-Identifier: Apache-2.0
"""What one run measures, and a row of the report."""

from __future__ import annotations

import dataclasses
from typing import Literal

from ndverbs._native import OperationType, _BenchPlan

Operation = Literal["write", "read", "send"]
Measure = Literal["latency", "bandwidth", "rate"]

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
    sleeps: bool = False
    crc: bool | None = None
    python: bool = False
    many: bool = False
    adapter: str | None = None

    @property
    def is_latency(self) -> bool:
        """Return whether one request at a time is timed."""
        return self.measure == "latency"

    @property
    def warm_up(self) -> int:
        """Return how many operations precede the clock."""
        most = 200 if self.is_latency else max(self.depth, min(1000, _WARM_UP_BYTES // self.size))
        return min(most, self.iterations) if self.iterations else most

    @property
    def signal_every(self) -> int:
        """Return how many requests one completion stands for; the rest succeed silently."""
        if self.operation == "read" or self.python or self.measure == "bandwidth":
            return 1
        return _LATENCY_SIGNALS if self.is_latency else max(1, self.depth // 4)

    def plan(self, *, is_initiator: bool) -> _BenchPlan:
        """Return this run as the C++ loops take it."""
        return _BenchPlan(
            is_initiator=is_initiator,
            is_latency=self.is_latency,
            operation=OperationType[self.operation.upper()],
            size=self.size,
            depth=1 if self.is_latency else self.depth,
            iterations=self.iterations,
            seconds=self.seconds,
            warm_up=self.warm_up,
            signal_every=self.signal_every,
            sleeps=self.sleeps,
        )


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure as printed and as JSON has it."""

    name: str
    value: float
    unit: str
    ratio: float | None = None
    target: float | None = None
    spread: float | None = None
    command: str = ""
