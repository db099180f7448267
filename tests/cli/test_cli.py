# SPDX-License-Identifier: Apache-2.0
"""The command line: usage, exit codes, sentences instead of tracebacks, and what `info` knows."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cli.copying import ServeProcess, ndverbs
from ndverbs import cli
from ndverbs.cli._main import parser
from ndverbs.cli.filecopy import cp, report
from ndverbs.cli.filecopy.protocol import Reason

Captured = pytest.CaptureFixture[str]


def run(*arguments: str) -> int:
    return cli.main(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("cp",),
        ("cp", "only-a-source"),
        ("serve", "a", "b", "c"),
        ("cp", "--unknown", "a", "b"),
        ("cp", "--timeout", "-1", "a", "b"),
        ("cp", "--timeout", "nan", "a", "b"),
        ("serve", "--connections", "0"),
        ("demo", "--rounds", "x"),
        ("cp", "--forc", "a", "b"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_with_2(arguments: tuple[str, ...], capsys: Captured):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)

    assert caught.value.code == 2
    assert "usage: ndverbs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["info", "serve", "cp", "demo", "ping", "bench", "capture", "decode"]
)
def test_every_command_has_help(command: str, capsys: Captured):
    with pytest.raises(SystemExit) as caught:
        run(command, "--help")

    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: ndverbs {command}")


def test_the_reference_has_the_exit_codes_of_every_command():
    page = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
    table = page.partition("## Command line")[2].partition("\n## ")[0]
    known = next(iter(parser()._subparsers._group_actions)).choices

    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(known)
    for name, command in known.items():
        (row,) = re.findall(rf"^\| `{name}` \|.*\| (.*) \|$", table, re.MULTILINE)
        assert row.startswith("\u2013") != ("--json" in command.format_usage())


def test_the_version_is_told(capsys: Captured):
    with pytest.raises(SystemExit) as caught:
        run("--version")

    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("ndverbs 0.")


def test_nothing_of_a_command_is_imported_before_it_is_called():
    script = (
        "import sys; import ndverbs; before = set(sys.modules); from ndverbs import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    loaded = done.stdout.splitlines()[-1].split()
    assert {name.removeprefix("ndverbs.cli.") for name in loaded if "ndverbs" in name} == {
        "ndverbs.cli",
        "_arguments",
        "_main",
        "bench",
        "bench.command",
        "capture",
        "capture.command",
        "completion",
        "decode",
        "demo",
        "demo.command",
        "doctor",
        "failure",
        "filecopy",
        "filecopy.cp",
        "filecopy.serve",
        "info",
        "ping",
        "ping.command",
    }
    assert {"dataclasses", "socket", "subprocess", "tempfile"}.isdisjoint(loaded)


def test_info_names_the_soft_adapter_and_its_limits(capsys: Captured):
    assert run("info") == 0

    out = capsys.readouterr().out
    assert "adapter soft" in out
    assert "max_transfer_length" in out
    assert f"NumPy {np.__version__}" in out


def test_info_says_why_a_device_is_missing(capsys: Captured):
    run("info")

    out = capsys.readouterr().out
    assert ("adapter verbs:" in out) != ("\nverbs: " in out)


def test_info_as_json_holds_the_same(capsys: Captured):
    assert run("info", "--json") == 0

    facts = json.loads(capsys.readouterr().out)
    (soft,) = [adapter for adapter in facts["adapters"] if adapter["name"] == "soft"]
    assert soft["provider"] == "soft"
    assert soft["max_initiator_queue_depth"] > 0
    assert facts["numpy"] == np.__version__
    assert bool(facts["missing"]) != any(a["provider"] == "verbs" for a in facts["adapters"])


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("nothing", "is no target"),
        ("host:1", "is no target"),
        ("host:port:x", "the port 'port' is not a number"),
        ("host:70000:x", "the port 70000 is not in 0 to 65535"),
        (":1:x", "the host is missing"),
        ("::1:7471:x", "is not an address"),
        ("[::1]:x", "is no target"),
        ("[::1:7471:x", "an IPv6 host is written"),
        ("127.0.0.1:7471:", "names no file"),
    ],
)
def test_a_target_of_another_form_is_told(tmp_path: Path, target: str, why: str, capsys: Captured):
    (tmp_path / "source").touch()

    assert run("cp", str(tmp_path / "source"), target) == 1

    err = capsys.readouterr().err
    assert why in err
    assert "HOST:PORT:DST" in err
    assert err.count("\n") == 1


def test_a_target_may_hold_colons_in_its_name():
    assert cp.split_target("host:1:a:b:c") == (("host", 1), "a:b:c")
    assert cp.split_target("[fe80::1%eth0]:1:x]:y") == (("fe80::1%eth0", 1), "x]:y")


def test_every_failure_has_a_remedy():
    assert set(report.REMEDIES) == set(Reason)


@pytest.mark.parametrize("make", ["directory", "missing"])
def test_a_bad_source_is_one_sentence_with_1(tmp_path: Path, make: str, capsys: Captured):
    path = tmp_path / "source"
    if make == "directory":
        path.mkdir()

    assert run("cp", str(path), "127.0.0.1:1:x") == 1

    err = capsys.readouterr().err
    assert err.startswith(f"ndverbs: '{path}'")
    assert "check the source file" in err
    assert err.count("\n") == 1


def test_a_server_that_is_not_there_is_one_sentence_with_1(tmp_path: Path, capsys: Captured):
    (tmp_path / "source").touch()

    assert run("cp", str(tmp_path / "source"), "127.0.0.1:1:x") == 1

    err = capsys.readouterr().err
    assert "no connection to the server at 127.0.0.1:1" in err
    assert "see that `ndverbs serve` runs there" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (
            ("127.0.0.1:0", "/nonexistent"),
            "'/nonexistent' cannot be served: No such file or directory",
        ),
        (("127.0.0.1:0", "/dev/null"), "'/dev/null' cannot be served: Not a directory"),
        (("192.0.2.1:0", "."), "listen on 192.0.2.1:0"),
        (("nonsense", "."), "is not an address"),
    ],
    ids=["missing", "device", "foreign", "form"],
)
def test_what_cannot_be_served_is_one_sentence_with_1(
    arguments: tuple[str, str], why: str, capsys: Captured
):
    assert run("serve", *arguments) == 1

    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("ndverbs: ")
    assert why in err


def test_an_unknown_adapter_is_one_sentence_with_1(tmp_path: Path, capsys: Captured):
    (tmp_path / "source").touch()

    assert run("cp", "--adapter", "nonsense", str(tmp_path / "source"), "127.0.0.1:1:x") == 1

    assert "nonsense" in capsys.readouterr().err


def test_serving_beyond_this_machine_is_warned_about(tmp_path: Path):
    with ServeProcess(tmp_path / "served", address="0.0.0.0:0") as server:
        warning = server.read_log()

    assert " warning: 0.0.0.0 is reachable from other machines" in warning
    assert "neither encryption nor authentication" in warning


def test_a_copy_says_what_it_did(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
    with (
        ServeProcess(tmp_path / "served") as server,
        ndverbs("cp", str(tmp_path / "a.npy"), f"{server.text}:a.npy") as client,
    ):
        code, out, err = client.end()

    assert (code, err) == (0, "")
    assert "(array of float32, shape (2, 3), C order)" in out
    assert " 152 bytes in " in out
    assert np.load(tmp_path / "served" / "a.npy").shape == (2, 3)


def test_a_quiet_copy_says_nothing(tmp_path: Path):
    (tmp_path / "source").write_bytes(b"x")
    with (
        ServeProcess(tmp_path / "served") as server,
        ndverbs("cp", "--quiet", "--sync", str(tmp_path / "source"), f"{server.text}:x") as client,
    ):
        assert client.end() == (0, "", "")


def test_a_broken_npy_file_is_refused_before_anything_is_sent(tmp_path: Path, capsys: Captured):
    (tmp_path / "a.npy").write_bytes(b"no array")

    assert run("cp", str(tmp_path / "a.npy"), "127.0.0.1:1:x") == 1

    assert "is not a sound .npy file" in capsys.readouterr().err


def test_a_target_that_exists_is_told_with_its_remedy(tmp_path: Path, capsys: Captured):
    (tmp_path / "source").write_bytes(b"new")
    with ServeProcess(tmp_path / "served") as server:
        (tmp_path / "served" / "x").write_bytes(b"old")
        arguments = "cp", str(tmp_path / "source"), f"{server.text}:x"

        assert run(*arguments) == 1
        assert "'x' exists already; choose another name, or replace it with --force" in (
            capsys.readouterr().err
        )
        assert run(*arguments, "--force") == 0

    assert (tmp_path / "served" / "x").read_bytes() == b"new"


def test_ctrl_c_while_connecting_ends_with_130(tmp_path: Path):
    (tmp_path / "source").touch()
    # It takes the TCP connection and never answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = f"127.0.0.1:{silent.getsockname()[1]}:x"
        with ndverbs("cp", str(tmp_path / "source"), target) as client, silent.accept()[0]:
            client.send_signal(signal.SIGINT)
            code, out, err = client.end()

    assert (code, out, err) == (130, "", "interrupted\n")


def test_output_into_a_closed_pipe_is_no_traceback():
    with ndverbs("info") as process:
        assert process.process.stdout is not None
        process.process.stdout.close()
        process.process.stdout = None
        code, _, err = process.end()

    assert code in (0, 1)
    assert "Traceback" not in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_bytes_share_rate_and_time_left():
    bar = report.ProgressBar(Terminal(), 4_000_000_000)

    assert bar.line(1_000_000_000, 0.5) == (
        "[######..................]  25% 1,000,000,000 bytes 2.00 GB/s 2 s left"
    )
    assert bar.line(0, 0.5).endswith(" waiting")


def test_the_bar_draws_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    clock = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: clock[0])
    for stream, is_drawn in ((Terminal(), True), (io.StringIO(), False)):
        clock[0] = 0.0
        with report.ProgressBar(stream, 100) as bar:
            clock[0] = 1.0
            bar.show(50)
        assert ("50%" in stream.getvalue()) == is_drawn
        # It leaves an empty line behind.
        assert stream.getvalue().endswith("\r\x1b[K") == is_drawn


def test_the_bar_counts_all_files_of_a_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_COLOR", "1")
    clock = [0.0]
    monkeypatch.setattr(report.time, "monotonic", lambda: clock[0])
    stream = Terminal()
    with report.ProgressBar(stream) as bar:
        bar.expect(300)  # a directory
        for size, done in ((100, 50), (200, 50), (100, 100)):
            clock[0] += 1.0
            bar.begin(size)
            bar.show(done)

    # The last one was not known to come.
    shown = re.findall(r"(\d+)% (\d+) bytes", stream.getvalue())
    assert shown == [("17", "50"), ("50", "150"), ("100", "400")]


def test_the_command_is_installed_or_the_module_runs():
    done = subprocess.run(
        [sys.executable, "-m", "ndverbs", "info", "--json"],
        capture_output=True,
        text=True,
        check=True,
        cwd=os.sep,
    )

    assert "adapters" in json.loads(done.stdout)
