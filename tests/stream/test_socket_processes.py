# SPDX-License-Identifier: Apache-2.0
"""Sockets and the life of processes: exits, forks."""

import os
import subprocess
import sys

import pytest

import ndverbs as nd
from stream.sockets import LIMIT, read_to_end


def start(code):
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


def test_what_was_sent_arrives_although_the_program_ends(server, provider):
    code = (
        "import ndverbs as nd\n"
        f"s = nd.Socket(adapter={provider!r})\n"
        f"s.connect({server.getsockname()!r})\n"
        "s.sendall(bytes(200_000))\n"
    )
    with start(code) as child:
        far, _ = server.accept()
        with far:
            far.settimeout(LIMIT)
            assert len(read_to_end(far, 1000)) == 200_000
        assert child.wait(LIMIT) == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_leaves_the_parents_sockets_alone(ends):
    near, far = ends
    child = os.fork()
    if child == 0:
        outcome = 1
        try:
            near.recv(10)
        except nd.RdmaError as refused:
            outcome = 0 if "belongs to process" in str(refused) else 2
        finally:
            near.close()
            os._exit(outcome)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    far.sendall(b"still here")
    assert near.recv(20) == b"still here"


def test_a_descriptor_of_the_process_is_closed_with_its_socket(ends):
    near, _ = ends
    number = near.fileno()

    near.close()

    with pytest.raises(OSError, match=r"[Bb]ad file"):
        os.fstat(number)
