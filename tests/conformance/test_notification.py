# SPDX-License-Identifier: Apache-2.0
"""Notification callbacks, resizing, and interrupt moderation of completion queues."""

import contextlib
import queue
import select
import sys
import threading

import pytest

import ndverbs as nd
from conformance.end import LIMIT, status_of

SUCCESS = nd.Status.SUCCESS
ALL = (1 << 32) - 1


class Notified:
    """A queue whose notifications are counted."""

    def __init__(self, pair, depth=256, kind="receive"):
        self.calls = queue.SimpleQueue()
        end = pair.near
        self.cq = pair.adapter.create_cq(depth, on_notify=self.calls.put)
        if kind == "receive":
            end.receive_cq = self.cq
        else:
            end.initiator_cq = self.cq
        end.qp = end.create_qp(receive_queue_depth=200)
        pair.connect()
        for _ in range(200):
            end.receive()
        self.pair = pair

    def get(self):
        return self.calls.get(timeout=LIMIT)

    def finish(self):
        """Everything that is to be called has been when the adapter is closed."""
        self.pair.adapter.close()
        return self.calls.empty()

    def let_come(self, count, **options):
        """Let messages arrive, without polling their queue."""
        for _ in range(count):
            self.pair.far.send(**options)
            self.pair.far.completion()


@pytest.fixture
def notified(connect_pair):
    return Notified(connect_pair(is_connected=False))


def test_satisfied_arm_is_one_call(notified):
    notified.cq.arm()
    notified.let_come(3)

    assert notified.get() == SUCCESS
    assert notified.finish()


def test_queue_that_is_not_armed_calls_nobody(notified):
    notified.let_come(2)

    assert notified.finish()


def test_every_arm_is_answered(notified):
    for i in range(20):
        notified.cq.arm()
        notified.let_come(1)
        assert notified.get() == SUCCESS
        assert len(notified.cq.poll()) == 1, i
    assert notified.finish()


def test_receives_that_a_dropped_queue_pair_leaves_behind_satisfy_the_arm(connect_pair):
    pair = connect_pair(is_connected=False)
    calls = queue.SimpleQueue()
    cq = pair.near.receive_cq = pair.adapter.create_cq(256, on_notify=calls.put)
    descriptor = cq.fileno()
    qp = pair.near.create_qp()
    for context in range(3):
        qp.receive(context=context)
    cq.arm()

    del qp

    assert calls.get(timeout=LIMIT) == SUCCESS
    assert select.select([descriptor], [], [], LIMIT)[0] == [descriptor]
    assert [done.request_context for done in cq.poll()] == [0, 1, 2]


def test_solicited_arm_waits_for_a_solicited_message(notified):
    notified.cq.arm(nd.Notify.SOLICITED)
    notified.let_come(2)
    assert notified.calls.empty()

    notified.let_come(1, flags=nd.Flag.SEND_AND_SOLICIT_EVENT)

    assert notified.get() == SUCCESS


def test_callback_and_descriptor_are_told_alike(notified):
    descriptor = notified.cq.fileno()
    notified.cq.arm()
    notified.let_come(1)

    assert notified.get() == SUCCESS
    assert descriptor == notified.cq.fileno()
    assert select.select([descriptor], [], [], LIMIT)[0]


def test_callbacks_of_a_queue_never_overlap(connect_pair):
    pair = connect_pair(is_connected=False)
    inside = threading.Semaphore(1)
    calls = queue.SimpleQueue()

    def on_notify(status):
        assert inside.acquire(blocking=False)
        calls.put(status)
        with contextlib.suppress(nd.ClosedError):  # the test may be over
            cq.arm()  # may be due at once: then it is called after this
        inside.release()

    cq = pair.near.receive_cq = pair.adapter.create_cq(256, on_notify=on_notify)
    pair.near.qp = pair.near.create_qp()
    pair.connect()
    for _ in range(50):
        pair.near.receive()
    cq.arm()
    for _ in range(10):
        pair.far.send()
        pair.far.completion()
        assert calls.get(timeout=LIMIT) == SUCCESS
        cq.poll()


@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
def test_overrun_is_told_with_its_status(connect_pair):
    pair = connect_pair(is_connected=False)
    notified = Notified(pair, depth=2)
    notified.cq.arm(nd.Notify.ERRORS)
    for _ in range(3):
        pair.far.send()

    assert notified.get() == nd.Status.BUFFER_OVERFLOW


def test_exception_in_a_callback_harms_nobody(connect_pair, monkeypatch):
    seen = queue.SimpleQueue()
    monkeypatch.setattr(sys, "unraisablehook", lambda report: seen.put(str(report.exc_value)))
    pair = connect_pair(is_connected=False)

    def fail(status):
        raise RuntimeError(f"told {status.name}")

    cq = pair.near.receive_cq = pair.adapter.create_cq(256, on_notify=fail)
    pair.near.qp = pair.near.create_qp()
    pair.connect()
    pair.near.receive()
    cq.arm()
    pair.far.send()

    assert seen.get(timeout=LIMIT) == "told SUCCESS"
    assert pair.near.received().status == SUCCESS


def test_closed_queue_is_not_told(notified):
    notified.cq.arm()
    notified.cq.close()
    notified.let_come(1)

    assert notified.finish()


