# SPDX-License-Identifier: Apache-2.0
"""The plain TCP copy that `ndverbs demo` compares with: the server of `cp` without RDMA.

Same ends as the RDMA copy, so that only the transport differs: the source is read into buffers
that rotate, the target is reserved and mapped in windows, read back for the checksum and named when
it is whole; checksums run on a thread of their own on both sides, as the RDMA transport also runs
beside them. What differs is how the bytes travel: ``socket.sendall`` and ``socket.recv_into`` on
one connection.

``python -m ndverbs.cli.demo.tcp DIRECTORY`` is the receiving process; it prints its port, serves
one connection after the other and ends when its standard input does.
"""

from __future__ import annotations

import mmap
import os
import queue
import signal
import socket
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable

from ndverbs.cli.filecopy.receiving import WINDOW, WINDOWS
from ndverbs.cli.filecopy.sending import CHUNK, CHUNKS
from ndverbs.cli.filecopy.source import SourceFile
from ndverbs.cli.filecopy.target import PartialFile

_REQUEST = struct.Struct("!QH")  # size, length of the name that follows
_ANSWER = struct.Struct("!I")  # CRC-32
_READ_BACK = 1 << 20


def copy_file_tcp(source: SourceFile, address: tuple[str, int], name: str) -> tuple[float, int]:
    """Copy an open file to the receiving process; returns seconds and CRC-32."""
    started = time.perf_counter()
    chunk = max(min(CHUNK, source.size), 1)
    memory = memoryview(bytearray(CHUNKS * chunk))
    free: queue.SimpleQueue[int] = queue.SimpleQueue()
    for slot in range(CHUNKS):
        free.put(slot)
    crc = 0

    def add(item: tuple[int, int]) -> None:
        nonlocal crc
        slot, length = item
        crc = zlib.crc32(memory[slot * chunk : slot * chunk + length], crc)
        free.put(slot)

    with socket.create_connection(address, timeout=30) as connection, _Worker(add) as hasher:
        encoded = os.fsencode(name)
        connection.sendall(_REQUEST.pack(source.size, len(encoded)) + encoded)
        position = 0
        while position < source.size:
            slot = free.get()
            length = min(chunk, source.size - position)
            view = memory[slot * chunk : slot * chunk + length]
            source.read_into(view, position)
            hasher.put((slot, length))
            connection.sendall(view)
            position += length
        hasher.finish()
        (theirs,) = _ANSWER.unpack(_receive(connection, _ANSWER.size))
    if theirs != crc:
        raise ValueError(f"the TCP copy stored crc32 {theirs:08x}, sent was {crc:08x}")
    return time.perf_counter() - started, crc


def _store(connection: socket.socket, directory: str) -> None:
    size, length = _REQUEST.unpack(_receive(connection, _REQUEST.size))
    name = os.fsdecode(_receive(connection, length))
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    crc = 0
    with PartialFile(parent, name, size) as partial:
        buffer = memoryview(bytearray(_READ_BACK))

        def add(item: tuple[int, int]) -> None:
            nonlocal crc
            position, end = item
            while position < end:
                piece = buffer[: min(len(buffer), end - position)]
                count = os.preadv(partial.fd, [piece], position)
                crc = zlib.crc32(piece[:count], crc)
                position += count

        with _Worker(add, WINDOWS) as hasher:
            for offset in range(0, size, WINDOW):
                length = min(WINDOW, size - offset)
                partial.extend(offset, length)
                with mmap.mmap(partial.fd, length, offset=offset) as window:
                    with memoryview(window) as view:
                        _receive_into(connection, view)
                    hasher.put((offset, offset + length))
            hasher.finish()
        partial.publish(force=False, sync=False)
    connection.sendall(_ANSWER.pack(crc))


class _Worker:
    """A thread that takes items in order, so that checksums run beside the transfer."""

    def __init__(self, handle: Callable[[tuple[int, int]], None], depth: int = 0) -> None:
        self._handle = handle
        self._items: queue.Queue[tuple[int, int] | None] = queue.Queue(depth)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, item: tuple[int, int]) -> None:
        self._items.put(item)

    def finish(self) -> None:
        self._items.put(None)
        self._thread.join()

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.finish()

    def _run(self) -> None:
        while (item := self._items.get()) is not None:
            self._handle(item)


def _receive(connection: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    _receive_into(connection, memoryview(data))
    return bytes(data)


def _receive_into(connection: socket.socket, view: memoryview) -> None:
    done = 0
    while done < len(view):
        count = connection.recv_into(view[done:])
        if count == 0:
            raise ConnectionResetError("the sender ended the connection")
        done += count


def _end_with_input() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def main(directory: str) -> None:
    """Receive files into a directory until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us too; the demo ends us
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=_end_with_input, daemon=True).start()
        while True:
            connection, _ = listener.accept()
            with connection:
                try:
                    _store(connection, directory)
                except OSError as error:
                    print(f"TCP receiver: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1])
