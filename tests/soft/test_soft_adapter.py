# SPDX-License-Identifier: Apache-2.0
"""What only soft has: an adapter of one address, strange peers, and calls that need a socket."""

import contextlib
import os
import resource
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

import ndverbs as nd
from conformance.end import LIMIT, End, status_of


def test_address_of_another_host_opens_no_adapter():
    with pytest.raises(nd.RdmaError) as caught:
        nd.Adapter.open("soft:192.0.2.1")

    assert caught.value.status == nd.Status.INVALID_ADDRESS


def test_adapter_of_one_address_connects_from_it():
    passive = End("soft")
    address = passive.listen()
    with nd.Adapter.open("soft:127.0.0.5") as adapter:
        pd, cq = adapter.create_pd(), adapter.create_cq(256)
        connector = adapter.create_connector()
        operation = connector._start_connect(pd.create_qp(cq, cq), None, address)
        passive.take_request()
        assert passive.incoming.peer_address[0] == "127.0.0.5"
        passive.incoming.reject()
        with pytest.raises(ConnectionRefusedError):
            operation.wait(LIMIT)
    passive.close()


@pytest.fixture
def answering_server():
    """Give a factory of addresses where one TCP peer is answered with fixed bytes."""
    threads = []

    def make(answer):
        server = socket.create_server(("127.0.0.1", 0))

        def run():
            with server:
                server.settimeout(LIMIT)
                peer, _ = server.accept()
            with peer:
                peer.settimeout(LIMIT)
                peer.recv(20)
                peer.sendall(answer)
                with contextlib.suppress(OSError):  # the answered may leave abruptly
                    peer.shutdown(socket.SHUT_WR)
                    while peer.recv(4096):
                        pass

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return server.getsockname()

    yield make
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()


def failure_of_connect(address):
    with nd.Adapter.open("soft") as adapter:
        pd, cq = adapter.create_pd(), adapter.create_cq(256)
        with pytest.raises(nd.RdmaError) as caught:
            adapter.create_connector().connect(pd.create_qp(cq, cq), None, address, timeout=LIMIT)
    return caught.value


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
        bytes(1024),
        b"MPA ID Req Frame\x40\x02\x00\x04\x00\x10\x00\x10",  # a request is no reply
    ],
)
def test_peer_of_another_protocol_is_named_as_such(answering_server, answer):
    error = failure_of_connect(answering_server(answer))

    assert error.status == nd.Status.CONNECTION_ABORTED
    assert "MPA" in str(error)


def test_peer_that_closes_without_an_answer_aborts_the_connect(answering_server):
    error = failure_of_connect(answering_server(b""))

    assert isinstance(error, ConnectionAbortedError | ConnectionResetError)


SOCKET_CALLS = ["listen", "create_shared_endpoint", "connect", "connect_with_shared_endpoint"]


@pytest.mark.parametrize("name", SOCKET_CALLS)
def test_call_that_gets_no_socket_lacks_resources_and_may_be_repeated(pair, name):
    adapter, near = pair.adapter, pair.near
    listener, connector = adapter.create_listener(), adapter.create_connector()
    endpoint = adapter.create_shared_endpoint(("127.0.0.1", 0))
    qp, unused = near.create_qp(), ("127.0.0.1", 1)
    call, *arguments = {
        "listen": (listener.listen, ("127.0.0.1", 0)),
        "create_shared_endpoint": (adapter.create_shared_endpoint, ("127.0.0.1", 0)),
        "connect": (connector.connect, qp, None, unused),
        "connect_with_shared_endpoint": (
            connector.connect_with_shared_endpoint,
            qp,
            endpoint,
            unused,
        ),
    }[name]

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        status = status_of(call, *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert status == nd.Status.INSUFFICIENT_RESOURCES
    refused_by_the_peer = nd.Status.CONNECTION_REFUSED
    expected = refused_by_the_peer if "connect" in name else nd.Status.SUCCESS
    assert status_of(call, *arguments) == expected


@pytest.mark.slow
def test_full_table_of_memory_lacks_resources_until_a_region_ends(pair):
    near = pair.near
    near.memory("base", 8)
    near.map_pages("pages", 1)
    near.create_fast_register_mr("region")
    near.create_mw("window")
    buffer, regions = bytearray(8), []

    def fill():
        while len(regions) < 1 << 20:
            regions.append(near.pd.register(buffer))

    assert status_of(fill) == nd.Status.INSUFFICIENT_RESOURCES
    assert len(regions) > 1_000_000

    for call, *arguments in (
        (near.pd.register, buffer),
        (pair.adapter.build_lam, buffer),
        (near.fast_register, "region", "pages"),
        (near.bind, "window", "base"),
        (getattr, near.pd, "privileged_token"),
    ):
        assert status_of(call, *arguments) == nd.Status.INSUFFICIENT_RESOURCES
    assert near.state() == "connected"

    for region in regions:
        region.close()
    near.fast_register("region", "pages")
    near.bind("window", "base")
    assert [done.status for done in near.completions("initiator", 2)] == [nd.Status.SUCCESS] * 2


WITHOUT_MEMORY = """
    import resource
    import ndverbs as nd
    with nd.Adapter.open("soft") as adapter:
        pd, cq, info = adapter.create_pd(), adapter.create_cq(256), adapter.info
        with open("/proc/self/statm") as sizes:
            used = int(sizes.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), hard))
        for call in (
            lambda: adapter.create_cq(info.max_cq_depth),
            lambda: cq.resize(info.max_cq_depth),
            lambda: pd.create_srq(info.max_srq_depth, max_sge=info.max_receive_request_sge),
            lambda: pd.create_qp(
                cq,
                cq,
                initiator_queue_depth=info.max_initiator_queue_depth,
                inline_size=info.max_inline_data_size,
            ),
        ):
            try:
                call()
            except MemoryError:
                print("MemoryError")
        qp = pd.create_qp(cq, cq)
        qp.receive(context=1)
        qp.flush()
        print(cq.depth, [done.request_context for done in cq.poll()])
"""


@pytest.mark.skipif(
    "NDVERBS_SANITIZED" in os.environ, reason="a sanitizer ends the process that finds no memory"
)
def test_queue_that_finds_no_memory_is_a_memory_error_and_harms_nothing():
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WITHOUT_MEMORY)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )

    assert done.stdout.split("\n") == ["MemoryError"] * 4 + ["256 [1]", ""]
