# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C ends every blocking wait soon, and leaves the objects usable."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

LIMIT = 60

# Each wait is set up, says so, and is interrupted; then the same objects work or close.
WAITS = {
    "cq.wait": """
        wait = lambda: cq.wait()
    """,
    "cq.wait with a timeout": """
        wait = lambda: cq.wait(100)
    """,
    "cq.wait of a connected queue pair": """
        near, far = connected()
        wait = lambda: cq.wait()
    """,
    "get_connector": """
        wait = lambda: listener.get_connector()
    """,
    "connect": """
        import socket
        silent = socket.create_server(("127.0.0.1", 0))
        connector = adapter.create_connector()
        wait = lambda: connector.connect(qp, None, silent.getsockname(), timeout=100)
    """,
    "accept": """
        visitor = adapter.create_connector()
        visiting = visitor._start_connect(pd.create_qp(cq, cq), None, listener.local_address,
                                          peer_to_peer=True)
        incoming = listener.get_connector(30)
        wait = lambda: incoming.accept(qp, timeout=None)
    """,
    "disconnect": """
        near, far = connected(on_disconnect=lambda: None)
        wait = lambda: near.disconnect(100)
    """,
    "operation.wait": """
        import socket
        silent = socket.create_server(("127.0.0.1", 0))
        connector = adapter.create_connector()
        operation = connector._start_connect(qp, None, silent.getsockname(), timeout=100)
        wait = lambda: operation.wait(None)
    """,
    "Socket.connect": """
        import socket
        silent = socket.create_server(("127.0.0.1", 0))
        wait = lambda: nd.Socket(adapter=adapter).connect(silent.getsockname())
    """,
    "Socket.accept": """
        server = nd.create_server(("127.0.0.1", 0), adapter=adapter)
        wait = lambda: server.accept()
    """,
    "Socket.recv": """
        near, far = streams()
        wait = lambda: near.recv(1)
    """,
    "Socket.sendall beside a thread that receives": """
        near, far = streams()
        receiving = threading.Thread(target=near.recv, args=(1,))
        receiving.start()
        def wait():
            try:
                near.sendall(bytes(1 << 26))
            finally:
                far.sendall(b"!")
                receiving.join()
    """,
    "a wsk connect": """
        import socket
        from ndverbs import wsk
        silent = socket.create_server(("127.0.0.1", 0))
        wait = lambda: wsk.socket_connect(("127.0.0.1", 0), silent.getsockname(), adapter)
    """,
}

PROGRAM = """
import signal, threading
import ndverbs as nd

# A shell that runs us in the background ignores the signal, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

adapter = nd.Adapter.open("soft")
pd = adapter.create_pd()
cq = adapter.create_cq(16)
qp = pd.create_qp(cq, cq)
listener = adapter.create_listener()
listener.listen("127.0.0.1:0")

def connected(on_disconnect=None):
    global qp
    other = pd.create_qp(cq, cq)
    connector = adapter.create_connector()
    def accept():
        accept.incoming = listener.get_connector(30)
        accept.incoming.accept(other, on_disconnect=on_disconnect)
    thread = threading.Thread(target=accept)
    thread.start()
    connector.connect(qp, None, listener.local_address, peer_to_peer=True)
    connector.complete_connect()
    thread.join()
    return connector, accept.incoming

def streams():
    server = nd.create_server(("127.0.0.1", 0), adapter=adapter)
    near = nd.create_connection(server.getsockname(), adapter=adapter)
    return near, server.accept()[0]

{setup}

print("waiting", flush=True)
try:
    wait()
except KeyboardInterrupt:
    print("interrupted", flush=True)
else:
    print("returned", flush=True)
if "silent" in globals():
    silent.close()
with adapter:  # closes: nothing blocks
    spare = pd.create_qp(cq, cq)
    spare.receive(context=5)
    spare.flush()
    assert 5 in [done.request_context for done in cq.poll()]
print("closed", flush=True)
"""


def is_asleep(pid):
    """Whether the process's main thread sleeps in the kernel."""
    with open(f"/proc/{pid}/task/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


@pytest.mark.parametrize("name", WAITS)
def test_ctrl_c_ends_the_wait(name):
    program = PROGRAM.format(setup=textwrap.dedent(WAITS[name]))
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout.readline() == "waiting\n"
        give_up_at = time.monotonic() + LIMIT
        while not is_asleep(child.pid):
            assert time.monotonic() < give_up_at
        sent_at = time.monotonic()
        os.kill(child.pid, signal.SIGINT)
        assert child.stdout.readline() == "interrupted\n"
        took = time.monotonic() - sent_at
        rest, errors = child.stdout.read(), child.stderr.read()

    assert rest == "closed\n"
    assert errors == ""
    assert child.returncode == 0
    # 100 ms is the promise; a loaded machine gets ten times that.
    assert took < 1
