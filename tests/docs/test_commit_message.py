# SPDX-License-Identifier: Apache-2.0
""".ci/commit-msg: the hook takes the messages that CONTRIBUTING.md asks for, and no others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HOOK = Path(__file__).resolve().parent.parent.parent / ".ci" / "commit-msg"
BODY = "\n\nBecause it was wrong.\n"


@pytest.fixture
def stage(tmp_path):
    """Make a repository with one staged file; give what runs the hook there on a message."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        environment.pop(name, None)

    def git(*arguments):
        subprocess.run(["git", *arguments], cwd=tmp_path, env=environment, check=True)

    def run(message, staged="src/base/ring.hpp"):
        git("init", "--quiet")
        (tmp_path / staged).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / staged).write_text("text")
        git("add", staged)
        (tmp_path / "message").write_text(message)
        return subprocess.run(
            [sys.executable, HOOK, "message"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("message", "staged"),
    [
        ("soft: ask the link for its segment size" + BODY, "src/core/a.cpp"),
        ("docs, make: say what the lab needs" + BODY, "Makefile"),
        ("docs: mend a link", "docs/howto.md"),
        ("docs: mend a link\n# Please enter the commit message\n", "docs/howto.md"),
        ("fixup! soft: ask the link for its segment size", "src/core/a.cpp"),
        ("a" * 20 + ": " + "b" * 50 + BODY, "src/core/a.cpp"),
    ],
)
def test_a_good_message_is_taken(stage, message, staged):
    done = stage(message, staged)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("soft: " + "a" * 67 + BODY, "73 characters"),
        ("Ask the link" + BODY, "area: imperative summary"),
        ("soft: Ask the link" + BODY, "area: imperative summary"),
        ("soft: ask the link." + BODY, "area: imperative summary"),
        ("soft: ask the link; mend the test" + BODY, "two commits"),
        ("soft: wip" + BODY, "one finished thing"),
        ("soft: ask the link\nwith a second line" + BODY, "second line"),
        ("soft: ask the link", "no body"),
        ("soft: ask the link\n\n# only a comment\n", "no body"),
        ("", "area: imperative summary"),
    ],
)
def test_a_bad_message_is_refused_with_the_reason(stage, message, says):
    done = stage(message)

    assert done.returncode == 1
    assert says in done.stderr
    assert "CONTRIBUTING.md" in done.stderr


def test_git_can_run_it_as_a_hook():
    assert os.access(HOOK, os.X_OK)
    assert HOOK.name == "commit-msg"
