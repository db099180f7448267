# SPDX-License-Identifier: Apache-2.0
"""Copies that go on where an earlier one ended: what is kept, compared, sent again, and refused."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.copying import Client, ServeProcess, Serving, content, copy, serving
from ndverbs import Adapter, crc32c
from ndverbs.cli.filecopy import client as copy_client
from ndverbs.cli.filecopy import protocol, receiving, sending
from ndverbs.cli.filecopy.protocol import (
    Check,
    Commit,
    CopyError,
    Done,
    Flags,
    Have,
    Keep,
    Reason,
    Store,
    Window,
    Wrote,
)
from ndverbs.cli.filecopy.receiving import WINDOW
from ndverbs.cli.filecopy.target import PARTIAL_PREFIX, PartialFile

STEP = 2 << 20
SIZE = 20 * WINDOW + 17


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert protocol.STEP % WINDOW == 0
    monkeypatch.setattr(sending, "STEP", STEP)
    monkeypatch.setattr(receiving, "STEP", STEP)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(content(SIZE))
    return path


class InterruptionError(Exception):
    """What the tests raise in the middle of a copy."""


def interrupt_behind(limit: int) -> Callable[[int], None]:
    def progress(done: int) -> None:
        if done > limit:
            raise InterruptionError

    return progress


def interrupted(path: Path, server: Serving, limit: int, target: str = "target") -> Path:
    """Interrupt a copy; returns what it leaves."""
    with pytest.raises(InterruptionError):
        copy(
            path,
            server.address,
            target,
            flags=Flags.RESUME,
            progress=interrupt_behind(limit),
        )
    server.next_line()
    (left,) = [name for name in server.names() if name.startswith(PARTIAL_PREFIX)]
    return server.directory / left


def leave(folder: Path, data: bytes) -> Path:
    """Leave what an interrupted copy to the name "target" leaves; returns its path."""
    before = set(os.listdir(folder))
    root = os.open(folder, os.O_RDONLY)
    with PartialFile(root, "target", len(data) + 1, is_kept=True) as part:
        part.write(0, memoryview(data))
    (name,) = set(os.listdir(folder)) - before
    return folder / name


def resumed(path: Path, server: Serving, flags: Flags = Flags.RESUME) -> list[int]:
    """Copy once more; returns what the progress was, from the first call on."""
    seen: list[int] = []
    copy(path, server.address, "target", flags=flags, progress=seen.append)
    assert (server.directory / "target").read_bytes() == path.read_bytes()
    assert server.names() == ["target"]
    return seen


def test_what_has_arrived_is_kept_and_holds_no_more_than_that(server: Serving, source: Path):
    left = interrupted(source, server, 10 * WINDOW)

    # Room on the disk was taken far ahead.
    assert left.stat().st_size in range(2 * WINDOW, SIZE, WINDOW)
    assert left.read_bytes() == content(left.stat().st_size)


def test_an_interrupted_copy_goes_on_behind_what_is_there(
    server: Serving, source: Path, monkeypatch: pytest.MonkeyPatch
):
    leave(server.directory, content(SIZE)[: 7 * WINDOW + 5])
    written: list[int] = []
    write = PartialFile.write

    def note(self: PartialFile, offset: int, data: memoryview) -> None:
        written.append(offset)
        write(self, offset, data)

    monkeypatch.setattr(PartialFile, "write", note)
    seen = resumed(source, server)

    assert written[0] == 7 * WINDOW + 5
    assert seen == sorted(seen)
    assert seen[-1] == SIZE


@pytest.mark.parametrize(
    ("spoiled", "kept"), [(0, 0), (STEP - 1, 0), (STEP, STEP), (3 * STEP + 5, 3 * STEP)]
)
def test_bytes_that_changed_meanwhile_are_sent_again(
    server: Serving, source: Path, monkeypatch: pytest.MonkeyPatch, spoiled: int, kept: int
):
    data = bytearray(content(4 * STEP))
    data[spoiled] ^= 1
    leave(server.directory, data)
    starts: list[int] = []
    keep = PartialFile.keep

    def note(self: PartialFile, length: int) -> int:
        starts.append(keep(self, length))
        return starts[-1]

    monkeypatch.setattr(PartialFile, "keep", note)
    resumed(source, server)

    assert starts == [kept]


def test_the_part_of_another_file_is_replaced(server: Serving, source: Path):
    leave(server.directory, bytes(10 * WINDOW))

    resumed(source, server)


def test_a_part_longer_than_the_source_is_cut(server: Serving, source: Path):
    leave(server.directory, content(SIZE) + b"more")

    resumed(source, server)


@pytest.mark.parametrize("size", [0, 1])
def test_a_small_copy_leaves_nothing_to_resume(server: Serving, tmp_path: Path, size: int):
    (tmp_path / "small").write_bytes(content(size))

    resumed(tmp_path / "small", server)


def test_a_file_that_is_there_already_is_compared_and_not_sent(server: Serving, source: Path):
    copy(source, server.address, "target")
    before = (server.directory / "target").stat()

    resumed(source, server)

    after = (server.directory / "target").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("change", [lambda data: b"!" + data[1:], lambda data: data[:-1]])
def test_another_file_of_that_name_is_left_alone_unless_it_may_be_replaced(
    server: Serving, source: Path, change: Callable[[bytes], bytes]
):
    theirs = change(content(SIZE))
    (server.directory / "target").write_bytes(theirs)

    with pytest.raises(CopyError, match="'target' exists already") as caught:
        copy(source, server.address, "target", flags=Flags.RESUME)

    assert caught.value.reason is Reason.TARGET_EXISTS
    assert (server.directory / "target").read_bytes() == theirs
    assert server.names() == ["target"]
    resumed(source, server, Flags.RESUME | Flags.FORCE)


def test_a_replacement_that_was_interrupted_goes_on(server: Serving, source: Path):
    (server.directory / "target").write_bytes(bytes(SIZE))
    with pytest.raises(InterruptionError):
        copy(
            source,
            server.address,
            "target",
            flags=Flags.RESUME | Flags.FORCE,
            progress=interrupt_behind(12 * WINDOW),
        )
    server.next_line()
    assert (server.directory / "target").read_bytes() == bytes(SIZE)
    assert len(server.names()) == 2

    seen = resumed(source, server, Flags.RESUME | Flags.FORCE)

    # What was compared counts as done from the start.
    assert next(done for done in seen if done) >= STEP


def test_a_server_that_gives_nothing_out_compares_no_finished_file(tmp_path: Path, source: Path):
    with serving(tmp_path / "served", may_fetch=False) as server:
        copy(source, server.address, "target")

        with pytest.raises(CopyError, match="'target' exists already"):
            copy(source, server.address, "target", flags=Flags.RESUME)


def test_a_server_that_was_killed_leaves_what_the_next_one_needs(tmp_path: Path, source: Path):
    def kill(done: int) -> None:
        if done > 12 * WINDOW:
            first.send_signal(signal.SIGKILL)

    with ServeProcess(tmp_path / "served") as first, pytest.raises(CopyError) as caught:
        copy(source, first.address, "target", flags=Flags.RESUME, progress=kill)
    with serving(tmp_path / "served") as server:
        resumed(source, server)
    assert "queue pair lives" not in str(caught.value)  # a remedy for callers of the API


def test_without_being_asked_nothing_is_kept(server: Serving, source: Path):
    with pytest.raises(InterruptionError):
        copy(source, server.address, "target", progress=interrupt_behind(10 * WINDOW))
    server.next_line()

    assert server.names() == []


def test_two_copies_to_one_name_do_not_share_what_is_kept(
    server: Serving, source: Path, adapter: Adapter
):
    first = Client(adapter, server)
    first.send(Store(b"target", SIZE, Flags.RESUME))
    assert isinstance(first.receive(), Window)

    with pytest.raises(CopyError, match="another copy to 'target' is under way") as caught:
        copy(source, server.address, "target", flags=Flags.RESUME)

    assert caught.value.reason is Reason.BUSY
    first.close()
    server.next_line()
    server.next_line()
    assert server.names() == []


@pytest.mark.parametrize("make", ["link", "hard link", "pipe"])
def test_what_is_no_part_of_ours_is_not_written_to(
    server: Serving, source: Path, tmp_path: Path, make: str
):
    left = leave(server.directory, b"x")
    left.unlink()
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    if make == "link":
        left.symlink_to(outside)
    elif make == "hard link":
        left.hardlink_to(outside)
    else:
        os.mkfifo(left)

    with pytest.raises(CopyError):
        copy(source, server.address, "target", flags=Flags.RESUME)

    assert outside.read_bytes() == b"untouched"


def test_a_fetch_that_was_interrupted_goes_on(server: Serving, tmp_path: Path, adapter: Adapter):
    (server.directory / "source").write_bytes(content(SIZE))
    here = tmp_path / "here"
    here.mkdir()

    def open_target(size: int) -> PartialFile:
        return PartialFile(os.open(here, os.O_RDONLY), "target", size, is_kept=True)

    with copy_client.Client(server.address, adapter) as client, pytest.raises(InterruptionError):
        client.fetch("source", open_target, progress=interrupt_behind(9 * WINDOW))
    (left,) = os.listdir(here)
    assert left.startswith(PARTIAL_PREFIX)
    seen: list[int] = []
    with copy_client.Client(server.address, adapter) as client:
        client.fetch("source", open_target, progress=seen.append)
        client.finish()

    assert os.listdir(here) == ["target"]
    assert (here / "target").read_bytes() == content(SIZE)
    assert seen[0] == STEP  # compared, not sent
    assert seen[-1] == SIZE


# Senders that break the protocol while the server compares.


PART = 2 * STEP + 3


def compare(server: Serving, adapter: Adapter) -> tuple[Client, Path]:
    """Return a client whose server has some bytes already, and where the server has them."""
    left = leave(server.directory, content(PART))
    client = Client(adapter, server)
    client.send(Store(b"target", SIZE, Flags.RESUME))
    assert client.receive() == Have(PART)
    return client, left


@pytest.mark.parametrize(
    "message",
    [Check(1, 0), Check(2 * STEP, 0), Wrote(0, WINDOW, 0), Commit(SIZE, 0), Keep(0), Done(0, 0)],
    ids=str,
)
def test_what_is_not_due_while_comparing_is_refused(
    server: Serving, adapter: Adapter, message: protocol.Message
):
    client, left = compare(server, adapter)
    client.send(message)

    assert client.failure().reason is Reason.PROTOCOL
    server.next_line()
    assert left.read_bytes() == content(PART)
    client.close()


def test_steps_are_compared_one_by_one(server: Serving, adapter: Adapter):
    client, left = compare(server, adapter)
    for end in (STEP, 2 * STEP, PART):
        client.send(Check(end, crc32c(content(end))))
        assert client.receive() == Keep(end)
    window = client.receive()
    client.close()
    server.next_line()

    assert isinstance(window, Window)
    assert (window.offset, window.length) == (PART, WINDOW)
    assert left.read_bytes() == content(PART)


def test_a_step_that_differs_ends_the_comparison(server: Serving, adapter: Adapter):
    client, left = compare(server, adapter)
    client.send(Check(STEP, crc32c(content(STEP))))
    assert client.receive() == Keep(STEP)
    client.send(Check(2 * STEP, 1))
    assert client.receive() == Keep(STEP)
    window = client.receive()
    client.close()
    server.next_line()

    assert isinstance(window, Window)
    assert window.offset == STEP
    assert left.read_bytes() == content(STEP)


def test_a_silent_sender_is_cut_off_while_comparing(tmp_path: Path, adapter: Adapter):
    with serving(tmp_path / "served", silence=0.3) as server:
        client, left = compare(server, adapter)

        assert "was silent for too long" in server.next_line()
        assert left.read_bytes() == content(PART)
        client.close()
