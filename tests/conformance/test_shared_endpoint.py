# SPDX-License-Identifier: Apache-2.0
"""Shared endpoints: one local address for connectors to different peers; and who holds a port."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

import ndverbs as nd
from conformance.end import LIMIT, End, status_of

pytestmark = pytest.mark.tsan


@pytest.fixture(autouse=True)
def _needs_shared_endpoints(provider):
    with nd.Adapter.open(provider) as adapter:
        if "create_shared_endpoint" not in adapter.info.features:
            with pytest.raises(nd.RdmaError) as caught:
                adapter.create_shared_endpoint("127.0.0.1:0")
            assert caught.value.status == nd.Status.NOT_SUPPORTED
            pytest.skip("no shared endpoints")


@pytest.fixture
def end(make_end):
    return make_end()


def connect_through(end, endpoint, peer):
    """Connect a queue pair of its own from the endpoint; return connector and queue pair."""
    address = peer.listen()
    connector, qp = end.adapter.create_connector(), end.create_qp()
    with ThreadPoolExecutor(1) as thread:
        accepted = thread.submit(peer.accept)
        connector.connect_with_shared_endpoint(qp, endpoint, address, peer_to_peer=True)
        connector.complete_connect()
        accepted.result(LIMIT)
    return connector, qp


def test_connectors_to_different_peers_come_from_one_address(end, make_end, host):
    endpoint = end.adapter.create_shared_endpoint((host, 0))
    assert endpoint.local_address[0] == host
    assert endpoint.local_address[1] > 0
    peers = [make_end() for _ in range(3)]
    made = [connect_through(end, endpoint, peer) for peer in peers]

    for (connector, qp), peer in zip(made, peers, strict=True):
        assert connector.local_address == endpoint.local_address
        assert peer.connector.peer_address == endpoint.local_address
        peer.receive()
        qp.send()
        assert peer.received().status == nd.Status.SUCCESS


def test_second_connector_to_the_same_peer_is_refused(end, make_end, host):
    endpoint = end.adapter.create_shared_endpoint((host, 0))
    peer = make_end()
    first, _ = connect_through(end, endpoint, peer)
    address = peer.listener.local_address

    with end.adapter.create_connector() as second:
        status = status_of(second.connect_with_shared_endpoint, end.create_qp(), endpoint, address)

    assert status == nd.Status.ADDRESS_ALREADY_EXISTS
    assert first.state == "connected"


def test_nobody_else_gets_the_address(end, host):
    endpoint = end.adapter.create_shared_endpoint((host, 0))
    taken = endpoint.local_address

    assert status_of(end.adapter.create_shared_endpoint, taken) == nd.Status.SHARING_VIOLATION
    with end.adapter.create_listener() as listener:
        assert status_of(listener.listen, taken) == nd.Status.SHARING_VIOLATION
    with end.adapter.create_connector() as connector:
        status = status_of(connector.connect, end.qp, taken, (host, 1))
        assert status == nd.Status.SHARING_VIOLATION

    endpoint.close()
    del endpoint
    with end.adapter.create_listener() as listener:
        listener.listen(taken)


def test_address_of_a_listener_is_taken_for_endpoints(end):
    address = end.listen()

    status = status_of(end.adapter.create_shared_endpoint, address)

    assert status == nd.Status.SHARING_VIOLATION


def test_wildcard_overlaps_every_address_of_its_port(end, host):
    endpoint = end.adapter.create_shared_endpoint((host, 0))

    with end.adapter.create_listener() as listener:
        status = status_of(listener.listen, ("0.0.0.0", endpoint.local_address[1]))

    assert status == nd.Status.SHARING_VIOLATION


def test_address_stays_taken_while_connectors_from_it_live(end, make_end, host):
    endpoint = end.adapter.create_shared_endpoint((host, 0))
    taken = endpoint.local_address
    connector, qp = connect_through(end, endpoint, make_end())
    endpoint.close()

    assert status_of(end.adapter.create_shared_endpoint, taken) == nd.Status.SHARING_VIOLATION
    assert connector.state == "connected"
    assert qp.state == "connected"


def test_address_of_another_host_is_invalid(end):
    status = status_of(end.adapter.create_shared_endpoint, ("192.0.2.1", 0))

    assert status == nd.Status.INVALID_ADDRESS


def test_closed_endpoint_connects_nobody(end, host):
    endpoint = end.adapter.create_shared_endpoint((host, 0))
    endpoint.close()

    with end.adapter.create_connector() as connector, pytest.raises(nd.ClosedError):
        connector.connect_with_shared_endpoint(end.qp, endpoint, (host, 1))


def test_failed_attempt_leaves_endpoint_and_connector_usable(end, make_end, host):
    endpoint = end.adapter.create_shared_endpoint((host, 0))
    unused = make_end()
    address = unused.listen()
    unused.listener.close()
    with end.adapter.create_connector() as connector:
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                connector.connect_with_shared_endpoint(end.qp, endpoint, address)

    connector, _ = connect_through(end, endpoint, make_end())
    assert connector.state == "connected"


@pytest.fixture
def attempt(end, host):
    """Give ``attempt(peer, qp, **options)``: connect from an endpoint, return the status."""
    endpoint = end.adapter.create_shared_endpoint((host, 0))

    def connect(peer, qp=None, **options):
        with end.adapter.create_connector() as connector:
            call = connector.connect_with_shared_endpoint
            return status_of(call, qp or end.qp, endpoint, peer, **options)

    return connect


def test_peer_that_never_answers_times_out(attempt, silent_server):
    assert attempt(silent_server.address, timeout=0.2) == nd.Status.IO_TIMEOUT


def test_private_data_beyond_the_limit_is_refused(end, attempt, host):
    too_much = bytes(end.adapter.info.max_caller_data + 1)

    assert attempt((host, 1), private_data=too_much) == nd.Status.INVALID_BUFFER_SIZE


def test_connected_queue_pair_connects_from_no_endpoint(attempt, end, make_end, host):
    endpoint = end.adapter.create_shared_endpoint((host, 0))
    _, qp = connect_through(end, endpoint, make_end())

    assert attempt((host, 1), qp) == nd.Status.CONNECTION_ACTIVE
    assert qp.state == "connected"


def test_connector_that_is_connected_connects_from_no_endpoint(end, make_end, host):
    endpoint = end.adapter.create_shared_endpoint((host, 0))
    connector, _ = connect_through(end, endpoint, make_end())

    status = status_of(connector.connect_with_shared_endpoint, end.create_qp(), endpoint, (host, 1))

    assert status == nd.Status.CONNECTION_INVALID


def test_closing_the_connector_cancels_its_connect(end, host, silent_server):
    endpoint = end.adapter.create_shared_endpoint((host, 0))
    connector = end.adapter.create_connector()
    with ThreadPoolExecutor(1) as thread:
        call = connector.connect_with_shared_endpoint
        connecting = thread.submit(status_of, call, end.qp, endpoint, silent_server.address)
        silent_server.expect_a_visitor()

        connector.close()

        assert connecting.result(LIMIT) == nd.Status.CANCELLED


def test_coroutine_connects_from_an_endpoint(end, make_end, host):
    endpoint = end.adapter.create_shared_endpoint((host, 0))
    peer = make_end()
    address = peer.listen()
    connector = end.adapter.create_connector()
    with ThreadPoolExecutor(1) as thread:
        accepted = thread.submit(peer.accept)

        async def connect():
            await connector.connect_with_shared_endpoint_async(end.qp, endpoint, address)
            await connector.complete_connect_async()

        asyncio.run(connect())
        accepted.result(LIMIT)

    assert peer.connector.peer_address == endpoint.local_address


def test_what_is_no_endpoint_is_a_type_error(end, host):
    with end.adapter.create_connector() as connector, pytest.raises(TypeError):
        connector.connect_with_shared_endpoint(end.qp, (host, 0), (host, 1))


def test_port_of_a_closed_listener_is_free_when_its_last_connector_is(provider):
    passive, active = End(provider), End(provider)
    address = passive.listen()
    with ThreadPoolExecutor(1) as thread:
        accepted = thread.submit(passive.accept)
        active.connect(address)
        accepted.result(LIMIT)
    passive.listener.close()
    with passive.adapter.create_listener() as listener:
        assert status_of(listener.listen, address) == nd.Status.SHARING_VIOLATION

        passive.connector.close()

        listener.listen(address)
    active.end_connection()
    passive.close()
    active.close()
