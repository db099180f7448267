# SPDX-License-Identifier: Apache-2.0
"""``ndverbs bench --plot``: the rows as a picture, a panel for each unit.

A figure that was taken at several sizes is a line over them, any other a bar. matplotlib draws; it
is needed for nothing else, so it is imported by name and only here.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from typing import Any

from ndverbs.cli.bench.channel import BenchError
from ndverbs.cli.bench.rows import Row

_SIZE = re.compile(r" (\d+) B\b")
_WIDTH = 9.0  # inches, as are the heights
_LINES_HEIGHT = 4.0
_BAR_HEIGHT = 0.3
_FRAME_HEIGHT = 1.0


def check() -> None:
    """Refuse before the first run when there is nothing to draw with."""
    try:
        importlib.import_module("matplotlib")
    except ImportError as error:
        raise BenchError(
            "--plot draws with matplotlib, which is not installed: pip install matplotlib"
        ) from error


def save(path: str, rows: Sequence[Row], machine: dict[str, Any]) -> None:
    """Draw the rows into a file; its name says which kind of file."""
    panels = list(_panels(rows))
    heights = [_height(panel) for panel in panels]
    figure = importlib.import_module("matplotlib.figure").Figure(
        figsize=(_WIDTH, sum(heights)), layout="constrained"
    )
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (unit, lines, bars) in zip(axes, panels, strict=True):
        _draw_lines(axis, lines) if lines else _draw_bars(axis, bars)
        axis.set_ylabel(unit) if lines else axis.set_xlabel(unit)
    figure.suptitle(f"{machine['cpu']}, {machine['cpus']} processors, Linux {machine['kernel']}")
    try:
        figure.savefig(path)
    except ValueError as error:
        raise BenchError(f"--plot {path}: {error}") from error


Lines = dict[str, dict[int, Row]]
Panel = tuple[str, Lines, list[Row]]


def _panels(rows: Sequence[Row]) -> list[Panel]:
    """Return lines and bars of each unit, a panel of either."""
    panels: list[Panel] = []
    for unit in dict.fromkeys(row.unit for row in rows):
        series: Lines = {}
        for row in (row for row in rows if row.unit == unit):
            found = _SIZE.search(row.name)
            name = _SIZE.sub("", row.name) if found else row.name
            series.setdefault(name, {})[int(found[1]) if found else 0] = row
        lines = {name: by_size for name, by_size in series.items() if len(by_size) > 1}
        bars = [*(row for name in series if name not in lines for row in series[name].values())]
        panels += [(unit, lines, [])] * bool(lines) + [(unit, {}, bars)] * bool(bars)
    return panels


def _height(panel: Panel) -> float:
    _, lines, bars = panel
    return _LINES_HEIGHT if lines else _FRAME_HEIGHT + _BAR_HEIGHT * len(bars)


def _draw_lines(axis: Any, lines: Lines) -> None:
    for name, by_size in lines.items():
        sizes = sorted(by_size)
        axis.plot(sizes, [by_size[size].value for size in sizes], marker="o", label=name)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("bytes")
    axis.legend(fontsize="small")
    axis.grid(visible=True, alpha=0.3)


def _draw_bars(axis: Any, bars: Sequence[Row]) -> None:
    # From the top down, as the table has them; a rival's row has another colour.
    names = [row.name for row in bars]
    colours = ["C0" if row.ratio is None else "C7" for row in bars]
    places = range(len(bars), 0, -1)
    axis.barh(places, [row.value for row in bars], color=colours)
    axis.set_yticks(places, names, fontsize="small")
    for place, row in zip(places, bars, strict=True):
        axis.annotate(f" {row.value:.4g}", (row.value, place), va="center", fontsize="small")
    axis.margins(x=0.15)
