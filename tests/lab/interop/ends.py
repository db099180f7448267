# SPDX-License-Identifier: Apache-2.0
"""The fixture that makes our side, for tests in the guest and on the host."""

import pytest

from conformance.end import End


@pytest.fixture
def make_end():
    """Give the factory ``make_end(**options) -> End`` of the soft provider."""
    made = []

    def make(**options):
        made.append(End("soft", **options))
        return made[-1]

    yield make
    for end in made:
        end.end_connection()
    for end in reversed(made):  # an end that shares an adapter comes after the one that owns it
        end.close()
