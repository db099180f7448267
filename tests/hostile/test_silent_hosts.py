# SPDX-License-Identifier: Apache-2.0
"""A host that falls silent says nothing, not even FIN: the keepalive makes TCP ask."""

import contextlib
import os
import shutil
import socket
import stat
import subprocess
import sys
import textwrap

import pytest

import ndverbs as nd
from hostile.raw_peer import reply
from hostile.victim import Victim

OPTIONS = {
    "SO_KEEPALIVE": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "TCP_KEEPIDLE": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    "TCP_KEEPINTVL": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "TCP_USER_TIMEOUT": (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
}


def options_of(local, peer):
    """The options of this process's socket between two addresses, read from a copy of it."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            with socket.fromfd(int(name), socket.AF_INET, socket.SOCK_STREAM) as copy:
                if copy.getsockname() == local and copy.getpeername() == peer:
                    return {option: copy.getsockopt(*which) for option, which in OPTIONS.items()}
    raise AssertionError(f"no socket from {local} to {peer}")


@pytest.mark.parametrize(
    ("keepalive", "idle_s", "user_timeout_ms"), [(30, 10, 30000), (3, 1, 3000), (60.5, 20, 60500)]
)
@pytest.mark.parametrize("role", ["connects", "accepts"])
def test_sockets_ask_a_silent_peer_within_the_time(
    silent_listener, role, keepalive, idle_s, user_timeout_ms
):
    with nd.Adapter.open("soft", keepalive=keepalive) as adapter:
        victim = Victim(adapter)
        if role == "connects":
            stream = victim.stream().connected(silent_listener, reply())
        else:
            stream = victim.accepted()
        connector = stream.connector

        found = options_of(connector.local_address, connector.peer_address)

        assert found == {
            "SO_KEEPALIVE": 1,
            "TCP_KEEPIDLE": idle_s,
            "TCP_KEEPINTVL": idle_s,
            "TCP_USER_TIMEOUT": user_timeout_ms,
        }

        victim.close()


def test_thirty_seconds_are_the_default(victim):
    connector = victim.accepted().connector
    found = options_of(connector.local_address, connector.peer_address)
    assert found["TCP_USER_TIMEOUT"] == 30000


def test_without_a_keepalive_nothing_is_asked():
    with nd.Adapter.open("soft", keepalive=0) as adapter:
        victim = Victim(adapter)
        connector = victim.accepted().connector

        found = options_of(connector.local_address, connector.peer_address)

        assert (found["SO_KEEPALIVE"], found["TCP_USER_TIMEOUT"]) == (0, 0)

        victim.close()


# ---- two hosts -----------------------------------------------------------------------------------

KEEPALIVE = 3
# For the timers of TCP, which are late and never early, and for a busy machine. Without the option
# it would be minutes.
LATE = 5

FAR = """
    import sys
    import ndverbs as nd
    import numpy as np
    with nd.Adapter.open("soft", keepalive=KEEPALIVE) as adapter:
        pd, cq = adapter.create_pd(), adapter.create_cq(256)
        qp = pd.create_qp(cq, cq)
        array = np.zeros(1 << 26, np.uint8)
        region = pd.register(array, nd.Access.REMOTE_WRITE | nd.Access.REMOTE_READ)
        listener = adapter.create_listener()
        listener.listen(("192.0.2.2", 0))
        print(listener.local_address[1], region.address, region.remote_token, flush=True)
        connector = listener.get_connector(timeout=60)
        connector.accept(qp, on_disconnect=lambda: None)
        print("accepted", flush=True)
        sys.stdin.readline()
"""

NEAR = """
    import sys, threading, time
    import ndverbs as nd
    import numpy as np
    what, port, address, token = sys.argv[1], *map(int, sys.argv[2:])
    with nd.Adapter.open("soft", keepalive=KEEPALIVE) as adapter:
        pd, cq = adapter.create_pd(), adapter.create_cq(256)
        qp = pd.create_qp(cq, cq)
        region = pd.register(np.zeros(1 << 26, np.uint8), nd.Access.LOCAL_WRITE)
        gone = threading.Event()
        connector = adapter.create_connector()
        connector.connect(qp, None, ("192.0.2.2", port))
        connector.complete_connect(gone.set)
        print("connected", flush=True)
        sys.stdin.readline()
        start = time.monotonic()
        if what == "writes":
            qp.write(region, (address, token), context="request")
        elif what == "reads":
            qp.read(region, (address, token), context="request")
        gone.wait(60)
        took = time.monotonic() - start
        done = cq.poll()
        print(took, *(f"{r.status.name}:{r.detail}" for r in done), flush=True)
"""


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


@pytest.fixture
def two_hosts():
    """Two network namespaces and a cable between them; the function that pulls it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2 to make network namespaces")
    near, far = (f"ndv-{name}-{os.getpid()}" for name in ("near", "far"))
    with contextlib.ExitStack() as undo:
        for name in (near, far):
            try:
                ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
            undo.callback(ip, "netns", "delete", name)
        ip(
            "-n",
            near,
            "link",
            "add",
            "cable",
            "type",
            "veth",
            "peer",
            "name",
            "cable",
            "netns",
            far,
        )
        for name, address in ((near, "192.0.2.1/24"), (far, "192.0.2.2/24")):
            ip("-n", name, "address", "add", address, "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        yield near, far, lambda: ip("-n", far, "link", "set", "cable", "down")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["waits", "writes", "reads"])
def test_a_host_that_falls_silent_is_given_up_in_time(tmp_path, two_hosts, what):
    near, far, pull = two_hosts
    with contextlib.ExitStack() as stack:

        def run(host, name, source, *arguments):
            script = tmp_path / name
            script.write_text(f"KEEPALIVE = {KEEPALIVE}\n" + textwrap.dedent(source))
            command = ["ip", "netns", "exec", host, sys.executable, str(script), *arguments]
            return stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )

        listening = run(far, "far.py", FAR)
        connecting = run(near, "near.py", NEAR, what, *listening.stdout.readline().split())
        assert connecting.stdout.readline() == "connected\n"
        assert listening.stdout.readline() == "accepted\n"
        pull()
        connecting.stdin.close()
        took, *outcome = connecting.stdout.readline().split(maxsplit=1)
        listening.stdin.close()
        assert connecting.wait(30) == 0
        assert listening.wait(30) == 0
    assert float(took) < KEEPALIVE + LATE
    if what != "waits":
        assert outcome[0].startswith("IO_TIMEOUT:the system reported: ")
