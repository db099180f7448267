# SPDX-License-Identifier: Apache-2.0
"""Where a provider differs from the suite. An entry whose test passes fails the run.

A difference by design, right on each, is a column: tests ask `End.expects` for its value.
Devices are the kernel's, so a row may be about some of the kernels that the lab boots.
"""

import platform
from typing import Any, NamedTuple

import pytest


class Deviation(NamedTuple):
    test: str  # "test_file.py::test_name", for all its parameters
    # "verbs:siw0"; "verbs" for every device, "verbs:double" for every device double; several.
    provider: str | tuple[str, ...]
    reason: str
    # False where the attempt itself does harm, or only waits for what cannot come.
    runs: bool = True
    # Parts of the names of the parameter sets that it is about; none: all of them.
    parameters: tuple[str, ...] = ()
    # The kernels that it is about, as "6.1"; none: all of them.
    kernels: tuple[str, ...] = ()


def _each(tests, provider, reason, **more):
    return [Deviation(test, provider, reason, **more) for test in tests]


_NO_THIRD_MESSAGE = "kernel iWARP has no third message: an accept is done with its reply"
_NO_HALF_CLOSE = "kernel iWARP closes at once when its peer does, and flushes"
_NO_RESIZE = "the device cannot resize a completion queue, which the adapter's flags say"
_NO_SOLICITED = "siw has no interrupt for solicited completions: rather one notification too many"
_NO_RECEIVE = "kernel iWARP ends the connection of a Send for which no receive is posted"


_DOUBLE_IWARP = ("verbs:double_irdma", "verbs:double_cxgb4")
_IWARP = ("verbs:siw0", *_DOUBLE_IWARP)


