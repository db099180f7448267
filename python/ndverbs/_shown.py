# SPDX-License-Identifier: Apache-2.0
"""How values of the extension show themselves: by name, and whole in completion."""

from __future__ import annotations

import enum

from ndverbs._native import Access, Flag, Notify, OperationType, Result, Status


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


def attach() -> None:
    """Give the names of members to str(), and all of them to dir(); the values stay integers."""
    for kind in (Access, Flag, Notify, OperationType, Status):
        kind.__class__ = _Complete  # type: ignore[assignment]
        shown = enum.Flag if issubclass(kind, enum.Flag) else enum.Enum
        kind.__str__ = shown.__str__  # type: ignore[method-assign]
    Result.__repr__ = _result_repr  # type: ignore[assignment, method-assign]
