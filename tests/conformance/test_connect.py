# SPDX-License-Identifier: Apache-2.0
"""Connect, CompleteConnect, Accept, Reject: who says what, what the peer learns, what follows."""

import pytest

import ndverbs as nd
from conformance.addresses import addresses_of
from conformance.end import LIMIT, pattern


def refusal(call, *args, **options):
    """Return the status that a call raises."""
    with pytest.raises(nd.RdmaError) as caught:
        call(*args, **options)
    return caught.value.status


# ---- establishment ------------------------------------------------------------------------------


def test_connection_takes_three_messages(idle_ends):
    near, far = idle_ends.near, idle_ends.far
    address = far.listen()
    requested = far.begin("take_request")
    near.connector = near.adapter.create_connector()
    assert near.connector.state == "idle"
    answered = far.begin("answer")

    near.connector.connect(near.qp, None, address, timeout=LIMIT)
    requested.result(LIMIT)
    assert near.connector.state == "accepted"
    assert near.state() == "idle"

    near.connector.complete_connect()
    answered.result(LIMIT)
    assert near.connector.state == "connected"
    assert near.state() == "connected"
    assert far.state() == "connected"


def test_passive_end_may_send_first(idle_ends):
    idle_ends.near.memory("sink", 3)
    idle_ends.near.receive("sink")
    idle_ends.connect(active_options={"peer_to_peer": False})

    idle_ends.far.send()

    assert idle_ends.near.received().status == nd.Status.SUCCESS


@pytest.mark.parametrize("peer_to_peer", [False, True])
def test_connection_carries_data_in_both_modes(idle_ends, peer_to_peer):
    idle_ends.connect(active_options={"peer_to_peer": peer_to_peer})
    idle_ends.near.memory("buffer", 10, seed=1)
    idle_ends.far.memory("buffer", 10)
    idle_ends.far.receive("buffer")

    idle_ends.near.send("buffer")

    assert idle_ends.far.received().bytes_transferred == 10
    assert idle_ends.far.content("buffer") == pattern(10, 1)


@pytest.mark.parametrize("active_asks", [False, True])
@pytest.mark.parametrize("passive_asks", [False, True])
def test_crc_of_either_end_is_agreed_upon(idle_ends, active_asks, passive_asks):
    idle_ends.connect(active_options={"crc": active_asks}, passive_options={"crc": passive_asks})
    target = idle_ends.far.memory("target", 100_000)
    idle_ends.near.memory("source", 100_000, seed=3)
    idle_ends.far.receive()

    idle_ends.near.write(target, "source")
    idle_ends.near.send()

    assert idle_ends.far.received().status == nd.Status.SUCCESS
    assert idle_ends.far.content("target") == pattern(100_000, 3)


def test_crc_that_cannot_be_promised_is_refused(idle_ends):
    near = idle_ends.near
    if near.promises_crc():
        idle_ends.connect(active_options={"crc": True})
        assert near.state() == "connected"
        return
    connector = near.adapter.create_connector()

    status = refusal(connector.connect, near.qp, None, idle_ends.far.listen(), crc=True)

    assert status == nd.Status.NOT_SUPPORTED


def test_addresses_of_both_ends_agree(idle_ends, host_of_family):
    idle_ends.host = host = host_of_family
    idle_ends.connect()

    near = idle_ends.near.connector
    assert near.peer_address == idle_ends.far.listen()
    assert near.local_address[0] == host
    assert near.peer_address[0] == host
    assert near.local_address[1] != 0


def test_passive_end_sees_the_addresses_before_it_answers(idle_ends, host):
    address = idle_ends.near.listen()
    connected = idle_ends.far.begin("connect", address)
    idle_ends.near.take_request()

    incoming = idle_ends.near.incoming
    assert incoming.local_address == address
    assert incoming.peer_address[0] == host

    incoming.reject()
    assert refusal(connected.result, LIMIT) == nd.Status.CONNECTION_REFUSED


