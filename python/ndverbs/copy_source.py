# SPDX-License-Identifier: Apache-2.0
"""The file that a copy reads: opened, watched for changes, and looked into when it is an array.

Reads into memory of ours instead of mapping the file: a mapped file that somebody truncates
kills whoever touches it (SIGBUS).
"""

from __future__ import annotations

import ast
import os
import stat
from types import TracebackType
from typing import Self

from ndverbs.copy_protocol import CopyError, Reason
from ndverbs.copy_target import shown

_NPY_MAGIC = b"\x93NUMPY"
_MAX_NPY_HEADER = 65536  # bytes; NumPy itself refuses text beyond 10000 characters


class SourceFile:
    """An open regular file whose size at the opening is the size of the copy."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            # O_NONBLOCK: opening a FIFO must not wait for a writer.
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise CopyError(
                Reason.SOURCE, f"{shown(path)} cannot be read: {error.strerror}"
            ) from None
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise CopyError(Reason.SOURCE, f"{shown(path)} is {what}")
        self.size = status.st_size
        self._identity = _identity(status)
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
                raise CopyError(
                    Reason.SOURCE,
                    f"reading {shown(self.path)} at byte {offset + done}: {error.strerror}",
                ) from None
            if count == 0:
                raise CopyError(
                    Reason.SOURCE,
                    f"{shown(self.path)} shrank during the copy: it ends at byte {offset + done}",
                )
            done += count

    def check_unchanged(self) -> None:
        """Raise `CopyError` when size or modification time are not those of the opening."""
        status = os.fstat(self._fd)
        if status.st_size != self.size:
            verb = "grew" if status.st_size > self.size else "shrank"
            raise CopyError(
                Reason.SOURCE,
                f"{shown(self.path)} {verb} during the copy, from {self.size} bytes "
                f"to {status.st_size}",
            )
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

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

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


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
