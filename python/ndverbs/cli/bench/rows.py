# SPDX-License-Identifier: Apache-2.0
"""Rows of the report: how figures of several runs become one, and how rows are printed."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

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


_HEAD = ("", "value", "unit", "over", "ratio", "target", "reached", "spread")
_IS_TEXT = (0, 2, 3, 6)  # columns; the others are of numbers
_STYLES = {None: "", True: "green", False: "red"}  # of what is reached and what is not


def _cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return what a table shows of each row."""
    cells: list[tuple[str, ...]] = []
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
    return cells


def format_table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned text, command lines below."""
    cells = [_HEAD, *_cells(rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(_HEAD))]
    lines = [
        "  ".join(
            text.ljust(width) if i in _IS_TEXT else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    return "\n".join([*lines, "", *_commands(rows)])


def print_table(rows: Sequence[Row], console: Console) -> None:
    """Print the same on a terminal, in colour."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for i, name in enumerate(_HEAD):
        table.add_column(name, justify="left" if i in _IS_TEXT else "right", no_wrap=i > 0)
    for row, cells in zip(rows, _cells(rows), strict=True):
        table.add_row(*map(Text, cells), style=_STYLES[row.is_reached])
    console.print(table)
    console.print()
    for command in _commands(rows):
        console.print(Text(command, style="dim"), soft_wrap=True)


def _commands(rows: Sequence[Row]) -> list[str]:
    return [f"$ {command}" for command in dict.fromkeys(row.command for row in rows)]
