# SPDX-License-Identifier: Apache-2.0
"""The room table of docs/design.md as a test: who may include or import whom, and file habits.

Reads the text of the sources only, so it needs neither a build nor the package.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
PACKAGE = ROOT / "python" / "ndverbs"
PLUGIN = ROOT / "python" / "pytest_ndverbs"

# Room -> rooms it may include, itself apart. Bindings use base for statuses and Expected, which
# they convert; builtin names the providers, which is what it is for.
USES = {
    "base": set(),
    "iwarp": {"base"},
    "core": {"base"},
    "direct": {"iwarp", "base"},
    "providers/soft": {"core", "direct", "iwarp", "base"},
    "providers/verbs": {"core", "base"},
    "providers/builtin": {"core", "base", "providers/soft", "providers/verbs"},
    "stream": {"core", "base"},
    "bench": {"stream", "core", "base"},
    "bindings": {"core", "stream", "bench", "providers/builtin", "base"},
}
PROVIDER_NAMES = {"soft", "verbs"}
PROVIDER_NEUTRAL_ROOMS = ("core", "stream", "bench", "bindings")
FORBIDDEN_FOLDERS = {"utils", "util", "common", "helpers", "helper", "misc"}
# About 500 is the habit; beyond this the file has to be divided.
MAX_LINES = 550
SPDX = "SPDX-License-Identifier: Apache-2.0"

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)


def files_below(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files with one of the suffixes, sorted, caches apart."""
    found = (p for suffix in suffixes for p in folder.rglob(f"*{suffix}"))
    return sorted(p for p in found if p.is_file() and "__pycache__" not in p.parts)


def cpp_files() -> list[Path]:
    return files_below(SRC, ".hpp", ".cpp")


def python_files() -> list[Path]:
    return files_below(PACKAGE, ".py") + files_below(PLUGIN, ".py")


def room_of(path: str) -> str | None:
    """Return the room that a path relative to src/ lies in; None for a path in no room."""
    return next((room for room in USES if path.startswith(room + "/")), None)


def includes(text: str) -> list[tuple[bool, str]]:
    """Return (is_system, path) of every include line, commented-out lines apart."""
    return [(bracket == "<", path) for bracket, path in INCLUDE.findall(COMMENT.sub("", text))]


def forbidden_includes(path: str, text: str) -> list[str]:
    """Return what a source at `path`, relative to src/, includes and may not."""
    room = room_of(path)
    if room is None:
        return [f"{path}: lies in no room"]
    problems = []
    for is_system, included in includes(text):
        if is_system:
            if included.startswith(("infiniband/", "rdma/")):
                problems.append(f"{path}: <{included}> is declared in providers/verbs/abi")
            if included.startswith("pybind11/") and room != "bindings":
                problems.append(f"{path}: <{included}> belongs to bindings")
            if included == "Python.h" and room != "bindings":
                problems.append(f"{path}: <{included}> belongs to bindings")
            continue
        other = room_of(included)
        if other is None:
            problems.append(f'{path}: "{included}" is not "<room>/<file>"')
        elif other != room and other not in USES[room]:
            problems.append(f'{path}: {room} may not use "{included}"')
    return problems


