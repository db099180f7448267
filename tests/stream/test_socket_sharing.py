# SPDX-License-Identifier: Apache-2.0
"""Many sockets in one process: shared adapters, fairness, large numbers."""

import contextlib
import gc
import weakref

import pytest

import ndverbs as nd
from ndverbs._sharing import adapter_for
from stream.sockets import LIMIT, Background, connected, read_exactly


def test_adapters_opened_by_name_are_shared_while_somebody_uses_them(provider):
    first, second = nd.Socket(adapter=provider), nd.Socket(adapter=provider)
    assert first._adapter is second._adapter

    kept = weakref.ref(first._adapter)
    first.close()
    second.close()
    del first, second
    gc.collect()
    assert kept() is None


def test_without_a_name_the_environment_decides(provider, monkeypatch):
    monkeypatch.setenv("NDVERBS_ADAPTER", provider)
    with nd.Socket() as sock:
        assert sock._adapter is adapter_for(provider)


def test_a_large_transfer_does_not_starve_another_stream(adapter, host, scaled):
    with (
        connected(adapter, host) as (busy, sink),
        connected(adapter, host) as (near, far),
    ):
        total = scaled(100) << 20
        sending = Background(lambda: [busy.sendall(bytes(1 << 20)) for _ in range(total >> 20)])
        reading = Background(read_exactly, sink, total)
        for _ in range(scaled(200)):
            near.sendall(b"ping")
            assert far.recv(10) == b"ping"

        sending.result()
        assert len(reading.result()) == total


@pytest.mark.slow
@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_sockets_are_connected_at_once(adapter, host, scaled):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(nd.Socket(adapter=adapter))
        server.settimeout(LIMIT)
        server.bind((host, 0))
        server.listen(1000)
        pairs = []
        for _ in range(scaled(1000)):
            near = stack.enter_context(nd.Socket(adapter=adapter))
            near.connect(server.getsockname())
            pairs.append((near, stack.enter_context(server.accept()[0])))

        for number, (near, _) in enumerate(pairs):
            near.sendall(b"%d" % number)

        for number, (_, far) in enumerate(pairs):
            assert far.recv(10) == b"%d" % number
