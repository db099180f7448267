# SPDX-License-Identifier: Apache-2.0
"""Comms over ndverbs beside what distributed asks: lent frames, pooled memory, bounded ends."""

import asyncio
import subprocess
import sys

import dask
import numpy as np
import pytest
from distributed.comm import CommClosedError, connect
from distributed.comm.core import FatalCommClosedError
from distributed.protocol import to_serialize

import ndverbs as nd
import ndverbs.dask
from conformance.end import LIMIT
from ndverbs.connection._memory import Pool
from ndverbs.dask import bench

MIB = 1 << 20


@pytest.fixture
def protocol():
    return "ndverbs"


def test_a_large_frame_moves_when_it_is_read_and_not_before(with_pair):
    array = np.zeros(MIB, np.uint8)

    async def body(a, b):
        await a.write({"x": to_serialize(array)})
        await a.write("small")
        array[:] = 7  # which a copy would not have
        before = b.connection.stats()["bytes_taken"]
        got = (await b.read())["x"]
        return before, b.connection.stats()["bytes_taken"], int(got.min())

    before, after, least = with_pair(body)
    assert before == 0
    assert after == MIB
    assert least == 7


def test_every_large_frame_has_aligned_memory_of_its_own(with_pair):
    async def body(a, b):
        await a.write([to_serialize(np.full(100_001, i, np.uint8)) for i in range(4)])
        return await b.read()

    arrays = with_pair(body)
    addresses = sorted(array.ctypes.data for array in arrays)
    assert [address % 64 for address in addresses] == [0] * 4
    assert all(np.diff(addresses) >= 100_001)
    assert [int(array[-1]) for array in arrays] == [0, 1, 2, 3]


def test_memory_that_is_kept_for_later_has_a_limit(with_pair, monkeypatch):
    monkeypatch.setattr(Pool, "MOST_BYTES", 4 * MIB)

    async def body(a, b):
        for _ in range(8):
            await a.write(to_serialize(np.zeros(2 * MIB, np.uint8)))
        arrays = [await b.read() for _ in range(8)]
        arrays.clear()
        return b.connection.stats()["pooled_bytes"]

    assert with_pair(body) == 4 * MIB


def test_a_close_whose_peer_reads_nothing_ends_in_time(with_pair):
    async def body(a, b):
        await a.write({"x": to_serialize(np.zeros(MIB, np.uint8))})
        with dask.config.set({"distributed.comm.timeouts.tcp": "50 ms"}):
            await a.close()
        assert a.closed()
        with pytest.raises(CommClosedError):
            await b.read()

    with_pair(body)


def test_a_comm_whose_peer_is_killed_is_closed_although_none_reads(in_loop):
    async def body():
        child = subprocess.Popen(
            [sys.executable, "-m", "ndverbs.dask.bench", "--serve", "ndverbs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with child:
            comm = await connect((await asyncio.to_thread(child.stdout.readline)).strip())
            await comm.write({"op": "get", "nbytes": MIB})
            assert len((await comm.read())["data"]) == MIB
            child.kill()
            while not comm.closed():
                await asyncio.sleep(0)
        with pytest.raises(CommClosedError):
            await comm.read()

    in_loop(body())


def test_a_listener_of_another_version_is_asked_once(in_loop, monkeypatch):
    asked = []

    async def refuse(address, **_):
        asked.append(address)
        raise nd.RdmaError(nd.Status.NOT_SUPPORTED, "the peer's speaks 2")

    monkeypatch.setattr("ndverbs.dask._backend.connect_async", refuse)
    with pytest.raises(FatalCommClosedError, match="the peer's speaks 2"):
        in_loop(connect("ndverbs://127.0.0.1:1", timeout=LIMIT))
    assert asked == [("127.0.0.1", 1)]


def test_a_comm_says_what_carries_it(with_pair):
    async def body(a, b):
        await a.write("hello")
        await b.read()
        assert a.extra_info["transport"] == a.connection.transport
        return a.local_address, ndverbs.dask.comms()

    local, rows = with_pair(body)
    (row,) = [row for row in rows if row["local"] == local]
    assert row["transport"]
    assert row["messages_sent"] == 2  # one was of the handshake
    assert ndverbs.dask.comms() == []


def test_the_bench_compares_three_ways(in_loop):
    head, tiny, large, processor = in_loop(bench.compare(1, [0, MIB]))
    assert [word for word in head.split() if not word.startswith("(")] == [
        "frame",
        "tcp",
        "direct",
        "off",
    ]
    assert tiny.split()[0] == "tiny"
    assert large.split()[0] == "1MiB"
    assert processor.split()[0] == "processor"
    assert all(line.count(" x") == 3 for line in (tiny, large, processor))
