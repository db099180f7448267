# SPDX-License-Identifier: Apache-2.0
"""The two ends of a benchmark run: the command's own and the process that it starts as its peer.

They agree over a socket pair, one JSON object a line, and a run has these steps, initiator first:

    {"run": ...}      what to do
    {"offer": ...}    where to connect, and the memory to aim at
    {"target": ...}   the other direction
    {"ready": true}   receives are posted
    the connections and the timed loops
    {"over": ...}     from both: no end closes before the other has finished; the peer's has the
                      processor time that its loop took

Between runs {"memory": size} asks the peer for memory, whose address is the answer.

An end that fails says {"error": "..."}. The peer ends when the channel does, so it cannot outlive
the command.
"""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
import signal
import socket
import subprocess
import sys
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ndverbs._closing import Closing
from ndverbs._native import (
    Access,
    Adapter,
    CompletionQueue,
    Listener,
    MemoryRegion,
    ProtectionDomain,
    QueuePair,
    _BenchSession,
)
from ndverbs.cli.bench import control, footprint, loops
from ndverbs.cli.bench.channel import BenchError, Channel
from ndverbs.cli.bench.runs import Run
from ndverbs.errors import RdmaError

# Operations that make their connections themselves.
_WITHOUT_MEMORY = {"connect": control, "idle": footprint}
# Limits that only mean failure.
_SETUP_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 5.0


class _Session(Protocol):
    def run(self) -> dict[str, Any]: ...


class _Side(Closing):
    """The objects of one end of one run."""

    def __init__(self, adapter: Adapter, run: Run, *, is_initiator: bool) -> None:
        self._run = run
        self._is_initiator = is_initiator
        self._adapter = adapter
        self._closing = contextlib.ExitStack()
        try:
            self._make(adapter)
        except BaseException:
            self._closing.close()
            raise

    def _make(self, adapter: Adapter) -> None:
        enter = self._closing.enter_context
        plan = self._run.plan(is_initiator=self._is_initiator)
        limits = plan.limits
        self._pd: ProtectionDomain = enter(adapter.create_pd())
        depth = limits["receive_queue_depth"] + limits["initiator_queue_depth"]
        self.cq: CompletionQueue = enter(adapter.create_cq(depth * self._run.queue_pairs))
        rights = Access.LOCAL_WRITE | Access.REMOTE_READ | Access.REMOTE_WRITE
        if self._run.operation == "fetch_add":
            rights |= Access.REMOTE_ATOMIC
        # What the peer reaches: only the target's reach decides how.
        allocate = None if self._run.plain else getattr(adapter, "alloc_array", None)
        source = _plain(self._run.size)
        target = allocate(self._run.size, np.uint8) if allocate else _plain(self._run.size)
        for array in (source, target):
            array[:] = 0  # every page is there before the clock starts
        self.source: MemoryRegion = enter(self._pd.register(source, Access.LOCAL_WRITE))
        self.target: MemoryRegion = enter(self._pd.register(target, rights))
        self.qps: list[QueuePair] = [
            enter(self._pd.create_qp(self.cq, self.cq, **limits))
            for _ in range(self._run.queue_pairs)
        ]
        self._plan = plan

    def session(self, remote: tuple[int, int]) -> _Session:
        """Return what runs this end, with its first receives posted."""
        qp, *more = self.qps
        run = self._run
        if run.operation == "register":
            if not self._is_initiator:
                return control.Idle()
            return control.Registrations(self._adapter, self._pd, qp, self.cq, run)
        if run.python and (self._is_initiator or run.is_latency):
            return loops.Session(
                qp, self.cq, self.source, self.target, remote, run, is_initiator=self._is_initiator
            )
        return _BenchSession(
            qp, self.source, self.target, remote=remote, plan=self._plan, more=more
        )

    def close(self) -> None:
        self._closing.close()


def _plain(size: int) -> NDArray[np.uint8]:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(memory, np.uint8)


