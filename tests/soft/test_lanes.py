# SPDX-License-Identifier: Apache-2.0
"""Requests of direct connections that are done while they are posted, and those that are not."""

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import ALL, LIMIT, End, pattern, status_of
from conformance.far import FarProcess, FarThread
from conformance.pair import join, kept_ends
from conformance.test_batches import rows_of

SUCCESS = nd.Status.SUCCESS
SEND, WRITE = nd.OperationType.SEND, nd.OperationType.WRITE
ATOMIC = ALL | nd.Access.REMOTE_ATOMIC

# How the near end gets to the far one's memory: that of this process, and three ways between two.
WAYS = {
    "memory": {},
    "arena": {"has_arena": True},
    "vm": {},
    "carried": {"direct": "no-vm"},
}


class Lane:
    """Two connected ends, with 4096 bytes at each: "local", which is patterned, and "target"."""

    def __init__(self, near, far):
        self.near = near
        self.far = far
        join(near, far.begin, far.listen())
        assert near.connector.transport.startswith("direct")
        near.memory("local", 4096, seed=1)
        self.target = pair_of(far.memory("target", 4096, ATOMIC))

    def writes(self, count, **options):
        local = self.near.regions["local"]
        return rows_of(count, WRITE, local, self.target, **{"step": 8, **options})

    def content(self, *part):
        """What is in the target when the peer has taken all that was sent before."""
        self.near.read(self.target, ("local", 0, 0))
        assert self.near.completion().status == SUCCESS
        return self.far.content("target", *part)


@pytest.fixture(params=list(WAYS))
def way(request):
    return request.param


@pytest.fixture
def make(request, way):
    """Give the factory of lanes; options are those of both queue pairs, `near` is the near end's.

    There are more sends than the segment has slots.
    """
    with kept_ends() as made:

        def make(near=None, **options):
            depths = {"initiator_queue_depth": 400, "receive_queue_depth": 400}
            options = {"is_direct": True, **WAYS[way], **depths, **options}
            made.append(End(**options, **(near or {})))
            if way == "memory":
                made.append(FarThread(**options))
            else:
                made.append(FarProcess(request.getfixturevalue("peer_process"), **options))
            return Lane(*made)

        yield make


@pytest.fixture
def lane(make):
    return make()


def pair_of(remote):
    return remote.address, remote.token


def contexts_of(results):
    return [one.request_context for one in results]


def test_a_write_is_done_when_the_call_returns(lane):
    lane.near.write(lane.target, "local", context=5)
    (done,) = lane.near.waiting()
    assert (done.status, done.request_context, done.type) == (SUCCESS, 5, WRITE)
    assert lane.content() == pattern(4096, 1)


def test_a_read_is_done_when_the_call_returns_if_its_source_is_within_reach(lane, way):
    lane.far.store("target", b"abcdefgh")
    lane.near.read(lane.target, ("local", 8, 8))
    done = lane.near.completion() if way == "carried" else lane.near.waiting()[0]
    assert done.status == SUCCESS
    assert lane.near.content("local", 0, 24) == pattern(8, 1) + b"abcdefgh" + pattern(24, 1)[16:]


def test_an_atomic_is_done_when_the_call_returns_if_its_word_is_mapped(lane, way):
    for was in (0, 7):
        lane.near.fetch_add(lane.target, 7, ("local", 8, 8))
        is_mapped = way in ("memory", "arena")
        done = lane.near.waiting()[0] if is_mapped else lane.near.completion()
        assert done.status == SUCCESS
        assert lane.near.word("local", 1) == was
    lane.near.compare_swap(lane.target, 14, 2**64 - 1, ("local", 0, 8))
    assert lane.near.completion().status == SUCCESS
    assert lane.near.word("local") == 14
    assert lane.far.word("target") == 2**64 - 1


def test_a_read_sees_the_writes_before_it(lane):
    for i in range(50):
        lane.near.store("local", bytes([i] * 8))
        lane.near.write(lane.target, ("local", 0, 8), flags=nd.Flag.SILENT_SUCCESS)
        lane.near.read(lane.target, ("local", 8, 8))
        assert lane.near.completion().status == SUCCESS
        assert lane.near.content("local", 8, 8) == bytes([i] * 8)


def test_a_region_may_go_before_the_completion_is_polled(lane):
    lane.near.write(lane.target, "local")
    lane.near.deregister("local")
    assert lane.near.completion().status == SUCCESS


