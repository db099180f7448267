# SPDX-License-Identifier: Apache-2.0
"""Receiving a gigabyte needs no second gigabyte: the payload goes where it belongs."""

import os
import subprocess
import sys
import textwrap

import pytest

GIB = 1 << 30
LIMIT = 8 << 20

# A process with a gigabyte that is touched and registered; it tells its address and its peak.
RECEIVER = """
    import sys
    import ndverbs as nd
    import numpy as np

    def peak():
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) << 10

    role = sys.argv[1]
    array = np.full(1 << 30, 1, np.uint8)
    with nd.Adapter.open("soft") as adapter:
        pd, cq = adapter.create_pd(), adapter.create_cq(256)
        qp = pd.create_qp(cq, cq)
        region = pd.register(array, nd.Access.REMOTE_READ | nd.Access.REMOTE_WRITE)
        note = pd.register(np.zeros(64, np.uint8), nd.Access.LOCAL_WRITE)
        qp.receive(note)
        listener = adapter.create_listener()
        listener.listen(("127.0.0.1", 0))
        before = peak()
        print(listener.local_address[1], region.address, region.remote_token, flush=True)
        connector = listener.get_connector(timeout=60)
        connector.accept(qp, timeout=60)
        if role == "reads":
            address, token = map(int, sys.stdin.readline().split())
            qp.read(region, (address, token))
            cq.wait(100)
            assert cq.poll()[0].status == 0
        else:
            cq.wait(100)
            assert cq.poll()[0].status == 0
        print(peak() - before, int(array[0]), int(array[-1]), flush=True)
        sys.stdin.readline()
"""


@pytest.mark.skipif(
    "NDVERBS_SANITIZED" in os.environ, reason="a sanitizer's own memory grows with what is touched"
)
@pytest.mark.slow
@pytest.mark.parametrize("role", ["is written to", "is read from", "reads"])
def test_a_gigabyte_moves_without_a_second_one(tmp_path, adapter_of_the_sender, role):
    adapter, cq, qp, region, note = adapter_of_the_sender
    script = tmp_path / "receiver.py"
    script.write_text(textwrap.dedent(RECEIVER))
    with subprocess.Popen(
        [sys.executable, str(script), role],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as receiver:
        port, address, token = map(int, receiver.stdout.readline().split())
        connector = adapter.create_connector()
        connector.connect(qp, None, ("127.0.0.1", port), timeout=60)
        connector.complete_connect()
        if role == "reads":
            receiver.stdin.write(f"{region.address} {region.remote_token}\n")
            receiver.stdin.flush()
        elif role == "is written to":
            qp.write(region, (address, token))
        else:
            qp.read(region, (address, token))
        if role != "reads":
            qp.send(note)
            done = []
            while len(done) < 2:
                cq.wait(100)
                done += cq.poll()
            assert [result.status for result in done] == [0, 0]
        growth, first, last = map(int, receiver.stdout.readline().split())
        receiver.stdin.close()
        assert receiver.wait(60) == 0
    assert growth < LIMIT
    moved = 1 if role == "is read from" else 2
    assert (first, last) == (moved, moved)


@pytest.fixture
def adapter_of_the_sender():
    import numpy as np

    import ndverbs as nd

    array = np.full(GIB, 2, np.uint8)
    with nd.Adapter.open("soft") as adapter:
        pd, cq = adapter.create_pd(), adapter.create_cq(256)
        qp = pd.create_qp(cq, cq)
        region = pd.register(array, nd.Access.REMOTE_READ | nd.Access.REMOTE_WRITE)
        note = pd.register(np.zeros(64, np.uint8), nd.Access.LOCAL_WRITE)
        yield adapter, cq, qp, region, note