class Peer(Closing):
    """The other process of a benchmark on this host."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ndverbs.cli.bench.ends", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self.channel = Channel(ours)

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._process.pid

    def memory(self, size: int) -> int:
        """Return the address of so many bytes of the process, which stay until the next call."""
        self.channel.send(memory=size)
        return int(self.channel.expect("memory"))

    def close(self) -> None:
        """End the process; it leaves by itself when the channel closes."""
        self.channel.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def obituary(self) -> str | None:
        """Say how the process ended; None while it lives."""
        try:
            # It closes the connection a moment before it is gone.
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return None
        if code < 0:
            return f"the peer process was killed by {signal.Signals(-code).name}"
        return f"the peer process ended with exit code {code}"


def open_adapter(run: Run) -> Adapter:
    """Open the adapter that a run asks for."""
    return Adapter.open(run.adapter) if run.direct else Adapter.open(run.adapter, direct="off")


def measure(adapter: Adapter, peer: Peer, run: Run) -> dict[str, Any]:
    """Run once against the peer and return what was measured, in seconds, and over what.

    Raises
    ------
    BenchError
        The run failed, or the peer died.
    """
    try:
        return _initiate(adapter, peer.channel, run)
    except (EOFError, RdmaError, OSError, BenchError) as failure:
        died = peer.obituary()
        if died is not None:
            raise BenchError(f"{died} during the run") from failure
        raise BenchError(str(failure)) from failure


def _initiate(adapter: Adapter, channel: Channel, run: Run) -> dict[str, Any]:
    if run.operation in _WITHOUT_MEMORY:
        channel.send(run=dataclasses.asdict(run))
        result: dict[str, Any] = _WITHOUT_MEMORY[run.operation].connect(adapter, channel, run)
        return result
    # In the order of other tools: a driver gives processors to queue pairs as they come.
    with _Side(adapter, run, is_initiator=True) as side:
        channel.send(run=dataclasses.asdict(run))
        offer = channel.expect("offer")
        remote = side.target
        channel.send(target=[remote.address, remote.remote_token])
        session = side.session((offer["target"][0], offer["target"][1]))
        channel.expect("ready")
        with contextlib.ExitStack() as closing:
            for qp in side.qps:
                connector = closing.enter_context(adapter.create_connector())
                connector.connect(
                    qp, None, (offer["host"], offer["port"]), timeout=_SETUP_TIMEOUT_S, crc=run.crc
                )
                connector.complete_connect(timeout=_SETUP_TIMEOUT_S)
            transport = connector.transport
            result = session.run()
            channel.send(over=True)
            peer_cpu = channel.expect("over")
            return result | {"peer_cpu": peer_cpu, "transport": transport}


def _respond(adapter: Adapter, channel: Channel, run: Run) -> None:
    addresses = adapter.info.addresses
    if not addresses:
        raise BenchError(f"no network interface of {adapter.info.name} has an address")
    host = addresses[0]
    if run.operation in _WITHOUT_MEMORY:
        _WITHOUT_MEMORY[run.operation].accept(adapter, channel, run, host)
        return
    with contextlib.ExitStack() as closing:
        side = closing.enter_context(_Side(adapter, run, is_initiator=False))
        listener: Listener = closing.enter_context(adapter.create_listener())
        listener.listen((host, 0))
        target = [side.target.address, side.target.remote_token]
        port = listener.local_address[1]
        channel.send(offer={"host": host, "port": port, "target": target})
        remote = channel.expect("target")
        session = side.session((remote[0], remote[1]))
        channel.send(ready=True)
        for qp in side.qps:
            connector = closing.enter_context(listener.get_connector(timeout=_SETUP_TIMEOUT_S))
            connector.accept(qp, timeout=_SETUP_TIMEOUT_S, crc=run.crc)
        result = session.run()
        channel.expect("over")
        channel.send(over=result.get("cpu", 0.0))


def serve(channel: Channel) -> None:
    """Be the peer until the channel ends."""
    adapters: dict[bool, Adapter] = {}
    array: NDArray[np.uint8]
    with contextlib.ExitStack() as closing:
        while (message := channel.receive()) is not None:
            if "memory" in message:
                array = _plain(message["memory"])
                array[:] = 0
                channel.send(memory=array.ctypes.data)
                continue
            run = Run(**message["run"])
            try:
                if run.direct not in adapters:
                    adapters[run.direct] = closing.enter_context(open_adapter(run))
                _respond(adapters[run.direct], channel, run)
            except EOFError:
                return
            except (RdmaError, BenchError, OSError) as failure:
                channel.send(error=str(failure))


def _main() -> None:
    # Ctrl-C reaches both processes; the command says what there is to say and ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    try:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            serve(channel)
    finally:
        channel.close()


if __name__ == "__main__":
    _main()
