# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the arguments of a call into the extension, which calls `explain`.

pybind11 says "incompatible function arguments", with the signature and all values. Its text is read
here for the name of the function and its parameters; the exception names the first argument that
cannot be, and what the parameter takes.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from typing import NamedTuple

from ndverbs import _native
from ndverbs._native import Status
from ndverbs.errors import error, number_text

_BITS = {"uint32": 32, "uint64": 64}
_BUILTIN = {"str": ("a str", str), "bytes": ("bytes", bytes), "bool": ("a bool", bool)}
_SIGNED = "typing.SupportsInt | typing.SupportsIndex"
_NUMBER = "typing.SupportsFloat | typing.SupportsIndex"
_INTEGERS = "collections.abc.Sequence[uint32]"


class _Parameter(NamedTuple):
    name: str
    kind: str  # as in the signature, without None
    is_optional: bool  # takes None
    is_required: bool
    is_by_name: bool
    is_by_position: bool


def explain(text: str, given: tuple[object, ...], named: dict[str, object]) -> Exception:
    """Return the exception that a call with these arguments deserves; `text` is pybind11's."""
    found = re.search(r"^    1\. (.*)\((.*)\)(?: -> .*)?$", text, re.MULTILINE)
    if found is None:
        return TypeError(text)
    # A constructor's signature begins with its class, any other one with its parameters.
    function = found[1].rpartition(".")[2] or text.partition("(")[0]
    function = function.removeprefix("_start_")  # what a coroutine passes its options on to
    parameters = _parameters(found[2])
    if text.startswith("__init__"):  # its signature does not show the object
        given = given[1:]
    elif parameters and parameters[0].name == "self":
        owner = parameters[0].kind.rpartition(".")[2]
        function = f"{owner}.{function}"
        if not given or not isinstance(given[0], getattr(_native, owner, object)):
            return TypeError(f"{function}() is a method: call it on a {owner}")
        given, parameters = given[1:], parameters[1:]
    return _explain(function, parameters, given, named)


def _explain(
    function: str, parameters: list[_Parameter], given: tuple[object, ...], named: dict[str, object]
) -> Exception:
    names = ", ".join(p.name for p in parameters) or "no arguments"
    by_position = [p for p in parameters if p.is_by_position]
    if len(given) > len(by_position):
        return TypeError(
            f"{function}() takes at most {len(by_position)} positional arguments "
            f"({len(given)} given); it takes {names}"
        )
    values = {p.name: value for p, value in zip(by_position, given, strict=False)}
    by_name = {p.name for p in parameters if p.is_by_name}
    for name, value in named.items():
        if name not in by_name:
            return TypeError(f"{function}() has no parameter {name!r}; it takes {names}")
        if name in values:
            return TypeError(f"{function}() got two values for {name!r}")
        values[name] = value
    for p in parameters:
        if p.name in values:
            refusal = _refusal(function, p, values[p.name])
            if refusal is not None:
                return refusal
        elif p.is_required:
            return TypeError(f"{function}() needs {p.name!r}; it takes {names}")
    kinds = ", ".join(f"{name}: {_type(value)}" for name, value in values.items())
    return TypeError(f"{function}() cannot take these arguments ({kinds}); see its documentation")


def _refusal(function: str, p: _Parameter, value: object) -> Exception | None:
    """Return what is wrong with one value, as far as the parameter's kind tells."""
    if value is None and p.is_optional:
        return None
    what = f"{function}: {p.name}"
    or_none = " or None" if p.is_optional else ""
    if p.kind in _BITS:
        return _integer_refusal(what, value, _BITS[p.kind], or_none)
    if p.kind == _SIGNED:
        if _is_integer(value):
            return None
        return TypeError(f"{what} must be an integer{or_none}, not {_type(value)}")
    if p.kind == _NUMBER:
        if isinstance(value, str) or not (hasattr(value, "__float__") or _is_integer(value)):
            return TypeError(f"{what} must be a number{or_none}, not {_type(value)}")
        return None
    if p.kind == _INTEGERS:
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            refusals = (_integer_refusal(what, item, 32, "") for item in value)
            return next((refusal for refusal in refusals if refusal is not None), None)
        return TypeError(f"{what} must be a sequence of integers{or_none}, not {_type(value)}")
    if p.kind in _BUILTIN:
        expected, kind = _BUILTIN[p.kind]
    elif p.kind.startswith("ndverbs._native."):
        name = p.kind.rpartition(".")[2]
        expected, kind = f"a {name}", getattr(_native, name, object)
    else:
        return None
    if isinstance(value, kind):
        return None
    return TypeError(f"{what} must be {expected}{or_none}, not {_type(value)}")


def _integer_refusal(what: str, value: object, bits: int, or_none: str) -> Exception | None:
    if not _is_integer(value):
        return TypeError(f"{what} must be an integer{or_none}, not {_type(value)}")
    number = operator.index(value)  # type: ignore[arg-type]
    if 0 <= number < 1 << bits:
        return None
    return error(
        Status.INVALID_PARAMETER,
        f"{what} {number_text(number)} does not fit an unsigned {bits}-bit integer",
        hint=f"give a number from 0 to 2**{bits} - 1",
    )


def _is_integer(value: object) -> bool:
    try:
        operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def _type(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _parameters(text: str) -> list[_Parameter]:
    parameters: list[_Parameter] = []
    is_by_position = True
    for part in _split(text):
        if part == "*":
            is_by_position = False
        elif part == "/":
            parameters = [p._replace(is_by_name=False) for p in parameters]
        elif part:
            head, equals, _ = part.partition(" = ")
            name, _, kind = head.partition(": ")
            plain = kind.removesuffix(" | None")
            is_optional = plain != kind or kind == "object"
            parameters.append(
                _Parameter(name, plain, is_optional, not equals, True, is_by_position)
            )
    return parameters


def _split(text: str) -> list[str]:
    """Split at the commas that no bracket and no quote contains."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "([{<") - (character in ")]}>")
            if character == "," and depth == 0:
                parts.append("")
                continue
        parts[-1] += character
    return [part.strip() for part in parts]
