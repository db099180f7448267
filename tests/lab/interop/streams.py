# SPDX-License-Identifier: Apache-2.0
"""Our side of a stream whose other end is a program."""

import contextlib
import hashlib
import socket
import time

import pytest

import ndverbs as nd
from lab.interop.tools import LIMIT
from stream.sockets import name_of


@pytest.fixture
def file(folder):
    """Give a file of odd length and its content."""
    content = hashlib.shake_256(b"file").digest(3_000_001)
    path = folder / "file"
    path.write_bytes(content)
    return path, content


@contextlib.contextmanager
def connected_to(tool, port, ours, **options):
    """Connect to a program that was just started; its listener does not say when it is there."""
    adapter, place = ours
    deadline = time.monotonic() + LIMIT
    while True:
        sock = nd.Socket(adapter=adapter)
        sock.settimeout(LIMIT)
        for name, value in options.items():
            sock.setsockopt(*name_of(name), value)
        # Siw may leave the first frames unread until another one comes.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        try:
            sock.connect(place.tool_at(port))
            break
        except place.refusals:
            sock.close()
            assert time.monotonic() < deadline, f"{tool} does not listen\n{tool.output()}"
            assert not tool.ends_within(0.05), f"{tool} ended\n{tool.output()}"
    with sock:
        yield sock


def accepted(server):
    server.settimeout(LIMIT)
    sock, _ = server.accept()
    sock.settimeout(LIMIT)
    return sock
