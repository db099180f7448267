# SPDX-License-Identifier: Apache-2.0
"""A victim for every test, and what must be true of it afterwards."""

import socket

import pytest

import ndverbs as nd
from hostile.victim import Victim, descriptors


@pytest.fixture
def victim():
    """Our side; ends with a stranger who is served and without a descriptor more than before."""
    before = descriptors()
    with nd.Adapter.open("soft") as adapter:
        made = Victim(adapter)
        yield made
        assert made.serves_others()
        made.close()
        made.__dict__.clear()
    assert descriptors() == before


@pytest.fixture
def silent_listener():
    """A TCP listener that the test answers for."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening
