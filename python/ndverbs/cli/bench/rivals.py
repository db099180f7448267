# SPDX-License-Identifier: Apache-2.0
"""What users would pick instead: public tools and a plain socket, as rivals of our runs.

Each is two processes over loopback TCP, as runs are without a device; perftest is two processes
over the RDMA device of the run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ndverbs._native import AdapterInfo, adapters
from ndverbs.cli.bench.channel import BenchError
from ndverbs.cli.bench.runs import Run

_PROGRAMS = {
    "iperf3": "iperf3",
    "ucx": "ucx_perftest",
    "fi_pingpong": "fi_pingpong",
    "perftest": "ib_write_bw",
    "mpi4py": "mpiexec",
}
_PACKAGES = {
    "iperf3": "iperf3",
    "ucx": "ucx-utils",
    "fi_pingpong": "libfabric-bin",
    "perftest": "perftest",
    "mpi4py": "openmpi-bin",
}
_MODULES = {"pyzmq": "zmq", "mpi4py": "mpi4py"}
_SERVER_START_S = 10.0
_MOST_S = 120.0
_ATTEMPTS = 3
# About the size of a run of one second, from the orientation figures of a two-core machine.
_BYTES_PER_S = 4e9
_MESSAGES_PER_S = 60_000
# The same over shared memory: round trips of the tests of latency, and puts.
_UCX_MESSAGES_PER_S = {"ucp_put_lat": 500_000, "tag_lat": 200_000}
_MOST_UCX_MESSAGES_PER_S = 10_000_000
_UCX_BYTES_PER_S = 10e9


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure: of a tool GB/s, seconds one way, or messages per second."""

    value: float
    command: str


def missing(name: str) -> str | None:
    """Say what is missing to run a tool; None when it is there."""
    if name in _MODULES and importlib.util.find_spec(_MODULES[name]) is None:
        return f"{name}: it is not installed (pip install {name})"
    program = _PROGRAMS.get(name)
    if program is None or shutil.which(program):
        return None
    return f"{name}: {program} is not installed (Debian: apt-get install {_PACKAGES[name]})"


def can_measure(name: str, run: Run) -> bool:
    """Return whether a tool has a figure that compares with the run."""
    if run.operation not in ("write", "read", "send") or name not in _MEASURES:
        return False
    if name == "perftest":
        return _device_of(run) is not None
    if name == "iperf3":
        return run.measure == "bandwidth"
    if name == "ucx":
        return not (run.is_latency and run.operation == "read")
    if name == "fi_pingpong":
        return run.measure != "rate" and not (run.is_latency and run.operation == "read")
    # A socket's round trip is also what a Read costs without RDMA.
    return run.measure != "rate"


def latency_label(name: str) -> str:
    """Return which of our latencies a tool's figure compares with.

    The mean, which all of them print but perftest, whose mean is that of its clock's outliers.
    """
    return "median" if name == "perftest" else "mean"


def measure(name: str, run: Run) -> Figure:
    """Run a tool once.

    Raises
    ------
    BenchError
        It is not installed, failed, or printed something else than expected.
    """
    lacking = missing(name)
    if lacking is not None:
        raise BenchError(lacking)
    try:
        return _MEASURES[name](run)
    except (OSError, subprocess.SubprocessError, ValueError, LookupError) as failure:
        raise BenchError(f"{name} failed: {failure}") from failure


def iperf3(seconds: int, length: int | None = None) -> Figure:
    """Run iperf3 once, with writes of so many bytes."""
    port = _free_port()
    client = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-t", str(seconds), "-J"]
    client += [] if length is None else ["-l", str(length)]
    with _server(["iperf3", "-s", "-1", "-B", "127.0.0.1", "-p", str(port)], port):
        report = json.loads(_output(client))
    if "error" in report:
        raise BenchError(f"iperf3 failed: {report['error']}")
    return Figure(report["end"]["sum_received"]["bits_per_second"] / 8e9, shlex.join(client))


@dataclasses.dataclass(frozen=True)
class _UcxFigures:
    median_us: float
    average_us: float
    gigabytes_per_s: float
    messages_per_s: float
    command: str


