# SPDX-License-Identifier: Apache-2.0
"""Two ends of a Connection in this process, over what the provider has."""

import pytest

import ndverbs as nd
from conformance.addresses import addresses_of
from conformance.end import LIMIT


@pytest.fixture(params=["frames", "memory"])
def adapter(request, provider):
    """Open an adapter whose connections go by frames, or by memory where it can."""
    options = {"direct": "off"} if request.param == "frames" else {}
    with nd.Adapter.open(provider, **options) as opened:
        if request.param == "memory" and "direct" not in opened.info.features:
            pytest.skip("a device carries its connections itself")
        yield opened


@pytest.fixture
def host(provider):
    """Give an address of the adapter's."""
    return addresses_of(provider)[0]


@pytest.fixture
def server(adapter, host):
    """Listen at a port that the system chooses."""
    with nd.listen((host, 0), adapter=adapter) as listening:
        yield listening


@pytest.fixture
def ends(adapter, server):
    """Connect two ends."""
    with nd.connect(server.address, adapter=adapter) as near, server.accept(LIMIT) as far:
        yield near, far
