# SPDX-License-Identifier: Apache-2.0
"""Invalidation of fast-registered regions: by the peer's Send, and by a Read of their owner."""

import pytest

import ndverbs as nd
from conformance.end import PAGE, pattern
from conformance.mapped_pages import BROKEN, SUCCESS, expect_broken, expect_ended

pytestmark = pytest.mark.usefixtures("needs_fast_registration")


# ---- invalidation by the peer -------------------------------------------------------------------


def test_peer_invalidates_and_the_receive_says_so(far_pages):
    near, far = far_pages.near, far_pages.far
    near.memory("sink", 8)
    _, token = far.fast_register("region", "pages")
    far.receive()
    assert far.completion().status == SUCCESS

    near.send_and_invalidate(token)

    done = far.received()
    assert (done.status, done.type) == (SUCCESS, nd.OperationType.RECEIVE_AND_INVALIDATE)
    assert done.invalidated_token == token
    sent = near.completion()
    assert (sent.status, sent.type) == (SUCCESS, nd.OperationType.SEND)
    # It is empty now: it may be filled again, with a new token.
    remote = far.fast_register("region", "pages", [1])
    assert far.completion().status == SUCCESS
    assert remote[1] != token
    near.read(remote, "sink")
    assert near.completion().status == SUCCESS


def test_token_is_dead_before_the_receive_shows(far_pages):
    near, far = far_pages.near, far_pages.far
    near.memory("source", 8, seed=7)
    address, token = far.fast_register("region", "pages")
    far.receive()
    assert far.completion().status == SUCCESS

    near.send_and_invalidate(token)
    near.write((address, token), "source")

    assert far.received().invalidated_token == token
    expect_broken(far_pages)
    assert far.mapped_content("pages") == pattern(5 * PAGE, 1)


def test_what_the_peer_invalidated_cannot_be_invalidated_again(far_pages):
    near, far = far_pages.near, far_pages.far
    _, token = far.fast_register("region", "pages")
    far.receive()
    near.send_and_invalidate(token)
    assert far.received().invalidated_token == token
    assert far.completion().status == SUCCESS

    far.invalidate("region")

    assert far.completion().status == BROKEN
    expect_ended(far_pages)


def test_plain_send_leaves_the_region_valid(far_pages):
    near, far = far_pages.near, far_pages.far
    near.memory("sink", 8)
    remote = far.fast_register("region", "pages")
    far.receive()
    near.send()
    assert far.received().type == nd.OperationType.RECEIVE
    assert near.completion().status == SUCCESS

    near.read(remote, "sink")

    assert near.completion().status == SUCCESS


def test_region_without_a_remote_right_is_not_the_peers_to_invalidate(ends):
    near, far = ends.near, ends.far
    far.map_pages("pages", 1)
    far.create_fast_register_mr("region")
    far.fast_register("region", "pages", flags=nd.Flag.ALLOW_LOCAL_WRITE)
    assert far.completion().status == SUCCESS
    far.receive()

    near.send_and_invalidate(far.local_token("region"))

    expect_broken(ends)


def test_another_peer_of_the_domain_may_use_and_invalidate(pair):
    near, far = pair.near, pair.far
    far.map_pages("pages", 1, seed=1)
    far.create_fast_register_mr("region")
    remote = far.fast_register("region", "pages")
    assert far.completion().status == SUCCESS
    near.memory("sink", 8)

    pair.reconnect()  # the first queue pairs stay
    near.read(remote, "sink")
    if "fast_register_any_qp" not in pair.adapter.info.features:
        assert near.completion().status == nd.Status.REMOTE_RESOURCES
        return
    assert near.completion().status == SUCCESS
    far.receive()
    near.send_and_invalidate(remote[1])

    assert far.received().invalidated_token == remote[1]


# ---- reads that invalidate ----------------------------------------------------------------------


def test_read_with_local_invalidate_ends_its_sink(far_pages):
    near, far = far_pages.near, far_pages.far
    if not far.adapter_flags() & 0x10:
        pytest.skip("no RDMA_READ_LOCAL_INVALIDATE")
    source = near.memory("source", PAGE, seed=4)
    address, token = far.fast_register("region", "pages", [1])
    far.read(source, "region", flags=nd.Flag.RDMA_READ_LOCAL_INVALIDATE)
    assert [done.status for done in far.completions("initiator", 2)] == [SUCCESS, SUCCESS]
    assert far.mapped_content("pages")[PAGE : 2 * PAGE] == pattern(PAGE, 4)

    # Empty: it takes pages again, and the peer's token is dead.
    far.fast_register("region", "pages", [2])
    assert far.completion().status == SUCCESS
    near.read((address, token), ("source", 0, 8))

    assert near.completion().status == nd.Status.REMOTE_RESOURCES


def test_read_with_local_invalidate_of_plain_memory_fails(far_pages):
    near, far = far_pages.near, far_pages.far
    if not far.adapter_flags() & 0x10:
        pytest.skip("no RDMA_READ_LOCAL_INVALIDATE")
    source = near.memory("source", 8)
    far.memory("plain", 8)

    far.read(source, "plain", flags=nd.Flag.RDMA_READ_LOCAL_INVALIDATE)

    done = far.completion()
    assert (done.status, done.type) == (BROKEN, nd.OperationType.READ)
    expect_ended(far_pages)


def test_fence_keeps_a_registration_behind_the_reads_into_its_pages(far_pages):
    near, far = far_pages.near, far_pages.far
    source = near.memory("source", 2 * PAGE, seed=6)
    far.fast_register("region", "pages", [0, 1], flags=nd.Flag.ALLOW_LOCAL_WRITE)
    far.read(source, "region", context="read")
    far.invalidate("region", flags=nd.Flag.READ_FENCE, context="fenced")
    far.fast_register("region", "pages", [3], context="next")

    done = far.completions("initiator", 4)
    assert [one.status for one in done] == [SUCCESS] * 4
    assert [one.request_context for one in done[1:]] == ["read", "fenced", "next"]
    assert far.mapped_content("pages")[: 2 * PAGE] == pattern(2 * PAGE, 6)