def _ucx_perftest(test: str, size: int, count: int, transports: str) -> _UcxFigures:
    port = _free_port()
    # "-f": final figures only; "-w": a tenth of the run, instead of 10000 messages of any size.
    common = ["-t", test, "-s", str(size)]
    common += ["-n", str(count), "-w", str(max(10, count // 10)), "-p", str(port), "-f"]
    environment = {"UCX_TLS": transports, "UCX_LOG_LEVEL": "error"}
    client = ["ucx_perftest", "127.0.0.1", *common]
    with _server(["ucx_perftest", *common], port, environment):
        text = _output(client, environment)
    # iterations, 50th percentile, average, overall us; average, overall MiB/s; the same in msg/s
    columns = [float(column) for column in text.splitlines()[-1].split()]
    command = f"UCX_TLS={transports} " + shlex.join(client)
    return _UcxFigures(columns[1], columns[3], columns[5] * (1 << 20) / 1e9, columns[7], command)


def _ucx(run: Run) -> Figure:
    test = "tag_lat" if run.is_latency else "tag_bw"
    found = _ucx_perftest(test, run.size, _count(run), "tcp")
    if run.is_latency:
        return Figure(found.average_us * 1e-6, found.command)
    if run.measure == "rate":
        return Figure(found.messages_per_s, found.command)
    return Figure(found.gigabytes_per_s, found.command)


def ucx_shared(test: str, size: int, seconds: float, iterations: int | None) -> Figure:
    """Run a test of UCX over shared memory once.

    Returns
    -------
    Figure
        Microseconds one way (the median) of a test of latency; else GB/s, or messages per second
        of 8 bytes.
    """
    per_s = min(_UCX_MESSAGES_PER_S.get(test, _MOST_UCX_MESSAGES_PER_S), _UCX_BYTES_PER_S / size)
    count = iterations or max(20, round(seconds * per_s))
    try:
        found = _ucx_perftest(test, size, count, "posix,cma,self")
    except (OSError, subprocess.SubprocessError, ValueError, LookupError) as failure:
        raise BenchError(f"UCX {test} failed: {failure}") from failure
    if test.endswith("_lat"):
        return Figure(found.median_us, found.command)
    return Figure(found.gigabytes_per_s if size > 8 else found.messages_per_s, found.command)


def _fi_pingpong(run: Run) -> Figure:
    return fi_pingpong(run, "tcp", "msg")


def fi_pingpong(run: Run, provider: str, endpoint: str) -> Figure:
    """Run fi_pingpong once over a provider of libfabric's; figures as `measure`."""
    port = _free_port()
    common = ["-p", provider, "-e", endpoint, "-S", str(run.size), "-I", str(_count(run))]
    client = ["fi_pingpong", *common, "-P", str(port), "127.0.0.1"]
    with _server(["fi_pingpong", *common, "-B", str(port)], port):
        text = _output(client)
    # bytes #sent #ack total time MB/sec usec/xfer Mxfers/sec
    columns = text.splitlines()[-1].split()
    transfer_us = float(columns[6])
    value = transfer_us * 1e-6 if run.is_latency else run.size / transfer_us / 1e3
    return Figure(value, shlex.join(client))


def has_device(adapter: str | None) -> bool:
    """Return whether an adapter's runs are over an RDMA device."""
    return _device_of(Run("write", "latency", 8, adapter=adapter)) is not None


def _device_of(run: Run) -> AdapterInfo | None:
    """Return the RDMA device of a run; None where its adapter needs none, or there is none."""
    name = run.adapter or ""
    devices = [info for info in adapters() if ":" in info.name]
    found = [info for info in devices if name in (info.name, info.provider)]
    return found[0] if found else None


def _perftest(run: Run) -> Figure:
    info = _device_of(run)
    assert info is not None
    program = f"ib_{run.operation}_{'lat' if run.is_latency else 'bw'}"
    # "-R": connected by rdma_cm, as ours are; "-F": a clock that varies is no reason to fail.
    common = [program, "-R", "-F", "-d", info.name.partition(":")[2], "-p", str(_free_port())]
    common += ["-s", str(run.size), "-n", str(_count(run))]
    if not run.is_latency:
        common += ["-t", str(run.depth)]
        if run.operation == "read":
            common += ["-o", str(min(16, info.max_outbound_read_limit))]
    client = [*common, info.addresses[0]]
    for _ in range(_ATTEMPTS):
        with _process(common) as server:
            text = _output_of_client(client, server)
        # bytes, iterations, then: least, most, median us | peak, average MiB/s, 10^6 messages/s
        rows = [line.split() for line in text.splitlines() if line.split()[:1] == [str(run.size)]]
        column, scale = {
            "latency": (4, 1e-6),
            "bandwidth": (3, (1 << 20) / 1e9),
            "rate": (4, 1e6),
        }[run.measure]
        # It takes its clock's rate anew at each start, and on a busy machine prints 0 at times.
        if value := float(rows[-1][column]) * scale:
            return Figure(value, shlex.join(client))
    raise BenchError(f"perftest printed 0 {_ATTEMPTS} times: {shlex.join(client)}")


def _output_of_client(client: Sequence[str], server: subprocess.Popen[bytes]) -> str:
    """Run a client until its server listens; no table shows where rdma_cm does."""
    until = time.monotonic() + _SERVER_START_S
    while True:
        try:
            return _output(client)
        except BenchError:
            if server.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.05)


def _socket(run: Run) -> Figure:
    kind = "lat" if run.is_latency else "bw"
    count = _count(run)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(_SERVER_START_S)
        arguments = [str(listener.getsockname()[1]), kind, str(run.size), str(count)]
        command = [sys.executable, "-m", "ndverbs.cli.bench.rivals", *arguments]
        with _process(command):
            stream, _ = listener.accept()
            with stream:
                stream.settimeout(_MOST_S)
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                elapsed = _socket_client(stream, kind, run.size, count)
    # A Read is a round trip, and so is a request with its answer.
    per_way = elapsed / count / (1 if run.operation == "read" else 2)
    value = per_way if run.is_latency else run.size * count / elapsed / 1e9
    return Figure(value, "python -m ndverbs.cli.bench.rivals PORT " + shlex.join(arguments[1:]))


def _socket_client(stream: socket.socket, kind: str, size: int, count: int) -> float:
    data = bytearray(size)
    begin = time.perf_counter()
    if kind == "lat":
        for _ in range(count):
            stream.sendall(data)
            _receive_all(stream, data)
    else:
        for _ in range(count):
            stream.sendall(data)
        _receive_all(stream, bytearray(1))
    return time.perf_counter() - begin


def _socket_peer(port: int, kind: str, size: int, count: int) -> None:
    data = bytearray(size)
    with socket.create_connection(("127.0.0.1", port), _SERVER_START_S) as stream:
        stream.settimeout(_MOST_S)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            _receive_all(stream, data)
            if kind == "lat":
                stream.sendall(data)
        if kind == "bw":
            stream.sendall(b"!")


def _receive_all(stream: socket.socket, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        taken = stream.recv_into(view)
        if taken == 0:
            raise EOFError("the socket's peer has closed")
        view = view[taken:]


_MEASURES: dict[str, Callable[[Run], Figure]] = {
    "iperf3": lambda run: iperf3(max(1, round(run.seconds))),
    "ucx": _ucx,
    "fi_pingpong": _fi_pingpong,
    "socket": _socket,
    "perftest": _perftest,
}


def _count(run: Run) -> int:
    """Return how many messages a run of about `seconds` has."""
    if run.iterations:
        return run.iterations
    per_s = min(_MESSAGES_PER_S, _BYTES_PER_S / run.size)
    if run.measure == "rate":
        per_s *= 20
    return max(20, round(run.seconds * per_s))


def _output(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_MOST_S,
        env={**os.environ, **(environment or {})},
        check=False,
    )
    if done.returncode != 0:
        # iperf3 puts its reason into the JSON on standard output.
        reason = (done.stderr.strip() or done.stdout.strip())[-300:]
        raise BenchError(f"{shlex.join(command)} ended with {done.returncode}: {reason}")
    return done.stdout


@contextlib.contextmanager
def _process(
    command: Sequence[str], environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )
    try:
        yield process
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextlib.contextmanager
def _server(
    command: Sequence[str], port: int, environment: dict[str, str] | None = None
) -> Iterator[None]:
    """Start a tool's server and wait until it listens."""
    with _process(command, environment) as process:
        until = time.monotonic() + _SERVER_START_S
        while not _is_listening(port):
            if process.poll() is not None or time.monotonic() > until:
                raise BenchError(f"{shlex.join(command)} did not start to listen")
            time.sleep(0.01)
        yield


def _is_listening(port: int) -> bool:
    """Look into the kernel's table: a trial connection would be taken for the client."""
    suffix = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[1].endswith(suffix) and fields[3] == "0A":
                    return True
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as trial:
        port: int = trial.getsockname()[1]
        return port


if __name__ == "__main__":
    with contextlib.suppress(OSError, EOFError):
        _socket_peer(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
