# SPDX-License-Identifier: Apache-2.0
"""The demo: what it reports, that it fails when a copy differs, and that it leaves nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from cli.copying import Process, content, ndverbs
from ndverbs.cli.demo import comparison as demo
from ndverbs.cli.failure import CommandError
from ndverbs.cli.filecopy.source import SourceFile

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary directories are made."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def children(pid: int) -> list[int]:
    return [
        int(child)
        for task in os.listdir(f"/proc/{pid}/task")
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    ]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_the_demo_copies_checks_and_reports(place: Path):
    with ndverbs("demo", "--size", "32", "--rounds", "2") as process:
        code, out, err = process.end()

    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "33,554,432 bytes, between two processes, 2 times each" in lines[0]
    assert lines[1].split()[0] == "RDMA"
    assert "GB/s   (median of" in lines[1]
    assert lines[2].startswith("  plain TCP sockets")
    assert "equals the source byte by byte" in lines[-1]
    assert os.listdir(place) == []


@pytest.mark.parametrize("size", [0, 1, (16 << 20) + 1])
def test_the_demo_takes_a_file(place: Path, tmp_path: Path, size: int, capsys: Captured):
    path = tmp_path / "mine"
    path.write_bytes(content(size))

    assert demo.run(str(path), rounds=1, size=0) == 0

    assert f"copied '{path}', {size:,} bytes" in capsys.readouterr().out
    assert path.read_bytes() == content(size)
    assert os.listdir(place) == []


def test_the_demo_runs_whatever_adapter_the_environment_asks_for(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "mine"
    path.write_bytes(content(1))
    monkeypatch.setenv("NDVERBS_ADAPTER", "nonsense")

    assert demo.run(str(path), rounds=1, size=0) == 0


def test_a_copy_that_differs_fails_the_demo(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "mine"
    path.write_bytes(content(3 << 20))
    compare = demo._compare

    def spoil_then_compare(source: SourceFile, target: Path) -> None:
        with target.open("r+b") as file:
            file.seek((2 << 20) + 5)
            file.write(b"!")
        compare(source, target)

    monkeypatch.setattr(demo, "_compare", spoil_then_compare)

    with pytest.raises(CommandError, match=r"DIFFERS from .* from byte 2097152 on"):
        demo.run(str(path), rounds=1, size=0)

    assert os.listdir(place) == []


def test_a_copy_cut_short_fails_the_demo(tmp_path: Path):
    (tmp_path / "a").write_bytes(content(2 << 20))
    (tmp_path / "b").write_bytes(content(1 << 20))

    with (
        SourceFile(str(tmp_path / "a")) as source,
        pytest.raises(CommandError, match="it has 1048576 bytes, not 2097152"),
    ):
        demo._compare(source, tmp_path / "b")


def test_the_demo_takes_a_file_that_does_not_tell_its_size(place: Path, capsys: Captured):
    size = len(Path("/proc/version").read_bytes())

    assert demo.run("/proc/version", rounds=1, size=0) == 0

    assert f"copied '/proc/version', {size} bytes" in capsys.readouterr().out
    assert os.listdir(place) == []


def test_a_missing_file_is_one_sentence(place: Path, tmp_path: Path):
    with ndverbs("demo", str(tmp_path / "missing")) as process:
        code, _, err = process.end()

    assert code == 1
    assert err.startswith("ndverbs: the demo failed: ")
    assert err.count("\n") == 1
    assert os.listdir(place) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_neither_processes_nor_files(
    place: Path, tmp_path: Path, number: signal.Signals
):
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 4 << 30)
    with ndverbs("demo", str(path), "--rounds", "100") as process:
        while len(receivers := children(process.pid)) < 2:
            assert process.process.poll() is None
        process.send_signal(number)
        code, _, err = process.end()

    assert (code, err) == (130, "interrupted\n")
    assert os.listdir(place) == []
    assert not any(is_alive(pid) for pid in receivers)


def test_receivers_end_when_the_demo_is_killed(place: Path, tmp_path: Path):
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 4 << 30)
    with ndverbs("demo", str(path), "--rounds", "100") as process:
        while len(receivers := children(process.pid)) < 2:
            assert process.process.poll() is None
        watched = [os.pidfd_open(pid) for pid in receivers]
        process.send_signal(signal.SIGKILL)
        # Each descriptor is readable once its process has ended.
        for descriptor in watched:
            with Process("-c", WAIT, str(receivers.pop(0))) as waiting:
                assert waiting.end()[0] == 0
            os.close(descriptor)


WAIT = """
import os, select, sys
try:
    fd = os.pidfd_open(int(sys.argv[1]))
except ProcessLookupError:
    sys.exit(0)
sys.exit(0 if select.select([fd], [], [], 30)[0] else 1)
"""


def test_the_file_that_is_made_has_real_content(tmp_path: Path):
    path = demo._build(tmp_path / "made", 20 << 20)

    assert path.stat().st_size == 20 << 20
    data = path.read_bytes()
    assert data[:4096].count(0) < 4096
    assert len(set(data[i : i + 4096] for i in range(0, len(data), 4096))) > 1000
