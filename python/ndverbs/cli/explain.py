# SPDX-License-Identifier: Apache-2.0
"""What `ndverbs doctor --explain CODE` says: a status, or the error that a Terminate reports."""

from __future__ import annotations

import contextlib
import difflib
import re
from typing import TypeAlias

from ndverbs import _frames, _native, errors
from ndverbs.cli.failure import CommandError

Meaning: TypeAlias = "dict[str, str | int]"

# As messages have it: the code in hexadecimal.
_TERMINATE = re.compile(r"([0-9])/([0-9]+)/(?:0x)?([0-9a-f]{1,2})", re.IGNORECASE)
# NDK's names are those of the NT kernel with this in front, NetworkDirect's have ND_.
_PREFIXES = ("ND.STATUS.", "STATUS.", "STATUS_", "ND_")


def explain(code: str) -> Meaning:
    """Return what a status, by name or number, or the layer/type/code of a Terminate means.

    Raises
    ------
    CommandError
        There is none of this name or number.
    """
    if found := _TERMINATE.fullmatch(code):
        layer, kind, number = int(found[1]), int(found[2]), int(found[3], 16)
        meaning = _frames.terminate_meaning(layer, kind, number) if kind < 256 else None
        if meaning is None:
            raise CommandError(f"{code!r} is no layer/type/code of a Terminate that the RFCs have")
        return {"terminate": f"{layer}/{kind}/{number:02x}", "meaning": meaning}
    status = _status(code)
    said: Meaning = {
        "status": status.name,
        "number": f"{status:#010x}",
        "meaning": _native._status_meanings()[status],
    }
    if status >> 31:
        raised = errors.error_class(status)
        said |= {"exception": raised.__name__, "about": (raised.__doc__ or "").partition("\n")[0]}
    return said


def text(said: Meaning) -> str:
    """Return it in lines."""
    if "terminate" in said:
        return f"Terminate {said['terminate']}: {said['meaning']}"
    line = f"{said['status']} ({said['number']}): {said['meaning']}"
    return f"{line}\n  {said['exception']}: {said['about']}" if "exception" in said else line


def _status(code: str) -> _native.Status:
    members = _native.Status.__members__
    name = code.upper()
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    if name in members:
        return members[name]
    for base in (0, 16):  # with 0x or decimal, signed as Windows shows it or not, or bare digits
        with contextlib.suppress(ValueError):
            number = int(code, base)
            return _native.Status(number if number >= 0 else number + (1 << 32))
    near = difflib.get_close_matches(name, members, 3)
    raise CommandError(
        f"{code!r} is neither a status nor the layer/type/code of a Terminate"
        + (f"; similar names: {', '.join(near)}" if near else "")
    )
