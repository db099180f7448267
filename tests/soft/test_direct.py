# SPDX-License-Identifier: Apache-2.0
"""When a connection goes on through memory, and when it stays with TCP."""

import mmap
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT, End, pattern
from conformance.far import FarProcess
from conformance.pair import join, kept_ends


@pytest.fixture
def make():
    """Give the factory of ends with adapters of their own; options are those of `Adapter.open`."""
    with kept_ends() as made:

        def make(*, depth=128, **options):
            adapter = nd.Adapter.open("soft", **options)
            depths = {"initiator_queue_depth": depth, "receive_queue_depth": depth}
            made.append(End(adapter=adapter, is_direct=True, **depths))
            made[-1].owns_adapter = True
            return made[-1]

        yield make


@pytest.fixture
def near(make):
    return make()


def connect(near, passive, address=None, **options):
    """Connect `near` to an end in a thread of its own; return what carries it at both ends."""
    with ThreadPoolExecutor(1) as thread:

        def begin(name, **options):
            return thread.submit(getattr(passive, name), **options)

        join(near, begin, address or passive.listen(), **options)
    return near.connector.transport, passive.connector.transport


def test_two_ends_of_one_adapter_share_memory():
    with nd.Adapter.open("soft") as adapter, kept_ends() as made:
        made += [End(adapter=adapter, is_direct=True) for _ in range(2)]
        assert connect(*made) == ("direct", "direct")


def test_two_adapters_of_one_process_share_memory(near, make):
    assert connect(near, make()) == ("direct", "direct")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.0.0.2"])
def test_any_address_of_this_host_will_do(near, make, host):
    passive = make()
    passive.listen(host)
    assert connect(near, passive) == ("direct", "direct")


@pytest.mark.parametrize("which", ["near", "passive"])
def test_either_end_keeps_tcp(make, which):
    ends = {name: make(direct="off" if name == which else "auto") for name in ("near", "passive")}
    assert connect(ends["near"], ends["passive"]) == ("tcp", "tcp")


def test_the_environment_keeps_tcp(make, monkeypatch):
    passive = make()
    monkeypatch.setenv("NDVERBS_DIRECT", "off")
    assert connect(make(), passive) == ("tcp", "tcp")


@pytest.mark.parametrize("choice", ["on", "", True, None])
def test_another_choice_is_refused(choice):
    with pytest.raises((nd.RdmaError, TypeError)) as refused:
        nd.Adapter.open("soft", direct=choice)
    assert "direct" in str(refused.value)


def test_another_choice_in_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("NDVERBS_DIRECT", "yes")
    with pytest.raises(
        nd.RdmaError, match='NDVERBS_DIRECT is \'yes\'; give "auto", "no-vm" or "off"'
    ):
        nd.Adapter.open("soft")


@pytest.mark.parametrize("which", ["near", "passive"])
def test_a_capture_keeps_tcp(make, tmp_path, which):
    options = {"capture": tmp_path / "all.pcap"}
    ends = {name: make(**options if name == which else {}) for name in ("near", "passive")}
    assert connect(ends["near"], ends["passive"]) == ("tcp", "tcp")


@pytest.mark.parametrize("option", [{"crc": True}, {"peer_to_peer": True}])
def test_what_is_about_frames_keeps_tcp(near, make, option):
    assert connect(near, make(), active_options=option) == ("tcp", "tcp")


@pytest.mark.usefixtures("kernel_copies")
@pytest.mark.parametrize("direct", ["auto", "no-vm", "off"])
@pytest.mark.parametrize("is_active", [True, False])
def test_a_process_of_the_same_user_shares_memory(make, peer_process, direct, is_active):
    """The one that allows less decides for itself alone, unless it is "off"."""
    near = make()
    far = FarProcess(peer_process, provider="soft", is_direct=True, direct=direct)
    if is_active:
        join(near, far.begin, far.listen())
    else:
        accepted = far.begin("connect", near.listen())
        near.accept()
        accepted.result(LIMIT)

    assert near.connector.transport == ("tcp" if direct == "off" else "direct+vm")
    assert far.transport() == {"auto": "direct+vm", "no-vm": "direct", "off": "tcp"}[direct]
    near.end_connection()
    far.close()


