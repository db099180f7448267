# SPDX-License-Identifier: Apache-2.0
"""Which processes share memory with which, and what is done where they may only in part."""

import socket
import threading

import pytest

import ndverbs as nd
from conformance.end import ALL, LIMIT, End, pattern
from conformance.far import FarProcess
from conformance.pair import join, kept_ends
from soft.confined import Confined, confined

pytestmark = pytest.mark.usefixtures("kernel_copies")

BOTH = pytest.mark.parametrize("is_active", [True, False], ids=["active", "passive"])
EVERYTHING = nd.Access.REMOTE_READ | nd.Access.REMOTE_WRITE | nd.Access.REMOTE_ATOMIC


@pytest.fixture
def near():
    with kept_ends() as made:
        made.append(End(is_direct=True))
        yield made[0]


def connect(near, far, *, is_active=True):
    """Connect; return what carries the connection at both ends."""
    if is_active:
        join(near, far.begin, far.listen("127.0.0.1"))
    else:
        connecting = far.begin("connect", near.listen("127.0.0.1"))
        near.accept()
        connecting.result(LIMIT)
    return near.transport(), far.transport()


def exercise(initiator, target, sizes=(8, 5000, 300_000)):
    """Have one end do all that it can do in the memory of the other, and look at the results."""
    for size in sizes:
        sink = target.memory("sink", size, EVERYTHING)
        initiator.memory("source", size, seed=size)
        target.receive("sink")
        initiator.write(sink, "source")
        assert initiator.completion().status == nd.Status.SUCCESS
        initiator.memory("back", size)
        initiator.read(sink, "back")
        assert initiator.completion().status == nd.Status.SUCCESS
        assert initiator.content("back") == pattern(size, size)
        assert target.content("sink") == pattern(size, size)
        initiator.memory("source", size, seed=3)
        initiator.send("source")
        done = target.received()
        assert (done.status, done.bytes_transferred) == (nd.Status.SUCCESS, size)
        assert initiator.completion().status == nd.Status.SUCCESS
        assert target.content("sink") == pattern(size, 3)
    words = target.words("words", 2, values=(5, 7))
    initiator.words("found", 1)
    initiator.fetch_add(words, 3, "found")
    assert initiator.completion().status == nd.Status.SUCCESS
    assert (initiator.word("found"), target.word("words", 0)) == (5, 8)
    target.receive()
    initiator.write_with_immediate(sink, 77, "source")
    assert target.received().immediate == 77
    assert initiator.completion().status == nd.Status.SUCCESS


def end_of(near, far):
    near.end_connection()
    far.end_connection()


# ---- one user, and not all is allowed -----------------------------------------------------------

# Conditions of the far process -> what carries the connection at the near end, and at the far one.
SHARED = {
    "nothing": ((), "direct+vm", "direct+vm"),
    "calls are forbidden": (("calls are forbidden",), "direct+vm", "direct"),
    "user namespace": (("user namespace",), "direct+vm", "direct"),
    "pid namespace": (("pid namespace",), "direct+vm", "direct"),
}


@BOTH
@pytest.mark.parametrize(("conditions", "here", "there"), SHARED.values(), ids=SHARED)
def test_processes_of_one_user_share_memory_as_far_as_each_may(
    near, conditions, here, there, is_active
):
    with confined(*conditions) as far:
        assert connect(near, far, is_active=is_active) == (here, there)
        exercise(near, far)
        exercise(far, near)
        end_of(near, far)


@BOTH
def test_memory_of_a_process_that_hides_it_is_reached_by_its_own_steps(is_active):
    with confined("cannot trace") as near, confined("cannot trace", "memory is hidden") as far:
        assert connect(near, far, is_active=is_active) == ("direct", "direct+vm")
        exercise(near, far)
        exercise(far, near)
        end_of(near, far)


@pytest.mark.parametrize("size", [8, 5000, 300_000])
def test_a_kernel_that_begins_to_refuse_changes_the_way_and_nothing_else(near, size):
    with confined() as far:
        assert connect(near, far) == ("direct+vm", "direct+vm")
        exercise(far, near, (size,))

        far.forbid_calls()

        exercise(far, near, (size,))
        exercise(near, far, (size,))
        # Small copies go through a file that was opened before, and stay as they were.
        assert far.transport() == "direct+vm"
        end_of(near, far)


