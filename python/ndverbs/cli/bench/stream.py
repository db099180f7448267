# SPDX-License-Identifier: Apache-2.0
"""``ndverbs bench stream``: streams between two processes, beside iperf3 and plain sockets.

The peer is this module run as a program. It listens, prints its port, and serves one connection
after the other; each begins with a header that says what is to be run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Literal, TypeAlias

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

Kind = Literal["native", "Python", "socket"]
AnySocket: TypeAlias = Socket | socket.socket


def _read(sock: AnySocket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise BenchError("the peer ended in the middle of a run")
        data += piece
    return data


def _source(sock: AnySocket, size: int, total: int) -> float:
    data = bytes(size)
    begin = time.perf_counter()
    for _ in range(total // size):
        sock.sendall(data)
    _read(sock, 1)
    return time.perf_counter() - begin


def _sink(sock: AnySocket, total: int) -> None:
    buffer = memoryview(bytearray(_SINK_SIZE))
    done = 0
    while done < total:
        got = sock.recv_into(buffer)
        if not got:
            raise BenchError("the peer ended in the middle of a run")
        done += got
    sock.sendall(b"\1")


def _ping(sock: AnySocket, size: int, count: int) -> list[float]:
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


def _echo(sock: AnySocket, size: int, count: int) -> None:
    for _ in range(count):
        sock.sendall(_read(sock, size))


def _initiate(
    sock: AnySocket, is_native: bool, is_latency: bool, size: int, amount: int
) -> list[float]:
    """Run one measurement over a fresh connection.

    Returns
    -------
    list of float
        Seconds of each round trip; or those of the transfer, and processor time of both ends.
    """
    sock.sendall(_HEADER.pack(is_latency, not is_native, size, amount))
    _read(sock, 1)
    stream = _stream_of(sock) if is_native else None
    if is_latency:
        samples = stream._bench_ping(size, amount) if stream else _ping(sock, size, amount)
        return samples[min(_WARM_UP, amount // 2) :]
    cpu = time.process_time()
    elapsed = stream._bench_source(size, amount) if stream else _source(sock, size, amount)
    cpu = time.process_time() - cpu
    return [elapsed, cpu + _CPU.unpack(_read(sock, _CPU.size))[0]]


def _serve(sock: AnySocket) -> None:
    is_latency, is_python, size, amount = _HEADER.unpack(_read(sock, _HEADER.size))
    sock.sendall(b"\1")
    stream = None if is_python else _stream_of(sock)
    if is_latency:
        stream._bench_echo(size, amount) if stream else _echo(sock, size, amount)
    else:
        cpu = time.process_time()
        stream._bench_sink(amount) if stream else _sink(sock, amount)
        sock.sendall(_CPU.pack(time.process_time() - cpu))
    sock.recv(1)  # the other end closes first


def _stream_of(sock: AnySocket) -> Stream | None:
    return sock._stream if isinstance(sock, Socket) else None


def _make(kind: str, adapter: str | None) -> AnySocket:
    return socket.socket() if kind == "socket" else Socket(adapter=adapter)


def _prepare(sock: AnySocket) -> AnySocket:
    if isinstance(sock, socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


@contextlib.contextmanager
def _peer(kind: Kind, adapter: str | None) -> Iterator[tuple[str, int]]:
    command = [sys.executable, "-m", "ndverbs.cli.bench.stream", kind, adapter or ""]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise BenchError("the peer process did not start")
            host, port = json.loads(line)
            yield host, port
        finally:
            process.terminate()


def _figures(kind: Kind, address: tuple[str, int], run: _Run) -> dict[str, float]:
    """Return GB/s and processor time, or microseconds of a round trip, by what the row says."""
    with _make(kind, run.adapter) as sock:
        sock.connect(address)
        _prepare(sock)
        outcome = _initiate(sock, kind == "native", run.is_latency, run.size, run.amount)
    if run.is_latency:
        found = percentiles(outcome)
        labels = {"median": "median", "p99": "p99", "p999": "p99.9"}
        return {label: found[key] * 1e6 for key, label in labels.items()}
    elapsed, cpu = outcome
    gigabytes = run.amount / 1e9
    return {"": gigabytes / elapsed, "CPU of both ends": cpu / gigabytes}


class _Run:
    def __init__(self, args: argparse.Namespace, is_latency: bool, size: int) -> None:
        self.adapter: str | None = args.adapter
        self.is_latency = is_latency
        self.size = size
        wished = args.iterations or (20_000 if is_latency else (2 << 30) // size)
        self.amount: int = wished if is_latency else max(1, wished) * size


def rows(args: argparse.Namespace) -> list[Row]:
    """Take the figures of one command, ours and theirs in turn, as rows of the report."""
    found: list[Row] = []
    measures = [kind for kind, on in ((False, args.bw), (True, args.lat)) if on] or [False, True]
    runs = [
        _Run(args, is_latency, size)
        for is_latency in measures
        for size in args.sizes or [64 if is_latency else 65536]
    ]
    ours: Kind = "Python" if args.python else "native"
    with contextlib.ExitStack() as stack:
        _kept = adapter_for(args.adapter)  # open between the connections
        address = stack.enter_context(_peer(ours, args.adapter))
        rival = stack.enter_context(_peer("socket", None)) if "socket" in args.against else None
        for run in runs:
            mine: list[dict[str, float]] = []
            theirs: dict[str, list[float]] = {}
            main = "median" if run.is_latency else ""
            for _ in range(args.runs):
                mine.append(_figures(ours, address, run))
                if rival is not None:
                    theirs.setdefault("socket", []).append(_figures("socket", rival, run)[main])
                if "iperf3" in args.against and not run.is_latency:
                    theirs.setdefault("iperf3", []).append(iperf3(1, run.size).value)
            found += _rows_of(args, run, mine, theirs, ours)
    return found


def _rows_of(
    args: argparse.Namespace,
    run: _Run,
    mine: list[dict[str, float]],
    theirs: dict[str, list[float]],
    ours: Kind,
) -> Iterator[Row]:
    title = f"stream {'round trip' if run.is_latency else 'bandwidth'} {run.size} B"
    title += " Python" * (ours == "Python")
    command = f"ndverbs bench stream {'--lat' if run.is_latency else '--bw'} --sizes {run.size}"
    command += " --python" * (ours == "Python")
    command += f" --adapter {args.adapter}" if args.adapter else ""
    unit = "us" if run.is_latency else "GB/s"
    for label in mine[0]:
        values = [each[label] for each in mine]
        yield own_row(
            f"{title} {label}".rstrip(), values, "s/GB" if "CPU" in label else unit, command
        )
    main = next(iter(mine[0]))
    for name, figures in theirs.items():
        target = None
        if name == "iperf3" and ours == "native" and run.size == 65536:
            target = 0.9
        elif name == "socket" and ours == "Python":
            target = 1.0
        yield rival_row(
            f"{title} {main}".rstrip() + f" / {name}",
            [each[main] for each in mine],
            figures,
            unit,
            f"{command} --against {name}",
            target=target,
        )


def _main(kind: str, adapter: str | None) -> None:
    with _make(kind, adapter) as server:
        host = server._adapter.info.addresses[0] if isinstance(server, Socket) else "127.0.0.1"
        server.bind((host, 0))
        server.listen()
        print(json.dumps(server.getsockname()), flush=True)
        while True:
            connection, _ = server.accept()
            with _prepare(connection), contextlib.suppress(BenchError, ConnectionError):
                _serve(connection)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2] or None)