def imported_modules(text: str) -> Iterator[str]:
    """Yield every imported module by its dotted name, relative ones below `ndverbs`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            base = "ndverbs" if node.level else ""
            prefix = ".".join(part for part in (base, module) if part)
            yield prefix
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def forbidden_imports(path: str, text: str) -> list[str]:
    """Return what a module at `path`, relative to python/, imports and may not."""
    allowed = {*sys.stdlib_module_names, "numpy", "ndverbs"}
    if path.startswith(f"{PLUGIN.name}/"):
        allowed |= {"pytest", PLUGIN.name}
    if path.startswith("ndverbs/cli/"):
        allowed |= {"rich"}  # where ndverbs[cli] has brought it; tests hide it
    if path.startswith("ndverbs/mpi/"):
        allowed |= {"mpi4py"}  # which the program brings
    if path.startswith("ndverbs/dask/"):
        allowed |= {"dask", "distributed"}  # where ndverbs[dask] has brought them
    problems = []
    for name in imported_modules(text):
        if name.split(".")[0] not in allowed:
            problems.append(f"{path}: imports {name}; the package needs NumPy only")
        if name.startswith("ndverbs._testing"):
            problems.append(f"{path}: imports {name}, which exists in test builds only")
    return problems


def test_a_room_includes_only_the_rooms_that_the_table_allows():
    problems = []
    for file in cpp_files():
        problems += forbidden_includes(file.relative_to(SRC).as_posix(), file.read_text())
    assert problems == []


def test_the_package_imports_only_the_standard_library_numpy_and_itself():
    problems = []
    for file in python_files():
        problems += forbidden_imports(
            file.relative_to(ROOT / "python").as_posix(), file.read_text()
        )
    assert problems == []


def test_a_forbidden_include_is_found():
    text = '#include "iwarp/mpa.hpp"\n#include <infiniband/verbs.h>\n// #include "bench/plan.hpp"\n'
    assert forbidden_includes("core/adapter.cpp", text) == [
        'core/adapter.cpp: core may not use "iwarp/mpa.hpp"',
        "core/adapter.cpp: <infiniband/verbs.h> is declared in providers/verbs/abi",
    ]


def test_a_forbidden_import_is_found():
    text = "import os\nimport scipy.stats\nfrom . import _native, _testing\n"
    assert forbidden_imports("bench.py", text) == [
        "bench.py: imports scipy.stats; the package needs NumPy only",
        "bench.py: imports ndverbs._testing, which exists in test builds only",
    ]


# Room of the package -> rooms that it may import. The library is the ground, socket and wsk.
PACKAGE_USES = {
    "": set(),
    "socket": {""},
    "wsk": {"", "socket"},
    "cli": {"", "socket", "cli"},
    "mpi": {""},
    "dask": {""},
}
# Modules of the ground that are doors to rooms.
DOORS = {"ndverbs": {"socket", "wsk"}, "ndverbs.socket_options": {"socket"}}
DOORS["ndverbs.__main__"] = {"cli"}


def package_modules() -> dict[str, str]:
    """Return the text of every module of the package by its dotted name."""
    modules = {"ndverbs._native": ""}  # the extension, which imports none when it is imported
    for file in files_below(PACKAGE, ".py"):
        parts = ["ndverbs", *file.relative_to(PACKAGE).with_suffix("").parts]
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file.read_text()
    return modules


def package_room(module: str) -> str:
    """Return the room of a module: its first folder, "" on the ground."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in PACKAGE_USES else ""


def statements_of_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield what runs when a module is imported, bodies of functions and typing's apart."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_typing:
                continue
            if isinstance(node, ast.stmt):
                yield node
            waiting.append(node)


def needed_modules(text: str, modules: dict[str, str]) -> set[str]:
    """Return the modules of the package whose import a module's own import waits for."""
    needed = set()
    for node in statements_of_import(ast.parse(text)):
        if isinstance(node, ast.Import):
            needed |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                needed.add(name if name in modules else node.module or "")
    return needed & modules.keys()


def circle(modules: dict[str, str]) -> list[str]:
    """Return modules that import one another in a circle; none when there is no circle."""
    graph = {name: needed_modules(text, modules) for name, text in modules.items()}
    while leaves := [name for name, needed in graph.items() if not needed]:
        for leaf in leaves:
            del graph[leaf]
        for needed in graph.values():
            needed.difference_update(leaves)
    return sorted(graph)


