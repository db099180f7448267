# SPDX-License-Identifier: Apache-2.0
"""Files and headings that comments, docstrings, vectors and pages name exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = ("src", "tests", "python", "docs", "examples", "notebooks", ".ci")
AT_ROOT = ("*.md", "Makefile", "CMakeLists.txt", "pyproject.toml")
QUOTES = '"' * 3
WRITTEN_IN = ("md", "json", "hpp", "cpp", "py", "pyi", "sh")

NAME = re.compile(
    r"(?<![\w./*<-])((?:[\w-]+/|\.\.?/)*\.?[\w-]+\.(md|json|hpp|cpp|py|pyi))\b(?!::)(#[\w-]+)?"
)
HEADING = re.compile(r"\b([\w/-]+\.md),\s+\"([^\"]+)\"")


def files():
    """Return the project's own files; what builds and tools leave is not in these folders."""
    found = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if p.is_file()]
    found += [p for pattern in AT_ROOT for p in ROOT.glob(pattern)]
    return sorted(p for p in found if "__pycache__" not in p.parts and p.suffix != ".so")


FILES = files()
PATHS = {"/" + p.relative_to(ROOT).as_posix() for p in FILES}


def readable(path, text):
    """Return what a file says to people: all of a page, the comments of a program."""
    kind = path.suffix.removeprefix(".")
    if kind in ("hpp", "cpp"):
        return "\n".join(re.findall(r"//[^\n]*|/\*.*?\*/", text, re.DOTALL))
    if kind in ("py", "pyi"):
        return "\n".join(
            re.findall(rf"{QUOTES}.*?{QUOTES}|(?:^[ \t]*|  )#[^\n]*", text, re.S | re.M)
        )
    return re.sub(r"<!-- run: .* -->", "", text)  # the name that the reader gives it


def joined(text):
    """Return a text whose lines are joined as people read them."""
    return re.sub(r"\n[ \t]*(?://|#|>)?[ \t]*", " ", text)


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_there(path, name):
    """Tell whether a name is a file: from the root, from the folder, or the end of one path."""
    if (ROOT / name).is_file() or (path.parent / name).is_file():
        return True
    return any(known.endswith("/" + name.removeprefix("./")) for known in PATHS)


def missing(path, text):
    """Return what the text names and the project has not."""
    text = readable(path, text)
    found = []
    for name, kind, anchor in NAME.findall(text):
        if not is_there(path, name):
            found.append(name)
        elif kind == "md" and anchor:
            near = path.parent / name
            page = near if near.is_file() else ROOT / name
            if anchor[1:] not in anchors(page):
                found.append(name + anchor)
    for name, heading in HEADING.findall(joined(text)):
        page = ROOT / name if (ROOT / name).is_file() else path.parent / name
        if page.is_file() and heading not in re.findall(
            r"^#+ (.+)$", page.read_text(), re.MULTILINE
        ):
            found.append(f'{name}, "{heading}"')
    return found


def test_every_file_and_heading_that_is_named_exists():
    problems = []
    for path in FILES:
        if path.suffix.removeprefix(".") in WRITTEN_IN or path.parent in (ROOT, ROOT / ".ci"):
            names = missing(path, path.read_text())
            problems += [f"{path.relative_to(ROOT)}: {name}" for name in names]
    assert problems == []


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("src/a.cpp", "// see gone.md\nint x;\n", ["gone.md"]),
        ("src/a.cpp", 'auto x = "gone.md";\n', []),
        (
            "tests/a.py",
            f"{QUOTES}Of gone.py, conftest.py.{QUOTES}\n# nor/there.hpp",
            ["gone.py", "nor/there.hpp"],
        ),
        ("docs/a.md", "[x](design.md#rooms) [y](design.md#no-room)", ["design.md#no-room"]),
        (
            "src/a.hpp",
            '// docs/design.md, "Rooms"; docs/design.md,\n// "Nothing"\n',
            ['docs/design.md, "Nothing"'],
        ),
    ],
)
def test_what_is_not_there_is_found(file, text, expected):
    assert missing(ROOT / file, text) == expected
