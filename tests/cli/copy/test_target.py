# SPDX-License-Identifier: Apache-2.0
"""Names below the served directory, and files that have no name yet."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndverbs.cli.filecopy.names import PARTIAL_PREFIX, open_parent, split_name
from ndverbs.cli.filecopy.protocol import CopyError, Reason
from ndverbs.cli.filecopy.target import PartialFile, check_target

HOSTILE_NAMES = [
    b"",
    b"/",
    b"/etc/passwd",
    b"..",
    b"../x",
    b"a/../../x",
    b"a/..",
    b".",
    b"./a",
    b"a/./b",
    b"a//b",
    b"a/",
    b"a\0b",
    b"\0",
    b"x" * 256,
    b"d/" + b"x" * 256,
    b"a/" * 2048,
    b"a" * 5000,
    PARTIAL_PREFIX.encode() + b"0123",
    PARTIAL_PREFIX.encode() + b"0/x",
]

NAMED = pytest.mark.parametrize("is_unnamed", [True, False], ids=["unnamed", "named"])


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = set(os.listdir("/proc/self/fd"))
    yield
    # The listing itself uses one, whose number may differ.
    assert len(set(os.listdir("/proc/self/fd"))) <= len(before) + 1


def partial(
    root: int, name: str = "new", size: int = 5, *, is_unnamed: bool = True, force: bool = False
) -> PartialFile:
    return PartialFile(os.dup(root), name, size, is_unnamed=is_unnamed, force=force)


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=lambda n: repr(n[:24]))
def test_a_name_that_may_lead_elsewhere_is_refused(name: bytes):
    with pytest.raises(CopyError) as caught:
        split_name(name)

    assert caught.value.reason is Reason.BAD_NAME
    assert caught.value.text.isprintable()


@given(
    st.one_of(
        st.binary(max_size=300),
        st.lists(
            st.sampled_from([b"", b".", b"..", b"a", b"b", b"...", b"..a", b"\0", b"~", b"a\\b"]),
            max_size=6,
        ).map(b"/".join),
    )
)
def test_an_accepted_name_stays_below_the_root(name: bytes):
    components = None
    with contextlib.suppress(CopyError):
        components = split_name(name)
    if components is None:
        return

    assert os.fsencode("/".join(components)) == name
    assert all(part not in ("", ".", "..") and "/" not in part for part in components)
    assert os.path.normpath(b"/served/" + name) == b"/served/" + name


def test_a_plain_name_may_hold_any_other_byte():
    name = b"a b/\xff\xfe/...x/caf\xc3\xa9\n.npy"

    assert os.fsencode("/".join(split_name(name))) == name


def test_a_link_on_the_way_is_not_followed(root: int, tmp_path: Path):
    (tmp_path / "inside").mkdir()
    (tmp_path / "link").symlink_to("inside")

    with pytest.raises(CopyError, match="'link' is a symbolic link") as caught:
        open_parent(root, ["link", "x"])

    assert caught.value.reason is Reason.NO_DIRECTORY


@pytest.mark.parametrize("target", ["/", "..", "/etc", "/proc/self/cwd"])
def test_a_link_out_of_the_directory_is_not_followed(root: int, tmp_path: Path, target: str):
    (tmp_path / "out").symlink_to(target)

    with pytest.raises(CopyError, match="is a symbolic link"):
        open_parent(root, ["out", "x"])


def test_a_directory_swapped_for_a_link_later_does_not_matter(root: int, tmp_path: Path):
    """The descriptor is of the directory that was checked, whatever its name means now."""
    (tmp_path / "served").mkdir()
    (tmp_path / "outside").mkdir()
    parent = open_parent(root, ["served", "x"])
    (tmp_path / "served").rename(tmp_path / "moved")
    (tmp_path / "served").symlink_to(tmp_path / "outside")

    with PartialFile(parent, "x", 0) as file:
        file.publish(sync=False)

    assert (tmp_path / "moved" / "x").exists()
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_directory_that_does_not_exist_is_named(root: int):
    with pytest.raises(CopyError, match="the directory 'nowhere' does not exist"):
        open_parent(root, ["nowhere", "x"])


def test_a_file_on_the_way_is_no_directory(root: int, tmp_path: Path):
    (tmp_path / "file").touch()

    with pytest.raises(CopyError, match="'file' is not a directory"):
        open_parent(root, ["file", "x"])


def test_a_fifo_on_the_way_does_not_block(root: int, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(CopyError, match="'pipe' is not a directory"):
        open_parent(root, ["pipe", "x"])


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_regular_file_is_refused(root: int, tmp_path: Path, force: bool):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "dangling").symlink_to("nowhere")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.close()

    for name in ("folder", "pipe", "link", "dangling", "socket"):
        with pytest.raises(CopyError) as caught:
            check_target(root, name, force=force)
        assert caught.value.reason is Reason.NOT_A_FILE


def test_a_file_that_exists_needs_force(root: int, tmp_path: Path):
    (tmp_path / "there").write_text("old")

    with pytest.raises(CopyError) as caught:
        check_target(root, "there", force=False)

    assert caught.value.reason is Reason.TARGET_EXISTS
    check_target(root, "there", force=True)


@NAMED
def test_a_file_has_its_name_only_when_it_is_published(root: int, tmp_path: Path, is_unnamed: bool):
    with partial(root, is_unnamed=is_unnamed) as file:
        os.pwrite(file.fd, b"hello", 0)
        before = sorted(p.name for p in tmp_path.iterdir())
        file.publish(sync=True)

    assert all(name.startswith(PARTIAL_PREFIX) for name in before)
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    assert (tmp_path / "new").read_bytes() == b"hello"


def test_a_file_that_is_received_needs_no_name_here(root: int, tmp_path: Path):
    with partial(root):
        assert list(tmp_path.iterdir()) == []


@NAMED
def test_leaving_without_publishing_leaves_nothing(root: int, tmp_path: Path, is_unnamed: bool):
    with partial(root, is_unnamed=is_unnamed) as file:
        os.pwrite(file.fd, b"hel", 0)

    assert list(tmp_path.iterdir()) == []


@NAMED
def test_a_name_taken_meanwhile_is_not_overwritten(root: int, tmp_path: Path, is_unnamed: bool):
    with partial(root, is_unnamed=is_unnamed) as file:
        (tmp_path / "new").write_text("theirs")
        with pytest.raises(CopyError) as caught:
            file.publish(sync=False)

    assert caught.value.reason is Reason.TARGET_EXISTS
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    assert (tmp_path / "new").read_text() == "theirs"


@NAMED
@pytest.mark.parametrize("force", [False, True])
def test_a_link_made_meanwhile_is_not_written_through(
    root: int, tmp_path: Path, is_unnamed: bool, force: bool
):
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    with partial(root, is_unnamed=is_unnamed, force=force) as file:
        (tmp_path / "new").symlink_to(outside)
        with pytest.raises(CopyError):
            file.publish(sync=False)

    assert outside.read_text() == "untouched"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "outside"]


@NAMED
def test_force_replaces_a_file_whole(root: int, tmp_path: Path, is_unnamed: bool):
    (tmp_path / "new").write_text("a longer text than the new one")
    with (
        (tmp_path / "new").open() as reader,
        partial(root, is_unnamed=is_unnamed, force=True) as file,
    ):
        os.pwrite(file.fd, b"hello", 0)
        file.publish(sync=True)
        still_old = reader.read()

    assert still_old == "a longer text than the new one"
    assert (tmp_path / "new").read_text() == "hello"
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


def test_a_published_file_has_one_name_before_it_is_closed(root: int, tmp_path: Path):
    with PartialFile(os.dup(root), "target", 4, is_kept=True) as part:
        part.write(0, memoryview(b"data"))
        part.publish(sync=False)

        assert os.listdir(tmp_path) == ["target"]


@NAMED
def test_force_does_not_replace_a_directory(root: int, tmp_path: Path, is_unnamed: bool):
    with partial(root, is_unnamed=is_unnamed, force=True) as file:
        (tmp_path / "new").mkdir()
        with pytest.raises(CopyError) as caught:
            file.publish(sync=False)

    assert caught.value.reason is Reason.NOT_A_FILE
    assert [p.name for p in tmp_path.iterdir()] == ["new"]


@NAMED
def test_more_than_the_disk_has_is_refused_at_once(root: int, tmp_path: Path, is_unnamed: bool):
    with pytest.raises(CopyError, match="bytes free, the file has") as caught:
        partial(root, size=2**62, is_unnamed=is_unnamed)

    assert caught.value.reason is Reason.DISK_FULL
    assert list(tmp_path.iterdir()) == []


def test_without_hard_links_a_rename_that_replaces_nothing_does(
    root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def no_links(*args: object, **kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with partial(root, is_unnamed=False) as file, partial(root, is_unnamed=False) as second:
        os.pwrite(file.fd, b"hello", 0)
        file.publish(sync=False)
        with pytest.raises(CopyError) as caught:
            second.publish(sync=False)

    assert caught.value.reason is Reason.TARGET_EXISTS
    assert [p.name for p in tmp_path.iterdir()] == ["new"]
    assert (tmp_path / "new").read_bytes() == b"hello"


def test_a_disk_that_is_full_after_some_bytes_is_told(root: int, monkeypatch: pytest.MonkeyPatch):
    pwrite = os.pwrite

    def write_some(fd: int, data: memoryview, offset: int) -> int:
        if offset >= 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data[:2], offset)

    monkeypatch.setattr(os, "pwrite", write_some)
    with (
        partial(root) as file,
        pytest.raises(CopyError, match="writing at byte 4: No sp") as caught,
    ):
        file.write(0, memoryview(b"hello"))

    assert caught.value.reason is Reason.DISK_FULL


def test_room_is_taken_piece_by_piece(root: int):
    with partial(root, size=3 << 20) as file:
        sizes = [os.fstat(file.fd).st_blocks * 512]
        for offset in (0, 1 << 20):
            file.extend(offset, 1 << 20)
            status = os.fstat(file.fd)
            assert status.st_size == offset + (1 << 20)
            sizes.append(status.st_blocks * 512)

    assert sizes[0] == 0
    assert 1 << 20 <= sizes[1] < 2 << 20 <= sizes[2] < 3 << 20
