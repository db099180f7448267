# SPDX-License-Identifier: Apache-2.0
"""Many requests by one call, and requests that may wait for the next one."""

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import pattern, status_of

SUCCESS = nd.Status.SUCCESS
DEFER = nd.Flag.DEFER


def rows_of(count, kind, region, remote=(0, 0), *, size=8, flags=0, step=0):
    """`count` requests over consecutive pieces of a region."""
    rows = np.zeros(count, nd.request_dtype)
    rows["type"] = kind
    rows["flags"] = flags
    rows["context"] = np.arange(count)
    rows["local_address"] = region.address + np.arange(count, dtype=np.uint64) * step
    rows["local_length"] = size
    rows["local_token"] = region.local_token
    rows["remote_address"] = remote[0] + np.arange(count, dtype=np.uint64) * step
    rows["remote_token"] = remote[1]
    return rows


@pytest.fixture
def wide(connect_pair):
    """Give a pair with queues for a thousand requests, and memory at both ends."""
    pair = connect_pair(
        initiator_queue_depth=1000, receive_queue_depth=1000, cq_depth=2000, max_initiator_sge=4
    )
    pair.near.memory("local", 8000, seed=1)
    pair.far.memory("target", 8000)
    return pair


def target_of(pair):
    region = pair.far.regions["target"]
    return region.address, region.remote_token


def test_one_call_posts_a_thousand_writes(wide):
    rows = rows_of(
        1000, nd.OperationType.WRITE, wide.near.regions["local"], target_of(wide), step=8
    )

    assert wide.near.qp.post_many(rows) == 1000

    done = wide.near.completions("initiator", 1000)
    assert {one.status for one in done} == {SUCCESS}
    assert [one.request_context for one in done] == list(range(1000))
    wide.near.read(target_of(wide), ("local", 0, 0))  # behind the writes
    assert wide.near.completion().status == SUCCESS
    assert wide.far.content("target") == pattern(8000, 1)


def test_rows_of_all_kinds_go_out_in_order(wide):
    local = wide.near.regions["local"]
    rows = rows_of(4, nd.OperationType.WRITE, local, target_of(wide), size=4)
    rows["type"] = [
        nd.OperationType.WRITE,
        nd.OperationType.READ,
        nd.OperationType.SEND,
        nd.OperationType.RECEIVE,
    ]
    rows["local_address"][1] += 100
    rows["remote_token"][2:] = 0
    wide.far.receive("target")

    assert wide.near.qp.post_many(rows) == 4

    done = wide.near.completions("initiator", 3)
    assert [one.type.name for one in done] == ["WRITE", "READ", "SEND"]
    assert wide.near.content("local", 100, 4) == pattern(4, 1)
    assert wide.far.received().bytes_transferred == 4
    wide.far.send()
    assert wide.near.received().request_context == 3


def test_thousand_receives_are_posted_by_one_call(wide):
    rows = rows_of(1000, nd.OperationType.RECEIVE, wide.far.regions["target"], size=8, step=8)

    assert wide.far.qp.post_many(rows) == 1000

    wide.near.qp.post_many(rows_of(1000, nd.OperationType.SEND, wide.near.regions["local"], step=8))
    done = wide.far.completions("receive", 1000)
    assert [one.request_context for one in done] == list(range(1000))
    assert wide.far.content("target") == pattern(8000, 1)


def test_row_without_length_has_no_segment(wide):
    wide.far.receive()
    rows = np.zeros(1, nd.request_dtype)
    rows["type"] = nd.OperationType.SEND

    assert wide.near.qp.post_many(rows) == 1

    assert wide.far.received().bytes_transferred == 0


def test_flags_of_rows_count(wide):
    local = wide.near.regions["local"]
    rows = rows_of(3, nd.OperationType.WRITE, local, target_of(wide))
    rows["flags"][:2] = nd.Flag.SILENT_SUCCESS
    rows["flags"][1] |= nd.Flag.INLINE
    rows["local_token"][1] = 0  # inline data needs no registration

    assert wide.near.qp.post_many(rows) == 3

    assert wide.near.completion().request_context == 2
    assert wide.near.waiting() == []


@pytest.mark.parametrize("address", [0, 8, 2**63, 2**64 - 4])
def test_inline_row_without_a_token_must_name_memory_that_is_there(wide, address):
    rows = rows_of(1, nd.OperationType.WRITE, wide.near.regions["local"], target_of(wide))
    rows["flags"] = nd.Flag.INLINE
    rows["local_token"] = 0
    rows["local_address"] = address

    assert status_of(wide.near.qp.post_many, rows) == nd.Status.ACCESS_VIOLATION


def test_full_queue_gives_a_short_count_and_the_rest_goes_later(connect_pair):
    pair = connect_pair(initiator_queue_depth=100, cq_depth=1000)
    pair.near.memory("local", 8, seed=1)
    pair.far.memory("target", 8)
    rows = rows_of(250, nd.OperationType.READ, pair.near.regions["local"], target_of(pair))

    posted = pair.near.qp.post_many(rows)
    # At least: what is done by the time that the queue is full makes room.
    assert posted >= 100
    contexts = []
    while posted < 250 or len(contexts) < 250:
        contexts.append(pair.near.completion().request_context)
        posted += pair.near.qp.post_many(rows[posted:])

    assert contexts == list(range(250))


