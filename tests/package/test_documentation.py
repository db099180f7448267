# SPDX-License-Identifier: Apache-2.0
"""Pages and signatures at run time are the stub's, and say what a caller needs."""

from __future__ import annotations

import ast
import inspect
import operator
import pydoc
import re

import numpy as np
import pytest

import check_stub
import ndverbs as nd
from ndverbs import _native

# Beyond these every call says what it raises.
NEVER_RAISE = {"close", "release", "done", "abandon", "resume", "withhold_receives"}


def is_public(name: str) -> bool:
    owner, _, member = name.partition(".")
    return hasattr(_native, owner) and owner in nd.__all__ and not member.startswith("_")


PAGES = {name: page for name, page in check_stub.stub_pages().items() if is_public(name)}


def parameters_of_stub() -> dict[str, ast.arguments]:
    """The parameters of every public function, by qualified name; of a class, its constructor's."""
    module = ast.parse(check_stub.STUB.read_text())
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    found: dict[str, ast.arguments] = {}

    def visit(body: list[ast.stmt], owner: str) -> None:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if "property" in [d.id for d in node.decorator_list if isinstance(d, ast.Name)]:
                continue
            is_constructor = node.name == "__init__"
            found.setdefault(
                owner if is_constructor else f"{owner}.{node.name}".lstrip("."), node.args
            )

    visit(module.body, "")
    for name, cls in classes.items():
        visit(cls.body, name)
        if "_Object" in [base.id for base in cls.bases if isinstance(base, ast.Name)]:
            visit(classes["_Object"].body, name)
    return {name: arguments for name, arguments in found.items() if is_public(name)}


CALLS = parameters_of_stub()


def shown(name: str) -> object:
    return operator.attrgetter(name)(nd)


def names_of(arguments: ast.arguments) -> list[str]:
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return [a.arg for a in every if a.arg != "self"]


def section(page: str, title: str) -> str:
    """The text of a section of a NumPy page; empty when there is none."""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=\n\n\w+\n-+\n|\Z)", page, re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def test_every_public_name_of_the_extension_has_a_page():
    every = {
        f"{owner}.{member}" if member else owner
        for owner in nd.__all__
        if hasattr(_native, owner) and isinstance(getattr(_native, owner), type)
        for member in ["", *vars(getattr(_native, owner))]
        if not member.startswith("_")
    }

    enums = {"Status", "Flag", "OperationType", "Access", "Notify"}  # members by their names
    assert {n for n in every - PAGES.keys() if n.partition(".")[0] not in enums} <= {
        "Result.n_fields",
        "Result.n_sequence_fields",
        "Result.n_unnamed_fields",
        "Result.count",
        "Result.index",
    }


def test_help_shows_the_page_of_the_stub():
    pages = {n: p for n, p in PAGES.items() if not isinstance(shown(n), np.dtype)}

    assert {name: shown(name).__doc__ for name in pages} == pages
    assert _native.__doc__ == check_stub.stub_pages()[""]
    assert "Parameters" in pydoc.plain(pydoc.render_doc(nd.QueuePair.write))


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_signature_is_the_stubs(name: str):
    arguments = CALLS[name]

    signature = inspect.signature(shown(name))

    parameters = [p for p in signature.parameters.values() if p.name != "self"]
    assert [p.name for p in parameters] == names_of(arguments)
    by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert by_name == [a.arg for a in arguments.kwonlyargs]
    given = [d for d in [*arguments.defaults, *arguments.kw_defaults] if d is not None]
    defaults = [p.default for p in parameters if p.default is not p.empty]
    assert defaults == [eval(ast.unparse(d), vars(_native)) for d in given]


def test_a_bound_method_shows_no_self():
    with nd.Adapter.open("soft") as adapter:
        queue = adapter.create_cq(4)

        assert (
            str(inspect.signature(adapter.create_cq)) == "(depth, *, affinity=None, on_notify=None)"
        )
        assert str(inspect.signature(queue.poll)) == "(limit=32)"
        assert list(inspect.signature(queue.wait_async).parameters) == ["timeout"]


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_page_tells_parameters_and_errors(name: str):
    page, parameters = PAGES[name], names_of(CALLS[name])

    told = re.findall(r"^(\w[\w, ]*?)(?: :.*)?$", section(page, "Parameters"), re.MULTILINE)
    assert sorted(n for line in told for n in line.split(", ")) == sorted(parameters)
    is_class = "." not in name and name != "adapters"
    can_raise = name == "Adapter.close" or name.rpartition(".")[2] not in NEVER_RAISE
    if can_raise and not is_class and name != "adapters":
        assert section(page, "Raises")


def test_what_python_adds_has_pages_and_signatures():
    for name in nd.__all__:
        value = getattr(nd, name)
        if not callable(value) or hasattr(_native, name):
            continue
        assert value.__doc__, name
        is_exception = isinstance(value, type) and issubclass(value, Exception)
        if not is_exception:  # those of Python's have no signature either
            inspect.signature(value)
