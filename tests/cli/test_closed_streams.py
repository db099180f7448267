# SPDX-License-Identifier: Apache-2.0
"""Commands whose standard streams are closed, full, or without a reader."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli.copying import LIMIT, Process, ServeProcess, content


def closed(redirections: str, *arguments: str) -> tuple[int, str, str]:
    """Run a command with the shell's redirections; returns exit code, output and errors."""
    done = subprocess.run(
        [
            "sh",
            "-c",
            f'exec "$@" {redirections}',
            "sh",
            sys.executable,
            "-m",
            "ndverbs",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "redirections",
    ["2>&-", ">&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"],
)
def test_a_copy_works_with_any_stream_closed(tmp_path: Path, redirections: str):
    source = tmp_path / "source"
    source.write_bytes(content(100_000))
    with ServeProcess(tmp_path / "served") as server:
        code, out, err = closed(redirections, "cp", str(source), f"{server.text}:target")

    assert (code, err) == (0, "")
    assert (tmp_path / "served" / "target").read_bytes() == content(100_000)
    assert ("100,000 bytes" in out) == (">&-" not in redirections.replace("2>&-", ""))


@pytest.mark.parametrize("redirections", ["2>&-", "<&- >&- 2>&-"])
def test_a_copy_that_fails_has_its_exit_code_with_streams_closed(tmp_path: Path, redirections: str):
    code, _, err = closed(redirections, "cp", str(tmp_path / "missing"), "127.0.0.1:1:x")

    assert (code, err) == (1, "")


@pytest.mark.parametrize("command", ["info", "doctor", "demo"])
def test_a_command_that_only_reports_says_that_nobody_can_read_it(command: str):
    code, _, err = closed(">&-", command)

    assert code == 1
    assert err.startswith("ndverbs: standard output is closed")
    assert err.count("\n") == 1


def test_a_full_disk_under_the_output_is_one_sentence():
    code, _, err = closed(">/dev/full", "info")

    assert code == 1
    assert "No space left on device" in err
    assert err.count("\n") == 1


def test_a_demo_works_without_standard_error():
    code, out, _ = closed("2>&-", "demo", "--size", "1", "--rounds", "1")

    assert code == 0
    assert "equals the source byte by byte" in out


def test_a_server_without_output_ends_in_order(tmp_path: Path):
    program = 'import os, runpy; os.close(1); runpy.run_module("ndverbs", run_name="__main__")'
    with Process("-c", program, "serve", "0.0.0.0:0") as server:
        assert "warning" in server.read_log()  # it listens beyond this machine
        server.send_signal(signal.SIGTERM)
        code, _, err = server.end()

    assert code == 0
    assert err.endswith(" stopped\n")
    assert err.count("\n") == 1
