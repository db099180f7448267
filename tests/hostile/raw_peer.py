# SPDX-License-Identifier: Apache-2.0
"""A peer made of a plain TCP socket and struct: it may send whatever it likes.

Frames come from ``wire.reference``, an independent reading of the RFCs; nothing here calls ndverbs.
Every read has a limit that only means failure.
"""

import contextlib
import socket
import struct

from wire import reference
from wire.reference import TERMINATE, WRITE

REQUEST_KEY, REPLY_KEY = b"MPA ID Req Frame", b"MPA ID Rep Frame"
# RFC 5044 section 7.1.1 and RFC 6581 section 6.
M, C, R, S = 0x80, 0x40, 0x20, 0x10
LIMIT_S = 20.0


def mpa(key, flags=S, revision=2, private_data=b"", *, ird=16, ord=16, words=None, length=None):
    """A start-up frame; `length` lies about PD_Length, `words` are raw enhanced data."""
    data = private_data
    if flags & S and revision >= 2:
        data = (struct.pack(">HH", ird, ord) if words is None else words) + data
    size = len(data) if length is None else length
    return key + struct.pack(">BBH", flags, revision, size) + data


def request(*args, **kwargs):
    return mpa(REQUEST_KEY, *args, **kwargs)


def reply(*args, **kwargs):
    return mpa(REPLY_KEY, *args, **kwargs)


class RawPeer:
    """The test's end of one TCP connection."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(LIMIT_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.crc = False
        self.rest = b""

    @classmethod
    def connect(cls, address):
        return cls(socket.create_connection(address, timeout=LIMIT_S))

    @classmethod
    def accept(cls, listening):
        listening.settimeout(LIMIT_S)
        return cls(listening.accept()[0])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    # ---- bytes ---------------------------------------------------------------------------

    def send(self, data):
        """Send all of it, or as much as a peer that has closed already lets us."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)

    def receive(self, size):
        """Exactly `size` bytes."""
        while len(self.rest) < size:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(f"the stream ended after {self.rest!r}")
            self.rest += data
        taken, self.rest = self.rest[:size], self.rest[size:]
        return taken

    def receive_all(self):
        """What comes before the end of the stream, however it ends.

        Without the empty Writes of an initiator that has heard nothing for 50 ms: a busy machine
        is late.
        """
        with contextlib.suppress(ConnectionResetError):
            while data := self.sock.recv(65536):
                self.rest += data
        taken, self.rest = self.rest, b""
        while taken[:2] == b"\0\x0e" and taken[3] & 0x0F == WRITE:
            taken = taken[20:]
        return taken

    def finish(self):
        """Half-close: FIN."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    # ---- MPA -----------------------------------------------------------------------------

    def receive_mpa(self):
        """Flags, revision and the data of a start-up frame."""
        header = self.receive(20)
        flags, revision, size = struct.unpack(">BBH", header[16:])
        return header[:16], flags, revision, self.receive(size)

    def receive_reply(self):
        key, flags, revision, data = self.receive_mpa()
        assert key == REPLY_KEY
        self.crc = bool(flags & C)
        return flags, revision, data

    # ---- FPDUs ---------------------------------------------------------------------------

    def receive_fpdu(self):
        """One ULPDU; its CRC, or the zeros in its place, is checked."""
        head = self.receive(2)
        (size,) = struct.unpack(">H", head)
        padded = size + -(2 + size) % 4
        body = self.receive(padded + 4)
        expected = reference.crc_bytes(head + body[:-4]) if self.crc else bytes(4)
        assert body[-4:] == expected
        assert not any(body[size:padded])
        return body[:size]

    def open_stream(self):
        """Send a zero-length Write, as siw's RTR: no STag check, and the responder may speak."""
        self.send(reference.tagged(WRITE, 1, 0, crc=self.crc))

    def receive_rtr_write(self):
        return self.receive_fpdu()


def terminate(code, culprit=b"", *, read_request=b"", crc=False):
    """The whole FPDU of a Terminate in RFC order; `culprit` is the ULPDU at fault."""
    layer, error_type, number = code
    flags, extra = 0, b""
    if culprit:
        header = culprit[: 14 if culprit[0] & 0x80 else 18]
        flags = 0xC0
        extra = struct.pack(">H", len(culprit)) + header
        if read_request:
            flags |= 0x20
            extra += read_request
    body = bytes([layer << 4 | error_type, number, flags, 0]) + extra
    return reference.untagged(TERMINATE, 2, 1, payload=body, crc=crc)


def last_ulpdu(stream):
    """The last whole ULPDU of a stream."""
    found, _ = reference.split_fpdus(stream)
    return found[-1][0]
