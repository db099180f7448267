# SPDX-License-Identifier: Apache-2.0
"""The plain TCP copy that `ndverbs demo` compares with: the copy of `cp` without RDMA.

Same ends as the RDMA copy, so that only the transport differs: the source is read into buffers
that rotate, each is sent first and added to its CRC32C afterwards; the receiver has as many staging
buffers, and what has arrived in one is added to the checksum and written to a file that is reserved
and named in the same way. It receives on a thread of its own, as the RDMA transport also runs
beside the checksum and the file. What differs is how the bytes travel: ``socket.sendall`` and
``socket.recv_into`` on one connection.

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

from ndverbs import crc32c
from ndverbs.cli.filecopy.receiving import RESERVED, WINDOW, WINDOWS
from ndverbs.cli.filecopy.sending import CHUNK, CHUNKS
from ndverbs.cli.filecopy.source import SourceFile
from ndverbs.cli.filecopy.target import PartialFile

_REQUEST = struct.Struct("!QH")  # size, length of the name that follows
_ANSWER = struct.Struct("!I")  # CRC32C


def copy_file_tcp(source: SourceFile, address: tuple[str, int], name: str) -> tuple[float, int]:
    """Copy an open file to the receiving process; returns seconds and CRC32C."""
    started = time.perf_counter()
    buffers = _buffers(CHUNKS, CHUNK)
    position = crc = 0
    with socket.create_connection(address, timeout=30) as connection:
        encoded = os.fsencode(name)
        connection.sendall(_REQUEST.pack(source.size, len(encoded)) + encoded)
        while position < source.size:
            length = min(CHUNK, source.size - position)
            view = buffers[position // CHUNK % CHUNKS][:length]
            source.read_into(view, position)
            connection.sendall(view)
            crc = crc32c(view, crc)
            position += length
        (theirs,) = _ANSWER.unpack(_receive(connection, _ANSWER.size))
    if theirs != crc:
        raise ValueError(f"the TCP copy stored crc32c {theirs:08x}, sent was {crc:08x}")
    return time.perf_counter() - started, crc


def _store(connection: socket.socket, directory: str) -> None:
    size, length = _REQUEST.unpack(_receive(connection, _REQUEST.size))
    name = os.fsdecode(_receive(connection, length))
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    crc = 0
    with PartialFile(parent, name, size) as partial:
        staged = _Staged(connection, size)
        for position in range(0, size, WINDOW):
            if position % RESERVED == 0:
                partial.extend(position, min(RESERVED, size - position))
            view = staged.take()
            crc = crc32c(view, crc)
            partial.write(position, view)
            staged.give_back()
        partial.publish(sync=False)
    connection.sendall(_ANSWER.pack(crc))


class _Staged:
    """Buffers that a thread fills from the connection, in order, while others are written."""

    def __init__(self, connection: socket.socket, size: int) -> None:
        self._connection = connection
        self._size = size
        self._buffers = _buffers(WINDOWS, WINDOW)
        self._full: queue.SimpleQueue[memoryview | OSError] = queue.SimpleQueue()
        self._free = threading.Semaphore(WINDOWS)
        threading.Thread(target=self._run, daemon=True).start()

    def take(self) -> memoryview:
        """Wait for the next buffer that is full."""
        item = self._full.get()
        if isinstance(item, OSError):
            raise item
        return item

    def give_back(self) -> None:
        """Let the buffer of the last `take` be filled again."""
        self._free.release()

    def _run(self) -> None:
        try:
            for position in range(0, self._size, WINDOW):
                self._free.acquire()
                view = self._buffers[position // WINDOW % WINDOWS]
                view = view[: min(WINDOW, self._size - position)]
                _receive_into(self._connection, view)
                self._full.put(view)
        except OSError as error:
            self._full.put(error)


def _buffers(count: int, size: int) -> list[memoryview]:
    """Return page-aligned buffers that cost nothing until they are used."""
    memory = memoryview(mmap.mmap(-1, count * size, flags=mmap.MAP_PRIVATE))
    return [memory[start : start + size] for start in range(0, count * size, size)]


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
