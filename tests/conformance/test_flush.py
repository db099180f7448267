# SPDX-License-Identifier: Apache-2.0
"""Flush: everything posted ends cancelled, in order, and only on this queue pair."""

import pytest

import ndverbs as nd
from conformance.end import ALL, LIMIT
from conformance.initiator_requests import REQUESTS, hold_up, posting

pytestmark = pytest.mark.tsan


def test_flush_cancels_receives_in_posting_order(pair):
    for i in range(5):
        pair.near.receive(context=i)

    pair.near.flush()

    done = pair.near.completions("receive", 5)
    assert [each.status for each in done] == [nd.Status.CANCELLED] * 5
    assert [each.request_context for each in done] == [0, 1, 2, 3, 4]
    assert [each.type for each in done] == [nd.OperationType.RECEIVE] * 5
    assert [each.bytes_transferred for each in done] == [0] * 5


def test_flush_of_a_queue_pair_that_never_connected(connect_pair):
    pair = connect_pair(is_connected=False)
    pair.near.receive(context=1)

    pair.near.flush()

    done = pair.near.received()
    assert (done.status, done.request_context) == (nd.Status.CANCELLED, 1)
    assert pair.near.state() == "error"


def test_flush_cancels_requests_that_wait_for_the_peer(pair):
    # The peer posts no receive: it stops reading, and later requests stay in the queue.
    nbytes = min(1 << 25, pair.adapter.info.max_transfer_length)
    target = pair.far.memory("target", nbytes, ALL)
    pair.near.memory("source", nbytes)
    pair.near.send()
    for i in range(4):
        pair.near.write(target, "source", context=i)

    pair.near.flush()

    assert pair.near.completion().type == nd.OperationType.SEND
    done = pair.near.completions("initiator", 4)
    assert [each.request_context for each in done] == [0, 1, 2, 3]
    assert done[-1].status == nd.Status.CANCELLED
    assert done[-1].type == nd.OperationType.WRITE


@pytest.mark.parametrize("request_name", REQUESTS)
def test_flush_cancels_every_kind_of_request(pair, request_name):
    post = posting(pair, request_name)
    hold_up(pair)
    post(context="waiting", flags=nd.Flag.READ_FENCE)

    pair.near.flush()

    done = pair.near.completions("initiator", 3)[-1]
    assert (done.status, done.request_context) == (nd.Status.CANCELLED, "waiting")
    name = "send" if request_name == "send_and_invalidate" else request_name
    assert done.type == nd.OperationType[name.upper()]


def test_flush_twice_is_the_same_as_once(pair):
    pair.near.receive(context=1)

    pair.near.flush()
    pair.near.flush()

    assert pair.near.received().request_context == 1
    assert pair.near.waiting("receive") == []


def test_flush_ends_the_connection_for_the_peer(pair):
    pair.far.receive(context=1)

    pair.near.flush()

    assert pair.far.wait_for_disconnect() == 1


def test_flush_leaves_other_queue_pairs_of_the_same_queues_alone(adapter):
    queue = adapter.create_cq(512)
    pd = adapter.create_pd()
    first = pd.create_qp(queue, queue, context=1)
    second = pd.create_qp(queue, queue, context=2)
    first.receive()
    second.receive()

    first.flush()

    queue.wait(LIMIT)
    assert [done.qp_context for done in queue.poll()] == [1]
    assert second.state == "idle"


def test_every_posted_request_ends_exactly_once(connect_pair):
    pair = connect_pair(receive_queue_depth=64, initiator_queue_depth=64)
    target = pair.far.memory("target", 1 << 20)
    pair.near.memory("local", 1 << 20)
    for i in range(64):
        pair.near.receive(context=i)
    for i in range(60):
        request = (pair.near.read, pair.near.write)[i % 2]
        request(target, "local", context=i)

    pair.near.flush()

    receives = pair.near.completions("receive", 64)
    requests = pair.near.completions("initiator", 60)
    assert [done.request_context for done in receives] == [*range(64)]
    assert [done.request_context for done in requests] == [*range(60)]
    assert pair.near.waiting("receive") == []
    assert pair.near.waiting("initiator") == []
    statuses = [done.status for done in requests]
    cancelled_at = statuses.index(nd.Status.CANCELLED) if nd.Status.CANCELLED in statuses else 60
    assert set(statuses[:cancelled_at]) <= {nd.Status.SUCCESS}
    assert set(statuses[cancelled_at:]) <= {nd.Status.CANCELLED}
