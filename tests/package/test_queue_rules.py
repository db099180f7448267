# SPDX-License-Identifier: Apache-2.0
"""What a completion queue promises the thread that arms it; completions come when the test says.

The same promises over connections are in tests/conformance.
"""

import threading

import pytest
from ndverbs._testing import LeasedQueue, MadeUpQueue

ALL = (1 << 32) - 1

pytestmark = pytest.mark.tsan


@pytest.fixture
def queue():
    return MadeUpQueue()


# ---- the descriptor -----------------------------------------------------------------------------


def test_arm_that_was_satisfied_before_there_was_a_descriptor_makes_it_readable(queue):
    queue.arm()
    queue.arrive()

    assert queue.is_readable


def test_arm_that_was_satisfied_without_a_descriptor_is_forgotten_by_the_next_arm(queue):
    queue.arm()
    queue.arrive()
    assert queue.poll() == 1
    queue.arm()

    assert not queue.is_readable


def test_completions_that_a_poll_brings_and_takes_notify_nobody(queue):
    queue.arm()
    queue.come(3)

    assert queue.poll() == 3

    assert not queue.is_readable
    assert queue.is_armed


def test_completions_that_a_poll_brings_and_leaves_behind_notify(queue):
    queue.arm()
    queue.come(3)

    assert queue.poll(2) == 2

    assert queue.is_readable
    assert not queue.is_armed


def test_arm_outlives_the_poll_that_helped_itself(queue):
    queue.arm()
    queue.come(1)
    queue.poll()

    queue.arrive()

    assert queue.is_readable


def test_poll_of_one_queue_does_not_keep_the_notification_of_another(queue):
    other = MadeUpQueue()
    other.arm()
    queue.arm()
    queue.come(1)
    other.arrive()
    queue.poll()

    assert other.is_readable
    assert not queue.is_readable


# ---- moderation ---------------------------------------------------------------------------------


def test_moderated_arm_is_told_when_its_time_is_over(queue):
    assert queue.moderate(1000, ALL)
    queue.arm()
    queue.arrive()
    assert not queue.is_readable

    queue.time_is_over()

    assert queue.is_readable


def test_time_of_a_notification_that_was_told_early_satisfies_no_later_arm(queue):
    assert queue.moderate(1000, 2)
    queue.arm()
    queue.arrive()
    queue.arrive()
    assert queue.is_readable
    queue.poll()
    queue.arm()

    queue.time_is_over()

    assert queue.is_armed
    assert not queue.is_readable


def test_moderation_that_is_switched_off_meanwhile_loses_no_notification(queue, scaled):
    for _ in range(scaled(300)):
        assert queue.moderate(ALL, 64)
        queue.arm()
        both = threading.Barrier(2)

        def switch_off(both=both):
            both.wait()
            assert queue.moderate(0, 0)

        thread = threading.Thread(target=switch_off)
        thread.start()
        both.wait()
        queue.arrive()
        thread.join()

        assert queue.is_readable
        assert queue.poll() == 1


# ---- leases -------------------------------------------------------------------------------------


def test_poll_of_an_empty_queue_leases_its_connections():
    queue = LeasedQueue()
    queue.poll()

    assert queue.is_leased


def test_arm_ends_the_lease_of_an_earlier_poll():
    queue = LeasedQueue()
    queue.poll()

    queue.arm()

    assert not queue.is_leased


def test_poll_between_arm_and_sleep_takes_no_lease():
    queue = LeasedQueue()
    queue.arm()

    queue.poll()

    assert not queue.is_leased


def test_caller_that_goes_on_polling_after_an_arm_gets_its_lease_again():
    queue = LeasedQueue()
    queue.arm()
    for _ in range(9):
        queue.poll()
    assert queue.is_leased

    queue.arm()
    queue.poll()

    assert not queue.is_leased


def test_arm_for_errors_leaves_the_connections_to_the_poller():
    queue = LeasedQueue()
    queue.poll()

    queue.arm_for_errors()
    queue.poll()

    assert queue.is_leased


def test_moderated_completion_without_memory_for_a_timer_is_told_at_once(queue):
    queue.moderate(1000, 10)
    queue.arm()
    queue.run_out_of_memory()

    queue.arrive()

    assert queue.is_readable
    assert not queue.is_armed


# ---- completions behind one that a thread is still writing --------------------------------------


def test_completion_behind_one_in_the_making_satisfies_an_arm(queue):
    queue.claim()
    queue.arrive()

    queue.arm()

    assert queue.is_readable
    queue.write_claimed(0)
    assert queue.poll() == 2


def test_completion_that_a_poll_brings_behind_one_in_the_making_notifies(queue):
    queue.claim()
    queue.arm()
    queue.come(1)

    assert queue.poll() == 0

    assert queue.is_readable
    queue.write_claimed(0)
    assert queue.poll() == 2