@pytest.mark.parametrize("which", ["v4", "other_v4"])
def test_connect_leaves_from_the_local_address_it_is_given(idle_ends, provider, which):
    local = getattr(addresses_of(provider), which)
    idle_ends.near.connect(*_accepting(idle_ends), local=(local, 0))

    host, port = idle_ends.near.connector.local_address
    assert host == local
    assert port != 0


def _accepting(ends):
    """Let the far end accept; return the arguments of a connect."""
    address = ends.far.listen()
    ends.far.begin("accept")
    return (address,)


# ---- private data -------------------------------------------------------------------------------


@pytest.mark.parametrize("fewer", [0, 1, 252, 253, 255, 256, 1000])
def test_private_data_travels_both_ways(idle_ends, fewer):
    info = idle_ends.near.adapter.info
    asked = pattern(max(0, info.max_caller_data - fewer), 1)
    answered = pattern(max(0, info.max_callee_data - fewer), 2)
    idle_ends.connect(
        active_options={"private_data": asked}, passive_options={"private_data": answered}
    )

    assert _without_padding(info, idle_ends.near.data()[0], len(answered)) == answered
    assert _without_padding(info, idle_ends.far.data()[0], len(asked)) == asked


def _without_padding(info, seen, nbytes):
    """InfiniBand's messages have a fixed size; iWARP's carry the length."""
    if info.rdma_technology == "iWARP":
        return seen
    assert not any(seen[nbytes:])
    return seen[:nbytes]


def test_adapter_states_the_limits_of_private_data(adapter):
    least = 56  # what rdma_cm carries over InfiniBand
    assert 508 >= adapter.info.max_caller_data >= least
    assert 508 >= adapter.info.max_callee_data >= least


def test_connect_refuses_private_data_beyond_the_limit(idle_ends):
    near = idle_ends.near
    address = idle_ends.far.listen()
    connector = near.adapter.create_connector()

    too_much = bytes(near.adapter.info.max_caller_data + 1)
    status = refusal(connector.connect, near.qp, None, address, private_data=too_much)

    assert status == nd.Status.INVALID_BUFFER_SIZE
    assert connector.state == "idle"
    idle_ends.connect()  # the queue pair is as good as new


def test_accept_refuses_private_data_beyond_the_limit(idle_ends):
    near = idle_ends.near
    connected = idle_ends.far.begin("connect", near.listen())
    near.take_request()

    too_much = bytes(near.adapter.info.max_callee_data + 1)
    assert refusal(near.incoming.accept, near.qp, private_data=too_much) == (
        nd.Status.INVALID_BUFFER_SIZE
    )

    near.answer()  # the request is still there
    connected.result(LIMIT)


def test_reject_refuses_private_data_beyond_the_limit(idle_ends):
    near = idle_ends.near
    connected = idle_ends.far.begin("connect", near.listen())
    near.take_request()

    most = near.adapter.info.max_callee_data
    assert refusal(near.incoming.reject, bytes(most + 1)) == nd.Status.INVALID_BUFFER_SIZE

    near.incoming.reject(bytes(most))
    assert refusal(connected.result, LIMIT) == nd.Status.CONNECTION_REFUSED


# ---- read limits --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("active", "passive", "near", "far"),
    [
        # (inbound, outbound) as asked for; as agreed upon: the lesser of own and peer's opposite
        ((16, 16), (16, 16), (16, 16), (16, 16)),
        ((4, 8), (16, 16), (4, 8), (8, 4)),
        ((16, 16), (2, 3), (3, 2), (2, 3)),
        ((1, 128), (128, 1), (1, 128), (128, 1)),
        ((0, 0), (16, 16), (0, 0), (0, 0)),
        ((16, 16), (0, 0), (0, 0), (0, 0)),
        ((100_000, 100_000), (100_000, 100_000), (128, 128), (128, 128)),
    ],
)
def test_read_limits_are_negotiated_and_capped(idle_ends, active, passive, near, far):
    idle_ends.connect(active_options=_limits(active), passive_options=_limits(passive))

    info = idle_ends.near.adapter.info
    most = info.max_inbound_read_limit, info.max_outbound_read_limit
    assert idle_ends.near.data()[1:] == tuple(map(min, near, most))
    assert idle_ends.far.data()[1:] == tuple(map(min, far, most))


