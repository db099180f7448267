# SPDX-License-Identifier: Apache-2.0
"""Where a received file goes: names inside the served directory, and files not yet finished.

Owns the rule that nothing is read or written outside the served directory: a name is split into
components, and each is opened relative to the one before, never through a symbolic link, so that
nothing that changes meanwhile can lead out. Owns the rule that a file has its final name only
when it is whole: until then it has no name (``O_TMPFILE``) or, on a file system without that, one
that starts with ``PARTIAL_PREFIX``. Knows no connection.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat

from ndverbs import crc32c
from ndverbs._closing import Closing
from ndverbs.cli.filecopy.protocol import MAX_NAME, CopyError, Reason, printable

PARTIAL_PREFIX = ".ndverbs-partial-"
MAX_COMPONENT = 255  # bytes; Linux's NAME_MAX

_READ_BACK = 1 << 20  # bytes of one read
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RENAME_NOREPLACE = 1  # linux/fs.h


def shown(name: str | bytes) -> str:
    """Return a name as a message shows it: quoted, and harmless to a terminal."""
    text = name if isinstance(name, str) else os.fsdecode(name)
    return "'" + printable(text.encode(errors="replace").decode()) + "'"


def split_name(name: bytes) -> list[str]:
    """Return the components of a target name.

    Raises
    ------
    CopyError
        The name is empty, absolute, too long, or has a component that no plain path has.
    """
    if not name:
        raise CopyError(Reason.BAD_NAME, "the target has no name")
    if len(name) > MAX_NAME:
        raise CopyError(
            Reason.BAD_NAME, f"the target's name has {len(name)} bytes, {MAX_NAME} are the most"
        )
    if b"\0" in name:
        raise CopyError(Reason.BAD_NAME, f"the target's name {shown(name)} holds a NUL")
    if name.startswith(b"/"):
        raise CopyError(
            Reason.BAD_NAME,
            f"the target {shown(name)} is absolute; names are relative to the served directory",
        )
    components = name.split(b"/")
    for component in components:
        if component in (b"", b".", b".."):
            what = f"the component {shown(component)}" if component else "an empty component"
            raise CopyError(Reason.BAD_NAME, f"the target {shown(name)} has {what}")
        if len(component) > MAX_COMPONENT:
            raise CopyError(
                Reason.BAD_NAME,
                f"a component of the target's name has {len(component)} bytes, "
                f"{MAX_COMPONENT} are the most",
            )
        if component.startswith(PARTIAL_PREFIX.encode()):
            raise CopyError(
                Reason.BAD_NAME, f"names that start with {PARTIAL_PREFIX} belong to the server"
            )
    return [os.fsdecode(component) for component in components]


def open_parent(root: int, components: list[str]) -> int:
    """Return a descriptor of the directory that holds the last component; the caller closes it.

    Raises
    ------
    CopyError
        A component does not exist, is no directory, is a symbolic link, or may not be opened.
    """
    current = os.open(".", _OPEN_DIRECTORY, dir_fd=root)
    try:
        for component in components[:-1]:
            deeper = _open_below(current, component)
            os.close(current)
            current = deeper
    except BaseException:
        os.close(current)
        raise
    return current


def check_target(parent: int, name: str, *, force: bool) -> None:
    """Refuse a target that exists already, unless `force` and it is a regular file.

    It looks before the data moves; `PartialFile.publish` is what holds at the end.
    """
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _refusal(error, f"{shown(name)} cannot be examined") from None
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
    without `publish` removes the file.

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
    """

    def __init__(self, parent: int, name: str, size: int, *, is_unnamed: bool = True) -> None:
        self.name = name
        self.size = size
        self._parent = parent
        self._partial_name: str | None = None
        self.fd = -1
        try:
            self.fd = self._create(is_unnamed)
            self._check_room()
        except BaseException:
            self.close()
            raise

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
            raise _refusal(error, f"no room for bytes {offset} to {offset + length}") from None

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
                raise _refusal(error, f"writing at byte {offset + done}") from None

    def verify(self, crc: int) -> None:
        """Read the file back from the disk, and compare its CRC32C.

        Raises
        ------
        CopyError
            The disk fails, or gives other bytes than were written.
        """
        found = position = 0
        buffer = memoryview(bytearray(min(_READ_BACK, max(self.size, 1))))
        try:
            # Pages that are on the disk may leave the cache, so that they are read from there.
            os.fdatasync(self.fd)
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
            while (count := os.preadv(self.fd, [buffer], position)) > 0:
                found = crc32c(buffer[:count], found)
                position += count
        except OSError as error:
            raise _refusal(error, f"reading back at byte {position}") from None
        if (position, found) != (self.size, crc):
            raise CopyError(
                Reason.CHECKSUM,
                f"read back were {position} bytes with crc32c {found:08x}, written were "
                f"{self.size} with {crc:08x}",
            )

    def publish(self, *, force: bool, sync: bool) -> None:
        """Give the file its final name, in one step that no reader can see half done.

        Raises
        ------
        CopyError
            The name exists meanwhile, or the file system refuses.
        """
        try:
            if sync:
                os.fsync(self.fd)
            if force:
                check_target(self._parent, self.name, force=True)
                self._rename_over()
            else:
                self._link_new()
            if sync:
                os.fsync(self._parent)
        except FileExistsError:
            raise CopyError(
                Reason.TARGET_EXISTS, f"{shown(self.name)} was created meanwhile"
            ) from None
        except IsADirectoryError:
            raise CopyError(Reason.NOT_A_FILE, f"{shown(self.name)} is a directory") from None
        except OSError as error:
            raise _refusal(error, f"{shown(self.name)} could not be given its name") from None

    def close(self) -> None:
        """Close the descriptors, and remove the file unless it was published."""
        if self._partial_name is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._partial_name, dir_fd=self._parent)
            self._partial_name = None
        for fd in (self.fd, self._parent):
            if fd >= 0:
                os.close(fd)
        self.fd = self._parent = -1

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
            raise _refusal(error, f"no file for {shown(self.name)} can be created") from None

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
            raise _refusal(error, "the room on the disk cannot be told") from None
        free = space.f_bavail * space.f_frsize
        # File systems without a limit of their own have no blocks.
        if space.f_blocks > 0 and self.size > free:
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
            self._partial_name = None

    def _rename_over(self) -> None:
        if self._partial_name is None:
            name = PARTIAL_PREFIX + secrets.token_hex(8)
            os.link(_proc_path(self.fd), name, dst_dir_fd=self._parent, follow_symlinks=True)
            self._partial_name = name
        os.rename(self._partial_name, self.name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
        self._partial_name = None


def _open_below(parent: int, component: str) -> int:
    try:
        return os.open(component, _OPEN_DIRECTORY, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            what = "is not a directory"
            with contextlib.suppress(OSError):
                status = os.stat(component, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode):
                    what = "is a symbolic link, which is not followed"
            raise CopyError(Reason.NO_DIRECTORY, f"{shown(component)} {what}") from None
        if error.errno == errno.ENOENT:
            raise CopyError(
                Reason.NO_DIRECTORY, f"the directory {shown(component)} does not exist"
            ) from None
        raise _refusal(error, f"the directory {shown(component)} cannot be opened") from None


def _refusal(error: OSError, what: str) -> CopyError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = Reason.DISK_FULL
    elif error.errno == errno.EFBIG:
        return CopyError(
            Reason.DISK_FULL, f"{what}: beyond the file size limit of server or file system"
        )
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = Reason.NO_PERMISSION
    else:
        reason = Reason.INPUT_OUTPUT
    return CopyError(reason, f"{what}: {error.strerror}")


def _proc_path(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def _rename_no_replace(parent: int, source: str, target: str) -> None:
    import ctypes

    renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    names = os.fsencode(source), os.fsencode(target)
    if renameat2(parent, names[0], parent, names[1], _RENAME_NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)
