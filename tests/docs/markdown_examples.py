# SPDX-License-Identifier: Apache-2.0
"""Code in the pages of the root and of docs/: what is to be run, and what it says that it prints.

A fenced block of Python behind ``<!-- run -->`` continues the page's program; behind
``<!-- run: NAME -->`` it is a program of its own. Where a printing line ends in a comment, the
comment is the beginning of the line that it prints; ``...`` stands for anything.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} - {README})]
PAGE_PROGRAM = ""
RUN_LIMIT_S = 100

_BLOCK = re.compile(
    r"^(?:<!-- run(?:: (?P<name>[\w.]+))? -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_PRINTS = re.compile(r"print\(.*\)  # (.*)$", re.MULTILINE)


@dataclass
class Block:
    language: str
    code: str
    # PAGE_PROGRAM, the name of a program of its own, or None: not to be run.
    program: str | None


def blocks(page: Path) -> list[Block]:
    found = []
    for match in _BLOCK.finditer(page.read_text()):
        is_marked = match[0].startswith("<!--")
        program = (match["name"] or PAGE_PROGRAM) if is_marked else None
        found.append(Block(match["language"], match["code"], program))
    return found


def programs(page: Path) -> dict[str, str]:
    """Return the programs of a page by name, each as one text."""
    texts: dict[str, str] = {}
    for block in blocks(page):
        if block.program is not None:
            texts[block.program] = texts.get(block.program, "") + block.code
    return texts


def run(folder: Path, program: str) -> str:
    """Run a program as a file, in `folder`, and return what it printed."""
    file = folder / "example.py"
    file.write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", file.name],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clean_environment() -> dict[str, str]:
    """Return the environment of a reader, who has not chosen an adapter."""
    return {name: value for name, value in os.environ.items() if name != "NDVERBS_ADAPTER"}


def assert_prints(program: str, output: str) -> None:
    """Check, in order, the lines that the comments of a program announce."""
    lines = iter(output.splitlines())
    for said in _PRINTS.findall(program):
        pattern = re.compile(re.escape(said).replace(re.escape("..."), ".*"))
        assert any(pattern.match(line) for line in lines), f"not printed: {said}\n{output}"


def ndverbs(*arguments: str) -> list[str]:
    """Return the command line of this interpreter's `ndverbs`."""
    return [sys.executable, "-m", "ndverbs", *arguments]


@contextmanager
def served(folder: Path, words: list[str]) -> Iterator[str]:
    """Run a `serve` of a page in `folder`, at a port that is free, and give the port."""
    server = subprocess.Popen(
        ndverbs(*(word.replace("127.0.0.1:7471", "127.0.0.1:0") for word in words)),
        cwd=folder,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        found = re.search(r"127\.0\.0\.1:(\d+)", server.stdout.readline())
        assert found, "the server ended before it said where it listens"
        yield found[1]
    finally:
        server.terminate()
        server.communicate(timeout=RUN_LIMIT_S)


def copy(folder: Path, words: list[str], port: str) -> None:
    """Run a `cp` of a page in `folder`, from or to that port."""
    done = subprocess.run(
        ndverbs(*(word.replace("127.0.0.1:7471:", f"127.0.0.1:{port}:") for word in words)),
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=RUN_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