def _limits(pair):
    return {"inbound_read_limit": pair[0], "outbound_read_limit": pair[1]}


def test_request_shows_the_read_limits_that_the_peer_allows(idle_ends):
    connected = idle_ends.far.begin(
        "connect", idle_ends.near.listen(), inbound_read_limit=5, outbound_read_limit=7
    )
    idle_ends.near.take_request()

    assert idle_ends.near.data()[1:] == (7, 5)

    idle_ends.near.answer()
    connected.result(LIMIT)


def test_read_limit_of_zero_refuses_reads_at_the_call(idle_ends):
    idle_ends.connect(active_options={"outbound_read_limit": 0})
    target = idle_ends.far.memory("target", 8)
    idle_ends.near.memory("sink", 8, seed=1)

    assert refusal(idle_ends.near.read, target, "sink") == nd.Status.INVALID_DEVICE_REQUEST

    idle_ends.near.write(target, "sink")  # the queue pair stays usable
    assert idle_ends.near.completion().status == nd.Status.SUCCESS


@pytest.mark.parametrize("limit", [1, 2, 16])
def test_reads_beyond_the_limit_wait_their_turn(idle_ends, limit):
    idle_ends.connect(active_options={"outbound_read_limit": limit})
    target = idle_ends.far.memory("target", 64, seed=8)
    idle_ends.near.memory("sink", 64)

    for i in range(64):
        idle_ends.near.read((target.address + i, target.token), ("sink", i, 1), context=i)

    done = idle_ends.near.completions("initiator", 64)
    assert [each.request_context for each in done] == [*range(64)]
    assert idle_ends.near.content("sink") == pattern(64, 8)


# ---- rejecting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [0, 1, 1000])
def test_rejected_connect_is_refused_with_the_peers_data(idle_ends, nbytes):
    near = idle_ends.near
    info = near.adapter.info
    nbytes = min(nbytes, info.max_callee_data)
    address = idle_ends.far.listen()
    taken = idle_ends.far.begin("take_request")
    rejected = idle_ends.far.begin("reject", pattern(nbytes, 5))
    near.connector = near.adapter.create_connector()

    with pytest.raises(ConnectionRefusedError) as caught:
        near.connector.connect(near.qp, None, address, timeout=LIMIT)

    assert caught.value.status == nd.Status.CONNECTION_REFUSED
    assert _without_padding(info, near.data()[0], nbytes) == pattern(nbytes, 5)
    taken.result(LIMIT)
    rejected.result(LIMIT)


def test_connector_and_queue_pair_of_a_rejected_connect_may_connect_again(idle_ends):
    near, far = idle_ends.near, idle_ends.far
    address = far.listen()
    far.begin("take_request")
    far.begin("reject")
    connector = near.connector = near.adapter.create_connector()
    assert refusal(connector.connect, near.qp, None, address, timeout=LIMIT) == (
        nd.Status.CONNECTION_REFUSED
    )

    accepted = far.begin("accept")
    connector.connect(near.qp, None, address, timeout=LIMIT, peer_to_peer=True)
    connector.complete_connect()
    accepted.result(LIMIT)

    assert near.state() == "connected"


def test_closing_an_unanswered_request_rejects_it(idle_ends):
    near = idle_ends.near
    connected = idle_ends.far.begin("connect", near.listen())
    near.take_request()

    near.incoming.close()

    assert refusal(connected.result, LIMIT) == nd.Status.CONNECTION_REFUSED


def test_active_end_may_reject_the_answer(idle_ends):
    near, far = idle_ends.near, idle_ends.far
    address = far.listen()
    accepted = far.begin("accept")
    near.connector = near.adapter.create_connector()
    near.connector.connect(near.qp, None, address, timeout=LIMIT)

    near.connector.reject()

    with pytest.raises(ConnectionAbortedError) as caught:
        accepted.result(LIMIT)
    assert caught.value.status == nd.Status.CONNECTION_ABORTED
    assert near.connector.state == "disconnected"


