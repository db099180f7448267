# SPDX-License-Identifier: Apache-2.0
"""What `rdma_pair` and `rdma_connection_pair` give: two ends that are connected."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

import ndverbs as nd

# How long anything may take before it counts as failed.
LIMIT = 30
MEMORY = 1 << 16


class RdmaEnd:
    """One end of an `RdmaPair`.

    Attributes
    ----------
    pd : ProtectionDomain
        Of this end alone.
    cq : CompletionQueue
        Of receives and of requests.
    qp : QueuePair
        Connected; no receive is posted.
    connector : Connector
        Of the connection.
    array : ndarray
        64 KiB of zeroes, as uint8.
    region : MemoryRegion
        `array`, registered with every right that the adapter grants.
    remote : RemoteBuffer
        `array`, as the other end names it.
    """

    def __init__(self, adapter: nd.Adapter) -> None:
        rights = nd.Access.REMOTE_READ | nd.Access.REMOTE_WRITE | nd.Access.RDMA_READ_SINK
        if "atomics" in adapter.info.extensions:
            rights |= nd.Access.REMOTE_ATOMIC
        self.pd = adapter.create_pd()
        self.cq = adapter.create_cq(512)
        self.qp = self.pd.create_qp(self.cq, self.cq)
        self.array = np.zeros(MEMORY, np.uint8)
        self.region = self.pd.register(self.array, rights)
        self.remote = self.region.remote()
        self.connector: nd.Connector

    def finish(self, count: int = 1, timeout: float = LIMIT) -> list[nd.Result]:
        """Wait for the next `count` completions and return them; a TimeoutError ends the wait."""
        results: list[nd.Result] = []
        while len(results) < count:
            self.cq.wait(timeout)
            results += self.cq.poll(count - len(results))
        return results


class ConnectionPair(NamedTuple):
    """Two Connections; `active` has connected to `passive`."""

    active: nd.Connection
    passive: nd.Connection


class RdmaPair:
    """Two ends of the test's adapter that are connected; `active` has connected to `passive`.

    Attributes
    ----------
    adapter : Adapter
        The fixture `rdma_adapter`.
    active, passive : RdmaEnd
        The ends.
    """

    def __init__(self, adapter: nd.Adapter) -> None:
        self.adapter = adapter
        self.active = RdmaEnd(adapter)
        self.passive = RdmaEnd(adapter)
        with adapter.create_listener() as listener, ThreadPoolExecutor(1) as thread:
            listener.listen((adapter.info.addresses[0], 0))

            def accept() -> nd.Connector:
                connector = listener.get_connector(LIMIT)
                connector.accept(self.passive.qp, timeout=LIMIT)
                return connector

            accepted = thread.submit(accept)
            connector = self.active.connector = adapter.create_connector()
            connector.connect(self.active.qp, None, listener.local_address, timeout=LIMIT)
            connector.complete_connect()
            self.passive.connector = accepted.result(LIMIT)

    def close(self) -> None:
        """End the connection and close what the ends have; the adapter stays."""
        ends = (self.active, self.passive)
        # A side that closes lingers until its peer closes, too: so first both, then the rest.
        for end in ends:
            end.connector.close()
        for end in ends:
            for part in (end.qp, end.region, end.cq, end.pd):
                part.close()
