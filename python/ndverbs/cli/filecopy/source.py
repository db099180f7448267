# SPDX-License-Identifier: Apache-2.0
"""The file that a copy reads: opened, watched for changes, and looked into when it is an array.

Reads into memory of ours instead of mapping the file: a mapped file that another program truncates
kills the process that touches it (SIGBUS). Owns the rule that a file is read until its end: where
its size says something else, as in /proc, /sys and some FUSE file systems, its content is read once
into a temporary file, and that is what is copied.
"""

from __future__ import annotations

import ast
import os
import stat
import tempfile

from ndverbs._closing import Closing
from ndverbs.cli.filecopy.names import open_parent, shown, split_name
from ndverbs.cli.filecopy.protocol import CopyError, Reason

_NPY_MAGIC = b"\x93NUMPY"
_PIECE = 1 << 20  # bytes of one read; some files in /proc give all of theirs to the first one
_MAX_NPY_HEADER = 65536  # bytes; NumPy itself refuses text beyond 10000 characters


class SourceFile(Closing):
    """An open regular file; `size` is the number of its bytes, and the size of the copy.

    Parameters
    ----------
    path
        What to open, as messages show it, too.
    root
        A descriptor of the directory below which `path` must lie, then by names that are no links.
        What has another size than it says is refused there: nothing is kept for a stranger.
    """

    def __init__(self, path: str, *, root: int | None = None) -> None:
        self.path = path
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            if root is None:
                self._fd = os.open(path, flags)
            else:
                self._fd = _open_below(root, path, flags | os.O_NOFOLLOW)
        except OSError as error:
            raise CopyError(
                Reason.SOURCE, f"{shown(path)} cannot be read: {error.strerror}"
            ) from None
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise CopyError(Reason.SOURCE, f"{shown(path)} is {_kind(status)}")
        try:
            # A file of size 0 is not probed: some give every byte once.
            if status.st_size == 0 or not self._ends_at(status.st_size):
                self._take_content(status.st_size, is_allowed=root is None)
        except BaseException:
            self.close()
            raise
        self._identity = _identity(os.fstat(self._fd))
        self.size = self._identity[0]
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill `view` with the bytes from `offset` on.

        Raises
        ------
        CopyError
            The file ends before, or the disk fails.
        """
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as error:
                raise self._unreadable(offset + done, error) from None
            if count == 0:
                raise CopyError(
                    Reason.SOURCE,
                    f"{shown(self.path)} shrank during the copy: it ends at byte {offset + done}",
                )
            done += count

    def check_unchanged(self) -> None:
        """Raise `CopyError` when size, end or modification time are not those of the opening."""
        status = os.fstat(self._fd)
        if status.st_size != self.size:
            verb = "grew" if status.st_size > self.size else "shrank"
            raise CopyError(
                Reason.SOURCE,
                f"{shown(self.path)} {verb} during the copy, from {self.size} bytes "
                f"to {status.st_size}",
            )
        if not self._ends_at(self.size):  # a network's file system may tell the size late
            raise CopyError(Reason.SOURCE, f"{shown(self.path)} ends at byte {self.size} no longer")
        if _identity(status) != self._identity:
            raise CopyError(Reason.SOURCE, f"{shown(self.path)} was written to during the copy")

    def describe_array(self) -> str:
        """Return dtype and shape of a ``.npy`` file.

        Raises
        ------
        CopyError
            The header is not NumPy's, or the size of the file is not what it says.
        """
        prefix = self._read_at_most(12, 0)
        if prefix[:6] != _NPY_MAGIC or len(prefix) < 10:
            raise self._bad_array("it does not start with NumPy's magic bytes")
        major = prefix[6]
        if major not in (1, 2, 3):
            raise self._bad_array(f"format version {major} is unknown")
        width = 2 if major == 1 else 4
        length = int.from_bytes(prefix[8 : 8 + width], "little")
        start = 8 + width
        if length > _MAX_NPY_HEADER or start + length > self.size:
            raise self._bad_array(f"its header claims {length} bytes")
        text = self._read_at_most(length, start)
        return self._describe(text.decode("utf-8" if major == 3 else "latin-1"), start + length)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _ends_at(self, size: int) -> bool:
        try:
            return not os.pread(self._fd, 1, size) and (
                size == 0 or os.pread(self._fd, 1, size - 1) != b""
            )
        except OSError as error:
            raise self._unreadable(size, error) from None

    def _take_content(self, size: int, *, is_allowed: bool) -> None:
        """Read the file to its end, and let a temporary file take its place."""
        piece = self._read_piece(0)
        if not piece and size == 0:
            return
        if not is_allowed:
            raise CopyError(
                Reason.SOURCE, f"{shown(self.path)} does not tell its size, and is not given out"
            )
        try:
            with tempfile.TemporaryFile() as content:
                while piece:
                    content.write(piece)
                    piece = self._read_piece(content.tell())
                content.flush()
                if os.fstat(self._fd).st_size != size:
                    raise CopyError(
                        Reason.SOURCE, f"{shown(self.path)} changed its size while it was read"
                    )
                os.dup2(content.fileno(), self._fd, inheritable=False)
        except OSError as error:
            raise CopyError(
                Reason.SOURCE,
                f"{shown(self.path)} does not tell its size, and its content has no room in "
                f"{tempfile.gettempdir()}: {error.strerror}; name another place with TMPDIR=/path",
            ) from None

    def _read_piece(self, position: int) -> bytes:
        try:
            return os.read(self._fd, _PIECE)
        except OSError as error:
            raise self._unreadable(position, error) from None

    def _unreadable(self, position: int, error: OSError) -> CopyError:
        return CopyError(
            Reason.SOURCE, f"reading {shown(self.path)} at byte {position}: {error.strerror}"
        )

    def _read_at_most(self, count: int, offset: int) -> bytes:
        data = bytearray(max(min(count, self.size - offset), 0))
        self.read_into(memoryview(data), offset)
        return bytes(data)

    def _describe(self, header: str, data_start: int) -> str:
        import numpy as np

        try:
            fields = ast.literal_eval(header)
            dtype = np.lib.format.descr_to_dtype(fields["descr"])
            shape = tuple(int(extent) for extent in fields["shape"])
            order = "Fortran order" if fields["fortran_order"] else "C order"
        except Exception as error:
            raise self._bad_array(f"its header does not parse ({type(error).__name__})") from None
        text = f"array of {dtype}, shape {shape}, {order}"
        if dtype.hasobject:
            return text + ", holding pickled Python objects"
        count = 1
        for extent in shape:
            count *= extent
        expected = data_start + count * dtype.itemsize
        if any(extent < 0 for extent in shape) or expected != self.size:
            raise self._bad_array(f"its header asks for {expected} bytes, it has {self.size}")
        return text

    def _bad_array(self, why: str) -> CopyError:
        return CopyError(Reason.SOURCE, f"{shown(self.path)} is not a sound .npy file: {why}")


def _open_below(root: int, path: str, flags: int) -> int:
    components = split_name(os.fsencode(path))
    parent = open_parent(root, components)
    try:
        # Looked at first: opening a device may do something.
        status = os.stat(components[-1], dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise CopyError(Reason.SOURCE, f"{shown(path)} is {_kind(status)}")
        return os.open(components[-1], flags, dir_fd=parent)
    finally:
        os.close(parent)


def _kind(status: os.stat_result) -> str:
    if stat.S_ISDIR(status.st_mode):
        return "a directory"
    if stat.S_ISLNK(status.st_mode):
        return "a symbolic link, which is not followed"
    return "not a regular file"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
