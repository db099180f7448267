# SPDX-License-Identifier: Apache-2.0
"""``ndverbs bench stream``: streams between two processes, beside what Python offers for it.

The other end is this module run as a program. It serves one connection, over which each
measurement begins with a header that says what is to be run. With mpi4py both ends are, because a
process cannot join MPI later.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shlex
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from typing import Any, Protocol, cast

from ndverbs._native import Stream
from ndverbs._sharing import adapter_for
from ndverbs.cli.bench.channel import BenchError
from ndverbs.cli.bench.rivals import iperf3
from ndverbs.cli.bench.rows import Row, own_row, rival_row
from ndverbs.cli.bench.runs import percentiles
from ndverbs.socket import Socket

_HEADER = struct.Struct("=BBQQ")  # latency?, in Python?, size, total or count
_CPU = struct.Struct("=d")  # seconds of the end that answers
_SINK_SIZE = 128 * 1024
_WARM_UP = 200
_MOST_S = 120.0


class Pipeline(Protocol):
    """What the loops need: a socket's calls. Where messages travel, each call moves one whole."""

    def sendall(self, data: Any, /) -> object:
        """Send all of it."""

    def recv(self, size: int, /) -> bytes:
        """Receive up to so many bytes."""

    def recv_into(self, buffer: Any, /) -> int:
        """Receive what fits; return how much."""


class _Pipe:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.sendall = connection.send_bytes
        self.recv_into = connection.recv_bytes_into

    def recv(self, size: int) -> bytes:
        return self._connection.recv_bytes(size)


class _Zmq:
    def __init__(self, pair: Any) -> None:
        self._pair = pair

    def sendall(self, data: Any) -> None:
        self._pair.send(data, copy=False)

    def recv(self, size: int) -> bytes:
        return cast("bytes", self._pair.recv())

    def recv_into(self, buffer: Any) -> int:
        return len(self._pair.recv(copy=False))


class _Mpi:
    def __init__(self) -> None:
        self._mpi: Any = importlib.import_module("mpi4py.MPI")
        self._world = self._mpi.COMM_WORLD
        self.rank: int = self._world.Get_rank()

    def sendall(self, data: Any) -> None:
        self._world.Send([data, self._mpi.BYTE], dest=1 - self.rank)

    def recv(self, size: int) -> bytes:
        buffer = bytearray(size)
        return bytes(buffer[: self.recv_into(buffer)])

    def recv_into(self, buffer: Any) -> int:
        status = self._mpi.Status()
        self._world.Recv([buffer, self._mpi.BYTE], source=1 - self.rank, status=status)
        return int(status.Get_count(self._mpi.BYTE))


# ---- the loops ------------------------------------------------------------------------------


