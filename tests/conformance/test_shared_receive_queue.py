# SPDX-License-Identifier: Apache-2.0
"""Receives that several queue pairs take from one queue, its depth and its threshold."""

import gc
import queue
import weakref

import pytest

import ndverbs as nd
from conformance.end import LIMIT, pattern, status_of
from conformance.pair import Pair

SUCCESS = nd.Status.SUCCESS


@pytest.fixture(autouse=True)
def _needs_shared_queues(provider):
    with nd.Adapter.open(provider) as adapter:
        if adapter.info.max_srq_depth == 0:
            pd = adapter.create_pd()
            with pytest.raises(nd.RdmaError) as caught:
                pd.create_srq(1, max_sge=1)
            assert caught.value.status == nd.Status.NOT_SUPPORTED
            pytest.skip("no shared receive queues")


class Shared:
    """Two queue pairs of the far end take from one queue; the near end has a peer for each."""

    def __init__(self, provider, depth=64, **options):
        self.notified = queue.SimpleQueue()
        self.pair = Pair(provider, is_connected=False, cq_depth=2048)
        self.near, self.far = self.pair.near, self.pair.far
        self.srq = self.far.pd.create_srq(depth, max_sge=2, on_notify=self.notified.put, **options)
        self.peers = []
        for name in ("first", "second"):
            self.far.qp = self.far.pd.create_qp_with_srq(
                self.far.receive_cq, self.far.initiator_cq, self.srq, context=name
            )
            self.near.qp = self.near.create_qp()
            self.far.listener = None
            self.pair.connect()
            self.peers.append((self.near.qp, self.near.connector, self.far.qp, self.far.connector))
        self.far.memory("sink", 1000)

    def send(self, index, data=b"", **options):
        self.peers[index][0].send(data, flags=nd.Flag.INLINE, **options)

    def receive(self, offset, size, context=None):
        self.srq.receive(self.far.regions["sink"].segment(offset, size), context=context)

    def close(self):
        self.pair.close()


@pytest.fixture
def make_shared(provider):
    made = []

    def make(**options):
        made.append(Shared(provider, **options))
        return made[-1]

    yield make
    for shared in made:
        shared.close()
        vars(shared).clear()


@pytest.fixture
def shared(make_shared):
    return make_shared()


def test_any_queue_pair_takes_the_oldest_receive(shared):
    shared.receive(0, 100, context=1)
    shared.receive(100, 100, context="two")

    shared.send(1, b"to the second")
    done = shared.far.received()
    assert (done.qp_context, done.request_context) == ("second", 1)
    assert done.bytes_transferred == 13
    shared.send(0, b"to the first")
    done = shared.far.received()

    assert (done.qp_context, done.request_context) == ("first", "two")
    assert shared.far.content("sink", 0, 13) == b"to the second"
    assert shared.far.content("sink", 100, 12) == b"to the first"


def test_message_waits_for_a_receive_and_is_woken_by_it(shared):
    shared.send(0, b"early")
    shared.send(1, b"birds")

    shared.receive(0, 8)
    shared.receive(8, 8)

    done = [shared.far.received(), shared.far.received()]
    assert {one.qp_context for one in done} == {"first", "second"}
    assert {one.bytes_transferred for one in done} == {5}


def test_many_messages_of_both_peers_arrive_whole(make_shared):
    shared = make_shared(depth=1000)
    for i in range(1000):
        shared.receive(i % 100 * 8, 8, context=i)
    for i in range(500):
        shared.send(0, i.to_bytes(8, "little"))
        shared.send(1, i.to_bytes(8, "little"))
        if i % 100 == 99:
            assert {done.status for done in shared.near.completions("initiator", 200)} == {SUCCESS}

    contexts = []
    while len(contexts) < 1000:
        done = shared.far.received()
        assert (done.status, done.bytes_transferred) == (SUCCESS, 8)
        contexts.append(done.request_context)

    assert sorted(contexts) == list(range(1000))


def test_receive_on_such_a_queue_pair_is_refused(shared):
    qp = shared.peers[0][2]

    with pytest.raises(nd.RdmaError, match="shared receive queue") as caught:
        qp.receive()

    assert caught.value.status == nd.Status.INVALID_DEVICE_REQUEST


def test_queue_takes_exactly_its_depth(make_shared):
    shared = make_shared(depth=3)
    for _ in range(3):
        shared.srq.receive()

    with pytest.raises(nd.RdmaError, match="full") as caught:
        shared.srq.receive(context=object())

    assert caught.value.status == nd.Status.NO_MORE_ENTRIES
    shared.send(0)
    assert shared.far.received().status == SUCCESS
    shared.srq.receive()


