# SPDX-License-Identifier: Apache-2.0
"""The folder's own: connected sockets."""

import resource

import pytest

from conformance.addresses import addresses_of
from stream.sockets import connected, listening


@pytest.fixture
def many_descriptors():
    """Let the test open up to 20000 descriptors, as far as the system allows."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, min(most, 20_000)), most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@pytest.fixture
def host(provider):
    """Give the address that the provider's ends connect through."""
    return addresses_of(provider).v4


@pytest.fixture
def server(adapter, host):
    """Listen at a port of the system's choice."""
    with listening(adapter, host) as sock:
        yield sock


@pytest.fixture
def ends(adapter, host):
    """Connect two ends of this process, the connecting one first."""
    with connected(adapter, host) as pair:
        yield pair


@pytest.fixture
def small_ends(adapter, host):
    """As `ends`, with buffers of a few KiB."""
    with connected(adapter, host, SO_RCVBUF=16384, SO_SNDBUF=8192) as pair:
        yield pair