DEVIATIONS = [
    Deviation(
        "test_close.py::test_adapter_without_connections_has_no_thread",
        "verbs",
        "the progress thread listens to the device's own events from the start",
    ),
    *_each(
        [
            "test_completion_queue.py::test_overrun_kills_the_queue_and_its_queue_pairs",
            "test_completion_queue.py::test_overrun_satisfies_every_arm",
            "test_completion_queue.py::test_arm_after_an_overrun_is_satisfied_at_once",
            "test_completion_queue.py::test_overrun_ends_the_connection",
            "test_causes.py::test_an_overrun_is_told_and_named_and_counted",
            "test_notification.py::test_overrun_is_told_with_its_status",
            "test_notification.py::test_queue_that_shrank_overruns_at_its_new_depth",
            "test_notification.py::test_dead_queue_is_told_at_once",
            "test_outstanding.py::test_post_after_an_overrun_names_it",
        ],
        "verbs",
        "the hardware queue has room for a thousand completions beyond the depth",
        runs=False,
    ),
    *_each(
        [
            "test_listener.py::test_stranger_of_another_protocol_is_shown_the_door",
            "test_listener.py::test_stranger_who_says_nothing_disturbs_nobody",
        ],
        "verbs",
        "strangers reach the kernel, not us; rxe does not listen on TCP, siw may crash of them",
        runs=False,
    ),
    Deviation(
        "test_connect.py::test_reject_says_that_the_peer_gave_up",
        "verbs",
        "rdma_cm may tell of the peer's giving up after the call",
        runs=False,
    ),
    Deviation(
        "test_wsk_connections.py"
        "::test_a_request_that_vanishes_is_told_before_its_answer_and_gives_its_place_back",
        "verbs:rxe0",
        "rdma_cm tells of the peer's giving up when the request is answered",
        runs=False,
    ),
    Deviation(
        "test_read_write.py::test_last_byte_of_a_write_is_written_last",
        "verbs",
        "rdma-core's devices do not promise IN_ORDER_DMA",
        runs=False,
    ),
    *_each(
        [
            "test_sizes.py::test_one_request_of_2_to_the_31",
            "test_sizes.py::test_offsets_beyond_2_to_the_32",
            "test_sizes.py::test_local_offsets_beyond_2_to_the_32",
            "test_sizes.py::test_write_one_byte_beyond_a_sparse_region_is_refused",
        ],
        "verbs",
        "a device pins what is registered, and the lab's guest has less memory than this takes",
        runs=False,
    ),
    Deviation(
        "test_sizes.py::test_request_longer_than_the_adapter_allows_is_refused_at_the_call",
        "verbs:siw0",
        "its limit is 2 GiB, which the guest cannot pin",
        runs=False,
    ),
    *_each(
        [
            "test_completion_queue.py::test_solicited_arm_ignores_successes_of_the_initiator",
            "test_completion_queue.py::test_arm_strength_does_not_outlive_its_notification",
            "test_completion_queue.py::test_arms_merge_and_solicited_beats_errors",
            "test_flags.py::test_plain_send_does_not_satisfy_a_solicited_arm",
            "test_notification.py::test_solicited_arm_waits_for_a_solicited_message",
        ],
        "verbs:siw0",
        _NO_SOLICITED,
        runs=False,  # whether the notification comes in time to be seen is chance
    ),
    *_each(
        [
            "test_connect.py::test_accepted_peer_that_never_completes_times_out",
            "test_connect.py::test_accept_that_nobody_waits_for_ends_at_its_timeout",
            "test_connect.py::test_active_end_may_reject_the_answer",
            "test_connect.py::test_complete_connect_fails_when_the_peer_gave_up",
            "test_connect_failures.py::test_flush_before_complete_connect_ends_the_attempt_on_both_sides",
            "test_disconnect.py::test_death_of_the_peer_before_it_completed_ends_the_accept",
        ],
        _IWARP,
        _NO_THIRD_MESSAGE,
    ),
    Deviation(
        "test_connect.py::test_closing_the_connector_cancels_its_accept",
        _IWARP,
        _NO_THIRD_MESSAGE,
        runs=False,  # whether the close comes before the end of the accept is chance
    ),
    Deviation(
        "test_connect.py::test_flush_ends_an_accept_and_does_not_blame_the_peer",
        _IWARP,
        _NO_THIRD_MESSAGE,
        runs=False,  # whether the flush comes before the end of the accept is chance
    ),
    Deviation(
        "test_connect.py::test_accept_fails_when_the_peer_gave_up",
        "verbs:siw0",
        "siw learns of it when it answers, and then completes the accept",
    ),
    Deviation(
        "test_connect.py::test_queue_pair_of_a_failed_accept_takes_the_next_request",
        "verbs:siw0",
        "siw learns of it when it answers, and then completes the accept",
    ),
    Deviation(
        "test_connect.py::test_read_limits_are_negotiated_and_capped",
        "verbs:siw0",
        "siw answers with at least what it was asked for",
        parameters=("active2-passive2", "active5-passive5"),
    ),
    *_each(
        [
            "test_disconnect.py::test_disconnect_handler_does_not_flush",
            "test_disconnect.py::test_disconnect_times_out_when_the_peer_never_answers",
            "test_one_sided.py::test_disconnect_is_answered_for_nobody_who_is_away",
        ],
        _IWARP,
        _NO_HALF_CLOSE,
    ),
    Deviation(
        "test_disconnect.py::test_disconnect_that_this_side_cuts_short_does_not_succeed",
        _IWARP,
        _NO_HALF_CLOSE,
        runs=False,  # whether the flush comes before that is chance
    ),
    *_each(
        [
            "test_flags.py::test_inline_memory_is_free_when_the_call_returns",
            "test_flags.py::test_silent_requests_that_are_flushed_have_completions",
            "test_flush.py::test_flush_cancels_requests_that_wait_for_the_peer",
            "test_close.py::test_every_order_of_closing_works_with_requests_pending",
            "test_close.py::test_every_order_of_dropping_works_with_requests_pending",
            "test_close.py::test_dropping_everything_without_a_close_leaves_nothing",
            "test_disconnect.py::"
            "test_death_of_the_peer_fails_the_oldest_request_and_cancels_the_rest",
            "test_flush.py::test_flush_cancels_every_kind_of_request",
            "test_limits.py::test_full_queue_takes_no_request_of_any_kind",
            "test_send_receive.py::test_missing_receive_delays_the_message_until_it_is_posted",
            "test_send_receive.py::test_a_ping_pong_of_many_messages_keeps_its_order",
            "test_shared_receive_queue.py::test_message_waits_for_a_receive_and_is_woken_by_it",
        ],
        _IWARP,
        _NO_RECEIVE,
        runs=False,
    ),
    *_each(
        [
            "test_notification.py::test_resize_loses_nothing_under_traffic",
            "test_notification.py::test_resize_makes_room_for_more",
            "test_notification.py::"
            "test_wait_sees_what_comes_after_several_resizes_of_an_empty_queue",
        ],
        ("verbs:siw0", "verbs:double_cxgb4"),
        _NO_RESIZE,
    ),
    Deviation(
        "test_notification.py::test_impossible_depths_are_refused",
        ("verbs:siw0", "verbs:double_cxgb4"),
        _NO_RESIZE,
        parameters=("4294967295",),
    ),
    Deviation(
        "test_read_write.py::test_read_scatters_into_segments",
        ("verbs:siw0", "verbs:double_cxgb4"),
        "a Read has one segment on iWARP devices",
    ),
    Deviation(
        "test_read_write.py::test_zero_length_requests_complete_and_move_nothing",
        ("verbs:siw0", "verbs:double_cxgb4"),
        "a Read has one segment on iWARP devices",
        parameters=("read-spans2",),
    ),
    Deviation(
        "test_remote_access.py::test_read_without_the_right",
        "verbs:siw0",
        "siw never checks the right to be read",
    ),
    *_each(
        [
            "test_remote_access.py::test_invalidating_a_registered_region_breaks_the_connection",
            "test_remote_access.py::test_invalidating_an_unknown_token_breaks_the_connection",
            "test_remote_access.py::test_region_that_could_not_be_invalidated_keeps_its_token",
            "test_remote_access.py::test_send_and_invalidate_completes_as_a_send",
        ],
        "verbs:siw0",
        "siw executes a peer's invalidation unchecked, so the feature is not offered",
    ),
    *_each(
        [
            "test_remote_access.py::test_invalidating_a_registered_region_breaks_the_connection",
            "test_remote_access.py::test_invalidating_an_unknown_token_breaks_the_connection",
            "test_remote_access.py::test_region_that_could_not_be_invalidated_keeps_its_token",
            "test_invalidate.py::test_region_without_a_remote_right_is_not_the_peers_to_invalidate",
        ],
        "verbs:rxe0",
        "rxe refuses the invalidation and tells neither end",
        runs=False,
    ),
    Deviation(
        "test_fast_register.py::test_local_token_serves_requests_behind_a_registration_that_waits",
        "verbs:rxe0",
        "rxe stands still when it has done a request of its own behind a Send that it repeats",
        runs=False,
        parameters=("-Flag.DEFER]",),  # with READ_FENCE it waits
    ),
    Deviation(
        "test_adapter.py::test_addresses_are_those_that_listeners_take",
        "verbs:double",
        "its addresses are of no interface of this host",
    ),
    Deviation(
        "test_close.py::test_deregistering_while_the_peer_writes",
        "verbs:siw0",
        "siw checks a piece of a Write and copies it later: it may land after the deregistration",
        runs=False,  # whether it shows is chance
    ),
    *_each(
        [
            "test_wsk_connections.py::test_a_request_that_vanishes_while_it_pends_is_told_by_abort",
            "test_wsk_connections.py"
            "::test_a_request_that_vanishes_is_told_before_its_answer_and_gives_its_place_back",
        ],
        "verbs:siw0",
        "siw accepts a request whose peer has gone, and tells of the connection's end then",
        runs=False,
    ),
]