def test_receives_are_checked_like_those_of_a_queue_pair(shared):
    sink = shared.far.regions["sink"]
    read_only = shared.far.pd.register(bytearray(8), nd.Access.LOCAL_READ)
    foreign = shared.near.pd.register(bytearray(8))
    three = [sink.segment(0, 1)] * 3

    assert status_of(shared.srq.receive, three) == nd.Status.DATA_OVERRUN
    for segment in (read_only.segment(), foreign.segment(), nd.Segment(sink.address, 1001, 1)):
        assert status_of(shared.srq.receive, segment) == nd.Status.ACCESS_VIOLATION
    with pytest.raises(ValueError, match="no registered region"):
        shared.srq.receive(bytearray(8))


def test_arrays_are_found_in_the_domain(shared):
    shared.srq.receive(shared.far.regions["sink"].array[10:20])
    shared.send(0, b"0123456789")

    assert shared.far.received().bytes_transferred == 10
    assert shared.far.content("sink", 10, 10) == b"0123456789"


def test_too_long_message_ends_its_connection_and_no_other(shared):
    shared.receive(0, 4, context="short")
    shared.receive(8, 8, context="long")
    shared.send(0, b"too long")

    done = shared.far.received()
    assert (done.status, done.request_context) == (nd.Status.BUFFER_OVERFLOW, "short")
    assert done.qp_context == "first"
    shared.send(1, b"fits")
    done = shared.far.received()
    assert (done.status, done.request_context) == (SUCCESS, "long")


def test_flush_leaves_what_is_queued_to_the_others(shared):
    shared.receive(0, 8, context="queued")
    shared.peers[0][2].flush()

    shared.send(1, b"still")

    done = shared.far.received()
    assert (done.status, done.qp_context, done.request_context) == (SUCCESS, "second", "queued")
    assert shared.far.waiting("receive") == []


def test_contexts_of_receives_that_nobody_took_are_dropped(provider):
    class Token:
        pass

    with nd.Adapter.open(provider) as adapter:
        srq = adapter.create_pd().create_srq(8, max_sge=1)
        token = Token()
        watched = weakref.ref(token)
        srq.receive(context=token)
        del token
        assert watched() is not None

        srq.close()
        adapter.create_pd().close()  # a call that holds the GIL

        gc.collect()
        assert watched() is None


def test_memory_of_receives_that_nobody_took_is_given_back(provider):
    buffer = bytearray(8)
    with nd.Adapter.open(provider) as adapter:
        pd = adapter.create_pd()
        region = pd.register(buffer)
        srq = pd.create_srq(8, max_sge=1)
        srq.receive(region)
        region.close()
        with pytest.raises(BufferError):
            buffer.append(0)

        srq.close()
        adapter.create_pd().close()

        buffer.append(0)


def test_closed_queue_goes_on_for_its_queue_pairs(shared):
    shared.receive(0, 8, context="kept")
    shared.srq.close()
    with pytest.raises(nd.ClosedError):
        shared.srq.receive()

    shared.send(0, b"data")

    done = shared.far.received()
    assert (done.status, done.request_context) == (SUCCESS, "kept")


@pytest.mark.parametrize(
    "options",
    [{"depth": 0, "max_sge": 1}, {"depth": 1 << 31, "max_sge": 1}, {"depth": 1, "max_sge": 1000}],
)
def test_limits_of_the_adapter_hold(adapter, options):
    pd = adapter.create_pd()

    assert status_of(pd.create_srq, **options) == nd.Status.INVALID_PARAMETER


def test_queue_pair_of_another_domain_is_refused(adapter):
    srq = adapter.create_pd().create_srq(1, max_sge=1)
    cq = adapter.create_cq(8)

    status = status_of(adapter.create_pd().create_qp_with_srq, cq, cq, srq)

    assert status == nd.Status.INVALID_PARAMETER


def test_peer_invalidates_through_a_shared_receive(shared):
    if "create_fast_register_mr" not in shared.far.adapter.info.features:
        pytest.skip("no fast registration")
    shared.far.map_pages("pages", 1)
    shared.far.create_fast_register_mr("region")
    _, token = shared.far.fast_register("region", "pages")
    assert shared.far.completion().status == SUCCESS
    shared.srq.receive()

    shared.peers[1][0].send_and_invalidate((), token)

    done = shared.far.received()
    assert (done.type.name, done.invalidated_token) == ("RECEIVE_AND_INVALIDATE", token)