def test_complete_connect_fails_when_the_peer_gave_up(idle_ends):
    near, far = idle_ends.near, idle_ends.far
    address = far.listen()
    accepted = far.begin("accept", timeout=0.2)
    near.connector = near.adapter.create_connector()
    # Without completion the passive end gives up; peer-to-peer mode has no other way to begin.
    near.connector.connect(near.qp, None, address, timeout=LIMIT, peer_to_peer=True)
    assert refusal(accepted.result, LIMIT) == nd.Status.IO_TIMEOUT

    assert refusal(near.connector.complete_connect) == nd.Status.CONNECTION_ABORTED
    assert near.connector.state == "disconnected"
    assert near.stats()["connect_failure"] == 1


def test_accept_fails_when_the_peer_gave_up(idle_ends):
    near = idle_ends.near
    connected = idle_ends.far.begin("connect", near.listen(), timeout=0.2)
    near.take_request()
    assert refusal(connected.result, LIMIT) == nd.Status.IO_TIMEOUT

    assert refusal(near.incoming.accept, near.qp) == nd.Status.CONNECTION_ABORTED
    assert near.stats()["connect_failure"] == 1


def test_queue_pair_of_a_failed_accept_takes_the_next_request(idle_ends):
    near, far = idle_ends.near, idle_ends.far
    near.memory("sink", 8)
    near.receive("sink", context="posted before")
    given_up = far.begin("connect", near.listen(), timeout=0.2)
    near.take_request()
    assert refusal(given_up.result, LIMIT) == nd.Status.IO_TIMEOUT
    assert refusal(near.incoming.accept, near.qp) == nd.Status.CONNECTION_ABORTED

    connected = far.begin("connect", near.listen())
    near.accept()
    connected.result(LIMIT)

    far.memory("source", 8, seed=3)
    far.send("source")
    received = near.received()
    assert (received.status, received.request_context) == (nd.Status.SUCCESS, "posted before")
    assert near.content("sink") == far.content("source")


def test_reject_says_that_the_peer_gave_up(idle_ends):
    near = idle_ends.near
    connected = idle_ends.far.begin("connect", near.listen(), timeout=0.2)
    near.take_request()
    assert refusal(connected.result, LIMIT) == nd.Status.IO_TIMEOUT

    assert refusal(near.incoming.reject) == nd.Status.CONNECTION_ABORTED


def test_closing_the_connector_cancels_its_accept(idle_ends):
    near, far = idle_ends.near, idle_ends.far
    begun = far.begin("begin_connect", near.listen(), peer_to_peer=True)
    near.take_request()
    operation = near.incoming._start_accept(near.qp, timeout=LIMIT)

    near.incoming.close()

    assert refusal(operation.wait, LIMIT) == nd.Status.CANCELLED
    assert near.state() == "error"
    begun.result(LIMIT)


def test_accepted_peer_that_never_completes_times_out(idle_ends):
    near, far = idle_ends.near, idle_ends.far
    address = near.listen()
    begun = far.begin("begin_connect", address, peer_to_peer=True)
    near.take_request()

    with pytest.raises(TimeoutError) as caught:
        near.incoming.accept(near.qp, timeout=0.2)

    assert caught.value.status == nd.Status.IO_TIMEOUT
    assert near.incoming.state == "disconnected"
    begun.result(LIMIT)


def test_accept_that_nobody_waits_for_ends_at_its_timeout(idle_ends):
    near, far = idle_ends.near, idle_ends.far
    begun = far.begin("begin_connect", near.listen(), peer_to_peer=True)
    near.take_request()
    near.receive(context=1)

    operation = near.incoming._start_accept(near.qp, timeout=0.1)

    assert refusal(operation.wait, LIMIT) == nd.Status.IO_TIMEOUT
    assert near.incoming.state == "disconnected"
    done = near.received()
    assert done.status == nd.Status.CANCELLED
    assert done.detail == "the peer did not complete the connection in time"
    assert near.state() == "error"
    assert near.stats()["connect_failure"] == 1
    begun.result(LIMIT)


