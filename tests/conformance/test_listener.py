# SPDX-License-Identifier: Apache-2.0
"""Listener: addresses, waiting for requests, pause and resume, close."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import ndverbs as nd
from conformance.addresses import addresses_of
from conformance.end import LIMIT, End

pytestmark = pytest.mark.tsan


@pytest.fixture
def end(make_end):
    return make_end()


@pytest.fixture
def visitor(make_end):
    """Give another adapter's end, which connects on a thread of its own."""
    return make_end()


@pytest.fixture
def thread():
    with ThreadPoolExecutor(1) as executor:
        yield executor


def test_port_zero_becomes_a_real_port(adapter, host):
    with adapter.create_listener() as listener:
        listener.listen(f"{host}:0")

        seen, port = listener.local_address
        assert seen == host
        assert port > 0


@pytest.mark.parametrize("form", ["text", "pair"])
def test_address_may_be_text_or_a_pair(adapter, host_of_family, form):
    text = f"[{host_of_family}]:0" if ":" in host_of_family else f"{host_of_family}:0"
    with adapter.create_listener() as listener:
        listener.listen(text if form == "text" else (host_of_family, 0))

        assert listener.local_address[0] == host_of_family


def test_second_listener_on_a_port_is_a_sharing_violation(adapter, host):
    with adapter.create_listener() as first, adapter.create_listener() as second:
        first.listen((host, 0))

        with pytest.raises(nd.RdmaError) as caught:
            second.listen(first.local_address)

        assert caught.value.status == nd.Status.SHARING_VIOLATION


def test_listener_that_failed_may_listen_again(adapter, host):
    with adapter.create_listener() as first, adapter.create_listener() as second:
        first.listen((host, 0))
        with pytest.raises(nd.RdmaError):
            second.listen(first.local_address)

        second.listen((host, 0))

        assert second.local_address != first.local_address


def test_address_of_another_host_is_invalid(adapter):
    with adapter.create_listener() as listener, pytest.raises(nd.RdmaError) as caught:
        listener.listen("192.0.2.1:0")

    assert caught.value.status == nd.Status.INVALID_ADDRESS


def test_second_listen_is_an_invalid_request(adapter, host):
    with adapter.create_listener() as listener:
        listener.listen((host, 0))

        with pytest.raises(nd.RdmaError) as caught:
            listener.listen((host, 0))

        assert caught.value.status == nd.Status.INVALID_DEVICE_REQUEST


def test_listener_that_does_not_listen_says_so(adapter):
    with adapter.create_listener() as listener:
        with pytest.raises(nd.RdmaError) as caught:
            listener.get_connector(0)
        assert caught.value.status == nd.Status.CONNECTION_INVALID
        with pytest.raises(nd.RdmaError) as caught:
            _ = listener.local_address
        assert caught.value.status == nd.Status.CONNECTION_INVALID


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_waiting_for_a_request_ends_with_its_timeout(adapter, host, timeout):
    with adapter.create_listener() as listener:
        listener.listen((host, 0))

        with pytest.raises(TimeoutError) as caught:
            listener.get_connector(timeout)

        assert caught.value.status == nd.Status.IO_TIMEOUT


def test_wildcard_address_takes_requests_on_every_address(end, provider, visitor, thread):
    host = addresses_of(provider).other_v4
    end.listener = end.adapter.create_listener()
    end.listener.listen("0.0.0.0:0")
    connected = thread.submit(visitor.connect, (host, end.listener.local_address[1]))
    end.take_request()

    assert end.incoming.local_address[0] == host

    end.answer()
    connected.result(LIMIT)


def test_requests_are_handed_out_in_their_order(end, make_end):
    visitors = [make_end() for _ in range(4)]
    address = end.listen()
    with ThreadPoolExecutor(4) as threads:
        calls = []
        taken = []
        for i, visitor in enumerate(visitors):
            calls.append(threads.submit(visitor.connect, address, private_data=bytes([i])))
            taken.append(end.take_request()[:1])  # InfiniBand's is padded
            end.incoming.reject()
        for call in calls:
            assert isinstance(call.exception(LIMIT), ConnectionRefusedError)

    assert taken == [b"\0", b"\1", b"\2", b"\3"]


def test_paused_listener_refuses_like_no_listener(end, visitor):
    address = end.listen()
    end.listener.control_connect_events(True)

    with pytest.raises(ConnectionRefusedError):
        visitor.connect(address)

    assert end.listener.local_address == address


