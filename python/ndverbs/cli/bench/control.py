# SPDX-License-Identifier: Apache-2.0
"""What is not the data path: connections made and ended, memory registered and revoked.

The loops are Python, because these calls cost far more than what calls them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from ndverbs._native import (
    Access,
    Adapter,
    CompletionQueue,
    FastRegisterMemoryRegion,
    Flag,
    Listener,
    ProtectionDomain,
    QueuePair,
)
from ndverbs.cli.bench.channel import BenchError, Channel
from ndverbs.cli.bench.runs import Run, percentiles

# A limit that only means failure.
_LIMIT_S = 30.0
_WARM_UP = 5
_MOST = 100_000
_PAGE = 4096
_SMALL = {"receive_queue_depth": 1, "initiator_queue_depth": 1}


class Times:
    """Counts operations until a run has had enough of them, and keeps how long they took."""

    def __init__(self, run: Run) -> None:
        self._left = min(run.iterations or _MOST, _MOST)
        self._seconds = None if run.iterations else run.seconds
        self._began = time.perf_counter()
        self.samples: dict[str, list[float]] = {}

    def __iter__(self) -> Iterator[None]:
        """Yield once for each operation; the first few do not count."""
        for _ in range(_WARM_UP):
            yield
        for taken in self.samples.values():
            taken.clear()
        self._began = time.perf_counter()
        while self._left > 0:
            self._left -= 1
            yield
            if self._seconds is not None and self.elapsed >= self._seconds:
                return

    @property
    def elapsed(self) -> float:
        """Return the seconds since operations count."""
        return time.perf_counter() - self._began

    def add(self, name: str, seconds: float) -> None:
        """Keep one."""
        self.samples.setdefault(name, []).append(seconds)

    def result(self) -> dict[str, Any]:
        """Return the percentiles of each kind, by its name."""
        return {name: percentiles(samples) for name, samples in self.samples.items()}


# ---- connections ----------------------------------------------------------------------------


def connect(adapter: Adapter, channel: Channel, run: Run) -> dict[str, Any]:
    """Make and end connections, one after the other: the active side."""
    host, port = channel.expect("offer")
    times = Times(run)
    transport = ""
    with adapter.create_pd() as pd, adapter.create_cq(2) as cq:
        for _ in times:
            channel.send(next=True)
            with pd.create_qp(cq, cq, **_SMALL) as qp, adapter.create_connector() as connector:
                begin = time.perf_counter()
                connector.connect(qp, None, (host, port), timeout=_LIMIT_S, crc=run.crc)
                connector.complete_connect(timeout=_LIMIT_S)
                connected = time.perf_counter()
                transport = connector.transport
                connector.disconnect()
            times.add("connect", connected - begin)
            times.add("connect, disconnect and close", time.perf_counter() - begin)
        elapsed = times.elapsed
    channel.send(next=False)
    channel.expect("over")
    count = len(times.samples["connect"])
    return times.result() | {"operations": count, "elapsed": elapsed, "transport": transport}


def accept(adapter: Adapter, channel: Channel, run: Run, host: str) -> None:
    """Be the passive side of `connect`."""
    listener: Listener
    with (
        adapter.create_listener() as listener,
        adapter.create_pd() as pd,
        adapter.create_cq(2) as cq,
    ):
        listener.listen((host, 0))
        channel.send(offer=[host, listener.local_address[1]])
        while channel.expect("next"):
            with (
                pd.create_qp(cq, cq, **_SMALL) as qp,
                listener.get_connector(timeout=_LIMIT_S) as connector,
            ):
                qp.receive()
                connector.accept(qp, timeout=_LIMIT_S, crc=run.crc)
                while not cq.poll():  # the receive ends with the connection
                    cq.wait(_LIMIT_S)
        channel.send(over=True)


# ---- registrations --------------------------------------------------------------------------


class Registrations:
    """Registers and revokes memory, over a connection that carries nothing."""

    def __init__(
        self, adapter: Adapter, pd: ProtectionDomain, qp: QueuePair, cq: CompletionQueue, run: Run
    ) -> None:
        self._adapter, self._pd, self._qp, self._cq = adapter, pd, qp, cq
        self._run = run
        self._array = np.ones(run.size, np.uint8)

    def run(self) -> dict[str, Any]:
        """Return the percentiles of each call, in seconds."""
        rights = Access.LOCAL_WRITE | Access.REMOTE_READ | Access.REMOTE_WRITE
        times = Times(self._run)
        for _ in times:
            begin = time.perf_counter()
            region = self._pd.register(self._array, rights)
            registered = time.perf_counter()
            region.deregister()
            end = time.perf_counter()
            region.close()
            times.add("register", registered - begin)
            times.add("deregister", end - registered)
        return times.result() | self._fast()

    def _fast(self) -> dict[str, Any]:
        """Return those of the fast calls; none where the adapter has none for so many pages."""
        info = self._adapter.info
        pages = self._run.size // _PAGE + 2
        if not 0 < pages <= info.frmr_page_count:
            return {}
        flags = Flag.ALLOW_LOCAL_WRITE | Flag.ALLOW_REMOTE_WRITE
        times = Times(self._run)
        region: FastRegisterMemoryRegion
        with (
            self._pd.create_fast_register_mr(pages, remote_access=True) as region,
            self._adapter.build_lam(self._array) as mapping,
        ):
            for _ in times:
                begin = time.perf_counter()
                self._qp.fast_register(region, mapping, flags=flags)
                self._wait()
                registered = time.perf_counter()
                self._qp.invalidate(region)
                self._wait()
                times.add("fast register", registered - begin)
                times.add("invalidate", time.perf_counter() - registered)
        return times.result()

    def _wait(self) -> None:
        while not (results := self._cq.poll()):
            self._cq.wait(_LIMIT_S)
        for result in results:
            if result.status != 0:
                raise BenchError(f"a request ended with {result.status.name}")


class Idle:
    """The end of a connection that only has to be there."""

    def run(self) -> dict[str, Any]:
        """Do nothing."""
        return {}
