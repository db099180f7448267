# SPDX-License-Identifier: Apache-2.0
"""A request has its place until its completion was polled, and queues that promise too much."""

import logging
import warnings

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import status_of

FULL = nd.Status.NO_MORE_ENTRIES
SUCCESS = nd.Status.SUCCESS
DEPTH = 8


def post_until_full(post, limit=1000):
    """Post as the documents say, until the queue is full; return how many were posted."""
    for posted in range(limit):
        if status_of(post) == FULL:
            return posted
    raise AssertionError(f"the queue took {limit} requests")


@pytest.fixture
def tight(connect_pair):
    """A near end whose completion queues are as deep as the queues that complete into them."""
    pair = connect_pair(
        near={"cq_depth": DEPTH, "initiator_queue_depth": DEPTH, "receive_queue_depth": DEPTH}
    )
    pair.target = pair.far.memory("target", 8)
    pair.near.memory("source", 8)
    return pair


# ---- places -------------------------------------------------------------------------------------


def test_posting_until_full_and_then_polling_never_overruns(tight):
    near = tight.near
    for _ in range(5):
        assert post_until_full(lambda: near.write(tight.target, "source")) == DEPTH
        assert {done.status for done in near.completions("initiator", DEPTH)} == {SUCCESS}

    assert near.state() == "connected"


@pytest.mark.parametrize("takes", ["poll", "poll_into"])
def test_each_completion_that_is_polled_makes_room_for_one_request(tight, takes):
    near, queue = tight.near, tight.near.initiator_cq
    post_until_full(lambda: near.write(tight.target, "source"))

    for count in (1, 3, DEPTH):
        queue.wait(30)
        if takes == "poll":
            taken = len(queue.poll(count))
        else:
            taken = queue.poll_into(np.zeros(count, nd.result_dtype))
        assert post_until_full(lambda: near.write(tight.target, "source")) == taken


def test_receives_have_their_places_until_they_are_polled(tight):
    near, far = tight.near, tight.far
    assert post_until_full(near.receive) == DEPTH
    for i in range(DEPTH):
        far.send(context=i)
    far.completions("initiator", DEPTH)
    near.receive_cq.wait(30)
    assert status_of(near.receive) == FULL

    assert near.received().status == SUCCESS

    assert status_of(near.receive) == SUCCESS
    assert status_of(near.receive) == FULL


def test_refused_requests_take_no_place(tight):
    near = tight.near
    for _ in range(2 * DEPTH):
        assert status_of(near.qp.write, nd.Segment(0, 8, 1), tight.target) != SUCCESS

    assert post_until_full(lambda: near.write(tight.target, "source")) == DEPTH


def test_rows_are_posted_until_the_queue_is_full(tight):
    near = tight.near
    rows = np.zeros(2 * DEPTH, nd.request_dtype)
    rows["type"] = nd.OperationType.WRITE
    rows["remote_address"], rows["remote_token"] = tight.target.address, tight.target.token

    assert near.qp.post_many(rows) == DEPTH
    assert near.qp.post_many(rows) == 0
    near.completions("initiator", DEPTH)
    assert near.qp.post_many(rows) == DEPTH


def test_cancelled_receives_of_a_flushed_queue_pair_never_overrun(tight):
    near = tight.near
    near.flush()

    assert post_until_full(near.receive) == DEPTH
    assert {done.status for done in near.completions("receive", DEPTH)} == {nd.Status.CANCELLED}
    assert post_until_full(near.receive) == DEPTH


def test_completions_outlive_their_queue_pair_with_their_contexts(tight):
    near = tight.near
    for i in range(DEPTH):
        near.receive(context=("receive", i))
    near.close_qp()

    done = near.completions("receive", DEPTH)

    assert [each.request_context for each in done] == [("receive", i) for i in range(DEPTH)]


def test_completions_that_nobody_polls_go_with_their_queue(tight):
    for i in range(DEPTH):
        tight.near.receive(context=("receive", i))
    tight.near.close_qp()
    tight.near.receive_cq.close()


# ---- shared receive queues ----------------------------------------------------------------------


@pytest.fixture
def shared(adapter):
    """A domain and a shared receive queue of eight."""
    if not adapter.info.max_srq_depth:
        pytest.skip("no shared receive queues")
    pd = adapter.create_pd()
    return pd, pd.create_srq(DEPTH, max_sge=1)


