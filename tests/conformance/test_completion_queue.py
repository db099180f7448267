# SPDX-License-Identifier: Apache-2.0
"""Completion queues: poll, poll_into, arm, the descriptor, wait, overrun."""

import select
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT

pytestmark = pytest.mark.tsan


def arrive(pair, count, first=0):
    """Send so many messages and wait until all are in the near end's queue."""
    for i in range(count):
        pair.near.receive(context=first + i)
    for _ in range(count):
        pair.far.send(flags=nd.Flag.SILENT_SUCCESS)
    barrier(pair)


def barrier(pair):
    """Wait until what the far end sent is in the near end's queue.

    A Read is answered after that was taken in, and the next one after it was queued.
    """
    for _ in range(2):
        pair.far.read((0, 0))
        assert pair.far.completion().type == nd.OperationType.READ


# ---- poll ---------------------------------------------------------------------------------------


def test_poll_of_an_empty_queue_returns_nothing(pair):
    assert pair.near.receive_cq.poll() == []
    assert pair.near.receive_cq.poll(0) == []


def test_poll_takes_at_most_its_limit_and_the_oldest_first(pair):
    arrive(pair, 10)
    queue = pair.near.receive_cq

    taken = [[done.request_context for done in queue.poll(limit)] for limit in (0, 1, 3, 100, 1)]

    assert taken == [[], [0], [1, 2, 3], [4, 5, 6, 7, 8, 9], []]


def test_poll_takes_32_unless_told_otherwise(pair):
    arrive(pair, 40)

    assert len(pair.near.receive_cq.poll()) == 32
    assert len(pair.near.receive_cq.poll()) == 8


def test_poll_takes_more_than_a_batch_at_once(connect_pair):
    pair = connect_pair(receive_queue_depth=300, initiator_queue_depth=300)
    arrive(pair, 300)

    taken = pair.near.receive_cq.poll(1000)

    assert [done.request_context for done in taken] == [*range(300)]


def test_result_names_its_fields(connect_pair):
    marker = object()
    pair = connect_pair(near={"context": marker})
    arrive(pair, 1, first=77)

    (done,) = pair.near.receive_cq.poll()

    assert done.status is nd.Status.SUCCESS
    assert done.bytes_transferred == 0
    assert done.qp_context is marker
    assert done.request_context == 77
    assert done.type is nd.OperationType.RECEIVE
    assert done.invalidated_token == 0
    assert done.immediate is None
    assert done.detail is None
    assert len(done) == 8


def test_poll_into_fills_rows_of_numbers(connect_pair):
    pair = connect_pair(near={"context": 5})
    arrive(pair, 3, first=100)
    rows = np.zeros(8, nd.result_dtype)

    count = pair.near.receive_cq.poll_into(rows)

    assert count == 3
    assert rows["request_context"][:3].tolist() == [100, 101, 102]
    assert rows["qp_context"][:3].tolist() == [5, 5, 5]
    assert rows["status"][:3].tolist() == [0, 0, 0]
    assert rows["type"][:3].tolist() == [1, 1, 1]
    assert not rows[3:].view(np.uint8).any()


def test_poll_into_takes_no_more_than_there_are_rows(pair):
    arrive(pair, 5)

    assert pair.near.receive_cq.poll_into(np.zeros(2, nd.result_dtype)) == 2
    assert pair.near.receive_cq.poll_into(np.zeros(9, nd.result_dtype)) == 3
    assert pair.near.receive_cq.poll_into(np.zeros(0, nd.result_dtype)) == 0


def test_poll_into_has_zero_for_a_context_that_is_an_object(pair):
    pair.near.receive(context="text")
    pair.far.send()
    pair.near.receive_cq.wait(LIMIT)
    rows = np.ones(1, nd.result_dtype)

    assert pair.near.receive_cq.poll_into(rows) == 1

    assert rows["request_context"][0] == 0


@pytest.mark.parametrize("rows", [bytearray(64), np.zeros(3), None, []])
def test_poll_into_refuses_other_arrays(pair, rows):
    with pytest.raises(TypeError):
        pair.near.receive_cq.poll_into(rows)


def test_one_queue_serves_both_directions_of_many_queue_pairs(adapter):
    shared = adapter.create_cq(1024)
    pd = adapter.create_pd()
    pairs = [(pd.create_qp(shared, shared, context=i), i) for i in range(4)]
    for qp, i in pairs:
        qp.receive(context=i)
        qp.flush()

    done = shared.poll()

    assert [each.qp_context for each in done] == [0, 1, 2, 3]
    assert [each.request_context for each in done] == [0, 1, 2, 3]
    assert {each.status for each in done} == {nd.Status.CANCELLED}


# ---- arm and the descriptor ---------------------------------------------------------------------


def is_readable(queue, timeout=0):
    return bool(select.select([queue.fileno()], [], [], timeout)[0])


def test_unarmed_queue_does_not_notify(pair):
    assert not is_readable(pair.near.receive_cq)
    arrive(pair, 1)

    assert not is_readable(pair.near.receive_cq)


