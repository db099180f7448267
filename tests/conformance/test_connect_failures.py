# SPDX-License-Identifier: Apache-2.0
"""A connect that fails says why, and leaves nothing behind."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

import ndverbs as nd
from conformance.addresses import addresses_of
from conformance.end import LIMIT, End

pytestmark = pytest.mark.tsan


@pytest.fixture
def end(make_end):
    return make_end()


def failure(end, peer, **options):
    """Connect, which must fail; return its error."""
    with end.adapter.create_connector() as connector:
        with pytest.raises(nd.RdmaError) as caught:
            connector.connect(end.qp, options.pop("local", None), peer, **options)
        assert connector.state == "idle"
    return caught.value


@pytest.fixture
def unused_port(host):
    """Give a port that is bound, so that no other socket gets it, and has no listener."""
    with socket.create_server((host, 0), backlog=1) as server:
        port = server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        yield port


def test_port_without_listener_is_refused(end, host, unused_port):
    error = failure(end, (host, unused_port))

    assert isinstance(error, ConnectionRefusedError)
    assert error.status == nd.Status.CONNECTION_REFUSED
    assert f"{host}:{unused_port}" in str(error)


def test_failed_connect_leaves_connector_and_queue_pair_usable(end, host, unused_port, make_end):
    connector = end.connector = end.adapter.create_connector()
    for _ in range(3):
        with pytest.raises(ConnectionRefusedError):
            connector.connect(end.qp, None, (host, unused_port))
    assert connector.state == "idle"

    other = make_end()
    address = other.listen()
    with ThreadPoolExecutor(1) as thread:
        accepted = thread.submit(other.accept)
        connector.connect(end.qp, None, address, peer_to_peer=True)
        connector.complete_connect()
        accepted.result(LIMIT)
    assert end.qp.state == "connected"


def test_peer_that_never_answers_times_out(end, silent_server):
    error = failure(end, silent_server.address, timeout=0.2)

    assert isinstance(error, TimeoutError)
    assert error.status == nd.Status.IO_TIMEOUT


def test_attempt_that_timed_out_leaves_no_descriptor(provider, silent_server):
    before = sorted(os.listdir("/proc/self/fd"))
    end = End(provider)

    dropped, timeout = 0, 0.1
    while dropped < 3:
        failure(end, silent_server.address, timeout=timeout)
        if silent_server.drop(timeout):  # the peer sees the end of the stream
            dropped += 1
        else:
            timeout *= 2  # too short for the request to get out
    end.close()

    assert sorted(os.listdir("/proc/self/fd")) == before


def test_local_address_of_another_host_is_invalid(end, host, unused_port):
    # 192.0.2.0/24 is documentation's (RFC 5737): no host has it.
    error = failure(end, (host, unused_port), local=("192.0.2.1", 0))

    assert error.status == nd.Status.INVALID_ADDRESS


def test_local_address_in_use_is_a_sharing_violation(end, host, make_end):
    taken = make_end().listen()
    error = failure(end, (host, 1), local=taken)

    assert error.status == nd.Status.SHARING_VIOLATION


def test_local_address_of_another_family_is_refused(end, provider, host, unused_port):
    error = failure(end, (host, unused_port), local=(addresses_of(provider).v6, 0))

    assert error.status in (nd.Status.INVALID_ADDRESS, nd.Status.INVALID_PARAMETER)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.0.0.1:70000", "[::1", ("127.0.0.1", -1), ""])
def test_malformed_peer_address_is_a_value_error(end, peer):
    assert isinstance(failure(end, peer), ValueError)


def test_negative_timeout_is_a_value_error(end, host, unused_port):
    assert isinstance(failure(end, (host, unused_port), timeout=-1), ValueError)


def test_closing_the_connector_cancels_its_connect(end, silent_server):
    connector = end.adapter.create_connector()
    with ThreadPoolExecutor(1) as thread:
        connecting = thread.submit(connector.connect, end.qp, None, silent_server.address)
        silent_server.expect_a_visitor()

        connector.close()

        with pytest.raises(nd.RdmaError) as caught:
            connecting.result(LIMIT)
    assert caught.value.status == nd.Status.CANCELLED


def test_closing_the_adapter_cancels_a_connect(provider, silent_server):
    end = End(provider)
    with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1) as thread_of_close:
        connector = end.adapter.create_connector()
        connecting = thread.submit(connector.connect, end.qp, None, silent_server.address)
        silent_server.expect_a_visitor()
        closing = thread_of_close.submit(end.close)
        with pytest.raises(nd.RdmaError) as caught:
            connecting.result(LIMIT)
        silent_server.let_go()  # this side lingers until the peer closes, too
        closing.result(LIMIT)
    assert caught.value.status in (nd.Status.CANCELLED, nd.Status.FILE_FORCED_CLOSED)


def test_connect_failures_are_counted(end, host, unused_port):
    failure(end, (host, unused_port))

    assert end.stats()["connect_failure"] == 1
    assert end.stats()["connect"] == 0


def test_flush_before_complete_connect_ends_the_attempt_on_both_sides(idle_ends):
    near, far = idle_ends.near, idle_ends.far
    address = far.listen()
    accepted = far.begin("accept")
    near.connector = near.adapter.create_connector()
    near.connector.connect(near.qp, None, address, timeout=LIMIT, peer_to_peer=True)

    near.flush()

    # Whether the connector hears of it first or the call does is the device's to decide.
    with pytest.raises(nd.RdmaError) as caught:
        near.connector.complete_connect()
    assert caught.value.status in (nd.Status.CONNECTION_ABORTED, nd.Status.CONNECTION_INVALID)
    assert near.connector.state == "disconnected"
    with pytest.raises(ConnectionAbortedError):
        accepted.result(LIMIT)
    assert near.stats()["active_connection"] == 0
