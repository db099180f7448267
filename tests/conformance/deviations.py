# SPDX-License-Identifier: Apache-2.0
"""Where a provider differs from the suite. An entry whose test passes fails the run."""

from typing import NamedTuple


class Deviation(NamedTuple):
    test: str  # "test_file.py::test_name", for all its parameters
    provider: str
    reason: str


DEVIATIONS: list[Deviation] = []