def _read(sock: Pipeline, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise BenchError("the peer ended in the middle of a run")
        data += piece
    return data


def _source(sock: Pipeline, size: int, total: int) -> float:
    data = bytes(size)
    begin = time.perf_counter()
    for _ in range(total // size):
        sock.sendall(data)
    _read(sock, 1)
    return time.perf_counter() - begin


def _sink(sock: Pipeline, size: int, total: int) -> None:
    buffer = memoryview(bytearray(max(size, _SINK_SIZE)))
    done = 0
    while done < total:
        got = sock.recv_into(buffer)
        if not got:
            raise BenchError("the peer ended in the middle of a run")
        done += got
    sock.sendall(b"\1")


def _ping(sock: Pipeline, size: int, count: int) -> list[float]:
    data = bytes(size)
    samples = []
    clock = time.perf_counter
    for _ in range(count):
        begin = clock()
        sock.sendall(data)
        got = len(sock.recv(size))
        while got < size:
            got += len(sock.recv(size - got))
        samples.append(clock() - begin)
    return samples


def _echo(sock: Pipeline, size: int, count: int) -> None:
    for _ in range(count):
        sock.sendall(_read(sock, size))


class StreamRun:
    """What one measurement is: `amount` round trips, or bytes."""

    def __init__(self, is_latency: bool, size: int, iterations: int | None) -> None:
        self.is_latency = is_latency
        self.size = size
        wished = iterations or (20_000 if is_latency else (2 << 30) // size)
        self.amount: int = wished if is_latency else max(1, wished) * size


def _initiate(sock: Pipeline, is_native: bool, run: StreamRun) -> dict[str, float]:
    """Run one measurement; return GB/s and processor time, or microseconds of a round trip."""
    size, amount = run.size, run.amount
    sock.sendall(_HEADER.pack(run.is_latency, not is_native, size, amount))
    _read(sock, 1)
    stream = _stream_of(sock) if is_native else None
    if run.is_latency:
        samples = stream._bench_ping(size, amount) if stream else _ping(sock, size, amount)
        found = percentiles(samples[min(_WARM_UP, amount // 2) :])
        labels = {"median": "median", "p99": "p99", "p999": "p99.9"}
        return {label: found[key] * 1e6 for key, label in labels.items()}
    cpu = time.process_time()
    elapsed = stream._bench_source(size, amount) if stream else _source(sock, size, amount)
    cpu = time.process_time() - cpu
    cpu += _CPU.unpack(_read(sock, _CPU.size))[0]
    return {"": amount / elapsed / 1e9, "CPU of both ends": cpu / (amount / 1e9)}


def _serve(sock: Pipeline) -> None:
    """Answer measurements until the other end is gone, or asks for one of nothing."""
    while True:
        is_latency, is_python, size, amount = _HEADER.unpack(_read(sock, _HEADER.size))
        if not size:
            return
        sock.sendall(b"\1")
        stream = None if is_python else _stream_of(sock)
        if is_latency:
            stream._bench_echo(size, amount) if stream else _echo(sock, size, amount)
        else:
            cpu = time.process_time()
            stream._bench_sink(amount) if stream else _sink(sock, size, amount)
            sock.sendall(_CPU.pack(time.process_time() - cpu))


def _stream_of(sock: Pipeline) -> Stream | None:
    return sock._stream if isinstance(sock, Socket) else None


# ---- the ways -------------------------------------------------------------------------------

# How a way takes a measurement, once it is open.
Taker = Callable[[StreamRun], dict[str, float]]


def taker(stack: contextlib.ExitStack, way: str, adapter: str | None) -> Taker:
    """Open a way for as long as the stack is.

    Parameters
    ----------
    way : str
        "native" or "Python", which are ours; "socket" (TCP), "unix", "pipe", "pyzmq", "mpi4py" or
        "iperf3".
    """
    if way == "iperf3":
        return lambda run: {"": iperf3(1, run.size).value}
    if way == "mpi4py":
        return _by_mpi
    if way == "pipe":
        ours, theirs = Pipe()
        stack.enter_context(ours)
        with theirs:
            stack.enter_context(_process(way, str(theirs.fileno()), pass_fds=[theirs.fileno()]))
        return lambda run: _initiate(_Pipe(ours), False, run)
    argument = adapter or ""
    if way == "pyzmq":
        argument = "ipc://" + stack.enter_context(tempfile.TemporaryDirectory()) + "/pair"
    process = stack.enter_context(_process(way, argument))
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise BenchError("the peer process did not start")
    address = json.loads(line)
    if way == "pyzmq":
        pair = stack.enter_context(_zmq_pair())
        pair.connect(address)
        return lambda run: _initiate(_Zmq(pair), False, run)
    sock: Any = stack.enter_context(_make(way, adapter))
    sock.connect(address.encode("latin-1") if way == "unix" else tuple(address))
    _prepare(sock)
    return lambda run: _initiate(sock, way == "native", run)


def _by_mpi(run: StreamRun) -> dict[str, float]:
    arguments = [str(int(run.is_latency)), str(run.size), str(run.amount)]
    command = ["mpiexec", "-n", "2", sys.executable, "-m", __name__, "mpi4py", *arguments]
    # Open MPI asks root for these two; others know nothing of them.
    consent = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_MOST_S,
        env={**os.environ, **consent},
        check=False,
    )
    if done.returncode != 0:
        raise BenchError(f"{shlex.join(command)} failed: {done.stderr.strip()[-300:]}")
    return cast("dict[str, float]", json.loads(done.stdout))


def _zmq_pair() -> Any:
    zmq: Any = importlib.import_module("zmq")
    return zmq.Context.instance().socket(zmq.PAIR)


def _make(way: str, adapter: str | None) -> Any:
    if way == "unix":
        return socket.socket(socket.AF_UNIX)
    return socket.socket() if way == "socket" else Socket(adapter=adapter)


def _prepare(sock: Any) -> Any:
    if isinstance(sock, socket.socket) and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@contextlib.contextmanager
def _process(
    way: str, argument: str, pass_fds: list[int] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "ndverbs.cli.bench.stream", way, argument]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=pass_fds or ()
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


# ---- the report -----------------------------------------------------------------------------


def rows(args: argparse.Namespace, say: Callable[[str], None]) -> list[Row]:
    """Take the figures of one command, ours and theirs in turn, as rows of the report."""
    found: list[Row] = []
    measures = [kind for kind, on in ((False, args.bw), (True, args.lat)) if on] or [False, True]
    ours = "Python" if args.python else "native"
    with contextlib.ExitStack() as stack:
        _kept = adapter_for(args.adapter)  # open between the connections
        mine = taker(stack, ours, args.adapter)
        theirs = {name: taker(stack, name, None) for name in args.against}
        for is_latency in measures:
            for size in args.sizes or [64 if is_latency else 65536]:
                run = StreamRun(is_latency, size, args.iterations)
                rivals = {
                    name: take
                    for name, take in theirs.items()
                    if not (is_latency and name == "iperf3")
                }
                found += _rows(args, run, ours, mine, rivals, say)
    return found


def _rows(
    args: argparse.Namespace,
    run: StreamRun,
    ours: str,
    mine: Taker,
    rivals: dict[str, Taker],
    say: Callable[[str], None],
) -> Iterator[Row]:
    taken: list[dict[str, float]] = []
    theirs: dict[str, list[float]] = {name: [] for name in rivals}
    main = "median" if run.is_latency else ""
    title = f"stream {'round trip' if run.is_latency else 'bandwidth'} {run.size} B"
    title += " Python" * (ours == "Python")
    for number in range(1, args.runs + 1):
        what = f"{title}, run {number} of {args.runs}"
        say(what)
        taken.append(mine(run))
        for name, take in rivals.items():
            say(f"{what}: {name}")
            theirs[name].append(take(run)[main])
    command = command_of(run, ours, args.adapter)
    unit = "us" if run.is_latency else "GB/s"
    for label in taken[0]:
        values = [each[label] for each in taken]
        yield own_row(
            f"{title} {label}".rstrip(), values, "s/GB" if "CPU" in label else unit, command
        )
    for name, figures in theirs.items():
        target = None
        if name == "iperf3" and ours == "native" and run.size == 65536:
            target = 0.9
        elif name == "socket" and ours == "Python":
            target = 1.0
        yield rival_row(
            f"{title} {main}".rstrip() + f" / {name}",
            [each[main] for each in taken],
            figures,
            unit,
            f"{command} --against {name}",
            target=target,
        )


def command_of(run: StreamRun, ours: str, adapter: str | None) -> str:
    """Return the command line that takes this figure alone."""
    command = f"ndverbs bench stream {'--lat' if run.is_latency else '--bw'} --sizes {run.size}"
    command += " --python" * (ours == "Python")
    return command + (f" --adapter {adapter}" if adapter else "")


# ---- the other end --------------------------------------------------------------------------


def _main(way: str, *arguments: str) -> None:
    if way == "mpi4py":
        _main_of_mpi(*arguments)
        return
    (argument,) = arguments
    with contextlib.suppress(BenchError, ConnectionError, EOFError):
        if way == "pipe":
            _serve(_Pipe(Connection(int(argument))))
        elif way == "pyzmq":
            with _zmq_pair() as pair:
                pair.bind(argument)
                print(json.dumps(argument), flush=True)
                _serve(_Zmq(pair))
        else:
            _serve_socket(way, argument or None)


def _main_of_mpi(is_latency: str, size: str, amount: str) -> None:
    world = _Mpi()
    run = StreamRun(bool(int(is_latency)), int(size), None)
    run.amount = int(amount)
    if world.rank == 1:
        _serve(world)
        return
    print(json.dumps(_initiate(world, False, run)))
    world.sendall(_HEADER.pack(0, 1, 0, 0))


def _serve_socket(way: str, adapter: str | None) -> None:
    with _make(way, adapter) as server:
        if way == "unix":
            server.bind("")  # the kernel finds a name that is no file
        else:
            host = server._adapter.info.addresses[0] if isinstance(server, Socket) else "127.0.0.1"
            server.bind((host, 0))
        server.listen()
        name = server.getsockname()
        print(json.dumps(name.decode("latin-1") if way == "unix" else name), flush=True)
        connection, _ = server.accept()
        with _prepare(connection):
            _serve(connection)


if __name__ == "__main__":
    _main(*sys.argv[1:])
