# SPDX-License-Identifier: Apache-2.0
"""Completions that come late, out of order between queues, and with fields that say nothing."""

import pytest

import ndverbs as nd
from double import control

COUNT = 5


@pytest.mark.parametrize("late", [{"initiator": 3000}, {"receive": 3000}], ids=str)
def test_late_completions_of_one_queue_keep_its_order(provider, pair, late):
    control.set_late(provider, **late)
    pair.far.memory("sink", 64)
    pair.near.memory("source", 64)
    for context in range(COUNT):
        pair.far.receive("sink", context=context)
    for context in range(COUNT):
        pair.near.send("source", context=context)

    sent = pair.near.completions("initiator", COUNT)
    received = pair.far.completions("receive", COUNT)

    for done in (sent, received):
        assert [one.request_context for one in done] == list(range(COUNT))
        assert {one.status for one in done} == {nd.Status.SUCCESS}


def test_completions_that_are_held_back_are_cancelled_by_a_flush_once(provider, pair):
    pair.near.memory("source", 64)
    remote = pair.far.memory("target", 64)
    control.hold(provider)
    for context in range(COUNT):
        pair.near.write(remote, "source", context=context)

    pair.near.flush()
    done = pair.near.completions("initiator", COUNT)
    control.hold(provider, False)

    assert [one.request_context for one in done] == list(range(COUNT))
    assert pair.near.waiting() == []


def test_failed_completion_names_the_devices_error(provider, pair):
    pair.near.memory("source", 64)
    remote = pair.far.memory("target", 64)
    pair.far.deregister("target")

    pair.near.write(remote, "source", context=1)
    done = pair.near.completion()

    if pair.near.expects("detail of a refusal") is None:
        assert done.status in (nd.Status.SUCCESS, nd.Status.CANCELLED)
    else:
        assert done.status == nd.Status.REMOTE_RESOURCES
        assert "vendor" in done.detail


def test_reads_beyond_the_peers_places_wait(provider, connect_pair):
    pair = connect_pair(active={"outbound_read_limit": 8}, passive={"inbound_read_limit": 2})
    pair.near.memory("sink", 64, nd.Access.RDMA_READ_SINK | nd.Access.LOCAL_WRITE)
    remote = pair.far.memory("source", 64, seed=3)

    for context in range(8):
        pair.near.read(remote, "sink", context=context)

    assert {one.status for one in pair.near.completions("initiator", 8)} == {nd.Status.SUCCESS}


def test_broken_queue_pair_that_only_an_event_tells_ends(provider, pair):
    pair.near.receive(context=1)
    qp_fatal = 1  # IBV_EVENT_QP_FATAL

    control.report(provider, qp_fatal, about_queue_pairs=True)

    assert pair.near.received().status == nd.Status.CANCELLED
    assert pair.near.wait_for_disconnect() == 1
