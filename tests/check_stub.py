# SPDX-License-Identifier: Apache-2.0
"""Compare python/ndverbs/_native.pyi with the built extension; `make lint` runs it.

mypy's stubtest compares names. Signatures at run time are the stub's own, so what a function of
pybind11 takes is compared here, as pybind11 itself says it when a call is wrong; and so are pages.
"""

import ast
import inspect
import operator
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STUB = ROOT / "python" / "ndverbs" / "_native.pyi"

# Differences by nature: pybind11's metaclass and capsules, and the constructors of classes that
# have none, which say so when they are called.
ALLOWED = r"""
ndverbs\._native\.\w+
ndverbs\._native\.\w+\.__pybind11_native_enum__
ndverbs\._native\.(?!Segment|_Bench)\w+\.__init__
ndverbs\._native\.Result\.\w+
"""

Signature = list[tuple[str, object]]
NO_DEFAULT = object()
# By operators and by pickle, which name no parameter.
CALLED_BY_POSITION = {"__eq__", "__getstate__", "__setstate__"}
UNCOMPARED = object()


def stub_signatures() -> dict[str, Signature]:
    """Return the parameters of every function in the stub by qualified name."""
    found: dict[str, Signature] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                is_property = any(
                    isinstance(d, ast.Name) and d.id == "property" for d in node.decorator_list
                )
                if not is_property:
                    found[prefix + node.name] = parameters_of(node.args)

    visit(ast.parse(STUB.read_text()).body, "")
    return found


def parameters_of(arguments: ast.arguments) -> Signature:
    positional = arguments.posonlyargs + arguments.args
    defaults = [NO_DEFAULT] * (len(positional) - len(arguments.defaults))
    defaults += [value_of(node) for node in arguments.defaults]
    out = [(a.arg, default) for a, default in zip(positional, defaults, strict=True)]
    if arguments.posonlyargs:
        out.insert(len(arguments.posonlyargs), ("/", NO_DEFAULT))
    if arguments.kwonlyargs:
        out.append(("*", NO_DEFAULT))
    out += [
        (a.arg, NO_DEFAULT if node is None else value_of(node))
        for a, node in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return [entry for entry in out if entry[0] != "self"]


def value_of(node: ast.expr) -> object:
    try:
        value: object = ast.literal_eval(node)
    except ValueError:
        return UNCOMPARED
    return UNCOMPARED if value is ... else value


def stub_pages() -> dict[str, str]:
    """Return the page of every name in the stub that has one, by qualified name."""
    module = ast.parse(STUB.read_text())
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    found = {"": ast.get_docstring(module) or ""}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node, following in zip(body, [*body[1:], None], strict=True):
            page = None
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                name, page = node.name, ast.get_docstring(node)
            elif isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(following, ast.Expr):
                name = ast.unparse(
                    node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                )
                page = inspect.cleandoc(ast.literal_eval(following.value))
            if page is not None:
                found.setdefault(prefix + name, page)
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{node.name}.")
                for base in node.bases:
                    if isinstance(base, ast.Name) and base.id in classes:
                        visit(classes[base.id].body, f"{node.name}.")

    visit(module.body, "")
    return found


def native_signature(function: object) -> Signature | None:
    """Return what pybind11 says that a function of its takes; None for others."""
    from ndverbs import _calls

    texts = []

    def note(text: str, *_: object) -> Exception:
        texts.append(text)
        return TypeError(text)

    explain, _calls.explain = _calls.explain, note
    try:
        function(**{"no such parameter": None})  # type: ignore[operator]
    except TypeError:
        pass
    finally:
        _calls.explain = explain
    found = re.findall(r"^    \d\. [\w.]*\((.*)\)(?: -> .*)?$", "".join(texts), re.MULTILINE)
    if not found:
        return None
    out: Signature = []
    for part in split_at_commas(max(found, key=len)):  # the widest of overloads
        head, equals, default = part.partition(" = ")
        name = head.partition(":")[0].strip()
        if name in ("self", ""):
            continue
        out.append((name, default_of(default) if equals else NO_DEFAULT))
    return out


def default_of(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return UNCOMPARED


def split_at_commas(text: str) -> list[str]:
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def differences() -> list[str]:
    import numpy

    import ndverbs
    from ndverbs import _native

    problems = []
    for name, expected in stub_signatures().items():
        owner, _, function_name = name.rpartition(".")
        if function_name in CALLED_BY_POSITION:
            continue
        if owner.startswith("_") and not hasattr(_native, owner):
            continue  # a class that exists for type checkers only
        scope = getattr(_native, owner) if owner else _native
        is_constructor = function_name == "__init__"
        actual = native_signature(scope if is_constructor else getattr(scope, function_name, None))
        if actual is None:
            continue  # stubtest sees that there is nothing; test_arguments.py calls the hot ones
        same = len(actual) == len(expected) and all(
            a[0] == e[0] and (a[1] == e[1] or UNCOMPARED in (a[1], e[1]))
            for a, e in zip(actual, expected, strict=True)
        )
        if not same:
            problems.append(f"{name}: the stub has {expected}, {ndverbs.__name__} has {actual}")
    for name, page in stub_pages().items():
        try:
            shown = operator.attrgetter(name)(_native) if name else _native
        except AttributeError:
            continue  # for type checkers only; stubtest knows
        if not isinstance(shown, numpy.dtype | str) and shown.__doc__ != page:
            problems.append(f"{name}: the stub's page is {page!r}, help() has {shown.__doc__!r}")
    return problems


def main() -> int:
    """Return 0 when the stub says what the extension has."""
    problems = differences()
    for problem in problems:
        print(problem)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as allowed:
        allowed.write(ALLOWED)
        allowed.flush()
        command = [sys.executable, "-m", "mypy.stubtest", "ndverbs._native"]
        command += ["--mypy-config-file", str(ROOT / "pyproject.toml")]
        command += ["--allowlist", allowed.name, "--ignore-unused-allowlist", "--concise"]
        environment = {**os.environ, "MYPYPATH": str(ROOT / "python")}
        status = subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode
    return 1 if problems else status


if __name__ == "__main__":
    sys.exit(main())
