# SPDX-License-Identifier: Apache-2.0
"""Copies that succeed or fail for a reason of their own: sizes, targets, sources, many at once."""

import os
import threading
from pathlib import Path

import pytest

from cli.copying import Serving, content, copy, serving
from ndverbs import Adapter, crc32c
from ndverbs.cli.filecopy import receiving
from ndverbs.cli.filecopy.names import PARTIAL_PREFIX
from ndverbs.cli.filecopy.protocol import CopyError, Flags, Reason
from ndverbs.cli.filecopy.receiving import WINDOW, WINDOWS
from ndverbs.cli.filecopy.sending import CHUNK
from ndverbs.cli.filecopy.target import PartialFile


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(content(3 * CHUNK + 17))
    return path


@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        4095,
        4096,
        WINDOW - 1,
        WINDOW,
        WINDOW + 1,
        WINDOWS * WINDOW,
        (3 * WINDOWS + 2) * WINDOW + 12345,
    ],
)
def test_a_copy_equals_its_source(server: Serving, tmp_path: Path, size: int):
    path = tmp_path / "source"
    path.write_bytes(content(size))

    copied = copy(path, server.address, "target")

    assert copied.size == size
    assert (server.directory / "target").read_bytes() == path.read_bytes()
    assert server.names() == ["target"]


@pytest.mark.parametrize("window", [1000, CHUNK - 1, CHUNK + 1, 3 * CHUNK])
def test_windows_need_not_have_the_size_of_the_writes(
    server: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
):
    monkeypatch.setattr(receiving, "WINDOW", window)
    path = tmp_path / "source"
    path.write_bytes(content(20 * window + 7))

    copy(path, server.address, "target")

    assert (server.directory / "target").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("size", [0, 1, 3 * CHUNK + 17])
def test_a_file_that_is_read_back_from_the_disk_arrives(server: Serving, tmp_path: Path, size: int):
    path = tmp_path / "source"
    path.write_bytes(content(size))

    copy(path, server.address, "target", flags=Flags.VERIFY)

    assert (server.directory / "target").read_bytes() == path.read_bytes()


def test_a_disk_that_gives_other_bytes_than_were_written_is_caught(
    server: Serving, source: Path, monkeypatch: pytest.MonkeyPatch
):
    write = PartialFile.write

    def spoil(self: PartialFile, offset: int, data: memoryview) -> None:
        write(self, offset, data)
        os.pwrite(self.fd, b"!", offset)

    monkeypatch.setattr(PartialFile, "write", spoil)

    with pytest.raises(CopyError, match="was read back, written was") as caught:
        copy(source, server.address, "target", flags=Flags.VERIFY)

    assert caught.value.reason is Reason.CHECKSUM
    assert server.names() == []


def test_both_ends_say_what_was_copied(server: Serving, source: Path):
    copied = copy(source, server.address, "target")

    assert copied.crc == crc32c(source.read_bytes())
    assert f"stored 'target', {copied.size} bytes" in server.next_line()


def test_a_target_in_a_folder_of_the_server_is_written_there(server: Serving, source: Path):
    (server.directory / "a" / "b").mkdir(parents=True)

    copy(source, server.address, "a/b/target")

    assert (server.directory / "a" / "b" / "target").read_bytes() == source.read_bytes()


def test_a_target_that_exists_is_left_alone(server: Serving, source: Path):
    (server.directory / "target").write_text("old")

    with pytest.raises(CopyError, match="'target' exists already") as caught:
        copy(source, server.address, "target")

    assert caught.value.reason is Reason.TARGET_EXISTS
    assert (server.directory / "target").read_text() == "old"


def test_force_replaces_the_target(server: Serving, source: Path):
    (server.directory / "target").write_text("old")

    copy(source, server.address, "target", flags=Flags.FORCE | Flags.SYNC)

    assert (server.directory / "target").read_bytes() == source.read_bytes()
    assert server.names() == ["target"]


def test_a_target_that_appears_during_the_copy_is_left_alone(server: Serving, source: Path):
    def appear(done: int) -> None:
        if done:  # until then the server may not have looked
            (server.directory / "target").write_text("theirs")

    with pytest.raises(CopyError, match="was created meanwhile"):
        copy(source, server.address, "target", progress=appear)

    assert (server.directory / "target").read_text() == "theirs"
    assert server.names() == ["target"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/x",
        "../x",
        "a/../../x",
        "link/x",
        "folder",
        "pipe",
        "dangling",
        "missing/x",
        "a\0b",
        "x" * 256,
        "x/" * 2000 + "x",
        PARTIAL_PREFIX + "x",
    ],
    ids=lambda name: repr(name[:12]),
)
@pytest.mark.parametrize("flags", [Flags.NONE, Flags.FORCE])
def test_nothing_is_written_outside_or_over_what_is_no_file(
    server: Serving, source: Path, tmp_path: Path, name: str, flags: Flags
):
    (server.directory / "link").symlink_to(tmp_path)
    (server.directory / "dangling").symlink_to(tmp_path / "x")
    (server.directory / "folder").mkdir()
    os.mkfifo(server.directory / "pipe")
    before = server.names(), sorted(os.listdir(tmp_path))

    with pytest.raises(CopyError) as caught:
        copy(source, server.address, name, flags=flags)

    assert caught.value.reason in (Reason.BAD_NAME, Reason.NO_DIRECTORY, Reason.NOT_A_FILE)
    assert (server.names(), sorted(os.listdir(tmp_path))) == before
    assert caught.value.text in server.next_line()


