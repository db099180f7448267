# SPDX-License-Identifier: Apache-2.0
"""Files that are received and not yet finished. Knows no connection.

Owns the rule that a file has its final name only when it is whole: until then it has no name
(``O_TMPFILE``) or, on a file system without that, and where an interrupted copy is to be resumed,
one that starts with ``PARTIAL_PREFIX``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat

from ndverbs import crc32c
from ndverbs._closing import Closing
from ndverbs.cli.filecopy.names import PARTIAL_PREFIX, refusal, shown
from ndverbs.cli.filecopy.protocol import CopyError, Reason

_READ = 1 << 20  # bytes of one read
_RENAME_NOREPLACE = 1  # linux/fs.h


def check_target(parent: int, name: str, *, force: bool) -> None:
    """Refuse a target that exists already, unless `force` and it is a regular file.

    It looks before the data moves; `PartialFile.publish` is what holds at the end.
    """
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        raise refusal(error, f"{shown(name)} cannot be examined") from None
    if stat.S_ISDIR(status.st_mode):
        raise CopyError(Reason.NOT_A_FILE, f"{shown(name)} is a directory")
    if stat.S_ISLNK(status.st_mode):
        raise CopyError(
            Reason.NOT_A_FILE, f"{shown(name)} is a symbolic link, which is not followed"
        )
    if not stat.S_ISREG(status.st_mode):
        raise CopyError(Reason.NOT_A_FILE, f"{shown(name)} is a special file")
    if not force:
        raise CopyError(Reason.TARGET_EXISTS, f"{shown(name)} exists already")


class PartialFile(Closing):
    """A file of a given size that is being received, and has no final name yet.

    Takes over `parent`, the descriptor of the directory that will hold it. Leaving the context
    without `publish` removes the file, unless it is kept.

    Parameters
    ----------
    parent
        From `open_parent`.
    name
        The last component of the target's name.
    size
        In bytes. A disk without room for it is refused here; the room is taken piece by piece, by
        `extend`, so that an announcement alone takes nothing from others.
    is_unnamed
        Whether to try for a file without a name first.
    is_kept
        Whether to go on with the bytes that an earlier copy has left, and to leave its own.
    force
        Whether a file that has the name may be replaced.
    may_compare
        Whether the content of a file that has the name already may be compared.

    Attributes
    ----------
    present
        How many bytes are there already. They may be any: `keep` says which ones are good.
    """

    def __init__(
        self,
        parent: int,
        name: str,
        size: int,
        *,
        is_unnamed: bool = True,
        is_kept: bool = False,
        force: bool = False,
        may_compare: bool = True,
    ) -> None:
        self.name = name
        self.size = size
        self.present = 0
        self.fd = -1
        self._parent = parent
        self._force = force
        self._is_kept = is_kept
        self._is_complete = False  # the open file has the final name already
        self._is_published = False
        self._partial_name: str | None = None
        self._written = 0  # bytes from the start that are in the file
        try:
            check_target(parent, name, force=force or (is_kept and may_compare))
            if is_kept:
                self._open_earlier(may_compare)
            else:
                self.fd = self._create(is_unnamed)
            self._written = self.present
            self._check_room()
        except BaseException:
            self.close()
            raise

    def keep(self, length: int) -> int:
        """Decide that the first `length` of the bytes that are there are good, and no others.

        Returns
        -------
        int
            Where the content goes on; 0 when a file that has the name differs and is replaced.

        Raises
        ------
        CopyError
            A file that has the name differs, and may not be replaced.
        """
        if self._is_complete and length < self.size:
            if not self._force:
                raise CopyError(
                    Reason.TARGET_EXISTS,
                    f"{shown(self.name)} exists already, and differs behind byte {length}",
                )
            os.close(self.fd)
            self.fd = -1
            self._is_complete = False
            self.fd = self._open_kept()
            length = 0
        if not self._is_complete:
            try:
                os.ftruncate(self.fd, length)
            except OSError as error:
                raise refusal(error, f"cutting the file behind byte {length}") from None
        self._written = length
        return length

    def checksum(self, start: int, end: int, crc: int) -> int:
        """Return the CRC32C of the bytes before `start`, which is `crc`, and those up to `end`.

        Raises
        ------
        CopyError
            The disk fails, or the file ends before.
        """
        buffer = memoryview(bytearray(min(_READ, max(end - start, 1))))
        while start < end:
            try:
                count = os.preadv(self.fd, [buffer[: min(len(buffer), end - start)]], start)
            except OSError as error:
                raise refusal(error, f"reading back at byte {start}") from None
            if count == 0:
                raise CopyError(Reason.INPUT_OUTPUT, "another program shortened the file")
            crc = crc32c(buffer[:count], crc)
            start += count
        return crc

    def extend(self, offset: int, length: int) -> None:
        """Take room on the disk for a piece; the file ends behind it, or where it did.

        Raises
        ------
        CopyError
            The disk is full, or the file may not be so long.
        """
        try:
            os.posix_fallocate(self.fd, offset, length)
        except OSError as error:
            raise refusal(error, f"no room for bytes {offset} to {offset + length}") from None

    def write(self, offset: int, data: memoryview) -> None:
        """Write a piece of the content.

        Raises
        ------
        CopyError
            The disk is full, or fails.
        """
        done = 0
        while done < len(data):
            try:
                done += os.pwrite(self.fd, data[done:], offset + done)
            except OSError as error:
                raise refusal(error, f"writing at byte {offset + done}") from None
        self._written = offset + done

    def verify(self, crc: int) -> None:
        """Read the file back from the disk, and compare its CRC32C.

        Raises
        ------
        CopyError
            The disk fails, or gives other bytes than were written.
        """
        try:
            # Pages that are on the disk may leave the cache, so that they are read from there.
            os.fdatasync(self.fd)
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise refusal(error, "the file cannot be brought to the disk") from None
        found = self.checksum(0, self.size, 0)
        if found != crc:
            raise CopyError(
                Reason.CHECKSUM, f"crc32c {found:08x} was read back, written was {crc:08x}"
            )

    def publish(self, *, sync: bool) -> None:
        """Give the file its final name, in one step that no reader can see half done.

        Raises
        ------
        CopyError
            The name exists meanwhile, or the file system refuses.
        """
        try:
            if sync:
                os.fsync(self.fd)
            if self._is_complete:
                pass
            elif self._force:
                check_target(self._parent, self.name, force=True)
                self._rename_over()
            else:
                self._link_new()
            self._is_published = True
            if sync:
                os.fsync(self._parent)
        except FileExistsError:
            raise CopyError(
                Reason.TARGET_EXISTS, f"{shown(self.name)} was created meanwhile"
            ) from None
        except IsADirectoryError:
            raise CopyError(Reason.NOT_A_FILE, f"{shown(self.name)} is a directory") from None
        except OSError as error:
            raise refusal(error, f"{shown(self.name)} could not be given its name") from None

    def close(self) -> None:
        """Close the descriptors; remove the file unless it was published or is kept."""
        if self._partial_name is not None:
            with contextlib.suppress(OSError):
                if self._is_kept and not self._is_published and self._written > 0:
                    os.ftruncate(self.fd, self._written)  # room was taken ahead
                else:
                    os.unlink(self._partial_name, dir_fd=self._parent)
            self._partial_name = None
        for fd in (self.fd, self._parent):
            if fd >= 0:
                os.close(fd)
        self.fd = self._parent = -1

    def _open_earlier(self, may_compare: bool) -> None:
        """Open the file that an earlier copy has left: whole under its name, or else a part."""
        size, left = self._size_of(self.name), self._size_of(self._kept_name())
        if size is not None and not (self._force and left):
            if may_compare and size == self.size:
                self.fd = self._open(self.name, os.O_RDONLY)
                self._is_complete = True
                self.present = size
                return
            if not self._force:
                raise CopyError(
                    Reason.TARGET_EXISTS,
                    f"{shown(self.name)} exists already, with {size} bytes and not {self.size}",
                )
        self.fd = self._open_kept()
        self.present = min(os.fstat(self.fd).st_size, self.size)

    def _open_kept(self) -> int:
        """Open the part that is kept, or make it; no other copy can have it meanwhile."""
        name = self._kept_name()
        fd = self._open(name, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(fd)
            # The copy that had the lock may have given it its name, or removed it.
            there = os.stat(name, dir_fd=self._parent, follow_symlinks=False)
            if not os.path.samestat(status, there):
                raise FileNotFoundError
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise CopyError(
                    Reason.NOT_A_FILE, f"{name} is no plain file with one name; remove it"
                )
        except (BlockingIOError, FileNotFoundError):
            os.close(fd)
            raise CopyError(
                Reason.BUSY, f"another copy to {shown(self.name)} is under way"
            ) from None
        except BaseException:
            os.close(fd)
            raise
        self._partial_name = name
        return fd

    def _open(self, name: str, flags: int) -> int:
        try:
            # O_NONBLOCK: a FIFO must not wait for its other end.
            flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            return os.open(name, flags, 0o666, dir_fd=self._parent)
        except OSError as error:
            raise refusal(error, f"{shown(name)} cannot be opened") from None

    def _size_of(self, name: str) -> int | None:
        try:
            return os.stat(name, dir_fd=self._parent, follow_symlinks=False).st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise refusal(error, f"{shown(name)} cannot be examined") from None

    def _kept_name(self) -> str:
        # A digest: the name itself may be as long as names can be.
        return PARTIAL_PREFIX + hashlib.blake2b(os.fsencode(self.name), digest_size=16).hexdigest()

    def _create(self, is_unnamed: bool) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            if is_unnamed:
                # Kernels and file systems without O_TMPFILE answer one of these.
                with contextlib.suppress(IsADirectoryError, FileNotFoundError, NotImplementedError):
                    try:
                        fd = os.open(".", flags | os.O_TMPFILE, 0o666, dir_fd=self._parent)
                    except OSError as error:
                        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                            raise
                    else:
                        if os.path.exists(_proc_path(fd)):  # publishing goes through /proc
                            return fd
                        os.close(fd)
            return self._create_named(flags)
        except OSError as error:
            raise refusal(error, f"no file for {shown(self.name)} can be created") from None

    def _create_named(self, flags: int) -> int:
        name = PARTIAL_PREFIX + secrets.token_hex(8)
        fd = os.open(
            name, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666, dir_fd=self._parent
        )
        self._partial_name = name
        return fd

    def _check_room(self) -> None:
        try:
            space = os.fstatvfs(self.fd)
        except OSError as error:
            raise refusal(error, "the room on the disk cannot be told") from None
        free = space.f_bavail * space.f_frsize
        # File systems without a limit of their own have no blocks.
        if space.f_blocks > 0 and self.size - self.present > free:
            raise CopyError(
                Reason.DISK_FULL, f"the disk has {free} bytes free, the file has {self.size}"
            )

    def _link_new(self) -> None:
        """Give the name unless it exists."""
        if self._partial_name is None:
            os.link(_proc_path(self.fd), self.name, dst_dir_fd=self._parent, follow_symlinks=True)
            return
        try:
            os.link(
                self._partial_name,
                self.name,
                src_dir_fd=self._parent,
                dst_dir_fd=self._parent,
                follow_symlinks=False,
            )
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            # A file system without hard links, such as vfat.
            _rename_no_replace(self._parent, self._partial_name, self.name)
        else:
            # Here, before the client hears of it; and a later copy must not go on in this file.
            with contextlib.suppress(OSError):
                os.unlink(self._partial_name, dir_fd=self._parent)
        self._partial_name = None

    def _rename_over(self) -> None:
        if self._partial_name is None:
            name = PARTIAL_PREFIX + secrets.token_hex(8)
            os.link(_proc_path(self.fd), name, dst_dir_fd=self._parent, follow_symlinks=True)
            self._partial_name = name
        os.rename(self._partial_name, self.name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        self._partial_name = None


def _proc_path(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def _rename_no_replace(parent: int, source: str, target: str) -> None:
    import ctypes

    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    names = os.fsencode(source), os.fsencode(target)
    if renameat2(parent, names[0], parent, names[1], _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)
