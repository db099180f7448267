# SPDX-License-Identifier: Apache-2.0
"""Servers: strangers, versions, many peers, and the end."""

import asyncio
import threading
import time

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT, End
from ndverbs.connection import _link, _wire


def test_addresses_are_real_and_those_that_the_peer_sees(ends, server):
    near, far = ends
    assert near.local_address == far.peer_address
    assert near.peer_address == far.local_address
    assert server.address.endswith(f":{near.peer_address[1]}")


def test_private_data_of_both_sides_arrives(adapter, host):
    with (
        nd.listen((host, 0), adapter=adapter, private_data=b"from the server") as server,
        nd.connect(server.address, adapter=adapter, private_data=b"from the client") as near,
        server.accept(LIMIT) as far,
    ):
        assert near.peer_private_data.rstrip(b"\0") == b"from the server"
        assert far.peer_private_data.rstrip(b"\0") == b"from the client"


def test_connections_are_made_without_a_call_of_accept(adapter, server):
    made = [nd.connect(server.address, adapter=adapter) for _ in range(10)]
    taken = [server.accept(LIMIT) for _ in made]
    by_peer = {each.peer_address: each for each in taken}
    for each in made:
        each.send(b"hello")
        assert by_peer[each.local_address].receive(LIMIT) == b"hello"
    for each in made + taken:
        each.abort()


def test_who_waits_for_a_peer_hears_that_the_adapter_is_closed(provider, host):
    async def wait_in_loop(server):
        closing = threading.Thread(target=adapter.close)
        asyncio.get_running_loop().call_soon(closing.start)
        try:
            await server.accept_async(LIMIT)
        finally:
            closing.join()

    with nd.Adapter.open(provider) as adapter, nd.listen((host, 0), adapter=adapter) as server:
        with pytest.raises(nd.ClosedError):
            asyncio.run(wait_in_loop(server))
        with pytest.raises(nd.ClosedError):
            server.accept(LIMIT)


def test_a_stopped_server_leaves_its_connections(adapter, server):
    near = nd.connect(server.address, adapter=adapter)
    far = server.accept(LIMIT)
    waiting = nd.connect(server.address, adapter=adapter)
    server.stop()
    with pytest.raises(ConnectionError):
        waiting.receive(LIMIT)
    with pytest.raises(nd.ClosedError, match="stopped"):
        server.accept()
    with pytest.raises(ConnectionRefusedError):
        nd.connect(server.address, adapter=adapter, timeout=LIMIT)
    assert "stopped" in repr(server)
    near.send(b"still")
    assert far.receive(LIMIT) == b"still"
    near.close()
    far.close()
    waiting.close()


def test_stopping_ends_a_thread_that_iterates(server):
    thread = threading.Thread(target=list, args=(server,))
    thread.start()
    server.stop()
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_a_connection_of_a_cancelled_accept_is_the_next_ones(adapter, server):
    async def main():
        first, second = (asyncio.create_task(server.accept_async()) for _ in range(2))
        await asyncio.sleep(0)
        near = nd.connect(server.address, adapter=adapter)
        until = time.monotonic() + LIMIT
        while len(server._acceptors) == 2 and time.monotonic() < until:
            pass  # the first one has it, and its task has not run yet
        first.cancel()
        async with asyncio.timeout(LIMIT):
            far = await second
        near.close()
        far.close()

    asyncio.run(main())


def test_accept_says_how_long_it_has_waited(server):
    with pytest.raises(nd.RdmaTimeoutError, match="accept: no peer connected within"):
        server.accept(0.01)


def test_a_full_backlog_turns_peers_away_with_a_reason(adapter, host):
    with nd.listen((host, 0), adapter=adapter, backlog=2) as server:
        made = [nd.connect(server.address, adapter=adapter) for _ in range(2)]
        with pytest.raises(ConnectionRefusedError):
            nd.connect(server.address, adapter=adapter, timeout=LIMIT)
        server.accept(LIMIT).close()
        with nd.connect(server.address, adapter=adapter, timeout=LIMIT):
            for each in made:
                each.close()


def test_a_backlog_of_none_is_refused(adapter, host):
    with pytest.raises(ValueError, match="a backlog of 0"):
        nd.listen((host, 0), adapter=adapter, backlog=0)


def test_one_silent_peer_does_not_hold_up_another(stranger, adapter, server):
    with nd.connect(server.address, adapter=adapter) as near, server.accept(LIMIT) as far:
        near.send(b"served")
        assert far.receive(LIMIT) == b"served"