def forbidden_rooms(module: str, text: str) -> list[str]:
    """Return what a module imports, now or later, from rooms that it may not know."""
    room = package_room(module)
    allowed = {room} | PACKAGE_USES[room] | DOORS.get(module, set())
    return [
        f"{module}: imports {name}"
        for name in imported_modules(text)
        if name.split(".")[0] == "ndverbs" and package_room(name) not in allowed
    ]


def test_no_modules_of_the_package_import_one_another_in_a_circle():
    assert circle(package_modules()) == []


def test_a_circle_is_found_wherever_a_module_imports_as_it_is_imported():
    modules = {
        "ndverbs.a": "from ndverbs import b\ntry:\n import ndverbs.c\nfinally: pass",
        "ndverbs.b": "def later():\n from ndverbs import a",
        "ndverbs.c": "from ndverbs.a import something",
    }
    assert circle(modules) == ["ndverbs.a", "ndverbs.c"]
    modules["ndverbs.c"] = "if TYPE_CHECKING:\n from ndverbs.a import something"
    assert circle(modules) == []


def test_the_library_imports_no_program_and_a_room_only_those_below_it():
    problems = []
    for module, text in package_modules().items():
        problems += forbidden_rooms(module, text)
    assert problems == []


def test_a_forbidden_room_is_found():
    text = "def later():\n from ndverbs.cli.failure import complain\n from ndverbs import wsk\n"
    assert forbidden_rooms("ndverbs.socket._socket", text) == [
        "ndverbs.socket._socket: imports ndverbs.cli.failure",
        "ndverbs.socket._socket: imports ndverbs.cli.failure.complain",
        "ndverbs.socket._socket: imports ndverbs.wsk",
    ]


def test_no_provider_is_named_above_the_providers():
    names = re.compile(rf"(?<![A-Za-z])({'|'.join(sorted(PROVIDER_NAMES))})(?![A-Za-z])")
    problems = []
    for room in PROVIDER_NEUTRAL_ROOMS:
        for file in files_below(SRC / room, ".hpp", ".cpp"):
            # Comments may explain by example; code may not depend. Newlines stay for the count.
            code = COMMENT.sub(lambda found: "\n" * found[0].count("\n"), file.read_text())
            for number, line in enumerate(code.splitlines(), 1):
                if names.search(line):
                    problems.append(f"{file.relative_to(ROOT)}:{number}: {line.strip()}")
    for file in python_files():
        for number, text in words_of_code(file.read_text()):
            if names.search(text):
                problems.append(f"{file.relative_to(ROOT)}:{number}: {text}")
    assert problems == []


def words_of_code(text: str) -> Iterator[tuple[int, str]]:
    """Yield names and strings of a module with their lines, documentation apart."""
    tree = ast.parse(text)
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node.lineno, node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.Constant) and id(node) not in documents:
            yield node.lineno, str(node.value)


def test_words_of_code_are_names_and_strings_but_not_documentation():
    text = '"""a"""\ndef f(x):\n    """b"""\n    return f"c{x.d}"  # e\n'
    assert list(words_of_code(text)) == [(4, "c"), (4, "d"), (4, "x")]


def test_every_provider_folder_is_known_to_this_test():
    folders = {p.name for p in (SRC / "providers").iterdir() if p.is_dir()}
    assert folders <= PROVIDER_NAMES | {"builtin"}


def switches(text: str) -> Iterator[str]:
    """Yield the body of every switch, those inside another one's body included."""
    for begin in re.finditer(r"\bswitch \(", text):
        at = text.index("{", begin.end())
        end, depth = at + 1, 1
        while depth > 0:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        yield text[at:end]


def test_a_switch_over_an_enum_of_rdma_core_bears_values_that_came_later():
    bodies = [
        (file, body) for file in cpp_files() for body in switches(COMMENT.sub("", file.read_text()))
    ]
    foreign = [(f, b) for f, b in bodies if re.search(r"\bcase (IBV|RDMA_CM)_", b)]
    assert len(foreign) >= 3  # completions, events of devices, events of connections
    assert [str(f.relative_to(ROOT)) for f, b in foreign if "default:" not in b] == []


