# SPDX-License-Identifier: Apache-2.0
"""Objects and results as tables: HTML in a notebook, aligned text elsewhere.

It is loaded when the first table is made. What a table shows of a class is said by `_FIELDS` alone.
No field is a token of memory: a notebook is kept and passed on, and who knows the token of memory
can use it. A table is text, taken at the call; it keeps no object alive.
"""

from __future__ import annotations

import enum
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from operator import attrgetter
from typing import Any

import numpy as np

from ndverbs._native import (
    Adapter,
    AdapterInfo,
    CompletionQueue,
    ConnectionData,
    Connector,
    FastRegisterMemoryRegion,
    Listener,
    LogicalAddressMapping,
    MemoryRegion,
    MemoryWindow,
    OperationType,
    ProtectionDomain,
    QueuePair,
    Result,
    Segment,
    SharedEndpoint,
    SharedReceiveQueue,
    Status,
    result_dtype,
)
from ndverbs.errors import RdmaError
from ndverbs.remote import RemoteBuffer

_Fields = dict[str, Callable[[Any], object]]

_MOST_ROWS = 100
# Flags of a row of result_dtype, as of `CompletionQueue.poll_into`.
_HAS_IMMEDIATE = 2
_CONTEXT_WAS_OBJECT = 4
# Of an object that is the program's own, such as the context of a request.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120


class Table:
    """Rows of text below names of columns."""

    def __init__(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], more: int = 0
    ) -> None:
        self._columns = columns
        self._rows = rows
        self._below = f"and {more} more" if more else "" if columns else "no rows"

    def __repr__(self) -> str:
        """Return the rows as aligned text."""
        lines = [[" ".join(cell.split()) for cell in row] for row in (self._columns, *self._rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        texts = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines if any(line)]
        return "\n".join([*texts, *filter(None, [self._below])])

    def _repr_html_(self) -> str:
        """Return the rows as an HTML table; every text in it is escaped."""
        head = "".join(_cell("th", text) for text in self._columns)
        rows = "".join(
            f"<tr>{''.join(_cell('td', text) for text in row)}</tr>\n" for row in self._rows
        )
        below = f"<p>{escape(self._below)}</p>" if self._below else ""
        return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>{below}"


def table(values: object) -> Table:
    """Return results or objects of the package as a table, for notebooks and terminals.

    Parameters
    ----------
    values : iterable, array, mapping or object
        Objects of the package, such as the results of a poll, a row each; an array of
        `result_dtype`; a mapping, such as ``adapter.stats()``, or one object, a row each field.

    Returns
    -------
    table
        Its ``repr`` is text; notebooks show it as HTML.

    Raises
    ------
    TypeError
        There is no table for something in it.

    Notes
    -----
    It is how things are at the call, and keeps none of them alive. It shows no tokens that open
    memory, and 100 rows at most. One object by itself shows the same in a notebook.
    """
    if isinstance(values, Mapping):
        return Table(("", ""), [(str(name), _text("", values[name])) for name in values])
    if _fields_of(values) is not None:
        heading, fields = _described(values)
        rows = [(name, text) for name, text in fields.items() if text]
        return Table((heading or type(values).__name__, ""), rows)
    if isinstance(values, np.ndarray) and values.dtype == result_dtype:
        flat = values.reshape(-1)
        return _listed([("", _from_row(row)) for row in flat[:_MOST_ROWS]], len(flat))
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | np.ndarray):
        raise _no_table(values)
    things = list(values)
    return _listed([_described(thing) for thing in things[:_MOST_ROWS]], len(things))


def html_of(thing: object) -> str:
    """Return one object as an HTML table."""
    return table(thing)._repr_html_()


def _listed(described: list[tuple[str, dict[str, str]]], count: int) -> Table:
    """Return a table with a row each, and the columns that are not empty."""
    rows = [{"": heading, **fields} for heading, fields in described]
    every = dict.fromkeys(name for row in rows for name in row)
    names = [name for name in every if any(row.get(name) for row in rows)]
    texts = [[row.get(name, "") for name in names] for row in rows]
    return Table(names, texts, count - len(rows))


