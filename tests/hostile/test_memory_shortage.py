# SPDX-License-Identifier: Apache-2.0
"""Memory runs out while strangers and peers keep the progress thread busy: the process goes on."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ndverbs import _testing

LIMIT = 100

PROGRAM = """
import contextlib, encodings.idna, resource, socket, sys, threading
import ndverbs as nd

threading.stack_size(256 * 1024)
adapter = nd.Adapter.open("soft")
pd, cq, far_cq = adapter.create_pd(), adapter.create_cq(64), adapter.create_cq(64)
qp, far = pd.create_qp(cq, cq), pd.create_qp(far_cq, far_cq)
listener = adapter.create_listener()
listener.listen("127.0.0.1:0")

def accept():
    global accepted
    accepted = listener.get_connector(30)
    accepted.accept(far)

thread = threading.Thread(target=accept)
thread.start()
connector = adapter.create_connector()
connector.connect(qp, None, listener.local_address)
connector.complete_connect()
thread.join()
request = b"MPA ID Req Frame\\x10\\x02\\0\\x04\\0\\x01\\0\\x01"
strangers = []
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, hard))
with contextlib.suppress(MemoryError, OSError):
    for i in range(1500):
        stranger = socket.create_connection(listener.local_address)
        stranger.sendall(request if i % 2 else b"MPA")
        strangers.append((stranger, bytearray(4096)))
        with contextlib.suppress(TimeoutError):
            listener.get_connector(0).reject()
resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
strangers.clear()
adapter.close()
print("closed")
"""


@pytest.mark.parametrize("headroom_kb", [0, 100, 300, 600, 1000, 2000])
def test_allocation_that_fails_does_not_end_the_process(headroom_kb):
    program = textwrap.dedent(PROGRAM).replace("HEADROOM", str(headroom_kb * 1024))

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "closed\n"


@pytest.mark.skipif(
    "NDVERBS_SANITIZED" in os.environ, reason="a sanitizer has an operator new of its own"
)
@pytest.mark.parametrize("exchange", ["requests", "stream"])
def test_any_one_allocation_of_the_runtime_that_fails_leaves_nobody_waiting(exchange):
    program = Path(__file__).with_name("failing_allocations.py")
    library = Path(_testing.__file__).with_name("libfailing_new.so")

    done = subprocess.run(
        [sys.executable, program, exchange],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "LD_PRELOAD": str(library)},
    )

    assert done.returncode == 0, done.stderr
    *forgotten, last = done.stdout.splitlines()
    assert forgotten == []
    assert int(last.removeprefix("swept ")) > 20  # it was there, and failed so often
