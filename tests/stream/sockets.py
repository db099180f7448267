# SPDX-License-Identifier: Apache-2.0
"""Connected pairs of sockets for the tests of streams."""

import contextlib
import threading
import time

import ndverbs as nd

LIMIT = 30  # seconds; only means failure


@contextlib.contextmanager
def listening(adapter, host, **options):
    with nd.Socket(adapter=adapter) as server:
        server.settimeout(LIMIT)
        for name, value in options.items():
            server.setsockopt(*name_of(name), value)
        server.bind((host, 0))
        server.listen()
        yield server


def name_of(name):
    import socket

    if name.startswith("RDMA"):
        from ndverbs import socket_options

        return socket_options.SOL_RDMA, getattr(socket_options, name)
    return socket.SOL_SOCKET, getattr(socket, name)


@contextlib.contextmanager
def connected(adapter, host, **options):
    """Two ends of one connection, the connecting one first, with the same options."""
    with listening(adapter, host, **options) as server, nd.Socket(adapter=adapter) as near:
        near.settimeout(LIMIT)
        for name, value in options.items():
            near.setsockopt(*name_of(name), value)
        near.connect(server.getsockname())
        far, _ = server.accept()
        with far:
            far.settimeout(LIMIT)
            yield near, far


class Background:
    """A call on a thread of its own; result() raises what it raised."""

    def __init__(self, function, *args):
        self._outcome = []
        self._thread = threading.Thread(target=self._run, args=(function, args), daemon=True)
        self._thread.start()

    def _run(self, function, args):
        try:
            self._outcome.append((True, function(*args)))
        except BaseException as error:
            self._outcome.append((False, error))

    @property
    def native_id(self):
        return self._thread.native_id

    def result(self):
        self._thread.join(LIMIT)
        assert not self._thread.is_alive(), "the call did not end"
        is_good, value = self._outcome.pop()
        if not is_good:
            raise value
        return value


def read_to_end(sock, size=1 << 20):
    return b"".join(iter(lambda: sock.recv(size), b""))


def read_exactly(sock, count):
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, f"the stream ended after {len(data)} of {count} bytes"
        data += piece
    return bytes(data)


def fill(sock):
    """Send on a socket that never waits until there is no more room; return how much went."""
    sent = 0
    try:
        while True:
            sent += sock.send(bytes(4096))
    except BlockingIOError:
        return sent


def until(is_so):
    """Look until something is so, which only another thread can bring about."""
    give_up_at = time.monotonic() + LIMIT
    while not is_so():
        assert time.monotonic() < give_up_at
