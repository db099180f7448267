# SPDX-License-Identifier: Apache-2.0
"""Thousands of strangers at once, and a process that has few descriptors left."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import textwrap

import pytest

import ndverbs as nd
from hostile.raw_peer import REQUEST_KEY, RawPeer, request

FLOOD = 2000
# What the listener keeps of strangers at once; see src/providers/soft/listener.cpp.
HELD = 1024


@pytest.fixture
def many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * FLOOD + 1000
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a flood of {FLOOD} needs {wanted} descriptors; the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def links():
    from ndverbs import _native

    return _native._live_objects()["link"]


@pytest.mark.parametrize("greeting", [b"", REQUEST_KEY], ids=["silent", "half a request"])
def test_a_flood_of_strangers_is_bounded_and_the_next_client_is_served(
    victim, many_descriptors, greeting
):
    with contextlib.ExitStack() as flood:
        for _ in range(FLOOD):
            stranger = flood.enter_context(socket.create_connection(victim.address))
            stranger.sendall(greeting)
        # The flood goes on standing there; an honest client still gets through.
        assert victim.serves_others()
        assert links() <= HELD + 1
    assert victim.serves_others()


def test_a_flood_that_comes_and_goes_leaves_nothing(victim, many_descriptors):
    for _ in range(FLOOD):
        socket.create_connection(victim.address).close()
    assert victim.serves_others()


def test_a_flood_of_requests_that_nobody_takes_is_bounded(victim, many_descriptors):
    with contextlib.ExitStack() as flood:
        for _ in range(FLOOD):
            peer = flood.enter_context(RawPeer.connect(victim.address))
            peer.send(request())
        # As many as may wait, and as many as may be on their way.
        assert links() <= 2 * HELD
    # Once the program takes what waits, others come through again.
    with contextlib.suppress(nd.RdmaTimeoutError):
        while True:
            victim.listener.get_connector(timeout=0).close()


SERVER = """
    import resource, sys
    import ndverbs as nd
    import numpy as np
    with nd.Adapter.open("soft") as adapter:
        listener = adapter.create_listener()
        listener.listen(("127.0.0.1", 0))
        used = len(__import__("os").listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, used + 20))
        print(listener.local_address[1], flush=True)
        assert sys.stdin.readline()
        pd, cq = adapter.create_pd(), None
        while cq is None:
            try:
                cq = adapter.create_cq(256)
            except nd.RdmaError as error:
                assert error.status == nd.Status.INSUFFICIENT_RESOURCES, error
        qp = pd.create_qp(cq, cq)
        region = pd.register(np.zeros(64, np.uint8), nd.Access.LOCAL_WRITE)
        qp.receive(region)
        while True:
            connector = listener.get_connector(timeout=30)
            try:
                connector.accept(qp, timeout=30)
                break
            except nd.RdmaConnectionAbortedError:
                connector.close()
        cq.wait(30)
        print(cq.poll()[0].bytes_transferred, flush=True)
        sys.stdin.readline()
"""


def test_a_listener_without_descriptors_serves_again_when_some_are_free(tmp_path):
    from wire import reference

    script = tmp_path / "server.py"
    script.write_text(textwrap.dedent(SERVER))
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    ) as server:
        address = ("127.0.0.1", int(server.stdout.readline()))
        flood = [socket.create_connection(address) for _ in range(200)]
        for stranger in flood:
            stranger.close()
        server.stdin.write("the flood is over\n")
        server.stdin.flush()
        with RawPeer.connect(address) as peer:
            peer.send(request())
            peer.receive_reply()
            peer.open_stream()
            peer.send(reference.untagged(reference.SEND, 0, 1, payload=b"served", crc=False))
            assert server.stdout.readline() == "6\n"
        server.stdin.close()
        assert server.wait(30) == 0
