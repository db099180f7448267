# SPDX-License-Identifier: Apache-2.0
"""Where a provider differs from the suite. An entry whose test passes fails the run."""

from typing import NamedTuple


class Deviation(NamedTuple):
    test: str  # "test_file.py::test_name", for all its parameters
    provider: str
    reason: str
    # False where the attempt itself does harm or needs what the device's machine lacks.
    runs: bool = True


DEVIATIONS = [
    Deviation(
        "test_listener.py::test_port_of_a_closed_listener_stays_taken_while_its_connectors_live",
        "soft",
        "a server that restarts has its port at once, though its connections may still live",
    ),
]
