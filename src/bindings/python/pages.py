# SPDX-License-Identifier: Apache-2.0
"""Turn the stub into the table of pages that the extension shows at run time; CMake runs it.

``python pages.py STUB OUTPUT`` writes one row for each name of the stub that has a page or a
signature: {name, signature, page}, sorted as in the stub. Classes of Python's that lend their
members (``_Object``) are spread over those that derive from them.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """What one name of the extension shows."""

    name: str  # "" is the module
    signature: str  # with self and without annotations; "" of what is no call
    page: str


def rows(stub: str) -> Iterator[Row]:
    """Yield what the text of a stub says, by qualified name."""
    module = ast.parse(stub)
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    yield Row("", "", ast.get_docstring(module) or "")
    for name, node, page in _members(module.body):
        if isinstance(node, ast.ClassDef):
            members = _all_members(node, classes)
            init = next((n for member, n, _ in members if member == "__init__"), None)
            yield Row(name, "" if init is None else _signature(init, is_class=True), page)
            for member, inner, inner_page in members:
                yield Row(f"{name}.{member}", _signature(inner), inner_page)
        else:
            yield Row(name, _signature(node), page)


def _all_members(
    node: ast.ClassDef, classes: dict[str, ast.ClassDef]
) -> list[tuple[str, ast.stmt, str]]:
    """Return the members of a class, those of its bases in the stub included."""
    own = list(_members(node.body))
    names = {name for name, _, _ in own}
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            inherited = _all_members(classes[base.id], classes)
            own += [member for member in inherited if member[0] not in names]
    return own


def _members(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt, str]]:
    """Yield (name, node, page) of what a body defines."""
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node, ast.get_docstring(node) or ""
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        page = following.value if isinstance(following, ast.Expr) else None
        if isinstance(targets[0], ast.Name) and isinstance(page, ast.Constant):
            yield targets[0].id, node, _cleaned(str(page.value))


def _cleaned(text: str) -> str:
    """Return the text of an attribute's page as inspect.cleandoc does, without its import."""
    lines = text.strip().splitlines()
    return "\n".join([lines[0], *(line.strip() for line in lines[1:])])


def _signature(node: ast.stmt, *, is_class: bool = False) -> str:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    decorators = [d.id for d in node.decorator_list if isinstance(d, ast.Name)]
    if "property" in decorators:
        return ""
    arguments = node.args
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
        argument.annotation = None
    has_self = bool(arguments.args or arguments.posonlyargs) and (
        [*arguments.posonlyargs, *arguments.args][0].arg == "self"
    )
    text = ast.unparse(arguments)
    if is_class:
        return f"({text.removeprefix('self').removeprefix(', ')})"
    # What is native takes itself by position only.
    if has_self and not arguments.posonlyargs:
        text = text.replace("self", "self, /", 1)
    return f"({text})"


def _literal(text: str) -> str:
    return f'R"page({text})page"'


def main() -> int:
    """Write the table."""
    stub, output = (Path(given) for given in sys.argv[1:])
    found = [row for row in rows(stub.read_text()) if row.page or row.signature]
    lines = [f"{{{', '.join(_literal(part) for part in row)}}},\n" for row in found]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(f"// Made of {stub.name}; edit that.\n" + "".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