@pytest.fixture
def stranger(adapter, server):
    """Connect a bare queue pair to the server."""
    with adapter.create_pd() as pd, adapter.create_cq(64) as cq:
        qp = pd.create_qp(cq, cq, receive_queue_depth=16, initiator_queue_depth=16)
        memory = np.zeros(1 << 16, np.uint8)
        region = pd.register(memory)
        for i in range(16):
            qp.receive(region.segment(i * 4096, 4096), context=i)
        connector = adapter.create_connector()
        connector.connect(qp, None, server.address)
        connector.complete_connect()

        def talk(*messages):
            """Send, and return what comes back until the connection ends or is quiet."""
            for message in messages:
                qp.send(message, flags=nd.Flag.INLINE, context=100)
            found = []
            while True:
                try:
                    cq.wait(LIMIT if messages else 0.2)
                except TimeoutError:
                    return found
                for result in cq.poll():
                    if result.status is not nd.Status.SUCCESS:
                        return found
                    if result.request_context < 16:
                        at = result.request_context * 4096
                        found.append(bytes(memory[at : at + result.bytes_transferred]))
                        if len(found) == 2 and messages:
                            return found

        yield talk
        connector.close()
        qp.close()
        region.close()


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1", _wire.negotiate_request()[:-1]])
def test_a_stranger_that_does_not_negotiate_is_dropped(server, stranger, first):
    assert stranger(first) == []
    with pytest.raises(TimeoutError):
        server.accept(0.01)


def test_a_peer_of_another_version_is_told_which_one_this_side_speaks(server, stranger):
    grant = _wire.transfer(16, 16, 0, 0, _wire.HEAD.size)
    found = stranger(_wire.negotiate_request(), grant + bytes(_wire.hello(7, 9)))
    assert found[0][:6] == _wire.negotiate_response(_wire.Limits(4096, 524288), 16)[:6]
    assert found[1][_wire.PAYLOAD_AT :][: _wire.ROOM_AT] == _wire.hello()[: _wire.ROOM_AT]
    with pytest.raises(TimeoutError):
        server.accept(0.01)


def test_a_peer_that_never_negotiates_is_dropped_in_time(server, stranger, monkeypatch):
    # The fixture's connection began before: the next one has the short time.
    monkeypatch.setattr(_link, "NEGOTIATION_S", 0.05)
    assert stranger() == []


def test_a_silent_peer_is_dropped_in_time_while_the_program_waits(server, stranger, monkeypatch):
    waiting = threading.Thread(target=list, args=(server,))
    waiting.start()
    monkeypatch.setattr(_link, "NEGOTIATION_S", 0.05)
    assert stranger() == []
    server.stop()
    waiting.join(LIMIT)


def test_a_client_of_another_version_names_both(adapter, host, monkeypatch):
    with nd.listen((host, 0), adapter=adapter) as server:
        real = _wire.version_error
        monkeypatch.setattr(_wire, "version_error", lambda theirs: real((4, 5)))
        with pytest.raises(nd.RdmaError, match=r"speaks version 1 .* speaks 4 to 5") as failure:
            nd.connect(server.address, adapter=adapter, timeout=LIMIT)
        assert failure.value.status is nd.Status.NOT_SUPPORTED


def test_connect_to_a_listener_of_queue_pairs_times_out_with_a_hint(provider, adapter, host):
    far = End(provider)
    try:
        address = far.listen(host)
        accepting = threading.Thread(target=far.accept)
        accepting.start()
        # A device ends the connection at once when a message finds no receive.
        with pytest.raises((nd.RdmaTimeoutError, ConnectionResetError)) as failure:
            nd.connect(address, adapter=adapter, timeout=0.5)
        if isinstance(failure.value, TimeoutError):
            assert "no Server of ndverbs" in str(failure.value)
        accepting.join(LIMIT)
    finally:
        far.close()


def test_connect_says_when_no_program_listens(adapter, host):
    with nd.listen((host, 0), adapter=adapter) as server:
        address = server.address
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            nd.connect(address, adapter=adapter, timeout=LIMIT)


def test_the_native_objects_are_within_reach(ends, adapter):
    near, _ = ends
    assert near.adapter is adapter
    assert isinstance(near.pd, nd.ProtectionDomain)
    assert near.qp.state == "connected"
    assert near.transport in ("tcp", "direct", "direct+vm", "rdma")
    if near.transport == "tcp":
        assert "off" in near.transport_reason
    near.abort()
    assert near.transport_reason == "the Connection has ended"