def test_silent_writes_are_outstanding_no_longer_than_the_call(lane):
    for _ in range(3):
        for _ in range(2):
            rows = lane.writes(200, flags=nd.Flag.SILENT_SUCCESS)
            assert lane.near.qp.post_many(rows) == 200
        lane.content()  # slots of the ring are free again
    lane.near.write(lane.target, "local", context=1)
    assert contexts_of(lane.near.waiting()) == [1]


def test_completions_that_wait_count_against_the_depth(lane):
    assert lane.near.qp.post_many(lane.writes(399)) == 399
    lane.near.write(lane.target, "local", context=399)
    assert status_of(lane.near.write, lane.target, "local") == nd.Status.NO_MORE_ENTRIES
    assert contexts_of(lane.near.completions("initiator", 400)) == list(range(400))
    assert lane.near.qp.post_many(lane.writes(1)) == 1
    lane.near.completion()


@pytest.mark.parametrize("flags", [nd.Flag.DEFER, nd.Flag.INLINE, nd.Flag.READ_FENCE])
@pytest.mark.parametrize("at", [0, 1, 63, 64, 99])
def test_a_row_of_another_kind_keeps_its_place(lane, flags, at):
    rows = lane.writes(100)
    rows["remote_address"] = rows["remote_address"][0]  # the last one wins
    rows["flags"][at] = flags
    assert lane.near.qp.post_many(rows) == 100
    lane.near.write(lane.target, ("local", 0, 0))  # starts what was deferred

    done = lane.near.completions("initiator", 101)

    assert contexts_of(done) == [*range(100), None]
    assert {one.status for one in done} == {SUCCESS}
    assert lane.content(0, 8) == pattern(4096, 1)[99 * 8 : 800]


def test_rows_of_more_bytes_than_a_step_moves_all_arrive(lane):
    rows = lane.writes(400, size=4096, step=0)
    assert lane.near.qp.post_many(rows) == 400
    assert contexts_of(lane.near.completions("initiator", 400)) == list(range(400))
    assert lane.content() == pattern(4096, 1)


@pytest.mark.parametrize("at", [0, 63, 64, 99])
def test_a_refused_row_is_blamed_and_those_behind_it_are_cancelled(lane, at):
    rows = lane.writes(100)
    rows["remote_token"][at] ^= 1
    assert lane.near.qp.post_many(rows) == 100

    done = lane.near.completions("initiator", 100)

    assert contexts_of(done) == list(range(100))
    assert [one.status for one in done] == [
        *[SUCCESS] * at,
        nd.Status.REMOTE_RESOURCES,
        *[nd.Status.CANCELLED] * (99 - at),
    ]
    assert lane.far.wait_for_disconnect() == 1
    assert lane.far.content("target") == pattern(4096, 1)[: at * 8].ljust(4096, b"\0")


@pytest.mark.parametrize("change", ["token", "length"])
def test_a_row_without_local_memory_is_refused_where_it_is(lane, change):
    rows = lane.writes(100)
    if change == "token":
        rows["local_token"][70] ^= 1
    else:
        rows["local_length"][70] = 4096
    with pytest.raises(nd.RdmaError, match="row 70: write: a segment is outside") as refused:
        lane.near.qp.post_many(rows)
    assert refused.value.status == nd.Status.ACCESS_VIOLATION
    assert refused.value.posted == 70
    assert contexts_of(lane.near.completions("initiator", 70)) == list(range(70))


def test_a_dead_token_is_refused_also_for_no_bytes(lane):
    region = lane.near.regions["local"]
    segment = nd.Segment(region.address, 0, region.local_token ^ 1)
    assert status_of(lane.near.qp.write, segment, lane.target) == nd.Status.ACCESS_VIOLATION


def test_the_table_is_asked_for_each_token(lane):
    targets = [pair_of(lane.far.memory(f"target {i}", 8)) for i in range(8)]
    lane.near.memory("other", 4096, seed=2)
    sources = [lane.near.regions[name] for name in ("local", "other")]
    rows = lane.writes(200)
    for i, row in enumerate(rows):
        row["remote_address"], row["remote_token"] = targets[i % 8]
        row["local_token"] = sources[i % 2].local_token
        row["local_address"] = sources[i % 2].address + 8 * i
    assert lane.near.qp.post_many(rows) == 200
    assert {one.status for one in lane.near.completions("initiator", 200)} == {SUCCESS}
    lane.content()
    for i in range(8):
        at = 8 * (192 + i)
        assert lane.far.content(f"target {i}") == pattern(4096, 1 + i % 2)[at : at + 8]