def test_tests_that_run_in_the_lab_use_no_helpers_that_are_not_there():
    there = {"conformance", "double", "stream", "lab"}
    elsewhere = {p.stem for p in (ROOT / "tests").iterdir()} - there - {"conftest"}
    found = []
    for folder in there:
        for file in files_below(ROOT / "tests" / folder, ".py"):
            modules = {
                name.split(".")[0]
                for node in ast.walk(ast.parse(file.read_text()))
                for name in imported_names(node)
            }
            found += [f"{file.relative_to(ROOT)}: {name}" for name in modules & elsewhere]
    assert found == []


def decides_by(node: ast.AST) -> list[ast.expr]:
    """Return what a comparison, a pattern, a test of a beginning or a table's key decides by."""
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    if isinstance(node, ast.MatchValue):
        return [node.value]
    if isinstance(node, ast.Dict):
        return [key for key in node.keys if key is not None]
    is_method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return node.args if is_method and node.func.attr in ("startswith", "endswith") else []


def decisions_by_provider(text: str) -> list[str]:
    """Return each provider or device by whose name a test decides, with its line."""
    names = re.compile(rf"({'|'.join(sorted(PROVIDER_NAMES))}|siw\d*|rxe\d*)(:.*)?")
    return [
        f"{part.lineno}: {part.value}"
        for node in ast.walk(ast.parse(text))
        for expression in decides_by(node)
        for part in ast.walk(expression)
        if isinstance(part, ast.Constant) and names.fullmatch(str(part.value))
    ]


def test_no_suite_decides_by_the_name_of_a_provider():
    suites = [ROOT / "tests" / name for name in ("conformance", "stream", "hostile")]
    found = [
        f"{file.relative_to(ROOT)}:{problem}"
        for suite in suites
        for file in files_below(suite, ".py")
        for problem in decisions_by_provider(file.read_text())
    ]
    assert found == []  # what differs by design is a column of tests/conformance/deviations.py


def test_a_decision_by_the_name_of_a_provider_is_found():
    text = (
        'if end.adapter.info.provider == "soft":\n    pass\n'
        'elif name in ("verbs:siw0", "mlx5"):\n    pass\n'
        'elif name.startswith("rxe"):\n    status = {"verbs": 1}[kind]\n'
        'nd.Adapter.open("soft")\n'
    )
    assert decisions_by_provider(text) == ["1: soft", "3: verbs:siw0", "5: rxe", "6: verbs"]


def imported_names(node: ast.AST) -> list[str]:
    """Return the modules that an import statement names; none for other nodes."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [node.module or ""]
    return []


def test_no_file_outgrows_its_limit():
    problems = []
    for file in cpp_files() + python_files():
        lines = len(file.read_text().splitlines())
        if lines > MAX_LINES:
            problems.append(f"{file.relative_to(ROOT)}: {lines} lines")
    assert problems == []


def test_no_folder_is_a_place_for_leftovers():
    roots = [SRC, ROOT / "python", ROOT / "tests"]
    folders = [p for root in roots for p in root.rglob("*") if p.is_dir()]
    assert [p for p in folders if p.name in FORBIDDEN_FOLDERS] == []


def test_every_source_begins_with_the_licence_line():
    files = cpp_files() + files_below(ROOT / "python", ".py", ".pyi")
    files += files_below(ROOT / "tests", ".py", ".hpp", ".cpp", ".sh")
    files += files_below(ROOT / "examples", ".py")
    files += [ROOT / name for name in ("CMakeLists.txt", "Makefile", "pyproject.toml")]
    files += files_below(ROOT / ".ci", "")
    problems = []
    for file in files:
        first, second, *_ = [*file.read_text().splitlines()[:2], "", ""]
        if SPDX not in (second if first.startswith("#!") else first):
            problems.append(str(file.relative_to(ROOT)))
    assert problems == []
