# SPDX-License-Identifier: Apache-2.0
"""What commands show beside their reports: on a terminal, and nowhere else."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cli.benching import TINY, parsed
from cli.copying import LIMIT
from ndverbs.cli import terminal
from ndverbs.cli.bench import command as bench
from ndverbs.cli.bench import rows
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


# ---- with and without the library rich ----------------------------------------------------------

ESCAPE = "\x1b["


@pytest.fixture
def colour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the environment be that of a terminal with colours."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")


@pytest.mark.parametrize("hidden", [False, True], ids=["with-rich", "without-rich"])
@pytest.mark.usefixtures("colour")
def test_a_terminal_has_colour_where_the_library_is(hidden: bool):
    hide = "sys.modules['rich'] = None; " * hidden
    program = f"import sys; {hide}from ndverbs.cli import main; sys.exit(main(['doctor', 'soft']))"
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, stdout=theirs
    ) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # EIO: the other end has been closed
            while block := os.read(ours, 65536):
                said += block
    os.close(ours)

    assert process.returncode == 0
    assert b"soft: TCP on the loopback address: works" in said
    assert (ESCAPE.encode() in said) is not hidden
    assert said.startswith(b"ok" if hidden else b"\x1b[32mok")


@pytest.mark.usefixtures("colour")
@pytest.mark.parametrize(
    ("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")], ids=["NO_COLOR", "dumb"]
)
def test_a_terminal_that_wants_no_colour_has_none(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    assert terminal.console(Terminal()) is not None
    monkeypatch.setenv(name, value)
    assert terminal.console(Terminal()) is None


@pytest.mark.usefixtures("colour")
def test_what_is_no_terminal_has_no_colour():
    with contextlib.redirect_stdout(io.StringIO()) as out:
        terminal.show(("ok", "green"), "  fine")

    assert terminal.console(io.StringIO()) is None
    assert out.getvalue() == "ok  fine\n"


@pytest.mark.usefixtures("colour")
def test_the_bar_of_the_library_shows_bytes_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: clock[0])
    stream = Terminal()

    with report.ProgressBar(stream) as bar:
        for _ in range(2):
            bar.begin(100_000_000)
            clock[0] += 1.0
            bar.show(50_000_000)
            bar.clear()  # for a line of text; then it goes on
            shown = len(stream.getvalue())

    text = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", stream.getvalue())
    assert "50.0/100.0 MB" in text
    assert "150.0/200.0 MB" in text
    assert len(stream.getvalue()) == shown  # cleared once


@pytest.mark.usefixtures("colour")
def test_the_table_of_bench_has_the_same_cells_in_colour():
    made = [
        rows.Row("write", 2.0, "us", target=3.0, command="ndverbs bench write"),
        rows.Row("write / UCX", 1.0, "us", ratio=0.5, target=1.0, command="ndverbs bench write"),
    ]
    stream = Terminal()
    console = terminal.console(stream)
    assert console is not None

    rows.print_table(made, console)

    drawn = stream.getvalue()
    text = re.sub(r"\x1b\[[\d;]*m", "", drawn)
    assert text.split() == rows.format_table(made).split()
    assert "\x1b[32mwrite" in drawn
    assert "\x1b[31mwrite / UCX" in drawn
