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
