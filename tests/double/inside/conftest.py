# SPDX-License-Identifier: Apache-2.0
"""Every test begins and ends with a device that works."""

import pytest

from double import control


@pytest.fixture(autouse=True)
def _device_works():
    control.reset()
    yield
    control.reset()
