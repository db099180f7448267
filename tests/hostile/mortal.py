# SPDX-License-Identifier: Apache-2.0
"""A process that goes to a phase of a connection, says so, and waits there to be killed.

    mortal.py connect PHASE PORT        mortal.py listen PHASE

Lines on standard output are ``port N``, ``memory ADDRESS TOKEN`` and ``here``; what the other side
must tell comes as lines on standard input.
"""

import sys

import numpy as np

import ndverbs as nd

SIZE = 1 << 30
LIMIT_S = 60


def say(*words):
    print(*words, flush=True)


def stay(*words):
    say(*words)
    sys.stdin.read()


class Mortal:
    def __init__(self):
        self.adapter = nd.Adapter.open("soft")
        self.pd, self.cq = self.adapter.create_pd(), self.adapter.create_cq(256)
        self.qp = self.pd.create_qp(self.cq, self.cq)
        # Untouched: a gigabyte of zeros costs nothing to read and little to receive a part of.
        self.array = np.zeros(SIZE, np.uint8)
        self.region = self.pd.register(self.array, nd.Access.REMOTE_READ | nd.Access.REMOTE_WRITE)

    def remote(self):
        address, token = map(int, sys.stdin.readline().split())
        return address, token

    def use(self, phase):
        """Be connected, in some way."""
        say("memory", self.region.address, self.region.remote_token)
        if phase == "writing":
            self.qp.write(self.region, self.remote())
        elif phase == "reading":
            self.qp.read(self.region, self.remote())
        elif phase == "posted receives":
            self.qp.receive(self.region)
        elif phase == "disconnecting":
            self.disconnect = self.connector._start_disconnect()
        stay("here")

    def connect(self, phase, port):
        if phase == "before connect":
            stay("here")
        self.connector = self.adapter.create_connector()
        options = {"peer_to_peer": phase == "accepted, peer-to-peer", "timeout": LIMIT_S}
        self.connecting = self.connector._start_connect(
            self.qp, None, ("127.0.0.1", port), **options
        )
        if phase == "asked":
            stay("here")
        self.connecting.wait(LIMIT_S)
        if phase.startswith("accepted"):
            stay("here")
        self.connector.complete_connect(lambda: None)
        self.use(phase)

    def listen(self, phase):
        listener = self.adapter.create_listener()
        listener.listen(("127.0.0.1", 0))
        say("port", listener.local_address[1])
        if phase == "before connect":
            stay("here")
        self.connector = listener.get_connector(timeout=LIMIT_S)
        if phase == "asked":
            stay("here")
        self.accepting = self.connector._start_accept(self.qp, on_disconnect=lambda: None)
        if phase == "accepted":
            stay("here")
        self.accepting.wait(LIMIT_S)
        self.use(phase)


if __name__ == "__main__":
    role, phase = sys.argv[1:3]
    if role == "connect":
        Mortal().connect(phase, int(sys.argv[3]))
    else:
        Mortal().listen(phase)
