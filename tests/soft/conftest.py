# SPDX-License-Identifier: Apache-2.0
"""Processes that end in a test."""

import pytest


@pytest.fixture(scope="session")
def mother():
    """Start the process that forks others."""
    from soft.mortals import Mother

    made = Mother()
    yield made
    made.close()
