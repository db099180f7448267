# SPDX-License-Identifier: Apache-2.0
"""Rows of the report: how figures of several runs become one, and how rows are printed."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

# What is the better the less there is of it: times, processor time, memory.
_COSTS = ("us", "s/GB", "KiB")
# What a consumer of --json finds in a row.
_FIELDS = ("name", "value", "unit", "ratio", "target", "spread", "command")


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure.

    A row with a ratio is that of a rival, and the ratio says how many times as fast we are. Its
    spread and target are the ratio's then, else the value's.
    """

    name: str
    value: float
    unit: str
    ratio: float | None = None
    target: float | None = None
    spread: float | None = None
    command: str = ""
    transport: str | None = None
    # For targets that are not reached by being above or below a number.
    verdict: bool | None = None

    def as_json(self) -> dict[str, object]:
        """Return what --json has of it."""
        return {name: getattr(self, name) for name in _FIELDS}

    @property
    def is_reached(self) -> bool | None:
        """Return whether its target is reached; None without one."""
        if self.target is None or self.verdict is not None:
            return self.verdict
        if self.ratio is not None:
            return self.ratio >= self.target
        return self.value <= self.target if self.unit in _COSTS else self.value >= self.target


def spread(values: Sequence[float]) -> float | None:
    """Return (highest - lowest) / median; None of one value."""
    median = statistics.median(values)
    return (max(values) - min(values)) / median if len(values) > 1 and median else None


def own_row(
    name: str,
    values: Sequence[float],
    unit: str,
    command: str,
    *,
    target: float | None = None,
    transport: str | None = None,
) -> Row:
    """Return the row of our own figures: their median."""
    return Row(
        name, statistics.median(values), unit, None, target, spread(values), command, transport
    )


def ratios(ours: Sequence[float], theirs: Sequence[float], unit: str) -> list[float]:
    """Return how many times as fast we were, pair by pair.

    Each pair was taken on the machine as it was at that moment.
    """
    pairs = zip(ours, theirs, strict=True)
    if unit in _COSTS:
        return [their / our for our, their in pairs]
    return [our / their for our, their in pairs]


def rival_row(
    name: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    unit: str,
    command: str,
    *,
    target: float | None = None,
    transport: str | None = None,
) -> Row:
    """Return the row of a rival whose runs took turns with ours."""
    found = ratios(ours, theirs, unit)
    value, ratio = statistics.median(theirs), statistics.median(found)
    return Row(name, value, unit, ratio, target, spread(found), command, transport)


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned text, command lines below."""
    head = ("", "value", "unit", "over", "ratio", "target", "reached", "spread")
    cells = [head]
    for row in rows:
        sign = "<=" if row.ratio is None and row.unit in _COSTS else ">="
        cells.append(
            (
                row.name,
                f"{row.value:.0f}" if row.value >= 1000 else f"{row.value:.3f}",
                row.unit,
                row.transport or "",
                "" if row.ratio is None else f"{row.ratio:.2f}",
                "" if row.target is None else f"{sign} {row.target:.2f}",
                {None: "", True: "yes", False: "no"}[row.is_reached],
                "" if row.spread is None else f"{row.spread:.0%}",
            )
        )
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    is_text = (0, 2, 3, 6)
    lines = [
        "  ".join(
            text.ljust(width) if i in is_text else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    commands = dict.fromkeys(row.command for row in rows)
    return "\n".join([*lines, "", *(f"$ {command}" for command in commands)])
