# SPDX-License-Identifier: Apache-2.0
"""The server side of perftest's bandwidth tests with ``-R``, for one client, on soft Ends.

As perftest 6.06 speaks it: the client makes two connections to the same port. Over the first, the
control connection, it sends a message and waits for ours, one after the other: its version (16
bytes), buffer cycle and cache line (4 bytes each), MTU (2 bytes). Then come records of 56 bytes,
"keys" here, that tell where memory is and keep both sides in step; the second connection, for the
data, is made after the first of them. Results travel as five numbers of 8 bytes.

All data come from one buffer that the client fills with the C library's random numbers, seeded
with the time of day. So a peer that knows about when it started knows the data.
"""

import ctypes
import struct
from typing import NamedTuple

import ndverbs as nd

_KEYS = struct.Struct(">IIIII4xQ16sII")  # lid, reads, qpn, psn, token; address; gid, srqn, index
CYCLE = 4096  # the client cycles through a page of its buffer with messages of up to half a page
_INBOXES = 8


class Keys(NamedTuple):
    """Where memory is."""

    address: int
    token: int


class Control:
    """The control connection."""

    def __init__(self, end):
        self.end = end
        self.keys = Keys(0, 0)  # what we tell
        for number in range(_INBOXES):
            end.memory(f"inbox {number}", _KEYS.size, nd.Access.LOCAL_WRITE)
        end.memory("outbox", _KEYS.size, nd.Access.LOCAL_READ)

    def accept(self):
        for number in range(_INBOXES):
            self.end.receive(f"inbox {number}", context=f"inbox {number}")
        self.end.accept()

    def take(self, size):
        """Wait for a message of the client's, of that size."""
        done = self.end.received()
        assert done.status == nd.Status.SUCCESS, done
        name = done.request_context
        message = self.end.content(name)[: done.bytes_transferred]
        self.end.receive(name, context=name)
        assert len(message) == size, message
        return message

    def tell(self, message):
        self.end.store("outbox", message)
        self.end.send(("outbox", 0, len(message)))
        done = self.end.completion()
        assert done.status == nd.Status.SUCCESS, done

    def agree(self):
        """Answer version, buffer cycle, cache line and MTU with the client's own."""
        for size in (16, 4, 4, 2):
            self.tell(self.take(size))

    def take_keys(self):
        *_, token, address, _gid, _srqn, _index = _KEYS.unpack(self.take(_KEYS.size))
        return Keys(address, token)

    def tell_keys(self):
        self.tell(_KEYS.pack(0, 1, 0, 0, self.keys.token, self.keys.address, bytes(16), 0, 0))

    def exchange_keys(self, times=1):
        """Let the client go on; return what it told last."""
        for _ in range(times):
            keys = self.take_keys()
            self.tell_keys()
        return keys

    def exchange_results(self):
        for _ in range(5):
            self.tell(self.take(8))


def connect(control, data):
    """Accept both connections; `data` is an End of the same adapter."""
    control.accept()
    control.agree()
    control.exchange_keys()
    data.incoming = control.end.listener.get_connector(60)
    data.answer()
    control.exchange_keys()


def is_client_data(received, since, until):
    """Say whether these are the first bytes of a client's buffer that started in these seconds.

    Its clock may be another machine's, hence some more.
    """
    libc = ctypes.CDLL(None)
    for seed in range(int(since) - 300, int(until) + 300):
        libc.srand(seed)
        if all(byte == libc.rand() & 0xFF for byte in received):
            return True
    return False