def test_paused_listener_keeps_its_port(end, adapter):
    address = end.listen()
    end.listener.control_connect_events(True)

    with adapter.create_listener() as other, pytest.raises(nd.RdmaError) as caught:
        other.listen(address)

    assert caught.value.status == nd.Status.SHARING_VIOLATION


def test_resumed_listener_takes_requests_again(end, visitor, thread):
    address = end.listen()
    for _ in range(3):
        end.listener.control_connect_events(True)
        with pytest.raises(ConnectionRefusedError):
            visitor.connect(address)
        end.listener.control_connect_events(False)

    connected = thread.submit(visitor.connect, address)
    end.accept()
    connected.result(LIMIT)


def test_pause_before_listen_is_remembered(end, visitor, thread, host):
    end.listener = end.adapter.create_listener()
    end.listener.control_connect_events(True)
    end.listener.listen((host, 0))
    address = end.listener.local_address

    with pytest.raises(ConnectionRefusedError):
        visitor.connect(address, timeout=1)

    end.listener.control_connect_events(False)
    connected = thread.submit(visitor.connect, address)
    end.accept()
    connected.result(LIMIT)


def test_request_that_was_taken_survives_a_pause(end, visitor, thread):
    address = end.listen()
    connected = thread.submit(visitor.connect, address)
    end.take_request()

    end.listener.control_connect_events(True)

    end.answer()
    connected.result(LIMIT)


def test_closing_the_listener_rejects_requests_that_nobody_took(end, visitor, thread):
    address = end.listen()
    arrival = end.listener._wait_for_arrival()
    connected = thread.submit(visitor.connect, address)
    arrival.wait(LIMIT)

    end.listener.close()

    assert isinstance(connected.exception(LIMIT), ConnectionRefusedError)


def test_closed_listener_refuses_at_once(end, visitor):
    address = end.listen()
    end.listener.close()

    with pytest.raises(ConnectionRefusedError):
        visitor.connect(address)


def test_connectors_survive_their_listener(end, visitor, thread):
    address = end.listen()
    connected = thread.submit(visitor.connect, address)
    end.take_request()
    end.listener.close()

    end.answer()
    connected.result(LIMIT)

    visitor.receive()
    end.send()
    assert visitor.received().status == nd.Status.SUCCESS


def test_closing_the_listener_ends_a_wait_for_requests(end, thread):
    end.listen()
    waiting = thread.submit(end.listener.get_connector, LIMIT)

    end.listener.close()

    assert isinstance(waiting.exception(LIMIT), nd.ClosedError)


def test_closing_the_adapter_ends_a_wait_for_requests(provider, thread):
    end = End(provider)
    end.listen()
    waiting = thread.submit(end.listener.get_connector, LIMIT)

    end.close()

    assert isinstance(waiting.exception(LIMIT), nd.ClosedError)


def test_port_of_a_closed_listener_stays_taken_while_its_connectors_live(pair):
    address = pair.far.listen()
    pair.far.listener.close()

    with pair.adapter.create_listener() as another, pytest.raises(nd.RdmaError) as caught:
        another.listen(address)

    assert caught.value.status == nd.Status.SHARING_VIOLATION


def test_port_is_free_when_the_listener_and_its_connectors_are_gone(provider):
    end = End(provider)
    address = end.listen()
    end.close()

    with nd.Adapter.open(provider) as adapter, adapter.create_listener() as listener:
        listener.listen(address)
        assert listener.local_address == address


def test_paused_listener_costs_nothing(end):
    end.listen()
    end.listener.control_connect_events(True)
    used = time.process_time()

    with pytest.raises(TimeoutError):
        end.listener.get_connector(0.3)

    assert time.process_time() - used < 0.1


def test_stranger_who_says_nothing_disturbs_nobody(end, visitor, thread):
    address = end.listen()
    with socket.create_connection(address):
        connected = thread.submit(visitor.connect, address)
        end.accept()
        connected.result(LIMIT)


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.0\r\n\r\n" + bytes(40), bytes(20), b"\xff" * 512]
)
def test_stranger_of_another_protocol_is_shown_the_door(end, garbage):
    with socket.create_connection(end.listen(), timeout=LIMIT) as stranger:
        stranger.sendall(garbage)

        try:
            answer = stranger.recv(1)
        except ConnectionResetError:
            answer = b""
        assert answer == b""


def test_accepted_connections_are_counted(pair):
    assert pair.adapter.stats()["accept"] == 1
    assert pair.adapter.stats()["connect"] == 1
    assert pair.adapter.stats()["active_connection"] == 2
