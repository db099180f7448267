# SPDX-License-Identifier: Apache-2.0
"""After a fork the child has clear errors and no descriptors; the parent goes on as before."""

import subprocess
import sys
import textwrap
import threading

import pytest

import ndverbs as nd
import programs
from programs import ENDS, LIMIT

DEFINITIONS = (
    ENDS
    + """
import os
import signal
import warnings

# From Python 3.12 on, os.fork() warns of any other thread; the progress thread survives it.
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)

def message(near, far):
    far.qp.receive(far.region, context=1)
    near.qp.send(b"hello", flags=nd.Flag.INLINE)
    for cq in (far.cq, near.cq):
        cq.wait(30)
        (done,) = cq.poll()
        assert done.status == nd.Status.SUCCESS
    assert far.buffer[:5] == b"hello"

def in_child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
"""
)
# Two adapters of one process, connected; `far` watches what becomes of `near` and its process.
PROLOGUE = (
    DEFINITIONS
    + """
near, far = End(), End()
join(near, far)
"""
)

EPILOGUE = """
for end in (near, far):
    end.connector.close()
near.adapter.close()
far.adapter.close()
print("done")
"""


def run(body, *, epilogue=EPILOGUE):
    assert programs.run(PROLOGUE + textwrap.dedent(body) + epilogue) == ("done\n", "")


USES = {
    "adapter": "near.adapter.create_pd()",
    "adapter.stats": "near.adapter.stats()",
    "create_cq": "near.adapter.create_cq(8)",
    "pd": "near.pd.register(bytearray(1))",
    "poll": "near.cq.poll()",
    "wait": "near.cq.wait(1)",
    "arm": "near.cq.arm()",
    "fileno": "near.cq.fileno()",
    "send": "near.qp.send()",
    "receive": "near.qp.receive(near.region)",
    "write": "near.qp.write(near.region, (1, 1))",
    "flush": "near.qp.flush()",
    "disconnect": "near.connector.disconnect()",
    "connector": "near.connector.connection_data",
    "listener": "near.listener.get_connector(1)",
    "region": "near.region.local_token",
    "deregister": "near.region.deregister()",
}


def test_every_use_in_the_child_says_that_the_object_belongs_to_the_parent():
    uses = "\n".join(f"        lambda: {use}," for use in USES.values())
    run(f"""
def work():
    for use in (
{uses}
    ):
        try:
            use()
        except nd.RdmaError as error:
            assert error.status == nd.Status.INVALID_DEVICE_STATE, error
            assert str(os.getppid()) in str(error), error
            assert "fork" in str(error), error
        else:
            raise AssertionError("it worked")

message(near, far)
in_child(work)
message(near, far)
""")


def test_connection_of_the_parent_survives_a_child_that_exits_in_order():
    run("""
    def work():
        for end in (near, far):
            for name in ("connector", "qp", "cq", "region", "pd", "listener", "adapter"):
                getattr(end, name).close()

    for _ in range(3):
        message(near, far)
        in_child(work)
        message(far, near)
    """)


def test_child_may_collect_the_parents_objects():
    run("""
    import gc

    def work():
        global near, far
        del near, far
        gc.collect()

    in_child(work)
    message(near, far)
    """)


def test_child_has_none_of_the_parents_sockets():
    run("""
    def sockets():
        found = set()
        for name in os.listdir("/proc/self/fd"):
            try:
                found.add(os.readlink("/proc/self/fd/" + name))
            except OSError:
                pass
        return {name for name in found if name.startswith(("socket:", "anon_inode:"))}

    def work():
        assert sockets() == set(), sockets()

    assert sockets()
    in_child(work)
    message(near, far)
    """)


def test_child_may_open_an_adapter_of_its_own():
    run("""
    def work():
        one, other = End(), End()
        join(one, other)
        message(one, other)
        for end in (one, other):
            end.connector.close()
        one.adapter.close()
        other.adapter.close()

    in_child(work)
    message(near, far)
    """)


def test_child_exits_through_the_interpreters_end_without_a_word():
    run(
        """
    pid = os.fork()
    if pid == 0:
        sys.exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
    message(near, far)
    """
    )


def test_child_lets_go_of_an_adapter_whose_sockets_were_closed_before():
    run(
        """
    with nd.create_server(("127.0.0.1", 0)) as server:
        with nd.create_connection(server.getsockname()) as sock, server.accept()[0] as taken:
            sock.sendall(b"x")
            assert taken.recv(1) == b"x"
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # a hang ends the child
        sys.exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, status
    """
    )


def test_fork_while_other_threads_are_busy():
    run("""
    stop = threading.Event()
    def chat():
        while not stop.is_set():
            message(near, far)
    thread = threading.Thread(target=chat)
    thread.start()
    for _ in range(10):
        in_child(lambda: near.region.closed)
    stop.set()
    thread.join()
    """)


# A process of its own with a connection, which forks a child that goes on, and dies.
DYING_PARENT = (
    DEFINITIONS
    + """
import signal
mine = End()
mine.connector = mine.adapter.create_connector()
mine.connector.connect(mine.qp, None, (sys.argv[1], int(sys.argv[2])), peer_to_peer=True)
mine.connector.complete_connect()
if os.fork() == 0:
    os.close(1)
    os.read(0, 1)  # until the test is over
    os._exit(0)
print("forked", flush=True)
if sys.argv[3] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
os._exit(0)
"""
)


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_peer_notices_the_parents_death_although_the_child_lives(how):
    told = threading.Event()
    with nd.Adapter.open("soft") as adapter, adapter.create_listener() as listener:
        listener.listen("127.0.0.1:0")
        cq = adapter.create_cq(256)
        qp = adapter.create_pd().create_qp(cq, cq)
        words = [*map(str, listener.local_address), how]
        parent = subprocess.Popen(
            [sys.executable, "-c", DYING_PARENT, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with parent:
            connector = listener.get_connector(LIMIT)
            connector.accept(qp, on_disconnect=told.set)
            assert parent.stdout.readline() == b"forked\n"
            parent.wait(LIMIT)

            assert told.wait(LIMIT)


def test_a_lock_that_a_thread_of_the_parent_holds_does_not_stop_its_child():
    run("""
    from ndverbs import _sharing
    with _sharing._lock:
        in_child(lambda: _sharing.adapter_for("soft").close())
    """)