def test_a_name_too_long_for_any_path_is_refused_here(server: Serving, source: Path):
    with pytest.raises(CopyError, match="has 5000 bytes, 4095 are the most") as caught:
        copy(source, server.address, "x" * 5000)

    assert caught.value.reason is Reason.BAD_NAME


@pytest.mark.parametrize("is_unnamed", [True, False], ids=["unnamed", "named"])
def test_a_source_that_shrinks_leaves_nothing(tmp_path: Path, source: Path, is_unnamed: bool):
    source.write_bytes(bytes(40 * CHUNK))

    def shrink(done: int) -> None:
        os.truncate(source, CHUNK)

    with serving(tmp_path / "served", is_unnamed=is_unnamed) as server:
        with pytest.raises(CopyError, match="shrank during the copy") as caught:
            copy(source, server.address, "target", progress=shrink)

        assert "the source failed at the client" in server.next_line()
        assert server.names() == []
    assert caught.value.reason is Reason.SOURCE


def test_a_source_that_grows_leaves_nothing(server: Serving, source: Path):
    def grow(done: int) -> None:
        with source.open("ab") as file:
            file.write(b"x")

    with pytest.raises(CopyError, match="grew during the copy"):
        copy(source, server.address, "target", progress=grow)

    assert "the source failed at the client" in server.next_line()
    assert server.names() == []


def test_a_disk_that_is_too_small_is_told_before_data_moves(server: Serving, tmp_path: Path):
    path = tmp_path / "source"
    path.touch()
    space = os.statvfs(server.directory)
    os.truncate(path, space.f_bavail * space.f_frsize + (1 << 30))
    moved = []

    with pytest.raises(CopyError, match="bytes free, the file has") as caught:
        copy(path, server.address, "target", progress=moved.append)

    assert caught.value.reason is Reason.DISK_FULL
    assert [done for done in moved if done] == []
    assert server.names() == []


def test_ipv6_works(tmp_path: Path, source: Path):
    with serving(tmp_path / "served", host="::1") as server:
        assert server.address[0] == "::1"
        copy(source, server.address, "target")

        assert (server.directory / "target").read_bytes() == source.read_bytes()


def test_many_clients_at_once_all_succeed(tmp_path: Path):
    """More clients than are served at once: the others wait for their turn."""
    failures: list[BaseException] = []

    def one(number: int) -> None:
        path = tmp_path / f"source-{number}"
        path.write_bytes(content(CHUNK + number))
        try:
            copy(path, server.address, f"target-{number}")
        except CopyError as error:
            failures.append(error)

    with serving(tmp_path / "served", max_active=2) as server:
        threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert failures == []
        for number in range(8):
            target = server.directory / f"target-{number}"
            assert target.read_bytes() == (tmp_path / f"source-{number}").read_bytes()


def test_of_two_clients_with_one_target_one_succeeds(server: Serving, source: Path):
    barrier = threading.Barrier(2)
    outcomes: list[str] = []

    def one() -> None:
        try:
            copy(source, server.address, "target", progress=lambda done: wait_once(barrier))
            outcomes.append("copied")
        except CopyError as error:
            outcomes.append(error.reason.name)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["TARGET_EXISTS", "copied"]
    assert (server.directory / "target").read_bytes() == source.read_bytes()
    assert server.names() == ["target"]


def wait_once(barrier: threading.Barrier) -> None:
    """Wait until both copies are under way; later calls pass."""
    local = threading.current_thread()
    if not getattr(local, "has_waited", False):
        local.has_waited = True  # type: ignore[attr-defined]
        barrier.wait(timeout=60)


def test_one_adapter_serves_many_copies(server: Serving, source: Path):
    with Adapter.open("soft") as adapter:
        for number in range(5):
            copy(source, server.address, f"target-{number}", adapter=adapter)

    assert server.names() == [f"target-{number}" for number in range(5)]


def test_nobody_listening_is_told(tmp_path: Path, source: Path):
    with serving(tmp_path / "served") as server:
        address = server.address

    with pytest.raises(CopyError, match=r"no connection to the server at 127\.0\.0\.1") as caught:
        copy(source, address, "target")

    assert caught.value.reason is Reason.CONNECTION


def test_progress_only_grows_and_reaches_the_size(server: Serving, source: Path):
    seen: list[int] = []

    copied = copy(source, server.address, "target", progress=seen.append)

    assert seen == sorted(seen)
    assert seen[-1] == copied.size