class Expectation(NamedTuple):
    """A cell of a column."""

    provider: str  # as in a Deviation
    value: Any
    reason: str


# Of several cells that fit a provider, the first one counts.
COLUMNS = {
    # The text of the peer's Terminate for {}; None: nothing, and what was under way is cancelled.
    "detail of a refusal": [
        Expectation("soft", "{}", "it reads the peer's Terminate itself"),
        Expectation("verbs:siw0", None, "kernel iWARP tells programs nothing of a Terminate"),
        Expectation("verbs:double_cxgb4", None, "it flushes, whatever the Terminate says"),
        Expectation("verbs", "remote access error", "a device reports the kind of error"),
    ],
    # Matched by the detail as text; {} is that of the peer's Terminate.
    "detail of a refused atomic": [
        Expectation("soft", "{}", "it reads the peer's Terminate itself"),
        Expectation("verbs", "the device reported: remote .*", "it names the kind of error"),
    ],
    "receives name the refusal that cancelled them": [
        Expectation("soft", True, "the first cause is noted before anything is cancelled"),
        Expectation("verbs", False, "receives may be cancelled before the device tells its cause"),
    ],
    # Searched for in the detail as text.
    "detail of a receive that is too short": [
        Expectation("soft", "message longer than the posted receive", "in the Terminate's words"),
        Expectation("verbs", "None|the device reported", "it tells something or nothing"),
    ],
    # Contexts and statuses, of which one is the first that failed.
    "first failure when the peer dies": [
        Expectation(
            "soft",
            [("oldest", "IO_TIMEOUT")],
            "a Send is done when it has left, also one that the far end holds up",
        ),
        Expectation(
            "verbs",
            [
                (context, status)
                for context in ("held up", "oldest", "behind")
                for status in ("IO_TIMEOUT", "CANCELLED")
            ],
            "a device that learns of the end by other means cancels everything",
        ),
    ],
}


def fits(deviating, provider):
    """Say whether what a row names, a device or a kind of provider, is or comprises `provider`."""
    named = (deviating,) if isinstance(deviating, str) else deviating
    kinds = {provider, provider.partition(":")[0], provider.partition("_")[0]}
    return not kinds.isdisjoint(named)


# Of "6.12.57+deb13-amd64" the version that a row names.
KERNEL = ".".join(platform.release().split(".")[:2])


def mark(item, deviations, test, provider, kernel=KERNEL):
    """Have a test fail as those of the deviations say that are about it on `provider`."""
    for deviation in deviations:
        is_about_it = (
            deviation.test == test
            and fits(deviation.provider, provider)
            and kernel in (deviation.kernels or (kernel,))
        )
        parameters = deviation.parameters or ("",)
        if is_about_it and any(part in item.name for part in parameters):
            item.add_marker(
                pytest.mark.xfail(reason=deviation.reason, strict=True, run=deviation.runs)
            )


def expects(provider, column):
    """Return what the suite expects of a provider where providers differ by design."""
    return next(cell.value for cell in COLUMNS[column] if fits(cell.provider, provider))
