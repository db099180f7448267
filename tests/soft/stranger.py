# SPDX-License-Identifier: Apache-2.0
"""A stranger who finds an end of ours by the name of their connection, and what he can say there.

He has sockets and files of the test's, and the layouts of hello and segment by heart.
"""

import contextlib
import fcntl
import os
import socket
import struct

import numpy as np

import ndverbs as nd
from conformance.end import LIMIT
from hostile.raw_peer import RawPeer, reply, request

SO_NETNS_COOKIE = 71
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
FILES = ("segment", "bell", "bell of the peer", "table", "arena")
INTRODUCTION = 40  # bytes


def address_of(name):
    """Return the address under which an end hears: as Parcel, from the name of a connection."""
    number = 0xCBF29CE484222325
    for byte in name.encode():
        number = (number ^ byte) * 0x100000001B3 % 2**64
    return f"\0ndverbs-direct-1/{number:016x}"


def name_of(sock, *, of_peer):
    """Return the name of a connection: both addresses, the passive end's first."""
    ends = [f"{host}:{port}" for host, port in (sock.getsockname(), sock.getpeername())]
    cookie = struct.unpack("Q", sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0]
    return " ".join([*(reversed(ends) if of_peer else ends), str(cookie)])


def memory_file(size, seals=SEALS):
    made = os.memfd_create("stranger", os.MFD_ALLOW_SEALING)
    os.ftruncate(made, size)
    if seals:
        fcntl.fcntl(made, fcntl.F_ADD_SEALS, seals)
    return made


def datagram_socket():
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)


@contextlib.contextmanager
def closed_afterwards(files):
    try:
        yield files
    finally:
        for each in files:
            os.close(each)


class Ours:
    """One connection of ours; `shared`: a domain and its queue, from which it takes receives."""

    def __init__(self, adapter, shared=None):
        self.adapter = adapter
        self.cq = adapter.create_cq(512)
        if shared:
            self.pd, srq = shared
            self.qp = self.pd.create_qp_with_srq(self.cq, self.cq, srq)
        else:
            self.pd = adapter.create_pd()
            self.qp = self.pd.create_qp(self.cq, self.cq)

    def accept(self, listener):
        """Begin to accept a raw peer, whose request is there."""
        self.connector = listener.get_connector(timeout=LIMIT)
        self.accepting = self.connector._start_accept(self.qp, timeout=LIMIT)

    def connect(self, address):
        self.connector = self.adapter.create_connector()
        self.connecting = self.connector._start_connect(self.qp, None, address, timeout=LIMIT)

    def goes_on_by_tcp(self, peer):
        """See a message of ours come by TCP."""
        self.qp.send(np.arange(5, dtype=np.uint8), flags=nd.Flag.INLINE)
        self.cq.wait(LIMIT)
        sent = self.cq.poll(1)[0]
        found = peer.receive_fpdu()
        while not found[18:]:  # the opening, and what keeps a silent peer awake
            found = peer.receive_fpdu()
        assert found[18:] == bytes(range(5))
        return self.connector.transport == "tcp" and sent.status == nd.Status.SUCCESS

    def ends(self):
        """See that the connection has ended, or ends."""
        self.qp.receive(())
        self.cq.wait(LIMIT)
        assert self.cq.poll(1)[0].status == nd.Status.CANCELLED
        assert self.qp.state == "error"

    def close(self):
        for each in (self.connector, self.qp, self.cq, self.pd):
            each.close()


def genuine(adapter):
    """Return the hello of an end of ours, and what an offer of ours consists of: sizes, bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        hello, pair, ours, peer = hear_hello(adapter, listening)
    pair.close()
    ours.connecting.wait(LIMIT)
    ours.close()
    peer.sock.close()
    listener = adapter.create_listener()
    listener.listen(("127.0.0.1", 0))
    with greeted(adapter, listener) as (ours, peer):
        with pair_for(peer, renamed(hello, peer)) as kept:
            data, files, *_ = socket.recv_fds(kept, 4096, 16)
            with closed_afterwards(files):
                sizes = [os.fstat(each).st_size for each in files]
        peer.open_stream()
        ours.accepting.wait(LIMIT)
        assert ours.goes_on_by_tcp(peer)
    listener.close()
    return hello, dict(zip(FILES, sizes, strict=True)), data


def hear_hello(adapter, listening):
    """Let an end of ours connect to a socket of the test's, and take its hello."""
    ours = Ours(adapter)
    ours.connect(listening.getsockname())
    peer = RawPeer.accept(listening)
    peer.receive_mpa()
    with datagram_socket() as hearing:
        hearing.settimeout(LIMIT)
        hearing.bind(address_of(name_of(peer.sock, of_peer=False)))
        peer.send(reply())
        hello, files, *_ = socket.recv_fds(hearing, 4096, 16)
    assert len(files) == 1
    return hello, socket.socket(fileno=files[0]), ours, peer


@contextlib.contextmanager
def greeted(adapter, listener, shared=None):
    """Give an end of ours that has answered a socket of the test's, and hears hellos for it."""
    ours = Ours(adapter, shared)
    with RawPeer.connect(listener.local_address) as peer:
        peer.send(request())
        ours.accept(listener)
        peer.receive_reply()
        yield ours, peer
        ours.close()


@contextlib.contextmanager
def pair_for(peer, hello):
    """Say hello to the end of ours at the other end of a socket; give what it answers by."""
    kept, given = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kept, given, datagram_socket() as speaking:
        kept.settimeout(LIMIT)
        given.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        address = address_of(name_of(peer.sock, of_peer=True))
        speaking.connect(address)
        socket.send_fds(speaking, [hello], [given.fileno()])
        given.close()
        yield kept


@contextlib.contextmanager
def taking(peer, hello):
    """Say a good hello; give what it is answered by, and the files that come with the answer."""
    with pair_for(peer, renamed(hello, peer)) as kept:
        _, files, *_ = socket.recv_fds(kept, 4096, 16)
        with closed_afterwards(files):
            yield kept, files


def renamed(hello, peer):
    """Return a hello for the connection of another socket."""
    return hello[:8] + name_of(peer.sock, of_peer=True).encode().ljust(len(hello) - 8, b"\0")