def _described(thing: object) -> tuple[str, dict[str, str]]:
    """Return what it is and what can be read of it now; the type of a result says what it is."""
    fields = _fields_of(thing)
    if fields is None:
        raise _no_table(thing)
    texts = {}
    for name, read in fields.items():
        try:
            texts[name] = _text(name, read(thing))
        except RdmaError:  # it has none now
            texts[name] = ""
    if isinstance(thing, Result):
        return "", texts
    if getattr(thing, "closed", False) or not any(texts.values()):
        return repr(thing).strip("<>"), {}
    return type(thing).__name__, texts


def _fields_of(thing: object) -> _Fields | None:
    return next((fields for kind, fields in _FIELDS.items() if isinstance(thing, kind)), None)


def _no_table(value: object) -> TypeError:
    return TypeError(
        f"table: there is none of {type(value).__name__}; it takes objects of ndverbs, arrays of "
        "ndverbs.result_dtype, mappings, and lists of results or objects"
    )


def _cell(tag: str, text: str) -> str:
    return f'<{tag} style="text-align: left">{escape(text)}</{tag}>'


def _text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, enum.Enum):
        return value.name or str(value)
    if name == "address":
        return hex(value)
    if name.endswith("_context"):
        return _SHORT.repr(value)
    if name.endswith("_address"):
        host, port = value
        return "" if not host else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if name == "array":
        described = [str(getattr(value, part, "")) for part in ("dtype", "shape")]
        return " ".join([type(value).__name__, *described]).strip()
    if isinstance(value, list | frozenset):
        texts = map(str, value)
        return ", ".join(texts if isinstance(value, list) else sorted(texts))
    return str(value)


def _read(*paths: str) -> _Fields:
    return {path.rpartition(".")[2]: attrgetter(path) for path in paths}


def _unless_zero(name: str) -> Callable[[Result], object]:
    return lambda result: getattr(result, name) or None


def _member(kind: type[enum.IntEnum], number: int) -> str:
    return kind(number).name if number in set(kind) else str(number)


def _from_row(row: np.void) -> dict[str, str]:
    """Return a row of `result_dtype` as a result has it."""
    fields = {
        "type": _member(OperationType, int(row["type"])),
        "status": _member(Status, int(row["status"])),
    }
    for name, is_there in (
        ("bytes_transferred", row["bytes_transferred"]),
        ("request_context", not row["flags"] & _CONTEXT_WAS_OBJECT),
        ("qp_context", row["qp_context"]),
        ("immediate", row["flags"] & _HAS_IMMEDIATE),
        ("invalidated_token", row["invalidated_token"]),
    ):
        fields[name] = str(row[name]) if is_there else ""
    return fields


_FIELDS: dict[type[Any], _Fields] = {
    Result: {
        **_read("type", "status"),
        "bytes_transferred": _unless_zero("bytes_transferred"),
        **_read("request_context", "qp_context", "immediate"),
        "invalidated_token": _unless_zero("invalidated_token"),
        **_read("detail"),
    },
    Adapter: {
        **_read("info.name", "info.provider", "info.rdma_technology", "info.addresses"),
        **_read("info.features", "info.extensions"),
        "stats": lambda adapter: [f"{key} {n}" for key, n in adapter.stats().items() if n],
    },
    AdapterInfo: _read(*(n for n, kind in vars(AdapterInfo).items() if isinstance(kind, property))),
    ProtectionDomain: {},
    QueuePair: {
        **_read("state"),
        "depths": lambda qp: repr(qp).strip("<>").partition(", ")[2],  # no attribute has them
    },
    CompletionQueue: _read("depth"),
    SharedReceiveQueue: _read("depth", "max_sge"),
    MemoryRegion: _read("address", "nbytes", "access", "array"),
    FastRegisterMemoryRegion: _read("address", "nbytes", "max_pages"),
    LogicalAddressMapping: {
        **_read("nbytes", "first_byte_offset", "array"),
        "pages": lambda mapping: len(mapping.pages),
    },
    MemoryWindow: _read("address", "nbytes"),
    RemoteBuffer: _read("address", "nbytes", "dtype", "shape", "access"),
    Segment: _read("address", "length"),
    Connector: _read("state", "local_address", "peer_address", "transport", "transport_reason"),
    ConnectionData: {
        **_read("inbound_read_limit", "outbound_read_limit"),
        "private_data": lambda data: f"{len(data.private_data)} bytes",
    },
    Listener: _read("local_address"),
    SharedEndpoint: _read("local_address"),
}
