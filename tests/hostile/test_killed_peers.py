# SPDX-License-Identifier: Apache-2.0
"""A peer that is killed in every phase: the survivor learns it within five seconds.

The five seconds are the requirement; they are waited for from the moment when the process is gone.
"""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import ndverbs as nd

SIZE = 1 << 30
GUARD = 4096
FILL = 0xEE
LIMIT_S = 5
START_S = 60
# So long a row of requests over the whole memory is under way when the peer is killed.
ROW = 8
MORTAL = Path(__file__).with_name("mortal.py")


class Killed:
    """A mortal process."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, str(MORTAL), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def expect(self, word):
        found = self.process.stdout.readline().split()
        assert found[:1] == [word], found
        return tuple(int(number) for number in found[1:])

    def tell(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    def stop(self):
        """Let it read no more, so that what is under way stays under way."""
        self.process.send_signal(signal.SIGSTOP)

    def kill(self):
        self.process.kill()
        assert self.process.wait(START_S) == -signal.SIGKILL
        self.process.stdin.close()
        self.process.stdout.close()


class Survivor:
    def __init__(self, adapter):
        self.adapter = adapter
        self.pd, self.cq = adapter.create_pd(), adapter.create_cq(256)
        self.qp = self.pd.create_qp(self.cq, self.cq)
        self.listener = adapter.create_listener()
        self.listener.listen(("127.0.0.1", 0))
        self.port = self.listener.local_address[1]
        self.gone = threading.Event()
        self.connector = None

    def memory(self):
        self.array = np.zeros(SIZE + 2 * GUARD, np.uint8)
        self.array[:GUARD] = self.array[-GUARD:] = FILL
        self.region = self.pd.register(
            self.array[GUARD:-GUARD], nd.Access.REMOTE_READ | nd.Access.REMOTE_WRITE
        )
        return self.region

    def guards_are_whole(self):
        return bool((self.array[:GUARD] == FILL).all() and (self.array[-GUARD:] == FILL).all())

    def start_accept(self, handler=True):
        self.connector = self.listener.get_connector(timeout=START_S)
        return self.connector._start_accept(
            self.qp, on_disconnect=self.gone.set if handler else None
        )

    def accept(self, handler=True):
        self.start_accept(handler).wait(START_S)

    def start_connect(self, port):
        self.connector = self.adapter.create_connector()
        return self.connector._start_connect(self.qp, None, ("127.0.0.1", port), timeout=START_S)

    def connect(self, port):
        self.start_connect(port).wait(START_S)
        self.connector.complete_connect(self.gone.set)

    def learns_it(self):
        return self.gone.wait(LIMIT_S)

    def completion(self):
        self.cq.wait(LIMIT_S)
        return self.cq.poll(1)[0]


@pytest.fixture
def survivor():
    with nd.Adapter.open("soft") as adapter:
        made = Survivor(adapter)
        yield made
        made.__dict__.clear()


@pytest.fixture
def mortal():
    """Start mortal processes; none outlives the test."""
    started = []

    def start(*arguments):
        started.append(Killed(*arguments))
        return started[-1]

    yield start
    for killed in started:
        if killed.process.poll() is None:
            killed.kill()


# ---- the mortal connects -------------------------------------------------------------------------


def test_peer_killed_before_it_connects_leaves_no_request(survivor, mortal):
    peer = mortal("connect", "before connect", survivor.port)
    peer.expect("here")

    peer.kill()

    with pytest.raises(nd.RdmaTimeoutError):
        survivor.listener.get_connector(timeout=0)


def test_accept_fails_when_the_peer_was_killed_behind_its_request(survivor, mortal):
    peer = mortal("connect", "asked", survivor.port)
    peer.expect("here")
    survivor.connector = survivor.listener.get_connector(timeout=START_S)

    peer.kill()

    with pytest.raises(nd.RdmaConnectionAbortedError):
        survivor.connector.accept(survivor.qp, timeout=LIMIT_S)


def test_peer_killed_before_it_completes_ends_the_accept_or_the_connection(survivor, mortal):
    peer = mortal("connect", "accepted", survivor.port)
    accepting = survivor.start_accept()
    peer.expect("here")

    peer.kill()

    # A silent client counts as connected after a while: either way the survivor learns the end.
    try:
        accepting.wait(LIMIT_S)
    except nd.RdmaConnectionAbortedError:
        assert survivor.qp.state == "error"
    else:
        assert survivor.learns_it()


def test_accept_in_peer_to_peer_mode_fails_when_the_peer_is_killed(survivor, mortal):
    peer = mortal("connect", "accepted, peer-to-peer", survivor.port)
    accepting = survivor.start_accept()
    peer.expect("here")

    peer.kill()

    with pytest.raises(nd.RdmaConnectionAbortedError):
        accepting.wait(LIMIT_S)


def post_nothing(survivor, peer, remote):
    pass


def post_writes(survivor, peer, remote):
    peer.stop()
    for number in range(ROW):
        survivor.qp.write(survivor.region, remote, context=number)


def post_reads(survivor, peer, remote):
    for number in range(ROW):
        survivor.qp.read(survivor.region, remote, context=number)


# What the peer does -> its phase, and what the survivor posts meanwhile.
WHILE_CONNECTED = {
    "idles": ("idle", post_nothing),
    "posts receives": ("posted receives", post_nothing),
    "disconnects": ("disconnecting", post_nothing),
    "writes": ("writing", post_nothing),
    "reads": ("reading", post_nothing),
    "is written to": ("idle", post_writes),
    "is read from": ("idle", post_reads),
}


@pytest.mark.parametrize(("phase", "post"), WHILE_CONNECTED.values(), ids=WHILE_CONNECTED)
def test_connected_peer_that_is_killed_is_missed(survivor, mortal, phase, post):
    peer = mortal("connect", phase, survivor.port)
    region = survivor.memory()
    survivor.accept()
    remote = peer.expect("memory")
    peer.tell(region.address, region.remote_token)
    peer.expect("here")
    post(survivor, peer, remote)

    peer.stop()
    peer.kill()

    if post is not post_nothing:
        done = [survivor.completion() for _ in range(ROW)]
        assert [each.request_context for each in done] == list(range(ROW))
        # The one that was under way, behind some that were done.
        statuses = [each.status for each in done if each.status != nd.Status.SUCCESS]
        cancelled = [nd.Status.CANCELLED] * (len(statuses) - 1)
        assert statuses == [nd.Status.IO_TIMEOUT, *cancelled]
        assert done[-1].status != nd.Status.SUCCESS
    assert survivor.learns_it()
    assert survivor.guards_are_whole()


def test_receives_are_cancelled_when_no_handler_hears_of_the_killed_peer(survivor, mortal):
    peer = mortal("connect", "idle", survivor.port)
    region = survivor.memory()
    survivor.qp.receive(region.segment(0, 64), context=1)
    survivor.qp.receive(region.segment(64, 64), context=2)
    survivor.accept(handler=False)
    peer.expect("memory")
    peer.expect("here")

    peer.kill()

    assert survivor.completion().status == nd.Status.CANCELLED
    assert survivor.completion().status == nd.Status.CANCELLED
    assert survivor.qp.state == "error"


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_disconnect_ends_when_the_peer_is_killed(survivor, mortal, stopped):
    peer = mortal("connect", "idle", survivor.port)
    survivor.accept()
    peer.expect("memory")
    peer.expect("here")
    if stopped:
        peer.stop()
    disconnecting = survivor.connector._start_disconnect(timeout=START_S)

    peer.kill()

    try:
        disconnecting.wait(LIMIT_S)
    except nd.RdmaConnectionResetError:
        assert survivor.qp.state == "error"


# ---- the mortal listens --------------------------------------------------------------------------


def test_connect_to_a_listener_that_was_killed_is_refused(survivor, mortal):
    peer = mortal("listen", "before connect")
    (port,) = peer.expect("port")
    peer.expect("here")

    peer.kill()

    with pytest.raises(nd.RdmaConnectionRefusedError):
        survivor.start_connect(port).wait(LIMIT_S)


@pytest.mark.parametrize("phase", ["before connect", "asked"])
def test_connect_fails_when_the_peer_is_killed_before_it_answers(survivor, mortal, phase):
    peer = mortal("listen", phase)
    (port,) = peer.expect("port")
    connecting = survivor.start_connect(port)
    peer.expect("here")

    peer.kill()

    with pytest.raises((nd.RdmaConnectionAbortedError, nd.RdmaConnectionResetError)):
        connecting.wait(LIMIT_S)
    assert survivor.qp.state == "idle"


def test_complete_connect_fails_when_the_peer_was_killed_behind_its_answer(survivor, mortal):
    peer = mortal("listen", "accepted")
    (port,) = peer.expect("port")
    survivor.start_connect(port).wait(START_S)
    peer.expect("here")

    peer.kill()

    with pytest.raises((nd.RdmaConnectionAbortedError, nd.RdmaConnectionResetError)):
        survivor.connector.complete_connect(timeout=LIMIT_S)


def test_listening_peer_that_is_killed_is_missed(survivor, mortal):
    peer = mortal("listen", "idle")
    (port,) = peer.expect("port")
    survivor.connect(port)
    peer.expect("memory")
    peer.expect("here")

    peer.kill()

    assert survivor.learns_it()
