# SPDX-License-Identifier: Apache-2.0
"""What a Connection did last: noted for each request, shown as a table and as lanes in time."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ndverbs.connection._request import Request

_WIDTH, _LANE = 720, 10
_COLOURS = {"send": "#4477aa", "take": "#66ccee", "write": "#228833", "read": "#ccbb44"}
_OTHER, _FAILED = "#aa3377", "#ee6677"


class Notes:
    """The last requests of a link: what, how many bytes, from when to when."""

    MOST = 256

    def __init__(self) -> None:
        self._entries: deque[list[Any]] = deque(maxlen=self.MOST)

    def begin(self, kind: str, nbytes: int, request: Request[Any]) -> None:
        """Note the beginning of a request, which notes its end in what it gets here."""
        entry = [kind, nbytes, time.perf_counter(), None, True]
        request._noted = entry
        self._entries.append(entry)

    def add(
        self, kind: str, nbytes: int, began: float, request: Request[Any], *, is_done: bool
    ) -> None:
        """Note a request that has begun, and may be done."""
        entry = [kind, nbytes, began, time.perf_counter() if is_done else None, True]
        if not is_done:
            request._noted = entry
        self._entries.append(entry)

    def trace(self) -> Trace:
        """Return what there is now."""
        entries = list(self._entries)
        first = entries[0][2] if entries else 0.0
        return Trace(
            {
                "kind": kind,
                "nbytes": nbytes,
                "begin": begin - first,
                "seconds": None if end is None else end - begin,
                "ok": None if end is None else ok,
            }
            for kind, nbytes, begin, end, ok in entries
        )


class Trace(list[dict[str, Any]]):
    """The last requests of a Connection, oldest first.

    A list of dicts: ``kind``, ``nbytes``, ``begin`` (seconds since the first one's), ``seconds``
    and ``ok``, both None while it is under way. Its ``repr`` is a table; a notebook shows the
    table, and each request as a bar in time.
    """

    def __repr__(self) -> str:
        """Return the requests as aligned text."""
        return repr(self._table())

    def _table(self) -> Any:
        from ndverbs._tables import Table

        rows = [
            (
                each["kind"],
                f"{each['nbytes']:,}",
                f"{each['begin'] * 1e6:,.1f}",
                "" if each["seconds"] is None else f"{each['seconds'] * 1e6:,.1f}",
                {True: "", False: "failed", None: "under way"}[each["ok"]],
            )
            for each in self
        ]
        return Table(("request", "bytes", "begin, µs", "took, µs", ""), rows)

    def _repr_html_(self) -> str:
        """Return the requests as lanes in time, and as a table."""
        return f"{self._lanes()}\n{self._table()._repr_html_()}"

    def _lanes(self) -> str:
        """Draw a bar for each request, in the first lane that is free when it begins."""
        now = max(((e["begin"] + (e["seconds"] or 0.0)) for e in self), default=0.0) or 1e-6
        free: list[float] = []
        bars = []
        for each in self:
            begin = each["begin"]
            end = now if each["seconds"] is None else begin + each["seconds"]
            lane = next((i for i, since in enumerate(free) if since <= begin), len(free))
            free[lane : lane + 1] = [end]
            colour = _FAILED if each["ok"] is False else _COLOURS.get(each["kind"], _OTHER)
            bars.append(
                f'<rect x="{begin / now * _WIDTH:.1f}" y="{lane * _LANE}" '
                f'width="{max((end - begin) / now * _WIDTH, 1):.1f}" height="{_LANE - 2}" '
                f'fill="{colour}"><title>{each["kind"]}, {each["nbytes"]} bytes, '
                f"{(end - begin) * 1e6:.1f} µs</title></rect>"
            )
        height = max(len(free), 1) * _LANE
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
            f'role="img" aria-label="requests in time">{"".join(bars)}</svg>'
        )
