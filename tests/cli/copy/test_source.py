# SPDX-License-Identifier: Apache-2.0
"""The file that a copy reads: what is refused, what is noticed, and what a .npy file says."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndverbs.cli.filecopy.protocol import CopyError, Reason
from ndverbs.cli.filecopy.source import SourceFile


def described(path: Path) -> str:
    with SourceFile(str(path)) as source:
        return source.describe_array()


def read(source: SourceFile, count: int, offset: int) -> bytes:
    data = bytearray(count)
    source.read_into(memoryview(data), offset)
    return bytes(data)


def test_bytes_are_read_where_they_are(tmp_path: Path):
    path = tmp_path / "f"
    path.write_bytes(b"0123456789")

    with SourceFile(str(path)) as source:
        assert source.size == 10
        assert read(source, 4, 3) == b"3456"
        source.check_unchanged()


def test_a_directory_is_no_source(tmp_path: Path):
    with pytest.raises(CopyError, match="is a directory") as caught:
        SourceFile(str(tmp_path))

    assert caught.value.reason is Reason.SOURCE


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(CopyError, match="is not a regular file"):
        SourceFile(str(tmp_path / "pipe"))


def test_a_device_is_no_source():
    with pytest.raises(CopyError, match="is not a regular file"):
        SourceFile("/dev/zero")


def test_a_missing_source_is_named(tmp_path: Path):
    with pytest.raises(CopyError, match=r"missing' cannot be read: No such file"):
        SourceFile(str(tmp_path / "missing"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_source_without_permission_is_named(tmp_path: Path):
    path = tmp_path / "secret"
    path.touch(mode=0)

    with pytest.raises(CopyError, match="cannot be read: Permission denied"):
        SourceFile(str(path))


def test_a_source_that_shrinks_is_an_error_and_no_signal(tmp_path: Path):
    path = tmp_path / "f"
    path.write_bytes(bytes(100_000))

    with SourceFile(str(path)) as source:
        os.truncate(path, 50_000)
        with pytest.raises(CopyError, match="shrank during the copy: it ends at byte 50000"):
            read(source, 100_000, 0)
        with pytest.raises(CopyError, match="shrank during the copy, from 100000 bytes to 50000"):
            source.check_unchanged()


def test_a_source_that_grows_is_noticed(tmp_path: Path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")

    with SourceFile(str(path)) as source:
        with path.open("ab") as file:
            file.write(b"d")
        with pytest.raises(CopyError, match="grew during the copy, from 3 bytes to 4"):
            source.check_unchanged()


def test_a_source_that_is_written_to_is_noticed(tmp_path: Path):
    path = tmp_path / "f"
    path.write_bytes(b"abc")
    os.utime(path, ns=(1, 1))

    with SourceFile(str(path)) as source:
        path.write_bytes(b"xyz")
        with pytest.raises(CopyError, match="was written to during the copy"):
            source.check_unchanged()


@pytest.mark.parametrize(
    "path",
    ["/proc/version", "/proc/sys/kernel/ostype", "/proc/kallsyms", "/sys/kernel/fscaps"],
)
def test_a_file_of_the_kernel_is_read_to_its_end_whatever_its_size_says(path: str):
    """Those in /proc say 0, those in /sys one page."""
    if not os.path.exists(path):
        pytest.skip("this kernel does not have it")
    expected = Path(path).read_bytes()

    with SourceFile(path) as source:
        assert len(expected) > 0
        assert source.size == len(expected) != os.stat(path).st_size
        assert read(source, source.size, 0) == expected
        source.check_unchanged()


def claim(monkeypatch: pytest.MonkeyPatch, path: Path, size: int) -> None:
    """Let a file say that it has `size` bytes."""
    fstat, inode = os.fstat, path.stat().st_ino

    def claimed(fd: int) -> object:
        real = fstat(fd)
        if real.st_ino != inode:
            return real
        return SimpleNamespace(
            st_size=size, st_mode=real.st_mode, st_mtime_ns=real.st_mtime_ns, st_ino=inode
        )

    monkeypatch.setattr(os, "fstat", claimed)


@pytest.mark.parametrize("size", [0, 1, 4096, (3 << 20) + 6, (3 << 20) + 8])
def test_content_counts_and_not_the_size_that_a_file_claims(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
):
    content = bytes(range(256)) * (12 << 10) + b"the end"
    path = tmp_path / "f"
    path.write_bytes(content)

    with monkeypatch.context() as claims:
        claim(claims, path, size)
        source = SourceFile(str(path))
    with source:
        assert source.size == len(content)
        assert read(source, len(content), 0) == content
        source.check_unchanged()


def test_an_empty_file_is_a_file_of_no_bytes(tmp_path: Path):
    (tmp_path / "f").touch()

    with SourceFile(str(tmp_path / "f")) as source:
        assert source.size == 0
        source.check_unchanged()


def test_a_file_that_gives_more_than_its_size_later_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As on a network, where the size may be known late."""
    path = tmp_path / "f"
    path.write_bytes(b"abc")

    with SourceFile(str(path)) as source:
        with path.open("ab") as file:
            file.write(b"d")
        claim(monkeypatch, path, 3)
        with pytest.raises(CopyError, match="ends at byte 3 no longer"):
            source.check_unchanged()


