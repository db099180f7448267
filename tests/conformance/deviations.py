# SPDX-License-Identifier: Apache-2.0
"""Where a provider differs from the suite. An entry whose test passes fails the run."""

from typing import NamedTuple


class Deviation(NamedTuple):
    test: str  # "test_file.py::test_name", for all its parameters
    provider: str
    reason: str
    # False where the attempt itself does harm or needs what the device's machine lacks.
    runs: bool = True


DEVIATIONS: list[Deviation] = []
