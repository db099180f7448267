# SPDX-License-Identifier: Apache-2.0
"""Memory runs out while strangers and peers keep the progress thread busy: the process goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ndverbs import _testing
from programs import ENDS, run

LIMIT = 100

PROGRAM = (
    ENDS
    + """
import contextlib, encodings.idna, resource, socket

threading.stack_size(256 * 1024)
near, far = ends()
join(near, far)
adapter, listener = near.adapter, near.listener
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
)


@pytest.mark.parametrize("headroom_kb", [0, 100, 300, 600, 1000, 2000])
def test_allocation_that_fails_does_not_end_the_process(headroom_kb):
    program = PROGRAM.replace("HEADROOM", str(headroom_kb * 1024))

    out, _ = run(program, MALLOC_ARENA_MAX="1")

    assert out == "closed\n"


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
    assert int(last.removeprefix("swept ")) > 10  # it was there, and failed so often
