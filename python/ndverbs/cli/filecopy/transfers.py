# SPDX-License-Identifier: Apache-2.0
"""The copies of one `ndverbs cp`: files and whole directories, over one connection.

Owns the walk through directories on either side, and the rule that a file that fails is told and
the next one is copied, unless the failure is one of the connection, the server or the disk: then
the others would fail, too. The server ends a connection with a failure, so the next copy makes
another. Regular files and directories are copied; other entries of a directory are named, and
count as not copied.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ndverbs import Adapter, RdmaError, _address
from ndverbs._closing import Closing
from ndverbs.cli.filecopy.client import MAX_ENTRIES, Client, Copied
from ndverbs.cli.filecopy.names import make_directory, open_parent, refusal, shown
from ndverbs.cli.filecopy.protocol import (
    CopyError,
    Entry,
    EntryKind,
    Flags,
    Reason,
    malformed,
)
from ndverbs.cli.filecopy.report import ProgressBar, sentence
from ndverbs.cli.filecopy.source import SourceFile
from ndverbs.cli.filecopy.target import PartialFile

# Failures after which the next file would fail, too.
_FINAL = {
    Reason.PROTOCOL,
    Reason.DISK_FULL,
    Reason.TIMED_OUT,
    Reason.BUSY,
    Reason.STOPPING,
    Reason.CONNECTION,
    Reason.NOT_ALLOWED,
}

_Answer = TypeVar("_Answer")


class Transfers(Closing):
    """Copies to and from one server.

    Parameters
    ----------
    address, adapter, connect_timeout
        As of `Client`.
    flags
        What is done beside each copy.
    bar
        Shows how far it is.
    complain
        Called with a sentence about each part of a directory that was not copied.

    Attributes
    ----------
    files, size, failed
        How many files were copied, their bytes, and how many names were not copied.
    """

    def __init__(
        self,
        address: tuple[str, int],
        adapter: Adapter,
        *,
        connect_timeout: float,
        flags: Flags,
        bar: ProgressBar,
        complain: Callable[[str], None],
    ) -> None:
        self.files = self.size = self.failed = 0
        self._address = address
        self._adapter = adapter
        self._connect_timeout = connect_timeout
        self._flags = flags
        self._bar = bar
        self._complain = complain
        self._client: Client | None = None

    def store_file(self, path: str, target: str) -> tuple[Copied, str]:
        """Copy a file to the server; returns a description of a ``.npy`` file, too, else "".

        Raises
        ------
        CopyError
            It was not copied.
        """
        started = time.perf_counter()
        with SourceFile(path) as source:
            array = f" ({source.describe_array()})" if path.endswith(".npy") else ""
            self._bar.begin(source.size)
            copied = self._ask(
                lambda client: client.store(
                    source, target, flags=self._flags, progress=self._bar.show
                )
            )
        return self._count(copied, started), array

    def fetch_file(self, name: str, path: str) -> Copied:
        """Copy a file of the server to a path here.

        Raises
        ------
        CopyError
            It was not copied.
        """
        folder, last = os.path.split(path)
        root = _open_folder(folder or ".")
        try:
            return self._fetch_below(name, root, [last])
        finally:
            os.close(root)

    def store_tree(self, path: str, target: str) -> None:
        """Copy a directory with all below it to the server; failures are told.

        Raises
        ------
        CopyError
            The next files would fail, too.
        """
        left = [(path, target)]
        while left:
            path, target = left.pop()
            folders = []
            for entry in self._local_entries(path, target):
                inner = f"{target}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, inner))
                elif entry.is_file(follow_symlinks=False):
                    self.attempt(partial(self.store_file, entry.path, inner))
                else:
                    self._leave_out(entry.path)
            left += reversed(folders)

    def fetch_tree(self, name: str, path: str) -> None:
        """Copy a directory of the server with all below it to a path here; failures are told.

        Raises
        ------
        CopyError
            `path` cannot be made, or the next files would fail, too.
        """
        # A directory is listed before its copy is made, which may be below it on this very host.
        entries = self._ask(lambda client: client.list(name))
        self._bar.expect(sum(entry.size for entry in entries))
        make_folder(path)
        root = _open_folder(path)
        try:
            left: list[tuple[str, list[str]]] = [(name, [])]
            while left:
                name, place = left.pop()
                folders = []
                for entry in self._remote_entries(name, root, place) if place else entries:
                    last = os.fsdecode(entry.name)
                    inner = last if name == "." else f"{name}/{last}"
                    if entry.kind is EntryKind.DIRECTORY:
                        folders.append((inner, [*place, last]))
                    elif entry.kind is EntryKind.FILE:
                        self.attempt(partial(self._fetch_below, inner, root, [*place, last]))
                    else:
                        self._leave_out(inner)
                left += reversed(folders)
                if len(left) > MAX_ENTRIES:
                    raise malformed(f"more than {MAX_ENTRIES} directories")
        finally:
            os.close(root)

    def make_directory(self, name: str) -> None:
        """Make a directory at the server, unless it exists.

        Raises
        ------
        CopyError
            The server refuses.
        """
        self._ask(lambda client: client.make_directory(name))

    def is_directory(self, name: str) -> bool:
        """Return whether a name of the server is that of a directory.

        Raises
        ------
        CopyError
            There is no such name.
        """
        return [entry.name for entry in self._ask(lambda client: client.list(name))] != [b""]

    def attempt(self, action: Callable[[], _Answer]) -> _Answer | None:
        """Return what `action` returns; of a failure tell, count it and return None.

        Raises
        ------
        CopyError
            The next files would fail, too.
        """
        try:
            return action()
        except CopyError as error:
            if error.reason in _FINAL:
                raise
            self.failed += 1
            self._complain(sentence(error))
            return None

    def finish(self) -> None:
        """End the connection in order."""
        if self._client is not None:
            self._client.finish()

    def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            self._client.close()
        self._client = None

    def _fetch_below(self, name: str, root: int, place: list[str]) -> Copied:
        started = time.perf_counter()

        def open_target(size: int) -> PartialFile:
            self._bar.begin(size)
            return PartialFile(
                open_parent(root, place),
                place[-1],
                size,
                is_kept=bool(self._flags & Flags.RESUME),
                force=bool(self._flags & Flags.FORCE),
            )

        copied = self._ask(
            lambda client: client.fetch(
                name, open_target, flags=self._flags, progress=self._bar.show
            )
        )
        return self._count(copied, started)

    def _local_entries(self, path: str, target: str) -> list[os.DirEntry[str]]:
        """Make the directory at the server, and return the entries of the one here."""

        def begin() -> list[os.DirEntry[str]]:
            try:
                with os.scandir(path) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                raise CopyError(
                    Reason.SOURCE, f"the directory {shown(path)} cannot be read: {error.strerror}"
                ) from None
            self._ask(lambda client: client.make_directory(target))
            return entries

        entries = self.attempt(begin) or []
        self._bar.expect(sum(_size(entry) for entry in entries))
        return entries

    def _remote_entries(self, name: str, root: int, place: list[str]) -> list[Entry]:
        """Return the entries of a directory at the server, and make one here."""

        def begin() -> list[Entry]:
            entries = self._ask(lambda client: client.list(name))
            make_directory(root, os.fsencode("/".join(place)))
            return entries

        entries = self.attempt(begin) or []
        self._bar.expect(sum(entry.size for entry in entries))
        return entries

    def _leave_out(self, name: str) -> None:
        self.failed += 1
        self._complain(f"{shown(name)} is neither a file nor a directory, and is not copied")

    def _ask(self, action: Callable[[Client], _Answer]) -> _Answer:
        try:
            if self._client is None:
                with self._bar.waiting(f"connecting to {_address.text(self._address)}"):
                    self._client = Client(
                        self._address, self._adapter, connect_timeout=self._connect_timeout
                    )
            return action(self._client)
        except RdmaError as error:
            self.close()
            raise CopyError(Reason.CONNECTION, str(error)) from error
        except BaseException:
            self.close()
            raise

    def _count(self, copied: Copied, started: float) -> Copied:
        self.files += 1
        self.size += copied.size
        return Copied(copied.size, time.perf_counter() - started, copied.crc)


def make_folder(path: str) -> None:
    """Make a directory here, and those above it, unless it exists.

    Raises
    ------
    CopyError
        It cannot be made.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise refusal(error, f"the directory {shown(path)} cannot be made") from None


def _open_folder(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise refusal(error, f"the directory {shown(path)} cannot be opened") from None


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size if entry.is_file() else 0
    except OSError:
        return 0
