# SPDX-License-Identifier: Apache-2.0
"""Disconnect, close and loss of the peer: callbacks, each once, and what becomes of requests."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import ndverbs as nd
from conformance.end import LIMIT, pattern


def test_disconnect_ends_when_the_peer_disconnects_too(ends):
    disconnecting = ends.far.begin("disconnect")
    assert ends.near.wait_for_disconnect() == 1
    assert ends.near.connector.state == "connected"

    ends.near.disconnect()

    disconnecting.result(LIMIT)
    assert ends.near.connector.state == "disconnected"
    assert ends.near.state() == "error"
    assert ends.far.state() == "error"


def test_disconnect_of_the_active_end_works_the_same(ends):
    with ThreadPoolExecutor(1) as thread:
        disconnecting = thread.submit(ends.near.disconnect)
        assert ends.far.wait_for_disconnect() == 1
        ends.far.disconnect()

        disconnecting.result(LIMIT)


def test_own_disconnect_is_not_told_to_oneself(ends):
    disconnecting = ends.far.begin("disconnect")
    ends.near.wait_for_disconnect()
    ends.near.disconnect()
    disconnecting.result(LIMIT)

    assert ends.far.disconnect_count() == 0
    assert ends.near.disconnects == 1


def test_simultaneous_disconnects_both_succeed(ends):
    disconnecting = ends.far.begin("disconnect")

    ends.near.disconnect()

    disconnecting.result(LIMIT)


def test_disconnect_handler_does_not_flush(ends):
    ends.near.receive(context=1)
    disconnecting = ends.far.begin("disconnect")
    ends.near.wait_for_disconnect()

    assert ends.near.waiting("receive") == []

    ends.near.disconnect()
    disconnecting.result(LIMIT)
    done = ends.near.received()
    assert (done.status, done.request_context) == (nd.Status.CANCELLED, 1)


def test_end_without_a_handler_learns_from_flushed_receives(idle_ends):
    idle_ends.connect(active_options={"handler": False})
    idle_ends.near.receive(context=1)
    disconnecting = idle_ends.far.begin("disconnect")

    done = idle_ends.near.received()

    assert (done.status, done.request_context) == (nd.Status.CANCELLED, 1)
    disconnecting.result(LIMIT)


def test_disconnect_flushes_own_requests(ends):
    for i in range(3):
        ends.far.receive(context=i)
    disconnecting = ends.far.begin("disconnect")
    ends.near.wait_for_disconnect()
    ends.near.disconnect()
    disconnecting.result(LIMIT)

    done = ends.far.completions("receive", 3)
    assert [each.status for each in done] == [nd.Status.CANCELLED] * 3
    assert [each.request_context for each in done] == [0, 1, 2]


def test_disconnect_lets_posted_requests_arrive(ends):
    size = 5_000_000
    target = ends.near.memory("target", size)
    ends.near.receive(context=1)
    ends.far.memory("source", size, seed=1)
    ends.far.write(target, "source")
    ends.far.send()

    disconnecting = ends.far.begin("disconnect")

    assert ends.near.received().status == nd.Status.SUCCESS
    assert ends.near.content("target") == pattern(size, 1)
    ends.near.wait_for_disconnect()
    ends.near.disconnect()
    disconnecting.result(LIMIT)
    assert [done.status for done in ends.far.completions("initiator", 2)] == [nd.Status.SUCCESS] * 2


def test_disconnect_times_out_when_the_peer_never_answers(ends):
    ends.far.receive(context=1)

    with pytest.raises(TimeoutError) as caught:
        ends.far.disconnect(timeout=0.2)

    assert caught.value.status == nd.Status.IO_TIMEOUT
    assert ends.far.state() == "error"
    assert ends.far.received().status == nd.Status.CANCELLED
    assert ends.near.wait_for_disconnect() == 1


@pytest.mark.parametrize("how", ["flush", "close"])
def test_disconnect_that_this_side_cuts_short_does_not_succeed(pair, how):
    disconnecting = pair.near.connector._start_disconnect(LIMIT)
    assert pair.far.wait_for_disconnect() == 1  # and it does not answer

    getattr(pair.near.qp, how)()

    with pytest.raises(nd.RdmaError) as caught:
        disconnecting.wait(LIMIT)
    assert caught.value.status == nd.Status.CANCELLED
    assert pair.near.connector.state == "disconnected"


def test_disconnects_of_both_ends_at_once_are_not_cut_short(connect_pair, scaled):
    together = threading.Barrier(2)

    def disconnect(connector):
        together.wait(LIMIT)
        try:
            connector.disconnect(LIMIT)
        except nd.RdmaError as error:
            return error.status
        return None

    for _ in range(scaled(100)):
        pair = connect_pair(active={"handler": False}, passive={"handler": False})
        with ThreadPoolExecutor(2) as threads:
            outcomes = threads.map(disconnect, [pair.near.connector, pair.far.connector])
        # One of them may find that the other has ended the connection before.
        assert set(outcomes) <= {None, nd.Status.CONNECTION_INVALID}
        pair.close()


def test_second_disconnect_is_refused(ends):
    disconnecting = ends.far.begin("disconnect")
    ends.near.wait_for_disconnect()
    ends.near.disconnect()
    disconnecting.result(LIMIT)

    with pytest.raises(nd.RdmaError) as caught:
        ends.near.disconnect()
    assert caught.value.status == nd.Status.CONNECTION_INVALID


def test_requests_after_a_disconnect_are_refused(ends):
    disconnecting = ends.far.begin("disconnect")
    ends.near.wait_for_disconnect()
    ends.near.disconnect()
    disconnecting.result(LIMIT)

    for end in (ends.near, ends.far):
        with pytest.raises(nd.RdmaError) as caught:
            end.send()
        assert caught.value.status == nd.Status.CONNECTION_INVALID


def test_closing_the_connector_is_told_to_the_peer_once(ends):
    ends.near.receive(context=1)

    ends.far.close_connector()

    assert ends.near.wait_for_disconnect() == 1
    assert ends.near.disconnects == 1


def test_closing_the_connector_flushes_own_requests(ends):
    ends.far.receive(context=1)

    ends.far.close_connector()

    done = ends.far.received()
    assert (done.status, done.request_context) == (nd.Status.CANCELLED, 1)


def test_closing_the_queue_pair_is_told_to_the_peer(ends):
    ends.far.close_qp()

    assert ends.near.wait_for_disconnect() == 1


def test_closing_the_adapter_is_told_to_the_peer(ends):
    closing = ends.far.begin("close")

    assert ends.near.wait_for_disconnect() == 1
    ends.near.close()  # the peer lingers until we close, too
    closing.result(LIMIT)


def test_closing_the_connector_ends_the_peers_disconnect(ends):
    disconnecting = ends.far.begin("disconnect")
    ends.near.wait_for_disconnect()

    ends.near.connector.close()

    disconnecting.result(LIMIT)


def test_last_message_survives_a_close(ends):
    ends.near.memory("sink", 100)
    ends.near.receive("sink")
    ends.far.memory("source", 100, seed=1)
    ends.far.send("source")
    assert ends.far.completion().status == nd.Status.SUCCESS

    ends.far.close_connector()

    assert ends.near.received().bytes_transferred == 100
    assert ends.near.content("sink") == pattern(100, 1)


def test_counters_return_to_no_active_connection(ends):
    assert ends.near.stats()["active_connection"] == 1

    disconnecting = ends.far.begin("disconnect")
    ends.near.wait_for_disconnect()
    ends.near.disconnect()
    disconnecting.result(LIMIT)
    ends.near.connector.close()

    assert ends.near.stats()["active_connection"] == 0


# ---- a peer that dies ---------------------------------------------------------------------------


@pytest.fixture
def mortal(provider, needs_processes):
    """Give a near end and a far one in a process of its own, which may be killed."""
    from conformance.end import End
    from conformance.far import FarProcess, PeerProcess
    from conftest import native_objects

    near = End(provider)
    with PeerProcess() as process:
        far = FarProcess(process, provider=provider)
        yield near, far
        far.abandon()
    near.close()
    assert native_objects() == {}


def connect(near, far):
    from conformance.pair import join

    join(near, far.begin, far.listen())


def test_death_of_the_peer_is_told_by_the_handler_and_by_completions(mortal):
    near, far = mortal
    connect(near, far)
    near.receive(context=1)

    far.process.kill()

    assert near.wait_for_disconnect() == 1


def test_death_of_the_peer_cancels_receives_without_a_handler(mortal):
    near, far = mortal
    address = far.listen()
    accepted = far.begin("accept")
    near.connect(address, handler=False)
    accepted.result(LIMIT)
    near.receive(context=1)

    far.process.kill()

    done = near.completion("receive", 5)
    assert done.status == nd.Status.CANCELLED
    assert done.detail
    with pytest.raises(ConnectionResetError) as caught:
        near.send()
    assert caught.value.status == nd.Status.CONNECTION_INVALID
    assert done.detail in str(caught.value)


def test_death_of_the_peer_ends_a_read(mortal):
    near, far = mortal
    connect(near, far)
    nbytes = min(1 << 26, near.adapter.info.max_transfer_length)
    target = far.memory("target", nbytes)
    near.memory("sink", nbytes)
    for _ in range(8):
        near.read(target, "sink")

    far.process.kill()

    done = [near.completion("initiator", 5).status for _ in range(8)]
    assert done[-1] != nd.Status.SUCCESS
    assert near.state() == "error"


@pytest.mark.parametrize("operation", ["send", "send_and_invalidate", "write", "read"])
def test_death_of_the_peer_fails_the_oldest_request_and_cancels_the_rest(mortal, operation):
    near, far = mortal
    if operation == "send_and_invalidate" and operation not in near.adapter.info.features:
        pytest.skip("no send_and_invalidate: test_remote_access.py has the refusal")
    connect(near, far)
    nbytes = min(1 << 25, near.adapter.info.max_transfer_length)
    target = far.memory("target", nbytes)
    near.memory("local", nbytes)
    near.memory("byte", 1)
    requests = ["oldest", "behind"]
    if operation in ("write", "read"):
        requests.insert(0, "held up")
        near.send(context="held up")  # without a receive the far end looks no further
    arguments = {"send": (), "send_and_invalidate": (1,)}.get(operation, (target,))
    getattr(near, operation)(*arguments, "local", context="oldest")
    near.write(target, "byte", context="behind")

    far.process.kill()

    done = near.completions("initiator", len(requests))
    assert [each.request_context for each in done] == requests
    failed = [each for each in done if each.status != nd.Status.SUCCESS]
    assert [each.status for each in failed[1:]] == [nd.Status.CANCELLED] * (len(failed) - 1)
    first = (failed[0].request_context, failed[0].status.name)
    assert first in near.expects("first failure when the peer dies")


def test_death_of_the_peer_before_it_accepted_ends_the_connect(mortal):
    near, far = mortal
    address = far.listen()
    taken = far.begin("take_request")
    near.connector = near.adapter.create_connector()
    operation = near.connector._start_connect(near.qp, None, address, timeout=LIMIT)
    taken.result(LIMIT)

    far.process.kill()

    with pytest.raises(nd.RdmaError) as caught:
        operation.wait(5)
    # Where a kernel manages connections, it rejects the request of a process that has gone.
    assert isinstance(caught.value, ConnectionError)


def test_death_of_the_peer_before_it_completed_ends_the_accept(mortal):
    near, far = mortal
    begun = far.begin("begin_connect", near.listen(), peer_to_peer=True)
    near.take_request()
    begun.result(LIMIT)
    operation = near.incoming._start_accept(near.qp, timeout=LIMIT)

    far.process.kill()

    with pytest.raises(nd.RdmaError) as caught:
        operation.wait(5)
    assert caught.value.status == nd.Status.CONNECTION_ABORTED


def test_death_of_the_peer_ends_a_disconnect(mortal):
    near, far = mortal
    connect(near, far)
    with ThreadPoolExecutor(1) as thread:
        disconnecting = thread.submit(near.disconnect)
        far.wait_for_disconnect()

        far.process.kill()

        error = disconnecting.exception(5)
    assert error is None or error.status == nd.Status.CONNECTION_RESET
