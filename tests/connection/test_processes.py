# SPDX-License-Identifier: Apache-2.0
"""Connections between two processes: the program of the README, and a peer that is killed."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT

SERVER = """
import sys
import numpy as np, ndverbs as nd
with nd.listen((sys.argv[2], 0), adapter=sys.argv[1]) as server:
    print(server.address, flush=True)
    with server.accept(timeout=30) as c:
        array = np.zeros(1 << 20, np.uint8)
        with c.register(array, nd.Access.REMOTE_WRITE) as r:
            c.send(r.remote())
            assert c.receive(timeout=30) == b"done"
            c.send(array)
            c.receive()
"""


@pytest.fixture
def peer(provider, host):
    """Start the program, and give it with the address of its server."""
    command = [sys.executable, "-c", SERVER, provider, host]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


def test_the_first_program_of_the_readme_works_between_processes(adapter, peer):
    process, address = peer
    with nd.connect(address, adapter=adapter, timeout=5) as c:
        target = c.receive_buffer(timeout=30)
        source = np.full(target.nbytes, 7, np.uint8)
        c.write(source, target, notify=b"done").result(timeout=30)
        np.testing.assert_array_equal(c.receive(timeout=30), source)
    with pytest.raises(BrokenPipeError):
        c.send(b"")
    _, said = process.communicate(timeout=LIMIT)
    # The server's last receive says that its peer has closed in order.
    assert said.strip().splitlines()[-1].endswith("the peer has closed the Connection")


def test_a_peer_that_is_killed_is_a_reset_with_a_cause(adapter, peer):
    process, address = peer
    with nd.connect(address, adapter=adapter, timeout=5) as c:
        c.receive_buffer(timeout=30)
        process.send_signal(signal.SIGSTOP)  # it takes no message any more
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        lent = c.send(np.zeros(1 << 20, np.uint8))
        ended = threading.Event()
        c.on_closed(lambda _: ended.set())
        process.send_signal(signal.SIGKILL)
        with pytest.raises(nd.RdmaConnectionResetError, match="the Connection has ended"):
            c.receive(LIMIT)
        with pytest.raises(ConnectionError):
            lent.result(LIMIT)
        assert ended.wait(LIMIT)
        assert c.closed
