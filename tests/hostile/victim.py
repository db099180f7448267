# SPDX-License-Identifier: Apache-2.0
"""Our side of a hostile exchange: a listener, guarded memory, and what it may tell."""

import os
import struct
import threading

import numpy as np

import ndverbs as nd
from hostile.raw_peer import LIMIT_S, RawPeer, request
from wire import reference
from wire.reference import SEND, WRITE

FILL = 0xEE
# The arena: receive buffers in front, then regions with fill on both sides of each.
ARENA = 0x4000
RECEIVE_SIZE = 64
REGIONS = {
    "window": (0x1000, 0x800, nd.Access.REMOTE_READ | nd.Access.REMOTE_WRITE),
    "read_only": (0x2000, 0x100, nd.Access.REMOTE_READ),
    "write_only": (0x2200, 0x100, nd.Access.REMOTE_WRITE),
    "local": (0x2400, 0x100, nd.Access.LOCAL_WRITE),
    "other_pd": (0x2600, 0x100, nd.Access.REMOTE_READ | nd.Access.REMOTE_WRITE),
}


def descriptors():
    return len(os.listdir("/proc/self/fd"))


class Stream:
    """One accepted or connected queue pair of the victim's, and its hostile peer."""

    def __init__(self, victim, *, queue_depth=16, srq=None):
        self.victim = victim
        self.cq = victim.adapter.create_cq(256)
        if srq is None:
            self.qp = victim.pd.create_qp(
                self.cq, self.cq, receive_queue_depth=queue_depth, initiator_queue_depth=queue_depth
            )
        else:
            self.qp = victim.pd.create_qp_with_srq(self.cq, self.cq, srq)
        self.disconnected = threading.Event()
        self.results = []
        self.connector = None
        self.peer = None

    def accept(self, peer, *, crc=False, opened=True, private_data=b"", start=request, **limits):
        """Take the request of a raw peer and answer it; `opened`: the peer sends a first FPDU."""
        self.peer = peer
        peer.send(start())
        # Requests that other peers left behind are not ours to accept.
        while self.connector is None or self.connector.peer_address != peer.sock.getsockname():
            self.connector = self.victim.listener.get_connector(timeout=LIMIT_S)
        accepting = self.connector._start_accept(
            self.qp,
            crc=crc,
            private_data=private_data,
            on_disconnect=self.disconnected.set,
            **limits,
        )
        peer.receive_reply()
        if opened:
            peer.open_stream()
            accepting.wait(LIMIT_S)
        return accepting

    def connect(self, listening, **options):
        """Start to connect to a raw listener; returns the operation and reads the request."""
        if self.connector is None:
            self.connector = self.victim.adapter.create_connector()
        connecting = self.connector._start_connect(
            self.qp, None, listening.getsockname(), **options
        )
        self.peer = RawPeer.accept(listening)
        self.request = self.peer.receive_mpa()
        return connecting

    def connected(self, listening, answer, **options):
        """Connect to a raw listener that gives a good answer."""
        connecting = self.connect(listening, **options)
        self.peer.send(answer)
        connecting.wait(LIMIT_S)
        self.connector.complete_connect(self.disconnected.set)
        return self

    def post_receives(self, count=1, size=RECEIVE_SIZE):
        for i in range(count):
            at = i * RECEIVE_SIZE
            self.qp.receive(self.victim.regions["arena"].segment(at, size), context=f"receive {i}")

    def wait_for(self, count):
        """The next `count` completions."""
        while len(self.results) < count:
            self.cq.wait(LIMIT_S)
            self.results += self.cq.poll()
        taken, self.results = self.results[:count], self.results[count:]
        return taken

    def no_more_completions(self):
        self.results += self.cq.poll()
        return not self.results

    def wait_for_disconnect(self):
        assert self.disconnected.wait(LIMIT_S)

    def close(self):
        self.qp.close()
        if self.connector is not None:
            self.connector.close()
        self.cq.close()
        if self.peer is not None:
            self.peer.sock.close()


class Victim:
    def __init__(self, adapter):
        self.adapter = adapter
        self.pd = adapter.create_pd()
        self.other_pd = adapter.create_pd()
        self.arena = np.full(ARENA, FILL, np.uint8)
        self.regions = {"arena": self.pd.register(self.arena, nd.Access.LOCAL_WRITE)}
        for name, (start, size, access) in REGIONS.items():
            pd = self.other_pd if name == "other_pd" else self.pd
            self.regions[name] = pd.register(self.arena[start : start + size], access)
        self.listener = adapter.create_listener()
        self.listener.listen(("127.0.0.1", 0))
        self.streams = []

    @property
    def address(self):
        return self.listener.local_address

    def remote(self, name, offset=0):
        """STag and TO of a place in a region, as a peer would know them."""
        region = self.regions[name]
        token = region.remote_token or region.local_token
        return token, region.address + offset

    def stream(self, **options):
        self.streams.append(Stream(self, **options))
        return self.streams[-1]

    def accepted(self, *, receives=0, srq=None, **options):
        """A stream with a raw peer, established."""
        stream = self.stream(srq=srq)
        stream.post_receives(receives)
        stream.accept(RawPeer.connect(self.address), **options)
        return stream

    def untouched(self, *changed):
        """Nothing but the named ranges (offset in the arena, size) has changed."""
        expected = np.full(ARENA, FILL, np.uint8)
        for start, size in changed:
            expected[start : start + size] = self.arena[start : start + size]
        return np.array_equal(self.arena, expected)

    def serves_others(self):
        """A well-behaved stranger connects, writes and sends, and leaves."""
        stream = self.stream()
        stream.post_receives(1)
        with RawPeer.connect(self.address) as peer:
            stream.accept(peer)
            stag, to = self.remote("window", 0x7F8)
            saved = bytes(self.arena[0x17F8:0x1800])
            first = bytes(self.arena[:RECEIVE_SIZE])
            peer.send(
                reference.tagged(WRITE, stag, to, b"welcome!", crc=False)
                + reference.untagged(SEND, 0, 1, payload=b"hello", crc=False)
            )
            (done,) = stream.wait_for(1)
            served = (
                done.status == nd.Status.SUCCESS
                and done.bytes_transferred == 5
                and bytes(self.arena[:5]) == b"hello"
                and bytes(self.arena[0x17F8:0x1800]) == b"welcome!"
            )
            self.arena[0x17F8:0x1800] = np.frombuffer(saved, np.uint8)
            self.arena[:RECEIVE_SIZE] = np.frombuffer(first, np.uint8)
            peer.finish()
            stream.wait_for_disconnect()
        stream.close()
        return served

    def close(self):
        for stream in self.streams:
            stream.close()


def sink_of(read_request_ulpdu):
    """Sink STag, sink TO, size, source STag, source TO of a Read Request."""
    return struct.unpack(">IQIIQ", read_request_ulpdu[18:46])
