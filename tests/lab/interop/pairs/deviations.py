# SPDX-License-Identifier: Apache-2.0
"""Where a pair of soft and siw differs from the suite. An entry whose test passes fails the run.

The provider of an entry is that of the near end.
"""

from conformance.deviations import Deviation

SOFT, SIW = "soft", "verbs:siw0"


def _each(tests, provider, reason, **more):
    return [Deviation(test, provider, reason, **more) for test in tests]


_NO_RECEIVE = "siw ends the connection of a Send for which no receive is posted"
_ONE_SEGMENT = "a Read has one segment on iWARP devices"
_NO_HALF_CLOSE = "siw closes at once when its peer does, and flushes"
_OWN_WORDS = "siw reports a length error of its own, and its Terminate another"

DEVIATIONS = [
    *(
        Deviation(test, near, reason)
        for near in (SOFT, SIW)
        for test, reason in (
            (
                "test_disconnect.py::test_disconnect_times_out_when_the_peer_never_answers",
                _NO_HALF_CLOSE,
            ),
            (
                "test_send_receive.py::test_receive_too_short_names_its_reason_at_both_ends",
                _OWN_WORDS,
            ),
        )
    ),
    # Soft near and active, siw far.
    *_each(
        [
            "test_flags.py::test_inline_memory_is_free_when_the_call_returns",
            "test_flags.py::test_silent_requests_that_are_flushed_have_completions",
            "test_send_receive.py::test_a_ping_pong_of_many_messages_keeps_its_order",
            "test_send_receive.py::test_missing_receive_delays_the_message_until_it_is_posted",
        ],
        SOFT,
        _NO_RECEIVE,
        runs=False,  # whether the receive comes in time is a matter of luck
    ),
    Deviation(
        "test_remote_access.py::test_write_whose_end_passes_64_bits",
        SOFT,
        "siw calls it a local catastrophic error",
    ),
    Deviation(
        "test_remote_access.py::test_read_whose_end_passes_64_bits",
        SOFT,
        "siw closes the connection and says nothing",
    ),
    Deviation(
        "test_remote_access.py::test_read_without_the_right",
        SOFT,
        "siw never checks the right to be read",
    ),
    Deviation(
        "test_remote_access.py::test_invalidating_a_registered_region_breaks_the_connection",
        SOFT,
        "siw executes a peer's invalidation unchecked",
    ),
    *_each(
        [
            "test_remote_access.py::test_invalidating_an_unknown_token_breaks_the_connection",
            "test_remote_access.py::test_region_that_could_not_be_invalidated_keeps_its_token",
        ],
        SOFT,
        "siw fails the receive, and tells the peer when the connection is closed",
        runs=False,
    ),
    # Siw near and active, soft far.
    Deviation("test_disconnect.py::test_disconnect_handler_does_not_flush", SIW, _NO_HALF_CLOSE),
    Deviation(
        "test_flags.py::test_plain_send_does_not_satisfy_a_solicited_arm",
        SIW,
        "siw has no interrupt for solicited completions: rather one notification too many",
        runs=False,  # which may come late enough
    ),
    Deviation(
        "test_read_write.py::test_last_byte_of_a_write_is_written_last",
        SIW,
        "rdma-core's devices do not promise IN_ORDER_DMA",
    ),
    Deviation("test_read_write.py::test_read_scatters_into_segments", SIW, _ONE_SEGMENT),
    Deviation(
        "test_read_write.py::test_zero_length_requests_complete_and_move_nothing",
        SIW,
        _ONE_SEGMENT,
        parameters=("read-spans2",),
    ),
    *_each(
        [
            "test_remote_access.py::test_invalidating_a_registered_region_breaks_the_connection",
            "test_remote_access.py::test_invalidating_an_unknown_token_breaks_the_connection",
            "test_remote_access.py::test_region_that_could_not_be_invalidated_keeps_its_token",
            "test_remote_access.py::test_send_and_invalidate_completes_as_a_send",
        ],
        SIW,
        "siw executes a peer's invalidation unchecked, so the feature is not offered",
    ),
]