# ---- resize -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
def test_resize_loses_nothing_under_traffic(connect_pair):
    pair = connect_pair(cq_depth=64, initiator_queue_depth=64)
    target = pair.far.memory("target", 8)
    pair.near.memory("source", 8)
    expected = iter(range(3000))
    posted = 0
    for depth in (65, 100, 64, 1000, 4096, 70, 64):
        for _ in range(64):
            pair.near.write(target, "source", context=posted)
            posted += 1
        pair.near.initiator_cq.resize(depth)
        assert pair.near.initiator_cq.depth == depth
        while posted > 0:
            done = pair.near.completion()
            assert done.request_context == next(expected) % (1 << 20)
            if done.request_context == posted - 1:
                break
    assert pair.near.waiting() == []


@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
def test_resize_makes_room_for_more(connect_pair):
    pair = connect_pair(cq_depth=2, initiator_queue_depth=8)
    for _ in range(6):
        pair.far.receive()
    pair.far.receive_cq.resize(8)
    pair.near.initiator_cq.resize(8)
    for i in range(6):
        pair.near.send(context=i)

    assert [done.request_context for done in pair.near.completions("initiator", 6)] == [*range(6)]
    assert len(pair.far.completions("receive", 6)) == 6


def test_wait_sees_what_comes_after_several_resizes_of_an_empty_queue(pair):
    for depth in (2000, 5000, 10_000, 20_000):
        pair.near.initiator_cq.resize(depth)

    pair.near.read((0, 0), context=1)

    assert pair.near.initiator_cq.wait(LIMIT)
    assert [done.request_context for done in pair.near.waiting()] == [1]


@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
def test_resize_below_what_waits_changes_nothing(pair):
    for _ in range(5):
        pair.far.receive()
        pair.near.send()
    pair.near.flush()
    depth = pair.near.initiator_cq.depth
    while not pair.near.initiator_cq._is_ready():
        pair.near.initiator_cq.wait(LIMIT)

    status = status_of(pair.near.initiator_cq.resize, 1)

    assert status == nd.Status.BUFFER_OVERFLOW
    assert pair.near.initiator_cq.depth == depth
    assert len(pair.near.completions("initiator", 5)) == 5


@pytest.mark.parametrize("depth", [0, (1 << 32) - 1])
def test_impossible_depths_are_refused(adapter, depth):
    cq = adapter.create_cq(8)

    assert status_of(cq.resize, depth) == nd.Status.INVALID_PARAMETER
    assert cq.depth == 8


@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
def test_queue_that_shrank_overruns_at_its_new_depth(connect_pair):
    notified = Notified(connect_pair(is_connected=False), depth=64)
    notified.cq.resize(2)
    notified.cq.arm(nd.Notify.ERRORS)
    for _ in range(3):
        notified.pair.far.send()

    assert notified.get() == nd.Status.BUFFER_OVERFLOW
    assert len(notified.cq.poll()) == 2
    with pytest.raises(nd.RdmaError, match="depth of 2"):
        notified.cq.poll()


# ---- moderation ---------------------------------------------------------------------------------


def test_count_alone_decides_without_a_limit_of_time(notified):
    notified.cq.control_interrupt_moderation(ALL, 5)
    notified.cq.arm()
    notified.let_come(4)
    assert notified.calls.empty()

    notified.let_come(1)

    assert notified.get() == SUCCESS


def test_time_alone_decides_without_a_limit_of_number(notified):
    notified.cq.control_interrupt_moderation(1000, ALL)
    notified.cq.arm()
    notified.let_come(1)

    assert notified.get() == SUCCESS
    assert notified.finish()


@pytest.mark.parametrize(("interval", "count"), [(0, 100), (0, ALL), (ALL, 0), (ALL, 1), (50, 1)])
def test_nothing_waits_without_moderation(notified, interval, count):
    notified.cq.control_interrupt_moderation(ALL, 100)
    notified.cq.control_interrupt_moderation(interval, count)
    notified.cq.arm()
    notified.let_come(1)

    assert notified.get() == SUCCESS


@pytest.mark.parametrize(("interval", "count"), [(ALL, ALL), (ALL, 257)])
def test_moderation_without_any_limit_is_refused(notified, interval, count):
    status = status_of(notified.cq.control_interrupt_moderation, interval, count)

    assert status == nd.Status.INVALID_PARAMETER_MIX


def test_newer_rules_replace_older_ones_also_for_what_waits(notified):
    notified.cq.control_interrupt_moderation(ALL, 100)
    notified.cq.arm()
    notified.let_come(2)
    assert notified.calls.empty()

    notified.cq.control_interrupt_moderation(0, 0)

    assert notified.get() == SUCCESS


@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
def test_dead_queue_is_told_at_once(connect_pair):
    pair = connect_pair(is_connected=False)
    notified = Notified(pair, depth=100)
    notified.cq.control_interrupt_moderation(ALL, 100)
    notified.cq.resize(2)
    notified.cq.arm()
    for _ in range(3):
        pair.far.send()

    assert notified.get() == nd.Status.BUFFER_OVERFLOW


def test_arm_over_enough_completions_is_satisfied_at_once(notified):
    notified.cq.control_interrupt_moderation(ALL, 3)
    notified.let_come(3)

    notified.cq.arm()

    assert notified.get() == SUCCESS


def test_flags_of_the_adapter_tell_what_completion_queues_can(adapter):
    cq = adapter.create_cq(8)
    calls = {0x100: lambda: cq.resize(16), 0x4: lambda: cq.control_interrupt_moderation(10, 4)}
    for flag, call in calls.items():
        expected = SUCCESS if adapter.info.adapter_flags & flag else nd.Status.NOT_SUPPORTED
        assert status_of(call) == expected
