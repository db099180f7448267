# SPDX-License-Identifier: Apache-2.0
"""CPython's own tests of TCP sockets, over ours."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

CLASSES = [
    "BasicTCPTest",
    "TCPCloserTest",
    "NonBlockingTCPTests",
    "FileObjectClassTestCase",
    "UnbufferedFileObjectClassTestCase",
    "LineBufferedFileObjectClassTestCase",
    "SmallBufferedFileObjectClassTestCase",
    "UnicodeReadFileObjectClassTestCase",
    "UnicodeWriteFileObjectClassTestCase",
    "UnicodeReadWriteFileObjectClassTestCase",
    "NetworkConnectionNoServer",
    "NetworkConnectionAttributesTest",
    "NetworkConnectionBehaviourTest",
    "TCPTimeoutTest",
    "BufferIOTest",
    "ContextManagersTest",
    "SendfileUsingSendTest",
    "SendmsgTCPTest",
    "RecvmsgTCPTest",
    "RecvmsgIntoTCPTest",
]


def has_tests():
    try:
        return importlib.util.find_spec("test.test_socket") is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.skipif(
    not has_tests(),
    reason="this Python comes without its own tests (Debian: libpython3-testsuite)",
)
@pytest.mark.parametrize("name", CLASSES)
def test_cpythons_own_tests_pass(name):
    runner = Path(__file__).with_name("cpython_socket_tests.py")

    done = subprocess.run(
        [sys.executable, "-W", "ignore", runner, name], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr

    ran = re.search(r"^Ran (\d+) test", done.stderr, re.M)
    assert int(ran[1]) > 0, done.stderr
