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
        return [int(number) for number in found[1:]]

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


def test_before_it_connects(survivor, mortal):
    peer = mortal("connect", "before connect", survivor.port)
    peer.expect("here")
    peer.kill()
    with pytest.raises(nd.RdmaTimeoutError):
        survivor.listener.get_connector(timeout=0)


def test_after_its_request(survivor, mortal):
    peer = mortal("connect", "asked", survivor.port)
    peer.expect("here")
    survivor.connector = survivor.listener.get_connector(timeout=START_S)
    peer.kill()
    with pytest.raises(nd.RdmaConnectionAbortedError):
        survivor.connector.accept(survivor.qp, timeout=LIMIT_S)


def test_after_it_was_accepted_and_before_it_completes(survivor, mortal):
    peer = mortal("connect", "accepted", survivor.port)
    accepting = survivor.start_accept()
    peer.expect("here")
    # A silent client counts as connected after a while: either way the survivor learns the end.
    peer.kill()
    try:
        accepting.wait(LIMIT_S)
    except nd.RdmaConnectionAbortedError:
        assert survivor.qp.state == "error"
    else:
        assert survivor.learns_it()


def test_after_it_was_accepted_in_peer_to_peer_mode(survivor, mortal):
    peer = mortal("connect", "accepted, peer-to-peer", survivor.port)
    accepting = survivor.start_accept()
    peer.expect("here")
    peer.kill()
    with pytest.raises(nd.RdmaConnectionAbortedError):
        accepting.wait(LIMIT_S)


@pytest.mark.parametrize("phase", ["idle", "posted receives", "disconnecting"])
def test_while_it_moves_nothing(survivor, mortal, phase):
    peer = mortal("connect", phase, survivor.port)
    survivor.accept()
    peer.expect("memory")
    peer.expect("here")
    peer.kill()
    assert survivor.learns_it()


def test_with_receives_posted_and_nobody_told_of_the_disconnect(survivor, mortal):
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


def test_while_it_is_the_source_of_a_write(survivor, mortal):
    peer = mortal("connect", "writing", survivor.port)
    region = survivor.memory()
    survivor.accept()
    peer.expect("memory")
    peer.tell(region.address, region.remote_token)
    peer.expect("here")
    peer.stop()
    peer.kill()
    assert survivor.learns_it()
    assert survivor.guards_are_whole()


def test_while_it_is_the_target_of_a_write(survivor, mortal):
    peer = mortal("connect", "idle", survivor.port)
    region = survivor.memory()
    survivor.accept()
    address, token = peer.expect("memory")
    peer.expect("here")
    peer.stop()
    survivor.qp.write(region, (address, token), context="write")
    survivor.qp.send((), context="send")
    peer.kill()
    first, second = survivor.completion(), survivor.completion()
    assert (first.request_context, first.status) == ("write", nd.Status.IO_TIMEOUT)
    assert (second.request_context, second.status) == ("send", nd.Status.CANCELLED)
    assert survivor.learns_it()


def test_while_it_is_the_source_of_a_read(survivor, mortal):
    peer = mortal("connect", "idle", survivor.port)
    region = survivor.memory()
    survivor.accept()
    address, token = peer.expect("memory")
    peer.expect("here")
    survivor.qp.read(region, (address, token), context="read")
    peer.stop()
    peer.kill()
    done = survivor.completion()
    assert (done.request_context, done.status) == ("read", nd.Status.IO_TIMEOUT)
    assert survivor.learns_it()
    assert survivor.guards_are_whole()


def test_while_it_reads(survivor, mortal):
    peer = mortal("connect", "reading", survivor.port)
    region = survivor.memory()
    survivor.accept()
    peer.expect("memory")
    peer.tell(region.address, region.remote_token)
    peer.expect("here")
    peer.stop()
    peer.kill()
    assert survivor.learns_it()
    assert survivor.guards_are_whole()


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_while_the_survivor_disconnects(survivor, mortal, stopped):
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


def test_before_the_survivor_connects(survivor, mortal):
    peer = mortal("listen", "before connect")
    (port,) = peer.expect("port")
    peer.expect("here")
    peer.kill()
    with pytest.raises(nd.RdmaConnectionRefusedError):
        survivor.start_connect(port).wait(LIMIT_S)


@pytest.mark.parametrize("phase", ["before connect", "asked"])
def test_while_the_survivors_request_waits(survivor, mortal, phase):
    peer = mortal("listen", phase)
    (port,) = peer.expect("port")
    connecting = survivor.start_connect(port)
    peer.expect("here")
    peer.kill()
    with pytest.raises((nd.RdmaConnectionAbortedError, nd.RdmaConnectionResetError)):
        connecting.wait(LIMIT_S)
    assert survivor.qp.state == "idle"


def test_after_it_accepted_and_before_the_survivor_completes(survivor, mortal):
    peer = mortal("listen", "accepted")
    (port,) = peer.expect("port")
    survivor.start_connect(port).wait(START_S)
    peer.expect("here")
    peer.kill()
    with pytest.raises((nd.RdmaConnectionAbortedError, nd.RdmaConnectionResetError)):
        survivor.connector.complete_connect(timeout=LIMIT_S)


def test_while_connected_by_the_survivor(survivor, mortal):
    peer = mortal("listen", "idle")
    (port,) = peer.expect("port")
    survivor.connect(port)
    peer.expect("memory")
    peer.expect("here")
    peer.kill()
    assert survivor.learns_it()
