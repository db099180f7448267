# SPDX-License-Identifier: Apache-2.0
"""What only soft has: an adapter of one address, and peers that are no RDMA listeners."""

import contextlib
import socket
import threading

import pytest

import ndverbs as nd
from conformance.end import LIMIT, End


def test_address_of_another_host_opens_no_adapter():
    with pytest.raises(nd.RdmaError) as caught:
        nd.Adapter.open("soft:192.0.2.1")

    assert caught.value.status == nd.Status.INVALID_ADDRESS


def test_adapter_of_one_address_connects_from_it():
    passive = End("soft")
    address = passive.listen()
    with nd.Adapter.open("soft:127.0.0.5") as adapter:
        pd, cq = adapter.create_pd(), adapter.create_cq(8)
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
        pd, cq = adapter.create_pd(), adapter.create_cq(8)
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
