# SPDX-License-Identifier: Apache-2.0
"""What the tests of the copy share: clients, servers in a thread or a process, how they end."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ndverbs import Access, Adapter, MemoryRegion
from ndverbs.cli.filecopy.channel import Channel
from ndverbs.cli.filecopy.client import Copied, copy_file
from ndverbs.cli.filecopy.events import Event
from ndverbs.cli.filecopy.protocol import CopyError, Flags, Message, Store, Window
from ndverbs.cli.filecopy.server import Server
from ndverbs.cli.filecopy.source import SourceFile

LIMIT = 60  # seconds that only mean failure


class Serving:
    """A server of a directory on a thread of this process; its log lines are waited for."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.lines: queue.Queue[str] = queue.Queue()
        host = options.pop("host", "127.0.0.1")
        self.server = Server(str(directory), (host, 0), log=self._log, **options)
        self.address = self.server.address
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _log(self, event: Event) -> None:
        self.lines.put(str(event))

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # ClosedError: the end
            self.server.serve_forever()

    def next_line(self) -> str:
        return self.lines.get(timeout=LIMIT)

    def names(self) -> list[str]:
        """Everything in the directory, received files that have no name yet apart."""
        return sorted(os.listdir(self.directory))

    def close(self) -> None:
        self.server.close()
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def serving(directory: Path, **options: Any) -> Iterator[Serving]:
    directory.mkdir(exist_ok=True)
    server = Serving(directory, **options)
    try:
        yield server
    finally:
        server.close()


def copy(path: Path, address: tuple[str, int], target: str, **options: Any) -> Copied:
    with SourceFile(str(path)) as source:
        return copy_file(source, address, target, **options)


def assert_serves(server: Serving, tmp_path: Path) -> None:
    """One misbehaving client never stops the server: a good copy works, and nothing is left."""
    before = server.names()
    good = tmp_path / "good-source"
    good.write_bytes(b"still here" * 1000)
    copy(good, server.address, "good", flags=Flags.FORCE)
    assert (server.directory / "good").read_bytes() == b"still here" * 1000
    (server.directory / "good").unlink()
    assert server.names() == before


def content(size: int) -> bytes:
    """Bytes in which every block differs, so that one in a wrong place is seen."""
    words = b"".join(i.to_bytes(8, "little") for i in range(4096))
    pieces = [i.to_bytes(8, "big") + words[8:] for i in range(-(-size // len(words)))]
    return b"".join(pieces)[:size]


class Client:
    """A client that says what the test wants."""

    def __init__(self, adapter: Adapter, server: Serving) -> None:
        self.channel = Channel(adapter, write_depth=16)
        self.channel.peer = "the server"
        self.channel.connect(server.address, LIMIT)
        self.memory = np.zeros(1 << 20, np.uint8)
        self.region: MemoryRegion = self.channel.register(self.memory, Access.LOCAL_WRITE)

    def close(self) -> None:
        self.region.close()
        self.channel.close()

    def send(self, message: Message) -> None:
        self.channel.send(message, LIMIT)

    def send_bytes(self, data: bytes) -> None:
        self.memory[: len(data)] = np.frombuffer(data, np.uint8)
        # The context of a send slot that is in use: it comes back once.
        self.channel._qp.send(self.region.segment(0, len(data)), context=16)

    def receive(self) -> Message:
        return self.channel.receive(LIMIT, "in a test")

    def window(self, size: int, name: bytes = b"target") -> Window:
        """Ask for a file and return its first window."""
        self.send(Store(name, size))
        window = self.receive()
        assert isinstance(window, Window)
        return window

    def write(self, window: Window, data: bytes, offset: int = 0) -> None:
        self.memory[: len(data)] = np.frombuffer(data, np.uint8)
        self.channel.write(
            self.region.segment(0, len(data)), window.address + offset, window.token, 0
        )

    def failure(self) -> CopyError:
        """Return why the server ended the connection."""
        try:
            while True:
                self.receive()
        except CopyError as error:
            return error


class Process:
    """A Python process that is spoken to by lines; killed at the end of its context."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def read_log(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline().strip()

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; returns exit code, standard output and standard error.

        Its standard input stays open meanwhile: `--until-eof` would see the end of it.
        """
        code = self.process.wait(LIMIT)
        out, err = self.process.communicate()
        return code, out, err

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def ndverbs(*arguments: str) -> Process:
    return Process("-m", "ndverbs", *arguments)


class ServeProcess(Process):
    """`ndverbs serve` in a process of its own; it ends with ours in any case."""

    def __init__(self, directory: Path, *options: str, address: str = "127.0.0.1:0") -> None:
        directory.mkdir(exist_ok=True)
        super().__init__("-m", "ndverbs", "serve", address, str(directory), "--until-eof", *options)
        line = self.read_line()
        assert line, self.end()
        self.text = line.rpartition(" ")[2]
        host, _, port = self.text.rpartition(":")
        self.address = host.strip("[]"), int(port)