def test_first_completion_after_an_arm_makes_the_descriptor_readable(pair):
    queue = pair.near.receive_cq
    queue.fileno()
    queue.arm()
    assert not is_readable(queue)

    arrive(pair, 1)

    assert is_readable(queue, LIMIT)


def test_descriptor_stays_readable_until_the_next_arm(pair):
    queue = pair.near.receive_cq
    queue.fileno()
    queue.arm()
    arrive(pair, 1)
    assert is_readable(queue, LIMIT)

    assert len(queue.poll()) == 1
    assert is_readable(queue)
    arrive(pair, 1)
    assert len(queue.poll()) == 1
    assert is_readable(queue)

    queue.arm()
    assert not is_readable(queue)


def test_one_arm_gives_one_notification(pair):
    queue = pair.near.receive_cq
    queue.fileno()
    queue.arm()
    arrive(pair, 1)
    queue.poll()
    queue.arm()
    arrive(pair, 1)
    assert is_readable(queue, LIMIT)


def test_arm_with_something_already_there_is_satisfied_at_once(pair):
    queue = pair.near.receive_cq
    queue.fileno()
    arrive(pair, 1)

    queue.arm()

    assert is_readable(queue)


def test_descriptor_made_after_the_arm_works_as_well(pair):
    queue = pair.near.receive_cq
    queue.arm()
    queue.fileno()

    arrive(pair, 1)

    assert is_readable(queue, LIMIT)


def test_arm_that_is_satisfied_before_there_is_a_descriptor_is_not_lost(pair):
    queue = pair.near.receive_cq
    queue.arm()
    arrive(pair, 1)
    queue.wait(LIMIT)

    assert is_readable(queue, LIMIT)
    assert len(queue.poll()) == 1


def test_descriptor_is_the_same_at_every_call(pair):
    assert pair.near.receive_cq.fileno() == pair.near.receive_cq.fileno()
    assert pair.near.receive_cq.fileno() != pair.near.initiator_cq.fileno()


def test_errors_arm_ignores_completions(pair):
    queue = pair.near.receive_cq
    queue.fileno()
    queue.arm(nd.Notify.ERRORS)

    arrive(pair, 1)
    pair.near.receive()
    pair.near.flush()

    assert not is_readable(queue)


def test_solicited_arm_is_satisfied_by_a_failed_request(pair):
    queue = pair.near.receive_cq
    queue.fileno()
    queue.arm(nd.Notify.SOLICITED)
    pair.near.receive()

    pair.near.flush()

    assert is_readable(queue, LIMIT)


def test_solicited_arm_ignores_successes_of_the_initiator(pair):
    queue = pair.near.initiator_cq
    queue.fileno()
    pair.far.receive()
    queue.arm(nd.Notify.SOLICITED)

    pair.near.send(flags=nd.Flag.SEND_AND_SOLICIT_EVENT)
    assert pair.far.received().status == nd.Status.SUCCESS

    assert len(pair.near.waiting()) == 1
    assert not is_readable(queue)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nd.Notify.ANY, nd.Notify.SOLICITED),
        (nd.Notify.SOLICITED, nd.Notify.ANY),
        (nd.Notify.ANY, nd.Notify.ERRORS),
        (nd.Notify.ERRORS, nd.Notify.ANY),
        (nd.Notify.ANY, nd.Notify.ANY),
    ],
)
def test_arms_merge_and_any_wins(pair, first, second):
    queue = pair.near.receive_cq
    queue.fileno()
    queue.arm(first)
    queue.arm(second)

    arrive(pair, 1)

    assert is_readable(queue, LIMIT)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nd.Notify.SOLICITED, nd.Notify.ERRORS),
        (nd.Notify.ERRORS, nd.Notify.SOLICITED),
        (nd.Notify.SOLICITED, nd.Notify.SOLICITED),
    ],
)
def test_arms_merge_and_solicited_beats_errors(pair, first, second):
    queue = pair.near.receive_cq
    queue.fileno()
    queue.arm(first)
    queue.arm(second)

    arrive(pair, 1)
    assert not is_readable(queue)
    pair.near.receive()
    pair.far.send(flags=nd.Flag.SEND_AND_SOLICIT_EVENT)

    assert is_readable(queue, LIMIT)


def test_arm_strength_does_not_outlive_its_notification(pair):
    queue = pair.near.receive_cq
    queue.fileno()
    queue.arm(nd.Notify.ANY)
    arrive(pair, 1)
    assert is_readable(queue, LIMIT)
    queue.poll()

    queue.arm(nd.Notify.SOLICITED)
    arrive(pair, 1)

    assert not is_readable(queue)


def test_recipe_of_arm_poll_sleep_never_misses_a_completion(connect_pair):
    count = 300
    pair = connect_pair(far={"initiator_queue_depth": count})
    queue = pair.near.receive_cq
    queue.fileno()
    for i in range(100):
        pair.near.receive(context=i)
    posted = Semaphore(100)

    def send_all():
        for _ in range(count):
            assert posted.acquire(timeout=LIMIT)
            pair.far.send(flags=nd.Flag.SILENT_SUCCESS)

    seen = []
    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(send_all)
        while len(seen) < count:
            queue.arm()
            results = queue.poll()
            if not results:
                assert is_readable(queue, LIMIT)
                continue
            seen += [done.status for done in results]
            for _ in results:
                pair.near.receive(context=100 + len(seen))
                posted.release()
        sending.result(LIMIT)

    assert seen == [nd.Status.SUCCESS] * count