def test_flush_ends_an_accept_and_does_not_blame_the_peer(idle_ends):
    near, far = idle_ends.near, idle_ends.far
    begun = far.begin("begin_connect", near.listen(), peer_to_peer=True)
    near.take_request()
    operation = near.incoming._start_accept(near.qp, timeout=LIMIT)

    near.flush()

    with pytest.raises(ConnectionAbortedError, match="the queue pair was flushed"):
        operation.wait(LIMIT)
    assert near.incoming.state == "disconnected"
    assert near.stats()["connect_failure"] == 0
    begun.result(LIMIT)


# ---- states and reuse ---------------------------------------------------------------------------


def test_idle_connector_refuses_what_needs_a_peer(adapter):
    with adapter.create_connector() as connector:
        assert refusal(connector.complete_connect) == nd.Status.CONNECTION_INVALID
        assert refusal(connector.reject) == nd.Status.CONNECTION_INVALID
        assert refusal(connector.disconnect) == nd.Status.CONNECTION_INVALID
        assert refusal(lambda: connector.connection_data) == nd.Status.CONNECTION_INVALID
        assert refusal(lambda: connector.local_address) == nd.Status.CONNECTION_INVALID
        assert refusal(lambda: connector.peer_address) == nd.Status.CONNECTION_INVALID


def test_connected_connector_refuses_another_establishment(pair):
    near, far = pair.near, pair.far
    with near.create_qp() as spare:
        address = far.listen()
        assert refusal(near.connector.connect, spare, None, address) == (
            nd.Status.CONNECTION_INVALID
        )
        assert refusal(near.connector.complete_connect) == nd.Status.CONNECTION_INVALID
        assert refusal(near.connector.reject) == nd.Status.CONNECTION_INVALID
        assert refusal(far.connector.accept, spare) == nd.Status.CONNECTION_INVALID
        assert refusal(far.connector.reject) == nd.Status.CONNECTION_INVALID


def test_connected_queue_pair_refuses_a_second_connect(pair):
    with pair.adapter.create_connector() as connector:
        status = refusal(connector.connect, pair.near.qp, None, pair.far.listen())

    assert status == nd.Status.CONNECTION_ACTIVE
    assert pair.near.state() == "connected"


def test_connected_queue_pair_refuses_a_second_accept(pair):
    near, far = pair.near, pair.far
    with pair.adapter.create_connector() as connector, near.create_qp() as spare:
        operation = connector._start_connect(spare, None, far.listen())
        far.take_request()

        assert refusal(far.incoming.accept, far.qp) == nd.Status.CONNECTION_ACTIVE

        far.incoming.reject()
        assert refusal(operation.wait, LIMIT) == nd.Status.CONNECTION_REFUSED
        far.incoming = None


def test_queue_pair_whose_connection_ended_connects_no_more(pair):
    near, far = pair.near, pair.far
    near.connector.close()
    far.wait_for_disconnect()

    for qp in (near.qp, far.qp):
        with pair.adapter.create_connector() as connector:
            assert refusal(connector.connect, qp, None, far.listen()) == (
                nd.Status.CONNECTION_ACTIVE
            )


def test_disconnected_connector_connects_no_more(pair):
    near, far = pair.near, pair.far
    far.connector.close()
    near.wait_for_disconnect()
    near.connector.disconnect(LIMIT)

    with near.create_qp() as spare:
        assert refusal(near.connector.connect, spare, None, far.listen()) == (
            nd.Status.CONNECTION_INVALID
        )


def test_connecting_connector_refuses_a_second_connect(pair, silent_server):
    with (
        pair.adapter.create_connector() as connector,
        pair.near.create_qp() as first,
        pair.near.create_qp() as second,
    ):
        operation = connector._start_connect(first, None, silent_server.address)

        assert refusal(connector.connect, second, None, silent_server.address) == (
            nd.Status.CONNECTION_INVALID
        )
        operation.abandon()


def test_queue_pair_of_another_adapter_is_refused(adapter, host, pair):
    with adapter.create_connector() as connector:
        status = refusal(connector.connect, pair.near.qp, None, (host, 1))

    assert status == nd.Status.INVALID_PARAMETER


def test_closed_connector_raises_closed_error(adapter):
    connector = adapter.create_connector()
    connector.close()

    with pytest.raises(nd.ClosedError):
        connector.complete_connect()
