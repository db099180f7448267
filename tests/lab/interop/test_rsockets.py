# SPDX-License-Identifier: Apache-2.0
"""Programs on rsockets, both roles, against our sockets: soft with kernel siw, verbs on both."""

import re
import struct
import subprocess
import time

import numpy as np
import pytest

from lab.interop.streams import accepted, connected_to
from lab.interop.tools import LIMIT
from stream.sockets import listening, read_exactly

# Size of a message, messages one way, how rstream calls: nonblocking or blocking.
TRANSFERS = [(64, 500, "n"), (4096, 100, "b"), (65536, 20, "n"), (1 << 20, 4, "b")]
TABLE = bytes(range(256))


class Pattern:
    """The bytes that rstream sends and verifies: they count, over all messages of a direction."""

    def __init__(self):
        self._position = 0

    def next(self, count):
        start = self._position % len(TABLE)
        self._position += count
        return (TABLE * ((start + count) // len(TABLE) + 1))[start : start + count]


def verifying(tool, program, option, address, port, size, count, calls):
    """Start rstream or riostream, which goes both ways twice and looks at what it gets."""
    return tool(
        *(program, option, address, "-p", port, "-S", size, "-C", count, "-I", 2),
        *("-T", calls, "-T", "v"),
    )


# ---- rstream -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "count", "calls"), TRANSFERS)
def test_rstream_client_verifies_what_our_server_sends(ours, tool, size, count, calls):
    adapter, place = ours
    with listening(adapter, place.listen_on) as server:
        port = server.getsockname()[1]
        client = verifying(tool, "rstream", "-s", place.seen_as, port, size, count, calls)
        with accepted(server) as sock:
            received, sent = Pattern(), Pattern()
            assert read_exactly(sock, 16) == received.next(16)
            sock.sendall(sent.next(16))
            for _ in range(2):
                for _ in range(count):
                    assert read_exactly(sock, size) == received.next(size)
                for _ in range(count):
                    sock.sendall(sent.next(size))
            assert sock.recv(1) == b""
        assert "failed" not in client.finish()


@pytest.mark.parametrize(("size", "count", "calls"), TRANSFERS)
def test_rstream_server_verifies_what_our_client_sends(ours, tool, size, count, calls):
    place = ours[1]
    port = place.tool_port()
    server = verifying(tool, "rstream", "-b", place.tools_listen_on, port, size, count, calls)
    with connected_to(server, port, ours) as sock:
        received, sent = Pattern(), Pattern()
        sock.sendall(sent.next(16))
        assert read_exactly(sock, 16) == received.next(16)
        for _ in range(2):
            for _ in range(count):
                sock.sendall(sent.next(size))
            for _ in range(count):
                assert read_exactly(sock, size) == received.next(size)
        assert "failed" not in server.finish()


def arrived(adapter, port):
    """Count what has come in: frames of soft's, packets of rxe's, bytes of siw's connection."""
    stats = adapter.stats()
    for name in ("rdma_in_frames", "device_rcvd_pkts"):
        if name in stats:
            return stats[name]
    command = ["ss", "-H", "-t", "-i", "-n", "state", "established", f"( sport = :{port} )"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"bytes_received:(\d+)", said)[1])


def test_rstream_client_keeps_an_idle_connection_alive(ours, tool):
    adapter, place = ours
    with listening(adapter, place.listen_on) as server:
        port = server.getsockname()[1]
        client = tool(
            "rstream", "-s", place.seen_as, "-p", port, "-S", 8, "-C", 1, "-I", 1, "-k", 1
        )
        with accepted(server) as sock:
            assert len(read_exactly(sock, 16)) == 16
            for _ in range(3):  # the client has nothing to say until we answer
                before, deadline = arrived(adapter, port), time.monotonic() + LIMIT
                while arrived(adapter, port) == before:
                    assert time.monotonic() < deadline, "no keepalive came"
                    assert not client.ends_within(0.05), client.output()
            sock.sendall(bytes(16))
            assert len(read_exactly(sock, 8)) == 8
            sock.sendall(bytes(8))
            client.finish()


# ---- riostream: writes into memory that the other end has mapped --------------------------------

# Size of a write, writes one way, how it waits.
WRITES = [(64, 200, "n"), (65536, 20, "b"), (1 << 20, 4, "n")]


class MappedEnd:
    """Our end of riostream: it maps a buffer at offset 0, and a byte at its end says "there"."""

    def __init__(self, sock, size, count):
        self.sock, self.size, self.count = sock, size, count
        self._memory = np.full(size, 0xFF, np.uint8)
        self._received, self._sent = Pattern(), Pattern()
        sock.riomap(self._memory, 0)

    def receive(self, marker):
        deadline = time.monotonic() + LIMIT
        while self._memory[-1] != marker:
            assert time.monotonic() < deadline, "the last byte never came"
        assert bytes(self._memory[:-1]) == self._received.next(self.size - 1)

    def send(self, marker):
        for _ in range(self.count - 1):
            self.sock.riowrite(bytes(self.size - 1) + b"\xfe", 0)
        self.sock.riowrite(self._sent.next(self.size - 1) + bytes([marker]), 0)


@pytest.mark.parametrize(("size", "count", "calls"), WRITES)
def test_riostream_client_writes_into_our_memory_and_we_into_its(ours, tool, size, count, calls):
    adapter, place = ours
    with listening(adapter, place.listen_on, RDMA_IOMAPSIZE=1) as server:
        port = server.getsockname()[1]
        client = verifying(tool, "riostream", "-s", place.seen_as, port, size, count, calls)
        with accepted(server) as sock:
            end = MappedEnd(sock, size, count)
            read_exactly(sock, 16)
            sock.sendall(bytes(16))
            for marker in (0, 2):
                end.receive(marker)
                end.send(marker + 1)
            assert sock.recv(1) == b""
        assert "failed" not in client.finish()


@pytest.mark.parametrize(("size", "count", "calls"), WRITES)
def test_riostream_server_writes_into_our_memory_and_we_into_its(ours, tool, size, count, calls):
    place = ours[1]
    port = place.tool_port()
    server = verifying(tool, "riostream", "-b", place.tools_listen_on, port, size, count, calls)
    with connected_to(server, port, ours, RDMA_IOMAPSIZE=1) as sock:
        end = MappedEnd(sock, size, count)
        sock.sendall(bytes(16))
        read_exactly(sock, 16)
        for marker in (0, 2):
            end.send(marker)
            end.receive(marker + 1)
        assert "failed" not in server.finish()


# ---- rcopy -------------------------------------------------------------------------------------

HEADER = struct.Struct("=BBHIQ")
OPEN, CLOSE, WRITE, RESPONSE = 1, 2, 3, 0x80


def test_rcopy_client_copies_a_file_to_our_server(ours, tool, file):
    adapter, place = ours
    path, content = file
    with listening(adapter, place.listen_on) as server:
        port = server.getsockname()[1]
        client = tool("rcopy", path, f"{place.seen_as}:/somewhere/else", "-p", port)
        with accepted(server) as sock:

            def request(expected):
                _, command, length, _, number = HEADER.unpack(read_exactly(sock, HEADER.size))
                assert command == expected
                rest = read_exactly(sock, length - HEADER.size)
                return rest, HEADER.pack(0, command | RESPONSE, HEADER.size, 0, number)

            name, answer = request(OPEN)
            assert name.rstrip(b"\0") == b"/somewhere/else"
            sock.sendall(answer)
            size, answer = request(WRITE)
            assert int.from_bytes(size, "little") == len(content)
            assert read_exactly(sock, len(content)) == content
            sock.sendall(answer)
            _, answer = request(CLOSE)
            sock.sendall(answer)
            assert sock.recv(1) == b""
        assert f"{len(content)} bytes" in client.finish()


def test_our_client_copies_a_file_to_an_rcopy_server(ours, tool, file, folder):
    content = file[1]
    port = ours[1].tool_port()
    copy = folder / "copy"
    name = str(copy).encode().ljust(len(str(copy)) + 1, b"\0")
    server = tool("rcopy", "-p", port)
    with connected_to(server, port, ours) as sock:

        def request(command, data=0, rest=b"", more=b""):
            length = HEADER.size + len(rest)
            sock.sendall(HEADER.pack(0, command, length, data, 0) + rest + more)
            _, response, _, status, _ = HEADER.unpack(read_exactly(sock, HEADER.size))
            assert (response, status) == (command | RESPONSE, 0), server.output()

        request(OPEN, 0o644, name)
        request(WRITE, 0, struct.pack("=Q", len(content)), content)
        request(CLOSE)
    assert copy.read_bytes() == content
