# SPDX-License-Identifier: Apache-2.0
"""The figures of Connections in ``ndverbs bench compare``, beside what Python offers for it.

The other end is this module run as a program, whose first line is its address. Over a Connection,
messages say what is to be answered: as many messages as a number tells, by a thread or by a loop.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from multiprocessing.connection import Connection as Channel
from multiprocessing.connection import Pipe
from typing import cast

import numpy as np

from ndverbs import _address
from ndverbs._native import Access, Adapter, Connector, Listener, MemoryRegion
from ndverbs.cli.bench.channel import BenchError
from ndverbs.cli.bench.rows import Row, own_row, rival_row
from ndverbs.cli.bench.runs import percentiles
from ndverbs.connection import Connection, RemoteArray, connect, listen
from ndverbs.errors import RdmaError
from ndverbs.remote import RemoteBuffer

_LIMIT_S = 30.0
# What is asked of the other end, and how many messages it is to answer.
_ASK = struct.Struct("=BQ")
_BY_THREAD, _BY_LOOP, _ACCEPT = range(3)
_SIZE = struct.Struct("=Q")
_ROUND_TRIPS = 20_000
_WARM_UP = 200
_LARGE = 64 << 20
_ROWS = 1024
_SHARED = Access.REMOTE_READ | Access.REMOTE_WRITE | Access.REMOTE_ATOMIC
_COMMAND = "ndverbs bench compare --only Connection:"


class Bench:
    """The two ends of a Connection, and those of its rivals, for as long as a stack is open."""

    def __init__(
        self, stack: contextlib.ExitStack, name: str | None, *, direct: bool, count: int | None
    ) -> None:
        self.count = count or _ROUND_TRIPS
        self.addresses = _start(stack, "serve", name or "", str(int(direct)))
        adapter = stack.enter_context(_open(name, direct=direct))
        self.connection = stack.enter_context(
            connect(self.addresses[0], adapter=adapter, timeout=_LIMIT_S)
        )
        self.remote = self.connection.receive_buffers(_LIMIT_S)

    def times(self, call: Callable[[], object], count: int | None = None) -> float:
        """Return the median seconds of a call, by windows that a clock does not slow down."""
        window = 100
        windows = max(1, (count or self.count) // window)
        clock = time.perf_counter
        samples = []
        for _ in range(windows):
            begin = clock()
            for _ in range(window):
                call()
            samples.append((clock() - begin) / window)
        return statistics.median(samples)

    def ask(self, what: int) -> None:
        """Have the other end answer by a thread or a loop, or accept a queue pair."""
        self.connection.send(_ASK.pack(what, self.count))
        self.connection.receive(_LIMIT_S)

    def round_trip(self, size: int) -> float:
        """Return the median seconds of a message and its answer, from threads that block."""
        self.ask(_BY_THREAD)
        data = bytes(size)
        send, receive = self.connection.send, self.connection.receive

        def there_and_back() -> None:
            send(data)
            receive(_LIMIT_S)

        return _median(_sampled(there_and_back, self.count))

    def awaited(self, size: int) -> list[float]:
        """Return the seconds of messages and their answers, from coroutines on both sides."""
        self.ask(_BY_LOOP)
        data = bytes(size)

        async def there_and_back() -> None:
            await self.connection.send(data)
            await self.connection.receive_async(_LIMIT_S)

        return asyncio.run(_sampled_async(there_and_back, self.count))


def _sampled(call: Callable[[], object], count: int) -> list[float]:
    clock = time.perf_counter
    samples = []
    for _ in range(count):
        begin = clock()
        call()
        samples.append(clock() - begin)
    return samples


async def _sampled_async(call: Callable[[], Awaitable[object]], count: int) -> list[float]:
    clock = time.perf_counter
    samples = []
    for _ in range(count):
        begin = clock()
        await call()
        samples.append(clock() - begin)
    return samples


def _median(samples: Sequence[float]) -> float:
    return percentiles(samples[min(_WARM_UP, len(samples) // 2) :])["median"]


def _start(stack: contextlib.ExitStack, *arguments: str, fds: Sequence[int] = ()) -> list[str]:
    """Start this module as a program, and return the addresses that it prints."""
    command = [sys.executable, "-m", "ndverbs.cli.bench.connections", *arguments]
    process = stack.enter_context(
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=list(fds)
        )
    )
    stack.callback(process.terminate)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise BenchError("the peer process did not start")
    return cast("list[str]", json.loads(line))


def _open(name: str | None, *, direct: bool) -> Adapter:
    return Adapter.open(name) if direct else Adapter.open(name, direct="off")


# ---- rivals ---------------------------------------------------------------------------------


def _pipe(stack: contextlib.ExitStack, size: int, count: int) -> Callable[[], float]:
    ours, theirs = Pipe()
    stack.enter_context(ours)
    with theirs:
        _start(stack, "pipe", str(theirs.fileno()), fds=[theirs.fileno()])
    data = bytes(size)

    def there_and_back() -> None:
        ours.send_bytes(data)
        ours.recv_bytes()

    return lambda: _median(_sampled(there_and_back, count))


def _asyncio(stack: contextlib.ExitStack, size: int, count: int) -> Callable[[], float]:
    host, _, port = _start(stack, "asyncio")[0].rpartition(":")
    data = bytes(size)

    async def measure() -> list[float]:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(_SIZE.pack(size))

        async def there_and_back() -> None:
            writer.write(data)
            await reader.readexactly(size)

        samples = await _sampled_async(there_and_back, count)
        writer.close()
        return samples

    return lambda: _median(asyncio.run(measure()))


# ---- the table ------------------------------------------------------------------------------


_AWAIT = "Connection: await 8 B and its answer"
_ROUND_TRIP = "Connection: send and receive, round trip 64 B"
_WRITE = "Connection: write of 64 MiB"
_CALLS = {  # microseconds, at most
    "Connection: write(...).result() of 8 B": 3.0,
    "Connection: get_item": 0.5,
    "Connection: fetch_add of an array": 0.5,
    "Connection: a row of write_many": 0.060,
}


def compared(
    args: argparse.Namespace,
    rounds: int,
    is_wanted: Callable[[str], bool],
    say: Callable[[str], None],
) -> Iterator[Row]:
    """Take the figures of Connections and of what they are compared with, in turn."""
    awaits = {f"{_AWAIT}, no direct path": 1.3, _AWAIT: 1.5}
    for direct, (title, target) in enumerate(awaits.items()):
        titles = [title, *((_ROUND_TRIP, _WRITE, *_CALLS) if direct else ())]
        if not any(map(is_wanted, titles)):
            continue
        with contextlib.ExitStack() as stack:
            bench = Bench(stack, args.adapter, direct=bool(direct), count=args.iterations)
            if is_wanted(title):
                yield from _awaited(stack, bench, title, rounds, target, say)
            if direct:
                yield from _own(stack, bench, rounds, is_wanted, say)


def _awaited(
    stack: contextlib.ExitStack,
    bench: Bench,
    title: str,
    rounds: int,
    target: float,
    say: Callable[[str], None],
) -> Iterator[Row]:
    rival = _asyncio(stack, 8, bench.count)
    ours: list[float] = []
    tails: list[float] = []
    theirs: list[float] = []
    for number in range(1, rounds + 1):
        say(f"{title}, run {number} of {rounds}")
        samples = sorted(bench.awaited(8)[min(_WARM_UP, bench.count // 2) :])
        ours.append(_median(samples) * 1e6)
        tails.append(ours[-1] / (samples[len(samples) * 9 // 10] * 1e6))
        theirs.append(rival() * 1e6)
    transport = bench.connection.transport
    yield own_row(title, ours, "us", _COMMAND, transport=transport)
    yield rival_row(
        f"{title} / asyncio streams over TCP", ours, theirs, "us", _COMMAND, target=target
    )
    yield own_row(f"{title}: median over 90th percentile", tails, "x", _COMMAND, target=0.5)


def _own(
    stack: contextlib.ExitStack,
    bench: Bench,
    rounds: int,
    is_wanted: Callable[[str], bool],
    say: Callable[[str], None],
) -> Iterator[Row]:
    c = bench.connection
    word, rows, large = (bench.remote[key] for key in ("word", "rows", "large"))
    one = c.adapter.alloc_array(8, np.uint8)
    many = c.adapter.alloc_array((_ROWS, 8), np.uint8)
    whole = c.adapter.alloc_array(_LARGE, np.uint8)
    _, _, source = [stack.enter_context(c.register(array)) for array in (one, many, whole)]
    spans = np.full((_ROWS, 3), 8, np.uint64)  # local offset, remote offset, length
    spans[:, 0] = spans[:, 1] = 8 * np.arange(_ROWS)
    array = RemoteArray(c, word)
    few = max(1, bench.count // _ROWS)

    def write_large() -> None:
        c.write(whole, large).result(_LIMIT_S)

    def per_row() -> float:
        each = bench.times(lambda: c.write_many(many, rows, spans).result(_LIMIT_S), few)
        return each / _ROWS

    calls: list[Callable[[], float]] = [
        lambda: bench.times(lambda: c.write(one, word).result(_LIMIT_S)),
        lambda: bench.times(lambda: array.get_item(0)),
        lambda: bench.times(lambda: array.fetch_add(0, 1)),
        per_row,
    ]
    for (title, target), take in zip(_CALLS.items(), calls, strict=True):
        if is_wanted(title):
            values = []
            for number in range(1, rounds + 1):
                say(f"{title}, run {number} of {rounds}")
                values.append(take() * 1e6)
            yield own_row(title, values, "us", _COMMAND, target=target, transport=c.transport)
    if is_wanted(_ROUND_TRIP):
        pipe = _pipe(stack, 64, bench.count)
        ours, theirs = lambda: bench.round_trip(64) * 1e6, lambda: pipe() * 1e6
        yield from _beside(
            _ROUND_TRIP, "us", ours, "multiprocessing.Pipe", theirs, 1.0, rounds, say
        )
    if is_wanted(_WRITE):
        native = _native_write(stack, bench, source, large)
        ours, theirs = lambda: _speed(write_large), lambda: _speed(native)
        yield from _beside(_WRITE, "GB/s", ours, "the native call", theirs, 0.95, rounds, say)


def _speed(call: Callable[[], object]) -> float:
    call()
    return _LARGE / statistics.median(_sampled(call, 8)) / 1e9


def _beside(
    title: str,
    unit: str,
    take: Callable[[], float],
    rival: str,
    take_rival: Callable[[], float],
    target: float,
    rounds: int,
    say: Callable[[str], None],
) -> Iterator[Row]:
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(1, rounds + 1):
        say(f"{title}, run {number} of {rounds}")
        ours.append(take())
        theirs.append(take_rival())
    yield own_row(title, ours, unit, _COMMAND)
    yield rival_row(f"{title} / {rival}", ours, theirs, unit, _COMMAND, target=target)


def _native_write(
    stack: contextlib.ExitStack, bench: Bench, source: MemoryRegion, target: RemoteBuffer
) -> Callable[[], None]:
    """Connect a queue pair beside the Connection, and return a call that writes by it alone."""
    enter = stack.enter_context
    adapter = bench.connection.adapter
    cq = enter(adapter.create_cq(256))
    qp = enter(bench.connection.pd.create_qp(cq, cq))
    connector = enter(adapter.create_connector())
    bench.ask(_ACCEPT)
    connector.connect(qp, None, bench.addresses[1], timeout=_LIMIT_S)
    connector.complete_connect(timeout=_LIMIT_S)

    def write() -> None:
        qp.write(source, target)
        while not (results := cq.poll()):
            cq.wait(_LIMIT_S)
        if results[0].status != 0:
            raise BenchError(f"a write ended with {results[0].status.name}")

    return write


# ---- the other end --------------------------------------------------------------------------


def _serve(name: str, direct: str) -> None:
    with (
        _open(name or None, direct=direct == "1") as adapter,
        adapter.create_listener() as listener,
        listen((adapter.info.addresses[0], 0), adapter=adapter) as server,
    ):
        listener.listen((adapter.info.addresses[0], 0))
        print(json.dumps([server.address, _address.text(listener.local_address)]), flush=True)
        with server.accept(_LIMIT_S) as connection, contextlib.suppress(RdmaError):
            arrays = {
                "word": adapter.alloc_array(1, np.uint64),
                "rows": adapter.alloc_array((_ROWS, 8), np.uint8),
                "large": adapter.alloc_array(_LARGE, np.uint8),
            }
            regions = {key: connection.register(each, _SHARED) for key, each in arrays.items()}
            connection.send({key: region.remote() for key, region in regions.items()})
            _answer(connection, listener)


def _answer(connection: Connection, listener: Listener) -> None:
    """Do what messages ask for until the end, which raises."""
    with contextlib.ExitStack() as stack:
        while True:
            what, count = _ASK.unpack(connection.receive())
            connection.send(b"")
            if what == _BY_THREAD:
                for _ in range(count):
                    connection.send(connection.receive())
            elif what == _BY_LOOP:
                asyncio.run(_echo(connection, count))
            else:
                enter = stack.enter_context
                cq = enter(connection.adapter.create_cq(256))
                qp = enter(connection.pd.create_qp(cq, cq))
                connector: Connector = enter(listener.get_connector(timeout=_LIMIT_S))
                connector.accept(qp, timeout=_LIMIT_S)


async def _echo(connection: Connection, count: int) -> None:
    for _ in range(count):
        await connection.send(await connection.receive_async())


def _serve_pipe(fd: str) -> None:
    channel = Channel(int(fd))
    print(json.dumps([]), flush=True)
    with contextlib.suppress(EOFError):
        while True:
            channel.send_bytes(channel.recv_bytes())


async def _serve_asyncio() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                writer.write(await reader.readexactly(size))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        print(json.dumps([_address.text(server.sockets[0].getsockname())]), flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        _serve(*sys.argv[2:])
    elif sys.argv[1] == "pipe":
        _serve_pipe(*sys.argv[2:])
    else:
        asyncio.run(_serve_asyncio())