def test_a_connection_through_a_proxy_stays_with_tcp(near, make):
    passive = make()
    target = passive.listen()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def carry(source, sink):
            while data := source.recv(1 << 16):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

        def serve():
            taken, _ = listening.accept()
            with taken, socket.create_connection(target) as onward:
                back = threading.Thread(target=carry, args=(onward, taken))
                back.start()
                carry(taken, onward)
                back.join()

        proxy = threading.Thread(target=serve)
        proxy.start()
        assert connect(near, passive, listening.getsockname()) == ("tcp", "tcp")
        near.memory("source", 100, seed=2)
        passive.memory("sink", 100)
        passive.receive("sink")
        near.send("source")
        assert passive.received().status == nd.Status.SUCCESS
        near.end_connection()
        passive.end_connection()
        proxy.join(LIMIT)


def test_accept_waits_for_an_active_end_that_is_late(near, make):
    passive = make()
    address = passive.listen()
    with ThreadPoolExecutor(1) as thread:
        accepted = thread.submit(passive.accept)
        near.begin_connect(address)
        # Far longer than it waits for one that says nothing.
        with pytest.raises(TimeoutError):
            accepted.result(0.5)
        near.connector.complete_connect()
        accepted.result(LIMIT)

    assert near.connector.transport == passive.connector.transport == "direct"


def test_a_message_behind_a_wait_satisfies_an_arm(near, make):
    passive = make()
    connect(near, passive)
    with ThreadPoolExecutor(1) as thread:
        for _ in range(50):
            passive.receive()
            passive.receive()
            waited = thread.submit(passive.received)
            near.send()
            waited.result(LIMIT)

            passive.arm("receive")
            near.send()

            assert passive.is_notified("receive", LIMIT)
            assert passive.received().status == nd.Status.SUCCESS


def test_a_large_message_behind_many_goes_on_while_its_end_only_polls(make):
    near, passive = make(depth=512), make(depth=512)
    connect(near, passive)
    near.memory("source", 300_000, seed=5)
    passive.memory("sink", 300_000)
    for _ in range(300):
        near.send()
        passive.receive()
    near.send("source")
    passive.receive("sink")

    done = [passive.received() for _ in range(301)]

    assert {each.status for each in done} == {nd.Status.SUCCESS}
    assert passive.content("sink") == pattern(300_000, 5)


def test_transport_is_of_a_connection_that_stands(near):
    connector = near.adapter.create_connector()
    with pytest.raises(nd.RdmaError, match="transport: the connector has no connection"):
        _ = connector.transport


# ---- memory that processes map ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "expected"),
    [
        (8, "u1", (8,)),
        ((2, 3), np.float32, (2, 3)),
        ([4], "<u8", (4,)),
        ((), "i4", ()),
        (0, "u1", (0,)),
    ],
)
def test_an_array_of_the_adapter_is_an_array_of_zeroes(near, shape, dtype, expected):
    array = near.adapter.alloc_array(shape, dtype)

    assert (array.shape, array.dtype) == (expected, np.dtype(dtype))
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert not array.any()
    assert array.ctypes.data % mmap.PAGESIZE == 0


def test_an_array_outlives_its_adapter():
    adapter = nd.Adapter.open("soft")
    array = adapter.alloc_array(100, "u1")
    adapter.close()

    array[:] = 7
    assert array.sum() == 700
    with pytest.raises(nd.ClosedError):
        adapter.alloc_array(1, "u1")


def test_memory_of_arrays_that_are_gone_is_used_again(near):
    for _ in range(200):
        arrays = [near.adapter.alloc_array(size, "u1") for size in (1, 5000, 1 << 20)]
        for array in arrays:
            assert not array.any()
            array[:] = 255
        del array, arrays


@pytest.mark.parametrize(
    ("shape", "dtype", "named"),
    [
        (-1, "u1", "shape"),
        ((2**40, 2**40), "u1", "shape"),
        (2**62, "u1", "no memory"),
        (1, object, "object"),
        (1, "nonsense", "dtype"),
    ],
)
def test_an_array_that_cannot_be_is_refused(near, shape, dtype, named):
    with pytest.raises((nd.RdmaError, TypeError), match=named):
        near.adapter.alloc_array(shape, dtype)


def test_an_adapter_without_direct_has_ordinary_arrays(make):
    array = make(direct="off").adapter.alloc_array((3, 5), "f8")
    assert (array.shape, array.sum()) == ((3, 5), 0)
