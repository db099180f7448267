# SPDX-License-Identifier: Apache-2.0
"""How values show themselves: by name, whole in completion, and in notebooks as tables."""

from __future__ import annotations

import enum

from ndverbs import _native
from ndverbs._native import Access, Flag, Notify, OperationType, Result, Status
from ndverbs.remote import RemoteBuffer

# Each has its fields in _tables.py, which is loaded when the first is shown.
_HAVE_TABLES: tuple[type, ...] = (
    Result,
    RemoteBuffer,
    _native.Adapter,
    _native.AdapterInfo,
    _native.CompletionQueue,
    _native.ConnectionData,
    _native.Connector,
    _native.FastRegisterMemoryRegion,
    _native.Listener,
    _native.LogicalAddressMapping,
    _native.MemoryRegion,
    _native.MemoryWindow,
    _native.ProtectionDomain,
    _native.QueuePair,
    _native.Segment,
    _native.SharedEndpoint,
    _native.SharedReceiveQueue,
)


class _Complete(enum.EnumMeta):
    """The type of our enums: Python's leaves members of no bit or several out of dir()."""

    def __dir__(cls) -> list[str]:
        return sorted({*super().__dir__(), *cls.__members__})


def _result_repr(self: Result) -> str:
    """Return how the request ended, and every field that is not zero or None."""
    parts = [f"{self.type.name} {self.status.name}"]
    for name, value in zip(Result.__match_args__, self, strict=True):
        if name in ("status", "type"):
            continue
        if value is not None and (value != 0 or type(value) is not int or name == "immediate"):
            parts.append(f"{name}={value!r}")
    return f"<Result {', '.join(parts)}>"


def _as_html(self: object) -> str:
    """Return its fields as an HTML table."""
    from ndverbs import _tables

    return _tables.html_of(self)


def attach() -> None:
    """Give members their names in str() and dir(), and objects their tables in notebooks.

    The values stay integers, and the reprs of objects what they are.
    """
    for kind in (Access, Flag, Notify, OperationType, Status):
        kind.__class__ = _Complete  # type: ignore[assignment]
        shown = enum.Flag if issubclass(kind, enum.Flag) else enum.Enum
        kind.__str__ = shown.__str__  # type: ignore[method-assign]
    Result.__repr__ = _result_repr  # type: ignore[assignment, method-assign]
    for shown_as_table in _HAVE_TABLES:
        shown_as_table._repr_html_ = _as_html  # type: ignore[attr-defined]
