# SPDX-License-Identifier: Apache-2.0
"""Pairs of WSK sockets for the tests of their rules."""

import queue

from ndverbs import wsk
from stream.sockets import LIMIT

RECEIVE, DISCONNECT, BACKLOG = (
    wsk.EventMask.RECEIVE,
    wsk.EventMask.DISCONNECT,
    wsk.EventMask.SEND_BACKLOG,
)


class Ends:
    """Two connected sockets; what the near one's events told is in `told`."""

    def __init__(self, listening, adapter, host, **callbacks):
        self.told = queue.Queue()
        self.near = wsk.socket_connect((host, 0), listening.local_address, adapter, **callbacks)
        self.far = listening.accept(LIMIT)

    def next(self):
        return self.told.get(timeout=LIMIT)

    def close(self):
        self.near.close()
        self.far.close()


def receive(sock, size=100, flags=0):
    buffer = bytearray(size)
    got = sock.receive(buffer, flags).result(LIMIT)
    return bytes(buffer[:got])