MALFORMED = {
    "type": ("type", 99, "INVALID_PARAMETER"),
    "bind": ("type", int(nd.OperationType.BIND), "INVALID_PARAMETER"),
    "flags": ("flags", 0x400, "INVALID_PARAMETER"),
    "token": ("local_token", 12345, "ACCESS_VIOLATION"),
    "range": ("local_length", 8001, "ACCESS_VIOLATION"),
    "length": ("local_length", 1 << 32, "BUFFER_OVERFLOW"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_row_raises_and_says_how_many_were_posted(wide, case):
    field, value, status = MALFORMED[case]
    rows = rows_of(5, nd.OperationType.WRITE, wide.near.regions["local"], target_of(wide))
    rows[field][3] = value

    with pytest.raises(nd.RdmaError, match="row 3") as caught:
        wide.near.qp.post_many(rows)

    assert caught.value.status == nd.Status[status]
    assert caught.value.posted == 3
    # The rows before it are on their way, those behind it are not.
    assert [one.request_context for one in wide.near.completions("initiator", 3)] == [0, 1, 2]
    assert wide.near.waiting() == []


@pytest.mark.parametrize("given", [None, np.zeros(4), np.zeros(2, nd.result_dtype), [1, 2]])
def test_what_is_no_array_of_requests_is_refused(pair, given):
    with pytest.raises(TypeError, match="request_dtype"):
        pair.near.qp.post_many(given)


def test_rows_that_are_not_contiguous_are_a_buffer_error(pair):
    with pytest.raises(BufferError):
        pair.near.qp.post_many(np.zeros(10, nd.request_dtype)[::2])


def test_no_rows_are_no_requests(pair):
    assert pair.near.qp.post_many(np.zeros(0, nd.request_dtype)) == 0


def test_queue_pair_that_is_not_connected_posts_nothing(connect_pair):
    pair = connect_pair(is_connected=False)
    rows = np.zeros(2, nd.request_dtype)
    rows["type"] = nd.OperationType.SEND

    with pytest.raises(nd.RdmaError) as caught:
        pair.near.qp.post_many(rows)

    assert caught.value.status == nd.Status.CONNECTION_INVALID
    assert caught.value.posted == 0


# ---- DEFER --------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["send", "write", "read"])
def test_deferred_requests_go_with_the_next_one(ends, operation):
    target = ends.far.memory("target", 8)
    ends.near.memory("local", 8)
    for _ in range(4):
        ends.far.receive()
    arguments = ("local", 0, 0) if operation == "send" else ("local",)
    arguments = [arguments] if operation == "send" else [target, *arguments]

    for i in range(3):
        getattr(ends.near, operation)(*arguments, context=i, flags=DEFER)
    ends.near.send(context=3)

    done = ends.near.completions("initiator", 4)
    assert [one.request_context for one in done] == [0, 1, 2, 3]
    assert {one.status for one in done} == {SUCCESS}


def test_request_that_fails_starts_what_was_deferred_before_it(ends):
    # NDK's worked example: the first is deferred, the second fails at the call, and no third comes.
    ends.near.memory("local", 8)
    ends.far.memory("sink", 8)
    ends.far.receive("sink")
    ends.near.send("local", context=1, flags=DEFER)

    assert status_of(ends.near.send, "local", flags=0x400) == nd.Status.INVALID_PARAMETER

    # No thread polls the near end: the failed call has sent it.
    assert ends.far.received().bytes_transferred == 8
    done = ends.near.completion()
    assert (done.request_context, done.status) == (1, SUCCESS)
    assert ends.near.waiting() == []


def test_row_that_fails_starts_what_was_deferred_before_it(wide):
    wide.far.receive()
    wide.near.send(flags=DEFER, context=1)
    rows = np.zeros(1, nd.request_dtype)

    with pytest.raises(nd.RdmaError):
        wide.near.qp.post_many(rows)

    assert wide.far.received().status == SUCCESS


def test_deferred_requests_are_flushed_like_others(ends):
    ends.near.memory("local", 8)
    ends.near.send("local", context=1, flags=DEFER)

    ends.near.flush()

    done = ends.near.completion()
    assert done.request_context == 1
    assert done.status in (SUCCESS, nd.Status.CANCELLED)


def test_deferred_requests_count_against_the_depth(make_ends):
    ends = make_ends(initiator_queue_depth=2).connect()
    for _ in range(3):
        ends.far.receive()
    ends.near.send(flags=DEFER)
    ends.near.send(flags=DEFER)

    status = status_of(ends.near.send)

    # Full: NDK's rule then sends the two. Or the adapter has sent them already, as it may.
    assert status in (nd.Status.NO_MORE_ENTRIES, SUCCESS)
    count = 2 if status == nd.Status.NO_MORE_ENTRIES else 3
    assert [one.status for one in ends.near.completions("initiator", count)] == [SUCCESS] * count
