# SPDX-License-Identifier: Apache-2.0
"""rping's side of a connection, either one, on an End.

The protocol, as rdma-core's rping speaks it: an advertisement is a Send of 16 bytes, address (64
bits), token (32) and size (32), big-endian. A round is: the client advertises its source; the
server Reads it and sends 16 bytes of any content; the client advertises its sink; the server
Writes there what it has read, and sends 16 bytes again. The client ends after its last round.

The data of round n is the text ``rdma-ping-n: ``, then the characters from A to z over and over,
beginning with the (n mod 58)th; the last byte is zero.
"""

import struct

import ndverbs as nd

_ADVERTISEMENT = struct.Struct(">QII")
_ALPHABET = bytes(range(ord("A"), ord("z") + 1))


def data_of(number, size):
    """Return the bytes of a round."""
    head = b"rdma-ping-%d: " % number
    start = number % len(_ALPHABET)
    letters = (_ALPHABET * (size // len(_ALPHABET) + 2))[start:]
    return (head + letters)[: size - 1] + b"\0"


class _Side:
    def __init__(self, end, size):
        self.end = end
        self.size = size
        for name in ("inbox 0", "inbox 1"):
            end.memory(name, _ADVERTISEMENT.size, nd.Access.LOCAL_WRITE)
            end.receive(name, context=name)
        end.memory("outbox", _ADVERTISEMENT.size, nd.Access.LOCAL_READ)

    def take(self):
        """Wait for the peer's next message and return it."""
        done = self.end.received()
        assert done.status == nd.Status.SUCCESS, done
        name = done.request_context
        message = self.end.content(name)[: done.bytes_transferred]
        self.end.receive(name, context=name)
        assert len(message) == _ADVERTISEMENT.size
        return _ADVERTISEMENT.unpack(message)

    def tell(self, message=bytes(_ADVERTISEMENT.size)):
        self.end.store("outbox", message)
        self.end.send("outbox")
        self.expect_success(nd.OperationType.SEND)

    def expect_success(self, kind):
        done = self.end.completion()
        assert (done.type, done.status) == (kind, nd.Status.SUCCESS), done


class Server(_Side):
    """Reads and Writes."""

    def __init__(self, end, size):
        super().__init__(end, size)
        end.memory("data", size)

    def serve(self, rounds):
        """Serve that many rounds, and check their data."""
        for number in range(rounds):
            address, token, size = self.take()
            assert size == self.size
            self.end.read((address, token), "data")
            self.expect_success(nd.OperationType.READ)
            assert self.end.content("data") == data_of(number, size)
            self.tell()
            address, token, size = self.take()
            assert size == self.size
            self.end.write((address, token), "data")
            self.expect_success(nd.OperationType.WRITE)
            self.tell()


class Client(_Side):
    """Advertises."""

    def __init__(self, end, size):
        super().__init__(end, size)
        self.source = end.memory("source", size)
        self.sink = end.memory("sink", size)

    def advertise(self, remote, **changes):
        facts = {"address": remote.address, "token": remote.token, "size": self.size, **changes}
        self.tell(_ADVERTISEMENT.pack(facts["address"], facts["token"], facts["size"]))

    def ping(self, rounds):
        """Do that many rounds, and check what comes back."""
        for number in range(rounds):
            data = data_of(number, self.size)
            self.end.store("source", data)
            self.end.store("sink", bytes(self.size))
            self.advertise(self.source)
            self.take()
            self.advertise(self.sink)
            self.take()
            assert self.end.content("sink") == data