def test_content_that_does_not_end_is_an_error_where_there_is_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse() -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)

    with pytest.raises(CopyError, match=r"has no room in .*: No space left.*TMPDIR"):
        SourceFile("/proc/version")


def test_a_file_that_cannot_be_read_is_named_with_the_place():
    with pytest.raises(CopyError, match=r"reading '/proc/self/mem' at byte 0: Input/output error"):
        SourceFile("/proc/self/mem")


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((3, 4), np.float32), "array of float32, shape (3, 4), C order"),
        (np.zeros((2, 3), ">i8", order="F"), "array of >i8, shape (2, 3), Fortran order"),
        (np.zeros((), np.uint8), "array of uint8, shape (), C order"),
        (np.zeros(0), "array of float64, shape (0,), C order"),
        (
            np.zeros(2, [("x", "<f4"), ("ä", "<i2")]),
            "array of [('x', '<f4'), ('ä', '<i2')], shape (2,), C order",
        ),
    ],
    ids=["2d", "fortran", "scalar", "empty", "record"],
)
# NumPy warns that a name beyond Latin-1 needs format version 3.
@pytest.mark.filterwarnings("ignore:Stored array in format 3.0:UserWarning")
def test_dtype_and_shape_of_an_array_are_told(
    tmp_path: Path, array: "np.ndarray[object, np.dtype[np.void]]", text: str
):
    np.save(tmp_path / "a.npy", array)

    assert described(tmp_path / "a.npy") == text


def test_an_array_of_objects_is_told_as_such(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.array([{}, "x"], object), allow_pickle=True)

    assert "holding pickled Python objects" in described(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "magic bytes"),
        (b"\x93NUM", "magic bytes"),
        (b"PK\x03\x04 this is a zip file", "magic bytes"),
        (b"\x93NUMPY\x09\x00\x10\x00" + b"x" * 16, "format version 9"),
        (b"\x93NUMPY\x01\x00\xff\xff{}", "claims 65535 bytes"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}", "claims 4294967295 bytes"),
        (b"\x93NUMPY\x01\x00\x02\x00{}", "does not parse"),
        (b"\x93NUMPY\x01\x00\x02\x00((", "does not parse"),
    ],
    ids=["empty", "cut", "zip", "version", "long", "longer", "fields", "syntax"],
)
def test_a_npy_file_without_a_sane_header_is_refused(tmp_path: Path, data: bytes, why: str):
    (tmp_path / "a.npy").write_bytes(data)

    with pytest.raises(CopyError, match=f"is not a sound .npy file: .*{why}"):
        described(tmp_path / "a.npy")


@pytest.mark.parametrize("change", [-1, 1])
def test_a_npy_file_of_another_size_than_it_says_is_refused(tmp_path: Path, change: int):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(100))
    os.truncate(path, path.stat().st_size + change)

    with pytest.raises(CopyError, match=r"its header asks for 928 bytes, it has 92[79]"):
        described(path)


@given(st.binary(max_size=200))
def test_any_header_is_described_or_refused(header: bytes):
    path = Path("/dev/shm" if os.path.isdir("/dev/shm") else ".") / f"ndverbs-{os.getpid()}.npy"
    length = len(header).to_bytes(2, "little")
    path.write_bytes(b"\x93NUMPY\x01\x00" + length + header)
    try:
        with pytest.raises(CopyError):
            described(path)
    finally:
        path.unlink()