# ---- wait ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.01, 0.12])
def test_wait_ends_with_its_timeout(pair, timeout):
    with pytest.raises(TimeoutError) as caught:
        pair.near.receive_cq.wait(timeout)

    assert caught.value.status == nd.Status.IO_TIMEOUT


def test_wait_takes_nothing_out(pair):
    arrive(pair, 1)

    assert pair.near.receive_cq.wait(LIMIT) is True
    assert pair.near.receive_cq.wait(0) is True

    assert len(pair.near.receive_cq.poll()) == 1


def test_wait_is_woken_by_a_completion(pair):
    pair.near.receive()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(pair.near.receive_cq.wait, LIMIT)

        pair.far.send()

        assert waiting.result(LIMIT) is True


def test_wait_is_woken_by_a_completion_that_another_thread_makes(pair):
    # A flush completes on the thread that flushes: nothing comes through a socket.
    pair.near.receive()
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(pair.near.receive_cq.wait, LIMIT)

        pair.near.flush()

        assert waiting.result(LIMIT) is True


def test_closing_the_queue_ends_a_wait(pair):
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(pair.near.receive_cq.wait, LIMIT)

        pair.near.receive_cq.close()

        assert isinstance(waiting.exception(LIMIT), nd.ClosedError)


def test_waiting_on_one_queue_serves_the_other_queue_of_the_same_pair(pair):
    # The waiter sleeps over the initiator queue; a message for the receive queue wakes it to step.
    pair.near.receive(context=1)
    pair.near.memory("sink", 8)
    target = pair.far.memory("target", 8)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(pair.near.initiator_cq.wait, LIMIT)
        pair.far.send()
        assert pair.near.received().request_context == 1

        pair.near.read(target, "sink")

        assert waiting.result(LIMIT) is True


def test_two_threads_wait_on_two_queues_of_one_connection(pair):
    pair.near.memory("sink", 8)
    target = pair.far.memory("target", 8)
    pair.near.receive()
    with ThreadPoolExecutor(2) as threads:
        receiving = threads.submit(pair.near.receive_cq.wait, LIMIT)
        reading = threads.submit(pair.near.initiator_cq.wait, LIMIT)

        pair.near.read(target, "sink")
        pair.far.send()

        assert receiving.result(LIMIT)
        assert reading.result(LIMIT)


# ---- overrun ------------------------------------------------------------------------------------


def overrun(pair):
    for i in range(3):
        pair.near.receive(context=i)
    for _ in range(3):
        pair.far.send(flags=nd.Flag.SILENT_SUCCESS)
    pair.far.wait_for_disconnect()


@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
def test_overrun_kills_the_queue_and_its_queue_pairs(connect_pair):
    pair = connect_pair(near={"cq_depth": 2})
    overrun(pair)
    queue = pair.near.receive_cq

    kept = queue.poll()
    assert [done.request_context for done in kept] == [0, 1]
    for call in (queue.poll, lambda: queue.wait(LIMIT)):
        with pytest.raises(nd.RdmaError) as caught:
            call()
        assert caught.value.status == nd.Status.BUFFER_OVERFLOW
        assert "depth of 2" in str(caught.value)
    with pytest.raises(nd.RdmaError) as caught:
        pair.near.send()
    assert caught.value.status == nd.Status.CONNECTION_INVALID


@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
@pytest.mark.parametrize("kind", [*nd.Notify])
def test_overrun_satisfies_every_arm(connect_pair, kind):
    pair = connect_pair(near={"cq_depth": 2})
    queue = pair.near.receive_cq
    queue.fileno()
    queue.arm(kind)

    overrun(pair)

    assert is_readable(queue, LIMIT)


@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
def test_arm_after_an_overrun_is_satisfied_at_once(connect_pair):
    pair = connect_pair(near={"cq_depth": 2})
    overrun(pair)
    queue = pair.near.receive_cq
    queue.fileno()

    queue.arm(nd.Notify.ERRORS)

    assert is_readable(queue)


@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
def test_overrun_ends_the_connection(connect_pair):
    pair = connect_pair(near={"cq_depth": 2})
    overrun(pair)

    assert pair.near.state() == "error"
    assert pair.far.disconnects == 1


def test_queue_as_deep_as_its_completions_does_not_overrun(connect_pair):
    pair = connect_pair(near={"cq_depth": 3, "receive_queue_depth": 3, "initiator_queue_depth": 3})
    arrive(pair, 3)

    assert len(pair.near.receive_cq.poll()) == 3
    assert pair.near.state() == "connected"


def test_depth_is_what_was_asked_for(adapter):
    for depth in (1, 2, 3, 1000):
        with adapter.create_cq(depth) as queue:
            assert queue.depth == depth
