# SPDX-License-Identifier: Apache-2.0
"""What the tests of `ndverbs bench` share: calling the command, and its rows."""

import argparse
import json
import threading
from pathlib import Path

import pytest

from ndverbs.cli import _main
from ndverbs.cli.bench import command as bench

TINY = ["--iterations", "20", "--runs", "2"]
SCHEMA = ["name", "value", "unit", "ratio", "target", "spread", "command"]


def parsed(*arguments: str) -> argparse.Namespace:
    return _main.parser().parse_args(["bench", *arguments])


def rows_of(capsys: pytest.CaptureFixture[str], *arguments: str, lacks: str = "") -> list[dict]:
    """Run the command with --json and return its rows, checked for what all rows promise.

    Rivals whose names begin with `lacks` may be missing.
    """
    code = bench.run(parsed(*arguments, "--json"))
    out, err = capsys.readouterr()
    left_out = [line for line in err.splitlines() if not (lacks and f" with {lacks}" in line)]
    assert (code, left_out) == (0, [])
    said = json.loads(out)
    rows = said["rows"]
    assert set(said["transports"]) <= {row["name"] for row in rows}
    for row in rows:
        assert list(row) == SCHEMA
        # The kernel counts user time in ticks, and a few connections may take no new page.
        assert row["value"] > 0 or "CPU" in row["name"] or row["unit"] == "KiB"
        assert row["command"]
    return rows


@pytest.fixture(autouse=True)
def no_process_is_left():
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = children.read_text()
    yield
    assert children.read_text() == before