# ---- depth and threshold ------------------------------------------------------------------------


def test_depth_changes_and_keeps_what_is_queued(make_shared):
    shared = make_shared(depth=4)
    for i in range(4):
        shared.receive(i * 8, 8, context=i)
    shared.send(0, pattern(8, 1))
    assert shared.far.received().request_context == 0
    shared.receive(32, 8, context=4)  # the ring has wrapped

    shared.srq.modify(depth=6)
    assert shared.srq.depth == 6
    shared.receive(40, 8, context=5)
    for _ in range(5):
        shared.send(1, pattern(8, 2))

    assert [shared.far.received().request_context for _ in range(5)] == [1, 2, 3, 4, 5]


def test_depth_grows_to_many_times_what_it_was_or_stays(make_shared):
    shared = make_shared(depth=4)
    for i in range(4):
        shared.receive(i * 8, 8, context=i)

    status = status_of(shared.srq.modify, depth=1000)

    # Not every device can: then the call says so, and nothing has changed.
    assert status in (SUCCESS, nd.Status.NOT_SUPPORTED)
    depth = 1000 if status == SUCCESS else 4
    assert shared.srq.depth == depth
    for i in range(4, depth):
        shared.receive(i % 100 * 8, 8, context=i)
    assert status_of(shared.srq.receive) == nd.Status.NO_MORE_ENTRIES
    for _ in range(4):
        shared.send(0, pattern(8, 1))
    assert [shared.far.received().request_context for _ in range(4)] == [0, 1, 2, 3]


def test_shrinking_below_what_is_queued_changes_nothing(shared):
    for _ in range(5):
        shared.srq.receive()

    assert status_of(shared.srq.modify, depth=4) == nd.Status.BUFFER_OVERFLOW
    assert shared.srq.depth == 64
    shared.srq.modify(depth=5)
    assert shared.srq.depth == 5
    assert status_of(shared.srq.receive) == nd.Status.NO_MORE_ENTRIES


def test_depth_beyond_the_adapter_is_refused(shared):
    too_much = shared.pair.adapter.info.max_srq_depth + 1

    assert status_of(shared.srq.modify, depth=too_much) == nd.Status.INVALID_PARAMETER


def test_threshold_is_told_once_when_the_number_drops_below(make_shared):
    shared = make_shared(notify_threshold=2)
    for _ in range(4):
        shared.srq.receive()

    for _ in range(2):
        shared.send(0)
        shared.far.received()
    assert shared.notified.empty()  # two are left
    for _ in range(2):
        shared.send(0)
        shared.far.received()

    assert shared.notified.get(timeout=LIMIT) == SUCCESS
    shared.pair.adapter.close()  # the barrier behind every callback
    assert shared.notified.empty()


def test_threshold_that_is_not_reached_is_told_at_once(shared):
    shared.srq.receive()

    shared.srq.modify(notify_threshold=2)

    assert shared.notified.get(timeout=LIMIT) == SUCCESS


def test_threshold_of_zero_keeps_the_arming(make_shared):
    shared = make_shared(notify_threshold=1)
    shared.srq.receive()
    shared.srq.modify(depth=10)

    shared.send(0)
    shared.far.received()

    assert shared.notified.get(timeout=LIMIT) == SUCCESS


def test_fired_threshold_is_armed_again_by_modify_only(shared):
    shared.srq.modify(notify_threshold=1)
    assert shared.notified.get(timeout=LIMIT) == SUCCESS
    shared.srq.receive()
    shared.send(0)
    shared.far.received()
    shared.srq.receive()
    shared.srq.modify(notify_threshold=1)
    shared.send(0)
    shared.far.received()

    assert shared.notified.get(timeout=LIMIT) == SUCCESS
    shared.pair.adapter.close()
    assert shared.notified.empty()


def test_completion_queue_refers_once_to_a_shared_queue_of_many_queue_pairs(adapter):
    pd, cq = adapter.create_pd(), adapter.create_cq(64)
    srq = pd.create_srq(8, max_sge=1)
    made = [pd.create_qp_with_srq(cq, cq, srq, initiator_queue_depth=1) for _ in range(5)]

    referents = [id(each) for each in gc.get_referents(cq)]

    assert len(referents) == len(set(referents)) > len(made)
