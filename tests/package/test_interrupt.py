# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C ends every blocking wait soon, and leaves the objects usable."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from programs import ENDS, LIMIT, run

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

PROGRAM = (
    ENDS
    + """
import signal

# A shell that runs us in the background ignores the signal, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

near_end = End()
adapter, pd, cq, qp = near_end.adapter, near_end.pd, near_end.cq, near_end.qp
listener = near_end.listener

def connected(on_disconnect=None):
    global far_end  # kept: a queue pair that is dropped ends its connection
    far_end = End(adapter)
    join(near_end, far_end, on_disconnect)
    return near_end.connector, far_end.connector

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
)


def is_asleep(pid):
    """Whether the process's main thread sleeps in the kernel."""
    with open(f"/proc/{pid}/task/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


@pytest.mark.parametrize("name", WAITS)
def test_ctrl_c_ends_the_wait(name):
    program = PROGRAM.replace("{setup}", textwrap.dedent(WAITS[name]))
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


def test_threads_of_ours_leave_signals_to_python_and_faults_to_their_handler(pair):
    faults = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
    masks = {}
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/status") as status:
            fields = dict(line.split(":\t", 1) for line in status)
        if fields["Name"].startswith("ndverbs"):
            masks[fields["Name"].strip()] = int(fields["SigBlk"], 16)

    assert masks
    for mask in masks.values():
        assert mask >> (signal.SIGINT - 1) & 1
        assert mask >> (signal.SIGTERM - 1) & 1
        assert not [fault for fault in faults if mask >> (fault - 1) & 1]


def test_fault_on_a_thread_of_ours_is_reported_by_faulthandler():
    # A peer writes behind the end of a mapped file: the fault is the progress thread's.
    program = ENDS + textwrap.dedent("""
        import faulthandler, mmap, tempfile
        faulthandler.enable()
        near, far = ends()
        join(near, far)
        file = tempfile.TemporaryFile()
        file.truncate(8192)
        memory = mmap.mmap(file.fileno(), 8192)
        region = far.pd.register(memory, nd.Access.REMOTE_WRITE)
        file.truncate(0)
        near.qp.write(b"x", region.remote(), flags=nd.Flag.INLINE)
        threading.Event().wait(60)
    """)

    # A sanitizer leaves the fault to faulthandler, too.
    options = os.environ.get("ASAN_OPTIONS", "") + ":handle_sigbus=0"
    _, errors = run(program, returncode=-signal.SIGBUS, ASAN_OPTIONS=options)

    assert "Fatal Python error: Bus error" in errors
