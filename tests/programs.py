# SPDX-License-Identifier: Apache-2.0
"""Programs that tests run in processes of their own: what many begin with, and how they are run."""

import os
import subprocess
import sys

LIMIT = 100  # seconds; only means failure

# The beginning of a program that needs one end of a connection, or two that it connects.
ENDS = """
import sys, threading
import ndverbs as nd

class End:
    def __init__(self, adapter=None):
        self.adapter = adapter or nd.Adapter.open("soft")
        self.pd = self.adapter.create_pd()
        self.cq = self.adapter.create_cq(1024)
        self.qp = self.pd.create_qp(self.cq, self.cq)
        self.buffer = bytearray(1 << 20)
        self.region = self.pd.register(self.buffer, nd.Access.REMOTE_WRITE | nd.Access.REMOTE_READ)
        self.listener = self.adapter.create_listener()
        self.listener.listen("127.0.0.1:0")

def ends(adapter=None):
    near = End(adapter)
    return near, End(near.adapter)

def join(near, far, on_disconnect=None):
    def accept():
        far.connector = far.listener.get_connector(30)
        far.connector.accept(far.qp, on_disconnect=on_disconnect)
    thread = threading.Thread(target=accept)
    thread.start()
    near.connector = near.adapter.create_connector()
    near.connector.connect(near.qp, None, far.listener.local_address, peer_to_peer=True)
    near.connector.complete_connect(on_disconnect)
    thread.join()
"""


def run(program: str, *options: str, returncode: int = 0, **environment: str) -> tuple[str, str]:
    """Run a program with options of the interpreter; returns its output and errors."""
    done = subprocess.run(
        [sys.executable, *options, "-c", program],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, **environment},
    )
    assert done.returncode == returncode, done.stderr
    return done.stdout, done.stderr