def test_memory_in_an_arena_is_reached_where_calls_are_forbidden(near):
    near.has_arena = True
    with confined("calls are forbidden", has_arena=True) as far:
        assert connect(near, far) == ("direct+vm", "direct")
        exercise(near, far)
        exercise(far, near)
        end_of(near, far)


# ---- processes that do not share memory ---------------------------------------------------------

STRANGE = {
    "another user": ("another user",),
    "another effective user": ("another effective user",),
    "user without a number": ("user namespace without a number",),
}


@BOTH
@pytest.mark.parametrize("conditions", STRANGE.values(), ids=STRANGE)
def test_processes_of_two_users_stay_with_tcp(near, conditions, is_active):
    with confined(*conditions) as far:
        assert connect(near, far, is_active=is_active) == ("tcp", "tcp")
        exercise(near, far)
        end_of(near, far)


def test_a_listener_whose_process_is_in_another_network_stays_with_tcp(near):
    with confined() as far:
        address = far.listen("127.0.0.1")
        try:
            far.leave_network()
        except OSError as refused:
            pytest.skip(f"the kernel does not give a process another network: {refused}")

        join(near, far.begin, address)

        assert (near.transport(), far.transport()) == ("tcp", "tcp")
        exercise(near, far)
        end_of(near, far)


def test_processes_that_a_proxy_connects_stay_with_tcp(near):
    with confined() as far, socket.create_server(("127.0.0.1", 0)) as listening:
        target = far.listen("127.0.0.1")
        proxy = threading.Thread(target=serve_one, args=(listening, target))
        proxy.start()

        join(near, far.begin, listening.getsockname())

        assert (near.transport(), far.transport()) == ("tcp", "tcp")
        exercise(near, far)
        end_of(near, far)
        proxy.join(LIMIT)


def serve_one(listening, target):
    def carry(source, sink):
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    taken, _ = listening.accept()
    with taken, socket.create_connection(target) as onward:
        back = threading.Thread(target=carry, args=(onward, taken))
        back.start()
        carry(taken, onward)
        back.join()


# ---- never a wrong pair -------------------------------------------------------------------------


def test_each_of_two_processes_with_one_port_is_met_by_its_own_peers():
    with Confined() as first, Confined() as second, nd.Adapter.open("soft") as adapter:
        fars = [FarProcess(process, is_direct=True) for process in (first, second)]
        port = fars[0].share_port(0)
        assert fars[1].share_port(port) == port
        remotes = [far.memory("sink", 5000, ALL, seed=seed) for seed, far in enumerate(fars, 1)]
        met = set()
        for _ in range(64):  # the kernel chooses at random
            met.add(meet_one(adapter, port, fars, remotes))
            if len(met) == 2:
                break
        assert met == {0, 1}
        for far in fars:
            far.close()


def meet_one(adapter, port, fars, remotes):
    """Connect, see that memory and words are those of one process, and return its number."""
    near = End(adapter=adapter, is_direct=True)
    near.connector = adapter.create_connector()
    connecting = near.connector._start_connect(near.qp, None, ("127.0.0.1", port), timeout=LIMIT)
    taker = None
    while taker is None:
        # Whose TCP socket it is says the kernel.
        taker = next((n for n, far in enumerate(fars) if far.take_now(bytes([n]))), None)
    connecting.wait(LIMIT)
    near.connector.complete_connect()
    far = fars[taker]
    far.end_accept()
    assert near.connector.connection_data.private_data == bytes([taker])
    assert (near.transport(), far.transport()) == ("direct+vm", "direct+vm")
    near.memory("found", 5000)
    near.read(remotes[taker], "found")
    assert near.completion().status == nd.Status.SUCCESS
    assert near.content("found") == pattern(5000, taker + 1)
    near.end_connection()
    far.close_connector()
    near.close()
    return taker
