# SPDX-License-Identifier: Apache-2.0
"""Suites that run on the device double, each in a process that has loaded it.

The soak campaigns run all of the conformance suite on every profile.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from double import control

TESTS = Path(__file__).parent.parent
LIMIT = 600

# What differs most between devices: connecting, the ends of connections, and what is refused.
CORE = [
    "test_adapter.py",
    "test_connect.py",
    "test_disconnect.py",
    "test_flush.py",
    "test_invalidate.py",
    "test_outstanding.py",
    "test_read_write.py",
    "test_remote_access.py",
    "test_send_receive.py",
    "test_shared_receive_queue.py",
    "test_windows.py",
]

pytestmark = [
    pytest.mark.timeout(LIMIT + 60),
    pytest.mark.skipif(
        not control.is_built(),
        reason="built without rdma-core's headers, and so without the double",
    ),
]


def run(*arguments):
    """Run pytest in a process of its own; a failure shows what it says."""
    quiet = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *quiet, *map(str, arguments)],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]


@pytest.mark.slow
@pytest.mark.parametrize("profile", control.PROFILES)
def test_core_of_the_conformance_suite_passes_on(profile):
    files = [TESTS / "conformance" / name for name in CORE]
    run(*files, f"--providers=verbs:double_{profile}", "--effort=0.1")


@pytest.mark.slow
@pytest.mark.parametrize("profile", control.PROFILES)
def test_failures_of_the_device_are_told_and_leave_nothing_on(profile):
    run(TESTS / "double" / "inside", f"--providers=verbs:double_{profile}")
