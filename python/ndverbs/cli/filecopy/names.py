# SPDX-License-Identifier: Apache-2.0
"""Names below a directory: which are allowed, and how they are opened.

Owns the rule that nothing is read or written outside the served directory: a name is split into
components, and each is opened relative to the one before, never through a symbolic link, so that
nothing that changes meanwhile can lead out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

from ndverbs.cli.filecopy.protocol import (
    MAX_ENTRY_NAME,
    MAX_NAME,
    CopyError,
    Reason,
    printable,
)

PARTIAL_PREFIX = ".ndverbs-partial-"

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def shown(name: str | bytes) -> str:
    """Return a name as a message shows it: quoted, and harmless to a terminal."""
    text = name if isinstance(name, str) else os.fsdecode(name)
    return "'" + printable(text.encode(errors="replace").decode()) + "'"


def split_name(name: bytes) -> list[str]:
    """Return the components of a name.

    Raises
    ------
    CopyError
        The name is empty, absolute, too long, or has a component that no plain path has.
    """
    if not name:
        raise CopyError(Reason.BAD_NAME, "the name is empty")
    if len(name) > MAX_NAME:
        raise CopyError(Reason.BAD_NAME, f"the name has {len(name)} bytes, {MAX_NAME} are the most")
    if b"\0" in name:
        raise CopyError(Reason.BAD_NAME, f"the name {shown(name)} holds a NUL")
    if name.startswith(b"/"):
        raise CopyError(
            Reason.BAD_NAME,
            f"the name {shown(name)} is absolute; names are relative to the served directory",
        )
    components = name.split(b"/")
    for component in components:
        if component in (b"", b".", b".."):
            what = f"the component {shown(component)}" if component else "an empty component"
            raise CopyError(Reason.BAD_NAME, f"the name {shown(name)} has {what}")
        if len(component) > MAX_ENTRY_NAME:
            raise CopyError(
                Reason.BAD_NAME,
                f"a component of the name has {len(component)} bytes, "
                f"{MAX_ENTRY_NAME} are the most",
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
        raise refusal(error, f"the directory {shown(component)} cannot be opened") from None


def open_directory(root: int, name: bytes) -> int:
    """Return a descriptor of a directory, `.` being `root` itself; the caller closes it.

    Raises
    ------
    CopyError
        As `open_parent` does.
    """
    return open_parent(root, [] if name == b"." else [*split_name(name), ""])


def make_directory(root: int, name: bytes) -> None:
    """Make a directory, unless it exists.

    Raises
    ------
    CopyError
        The name is taken by something else, or the directory that would hold it does not exist.
    """
    if name == b".":
        return
    components = split_name(name)
    parent = open_parent(root, components)
    try:
        os.mkdir(components[-1], dir_fd=parent)
    except FileExistsError:
        os.close(_open_below(parent, components[-1]))
    except OSError as error:
        raise refusal(error, f"the directory {shown(name)} cannot be made") from None
    finally:
        os.close(parent)


def refusal(error: OSError, what: str) -> CopyError:
    """Return the error for a refusal of the file system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = Reason.DISK_FULL
    elif error.errno == errno.EFBIG:
        return CopyError(
            Reason.DISK_FULL, f"{what}: beyond the file size limit of server or file system"
        )
    elif error.errno in (errno.ENOENT, errno.ENOTDIR):
        reason = Reason.NO_DIRECTORY
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = Reason.NO_PERMISSION
    else:
        reason = Reason.INPUT_OUTPUT
    return CopyError(reason, f"{what}: {error.strerror}")
