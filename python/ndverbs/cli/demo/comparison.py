# SPDX-License-Identifier: Apache-2.0
"""`ndverbs demo`: a real file from one process to another, by RDMA and by TCP, then compared.

Owns the temporary directory, the two receiving processes and the report. The copies take turns
(RDMA, TCP, RDMA, TCP, ...), so that whatever else the machine does hits both; medians count.
Every copy is compared with the source byte by byte, by this process reading both files.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np

from ndverbs import Adapter
from ndverbs._address import split
from ndverbs._native import _default_adapter
from ndverbs.cli.demo.tcp import copy_file_tcp
from ndverbs.cli.failure import CommandError
from ndverbs.cli.filecopy.client import copy_file
from ndverbs.cli.filecopy.names import shown
from ndverbs.cli.filecopy.protocol import CopyError
from ndverbs.cli.filecopy.source import SourceFile
from ndverbs.cli.terminal import Status

_BLOCK = 1 << 20
_SPARE = 64 << 20  # bytes of disk left free
_SMALLEST = 16 << 20  # below this a file says little about a transport
_END_TIME = 10.0  # seconds that a receiving process gets to end


@dataclass
class _Way:
    """One way to copy, and how long its copies took."""

    name: str
    seconds: list[float] = field(default_factory=list)

    def rate(self, size: int) -> float:
        return size / statistics.median(self.seconds) / 1e9 if size else 0.0

    def line(self, size: int) -> str:
        rates = ", ".join(f"{size / seconds / 1e9:.2f}" for seconds in self.seconds)
        return f"  {self.name:22} {self.rate(size):6.2f} GB/s   (median of {rates})"


def run(file: str | None, *, rounds: int, size: int, is_json: bool = False) -> int:
    """Copy, check, report; returns the exit code."""
    with Status() as status:
        copied, rdma, tcp = measured(file, rounds=rounds, size=size, say=status.say)
    if is_json:
        print(json.dumps(_as_json(file, copied, rdma, tcp), indent=2))
    else:
        _report(Path(file) if file else None, copied, rdma, tcp)
    return 0


def measured(
    file: str | None, *, rounds: int, size: int, say: Callable[[str], None] = lambda what: None
) -> tuple[int, _Way, _Way]:
    """Copy and check; `say` is called with what is done.

    Returns
    -------
    tuple
        The bytes of the file, and the ways with how long their copies took: RDMA, TCP.
    """
    previous = signal.signal(signal.SIGTERM, _end)
    try:
        with _workspace() as folder:
            received = folder / "received"
            received.mkdir()
            if not file:
                say(f"making a file of {size >> 20} MiB of this machine's libraries")
            source = Path(file) if file else _build(folder / "source.bin", size)
            with SourceFile(str(source)) as opened:
                _check_space(folder, opened.size)
                return opened.size, *_copies(opened, received, rounds, say)
    except CopyError as error:
        raise CommandError(f"the demo failed: {error.text}") from error
    finally:
        signal.signal(signal.SIGTERM, previous)


def _copies(
    opened: SourceFile, received: Path, rounds: int, say: Callable[[str], None]
) -> tuple[_Way, _Way]:
    rdma, tcp = _Way("RDMA (ndverbs cp)"), _Way("plain TCP sockets")
    # One that works on every machine, whatever the environment asks for elsewhere.
    served = "127.0.0.1:0", str(received), "--until-eof", "--adapter", _default_adapter
    with (
        _receiver("ndverbs", "serve", *served) as serving,
        _receiver("ndverbs.cli.demo.tcp", str(received)) as port,
        Adapter.open(_default_adapter) as adapter,
    ):
        rdma_address = split(serving.rpartition(" ")[2])
        tcp_address = ("127.0.0.1", int(port))
        for number in range(-1, rounds):
            # The first pair does not count, and the ways take turns at going first: what the
            # file system still writes from one copy slows the next.
            for way in (rdma, tcp) if number % 2 == 0 else (tcp, rdma):
                target = received / f"copy-{number}"
                what = f"{way.name}, copy {number + 2} of {rounds + 1}"
                say(what)
                if way is rdma:
                    seconds = copy_file(opened, rdma_address, target.name, adapter=adapter).seconds
                else:
                    seconds = copy_file_tcp(opened, tcp_address, target.name)[0]
                say(f"{what}: comparing")
                _compare(opened, target)
                if number >= 0:
                    way.seconds.append(seconds)
    return rdma, tcp


def _report(source: Path | None, size: int, rdma: _Way, tcp: _Way) -> None:
    what = shown(str(source)) if source else "a file made of this machine's libraries"
    print(
        f"copied {what}, {size:,} bytes, between two processes, {len(rdma.seconds)} times each "
        "after one that does not count"
    )
    print(rdma.line(size))
    print(tcp.line(size))
    if size:
        print(f"  {'ratio':22} {rdma.rate(size) / tcp.rate(size):6.2f}")
    print(
        "the TCP copy has the same ends: the same reads, CRC32C on both ends, staging buffers and "
        "writes to the file;\nevery copy was read again and equals the source byte by byte"
    )


def _as_json(file: str | None, size: int, rdma: _Way, tcp: _Way) -> dict[str, object]:
    ways = {
        name: {"seconds": way.seconds, "gigabytes_per_second": way.rate(size)}
        for name, way in (("rdma", rdma), ("tcp", tcp))
    }
    ratio = rdma.rate(size) / tcp.rate(size) if size else None
    return {"file": file, "bytes": size} | ways | {"ratio": ratio}


def _compare(source: SourceFile, target: Path) -> None:
    """Read both files completely and compare them; the target is removed."""
    with target.open("rb", buffering=0) as received:
        if (size := os.fstat(received.fileno()).st_size) != source.size:
            raise CommandError(
                f"the copy {target.name} of {shown(source.path)} DIFFERS: it has {size} bytes, "
                f"not {source.size}; please report this"
            )
        blocks = np.empty((2, _BLOCK), np.uint8)
        for position in range(0, size, _BLOCK):
            length = min(_BLOCK, size - position)
            # NumPy compares blocks, a memoryview one byte after the other.
            ours, theirs = blocks[:, :length]
            source.read_into(memoryview(ours), position)
            # A regular file gives what it has: a short count is its end.
            if received.readinto(theirs.data) != length or not np.array_equal(ours, theirs):
                raise CommandError(
                    f"the copy {target.name} DIFFERS from {shown(source.path)} within "
                    f"{_BLOCK} bytes from byte {position} on; please report this"
                )
    target.unlink()


def _build(path: Path, size: int) -> Path:
    """Fill `path` with files of this machine, one after the other, until it has `size` bytes."""
    room = max((shutil.disk_usage(path.parent).free - _SPARE) // 2, 0)
    if room < min(size, _SMALLEST):
        raise CommandError("there is no room for the demo; name another place with TMPDIR=/path")
    seen: set[tuple[int, int]] = set()
    left = min(size, room)
    with path.open("wb") as out:
        for candidate in _real_files():
            with contextlib.suppress(OSError), candidate.open("rb") as piece:
                status = os.fstat(piece.fileno())
                identity = status.st_dev, status.st_ino
                if identity in seen or status.st_size == 0:
                    continue
                seen.add(identity)
                offset, end = 0, min(status.st_size, left)
                while offset < end:
                    count = os.sendfile(out.fileno(), piece.fileno(), offset, end - offset)
                    if count == 0:
                        break
                    offset += count
                left -= offset
            if left == 0:
                break
        os.fsync(out.fileno())  # or the disk is busy with it while the copies are timed
    return path


def _real_files() -> Iterator[Path]:
    places = (sys.prefix, sys.base_prefix + "/lib", "/usr/lib", "/usr/bin", "/usr/share")
    for place in places:
        for folder, folders, names in os.walk(place):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if path.is_file() and not path.is_symlink():
                    yield path


def _check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE:
        raise CommandError(
            f"the demo needs {size + _SPARE:,} bytes in {folder.parent}, {free:,} are free; "
            "name another place with TMPDIR=/path"
        )


@contextlib.contextmanager
def _workspace() -> Iterator[Path]:
    folder = tempfile.mkdtemp(prefix="ndverbs-demo-")
    try:
        yield Path(folder)
    finally:
        with _signals_deferred():
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _receiver(module: str, *arguments: str) -> Iterator[str]:
    """Run a receiving process; gives its first line. It ends with its standard input."""
    process: subprocess.Popen[str] | None = None
    try:
        # A signal between the start of the process and our knowing of it would orphan it.
        with _signals_deferred():
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                # Ctrl-C reaches us, and we end it: it needs no words of its own about that.
                start_new_session=True,
            )
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline().strip()
        if not line:
            raise CommandError(
                f"the receiving process did not start: {process.stderr.read().strip()}"
            )
        yield line
    finally:
        if process is not None:
            with _signals_deferred():
                _end_receiver(process)


def _end_receiver(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(_END_TIME)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


@contextlib.contextmanager
def _signals_deferred() -> Iterator[None]:
    """Let what must not stay half done finish before Ctrl-C or SIGTERM counts."""
    came: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
