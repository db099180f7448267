# SPDX-License-Identifier: Apache-2.0
"""What commands show beside their reports: on a terminal, and nowhere else."""

from __future__ import annotations

import contextlib
import io
import re
import threading
from pathlib import Path

import pytest

from cli.benching import TINY, parsed
from cli.copying import LIMIT
from ndverbs.cli import terminal
from ndverbs.cli.bench import command as bench
from ndverbs.cli.demo import comparison
from ndverbs.cli.filecopy import report

Captured = pytest.CaptureFixture[str]


class Terminal(io.StringIO):
    """A stream that says that it is a terminal; `written` is set by each write."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


def test_a_status_replaces_the_one_before_and_leaves_an_empty_line(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("COLUMNS", "10")
    stream = Terminal()

    with terminal.Status(stream) as status:
        status.say("first")
        status.say("0123456789")

    assert stream.getvalue().split(terminal.CLEAR) == ["", "first", "012345678", ""]


@pytest.mark.parametrize(
    ("stream", "is_quiet"), [(io.StringIO(), False), (Terminal(), True)], ids=["file", "quiet"]
)
def test_a_status_is_silent_elsewhere(stream: io.StringIO, is_quiet: bool):
    with terminal.Status(stream, is_quiet=is_quiet) as status:
        status.say("something")
    with terminal.waiting("something", stream, is_quiet=is_quiet):
        pass

    assert stream.getvalue() == ""


def test_a_wait_says_what_it_is_for_and_how_long_it_has_lasted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(terminal, "_PATIENCE", 0)
    monkeypatch.setattr(terminal, "_TICK", 0)
    clock = iter(range(1000))
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock, 1000))
    stream = Terminal()

    with report.ProgressBar(stream).waiting("connecting"):
        for _ in range(3):
            stream.written.clear()
            assert stream.written.wait(LIMIT)

    shown = stream.getvalue().split(terminal.CLEAR)
    assert shown[:3] == ["", "connecting, 1 s", "connecting, 2 s"]
    assert shown[-1] == ""


def test_a_short_wait_is_silent():
    stream = Terminal()

    with terminal.waiting("connecting", stream):
        pass

    assert stream.getvalue().replace(terminal.CLEAR, "") == ""


def test_bench_says_which_run_it_is(capsys: Captured):
    with contextlib.redirect_stderr(Terminal()) as screen:
        assert bench.run(parsed("write", "--lat", *TINY)) == 0

    assert re.findall(r"write latency 8 B, run (\d of \d)", screen.getvalue()) == [
        "1 of 2",
        "2 of 2",
    ]
    assert screen.getvalue().endswith(terminal.CLEAR)
    assert "write latency 8 B median" in capsys.readouterr().out


def test_the_demo_says_what_it_does(tmp_path: Path):
    path = tmp_path / "mine"
    path.write_bytes(b"some bytes")

    with contextlib.redirect_stderr(Terminal()) as screen:
        assert comparison.run(str(path), rounds=1, size=0) == 0

    shown = screen.getvalue().split(terminal.CLEAR)[1:-1]
    assert shown == [
        "plain TCP sockets, copy 1 of 2",
        "plain TCP sockets, copy 1 of 2: comparing",
        "RDMA (ndverbs cp), copy 1 of 2",
        "RDMA (ndverbs cp), copy 1 of 2: comparing",
        "RDMA (ndverbs cp), copy 2 of 2",
        "RDMA (ndverbs cp), copy 2 of 2: comparing",
        "plain TCP sockets, copy 2 of 2",
        "plain TCP sockets, copy 2 of 2: comparing",
    ]