def test_receives_of_a_shared_queue_have_their_places_until_they_are_polled(connect_pair):
    pair = connect_pair(is_connected=False)
    if not pair.adapter.info.max_srq_depth:
        pytest.skip("no shared receive queues")
    near, far = pair.near, pair.far
    srq = near.pd.create_srq(DEPTH, max_sge=1)
    near.qp = near.pd.create_qp_with_srq(near.receive_cq, near.initiator_cq, srq)
    pair.connect()
    assert post_until_full(srq.receive) == DEPTH
    for i in range(DEPTH):
        far.send(context=i)
    far.completions("initiator", DEPTH)
    near.receive_cq.wait(30)
    assert status_of(srq.receive) == FULL

    taken = len(near.receive_cq.poll())

    assert post_until_full(srq.receive) == taken


# ---- what a completion queue has promised -------------------------------------------------------


def test_queue_pair_that_promises_too_much_warns_with_both_numbers(adapter, caplog):
    pd, queue = adapter.create_pd(), adapter.create_cq(64)

    with pytest.warns(nd.OverrunWarning, match=r"holds 64 .* 256 requests") as caught:
        pd.create_qp(queue, queue)

    (warning,) = caught
    assert warning.filename == __file__
    assert [(each.name, each.levelno) for each in caplog.records] == [("ndverbs", logging.WARNING)]
    assert "256" in caplog.text


def test_queue_warns_once(adapter):
    pd, queue = adapter.create_pd(), adapter.create_cq(64)
    with pytest.warns(nd.OverrunWarning):
        pd.create_qp(queue, queue)

    pd.create_qp(queue, queue)
    queue.resize(32) if adapter.info.adapter_flags & 0x100 else None


def test_each_of_two_queues_warns(adapter):
    pd = adapter.create_pd()
    queues = adapter.create_cq(127), adapter.create_cq(127)

    with pytest.warns(nd.OverrunWarning, match="127") as caught:
        pd.create_qp(*queues)

    assert len(caught) == 2


def test_queues_that_are_deep_enough_do_not_warn(adapter):
    pd, queue = adapter.create_pd(), adapter.create_cq(256)
    for _ in range(3):
        with pd.create_qp(queue, queue):
            pass
    pd.create_qp(queue, queue)


def test_warning_that_is_an_error_leaves_no_queue_pair(adapter):
    pd, deep, shallow = adapter.create_pd(), adapter.create_cq(256), adapter.create_cq(64)
    first = pd.create_qp(deep, deep)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(nd.OverrunWarning, match="128 requests"):
            pd.create_qp(shallow, shallow, receive_queue_depth=64, initiator_queue_depth=64)
        first.close()
        with pytest.raises(nd.OverrunWarning, match="128 requests"):
            pd.create_qp(deep, adapter.create_cq(64))

        # Nothing is promised any more: what the deep one holds does not warn.
        second = pd.create_qp(deep, deep)

    assert second.state == "idle"
    del first
    assert nd._native._live_objects()["queue_pair"] == 1


def test_queue_that_shrinks_below_its_promise_warns(adapter):
    if not adapter.info.adapter_flags & 0x100:
        pytest.skip("no resizing")
    pd, queue = adapter.create_pd(), adapter.create_cq(256)
    qp = pd.create_qp(queue, queue)

    with pytest.warns(nd.OverrunWarning, match=r"holds 255 .* 256 requests"):
        queue.resize(255)

    assert (queue.depth, qp.state) == (255, "idle")


def test_shared_receive_queue_counts_once_for_all_queue_pairs_of_a_queue(adapter, shared):
    pd, srq = shared
    queue = adapter.create_cq(3 * 4 + DEPTH)
    made = [pd.create_qp_with_srq(queue, queue, srq, initiator_queue_depth=4) for _ in range(3)]

    with pytest.warns(nd.OverrunWarning, match=f"{3 * 4 + DEPTH + 1} requests"):
        srq.modify(depth=DEPTH + 1)
    assert len(made) == 3


def test_shared_receive_queue_that_nobody_takes_from_promises_nothing(adapter, shared):
    pd, srq = shared
    queue = adapter.create_cq(4 + DEPTH)
    for _ in range(3):
        with pd.create_qp_with_srq(queue, queue, srq, initiator_queue_depth=4):
            pass

    srq.modify(depth=2 * DEPTH)
    with pd.create_qp(queue, queue, initiator_queue_depth=4, receive_queue_depth=DEPTH):
        pass


@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
def test_post_after_an_overrun_names_it(connect_pair):
    pair = connect_pair(near={"cq_depth": 2})
    for _ in range(3):
        pair.near.receive()
    for _ in range(3):
        pair.far.send(flags=nd.Flag.SILENT_SUCCESS)
    pair.far.wait_for_disconnect()

    with pytest.raises(nd.RdmaError, match=r"completion queue .* overrun") as caught:
        pair.near.send()
    assert caught.value.status == nd.Status.CONNECTION_INVALID