def test_a_region_that_is_gone_is_refused_though_it_was_named_last(lane):
    part = pair_of(lane.far.inner("target", "part", 0, 16, ALL))
    lane.near.write(part, ("local", 0, 8))
    assert lane.near.completion().status == SUCCESS
    lane.content()
    lane.far.deregister("part")
    lane.near.write(part, ("local", 8, 8))
    assert lane.near.completion().status == nd.Status.REMOTE_RESOURCES
    assert lane.far.wait_for_disconnect() == 1
    assert lane.far.content("target", 0, 16) == pattern(8, 1) + bytes(8)


def test_messages_without_room_go_on_when_there_is_some(lane):
    for i in range(300):
        lane.near.send(("local", i, 3), context=i)
    done = lane.near.waiting()
    assert contexts_of(done) == list(range(256))  # slots
    for _ in range(300):
        lane.far.receive("target")
    assert {one.status for one in lane.far.completions("receive", 300)} == {SUCCESS}
    assert contexts_of(lane.near.completions("initiator", 44)) == list(range(256, 300))
    assert lane.far.content("target", 0, 3) == pattern(4096, 1)[299:302]


def test_inline_messages_without_room_keep_their_bytes(lane):
    data = bytearray(b"a message")
    for _ in range(256):
        lane.near.send()
    lane.near.qp_send_inline(data, context=7)
    data[:] = b"something"
    for _ in range(257):
        lane.far.receive("target")
    lane.far.completions("receive", 257)
    assert lane.far.content("target", 0, 9) == b"a message"
    assert contexts_of(lane.near.completions("initiator", 257))[-1] == 7


def test_an_immediate_without_room_does_its_write_once(lane, way):
    for _ in range(256):
        lane.near.send()
    lane.near.write_with_immediate(lane.target, 9, ("local", 0, 8), context=1)
    if way != "carried":  # there the Write waits as well
        assert lane.far.content("target", 0, 8) == pattern(8, 1)
        lane.near.store("local", b"unwanted")
    for _ in range(257):
        lane.far.receive()
    assert lane.far.completions("receive", 257)[-1].immediate == 9
    assert contexts_of(lane.near.completions("initiator", 257))[-1] == 1
    assert lane.far.content("target", 0, 8) == pattern(8, 1)


def test_a_batch_of_messages_wakes_a_peer_that_sleeps(lane):
    rows = rows_of(10, SEND, lane.near.regions["local"])
    for _ in range(10):
        for _ in range(10):
            lane.far.receive("target")
        received = lane.far.begin("completions", "receive", 10)
        assert lane.near.qp.post_many(rows) == 10
        assert {one.status for one in received.result(LIMIT)} == {SUCCESS}
        lane.near.completions("initiator", 10)


def test_a_long_receive_is_shown_to_a_peer_whose_end_has_nothing_else_to_do(lane):
    lane.near.memory("long", 1 << 20, seed=3)
    lane.far.memory("sink", 1 << 20)
    lane.far.receive("sink")
    lane.near.send("long")
    assert lane.near.completion().status == SUCCESS  # though no program polls at the far end
    assert lane.far.received().bytes_transferred == 1 << 20
    assert lane.far.content("sink") == pattern(1 << 20, 3)


def test_contexts_of_every_kind_come_back(lane):
    for context in (None, 0, 2**64 - 1, -1, "text", np.uint8(3)):
        lane.near.write(lane.target, "local", context=context)
        lane.near.write(lane.target, "local", context=object(), flags=nd.Flag.SILENT_SUCCESS)
        assert lane.near.completion().request_context == context


def test_statistics_count_what_took_the_lane(lane):
    before = lane.near.stats()
    lane.near.write(lane.target, ("local", 0, 100))
    lane.near.qp.post_many(lane.writes(20))
    after = lane.near.stats()
    assert after["rdma_out_octets"] - before["rdma_out_octets"] == 100 + 20 * 8
    assert after["rdma_out_frames"] - before["rdma_out_frames"] == 21
    lane.near.completions("initiator", 21)
    lane.near.end_connection()
    assert lane.near.stats()["rdma_out_octets"] == after["rdma_out_octets"]


@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
def test_an_overrun_ends_the_connection_of_a_batch(make):
    lane = make(near={"cq_depth": 10}, initiator_queue_depth=100)

    assert lane.near.qp.post_many(lane.writes(50)) == 50

    queue = lane.near.initiator_cq
    assert contexts_of(queue.poll()) == list(range(10))
    assert status_of(queue.poll) == nd.Status.BUFFER_OVERFLOW
    assert status_of(lane.near.send) == nd.Status.CONNECTION_INVALID
    assert lane.far.wait_for_disconnect() == 1
