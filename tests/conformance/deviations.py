# SPDX-License-Identifier: Apache-2.0
"""Where a provider differs from the suite. An entry whose test passes fails the run."""

from typing import NamedTuple


class Deviation(NamedTuple):
    test: str  # "test_file.py::test_name", for all its parameters
    provider: str  # "verbs:siw0", or "verbs" for every device
    reason: str
    # False where the attempt itself does harm, or only waits for what cannot come.
    runs: bool = True


def _each(tests, provider, reason, *, runs=True):
    return [Deviation(test, provider, reason, runs) for test in tests]


DEVIATIONS = [
    Deviation(
        "test_listener.py::test_port_of_a_closed_listener_stays_taken_while_its_connectors_live",
        "soft",
        "a server that restarts has its port at once, though its connections may still live",
    ),
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
]
