# SPDX-License-Identifier: Apache-2.0
"""What only numbers show: memory that stays bounded, and connections that leave nothing.

`make soak` repeats it with more effort: 4 GiB among 8 workers, 10 000 connections.
"""

import gc
import os
import resource
import sys

import cloudpickle
import numpy as np
import pytest
from distributed import Client, LocalCluster, wait
from distributed.comm import connect, listen

MIB = 1 << 20
POOL_LIMIT = 16 * MIB
PART = 4 * MIB
# Threads, sockets and the interpreter's own objects of a worker that has something to do.
SLACK = 64 * MIB

pytestmark = pytest.mark.slow


def limit_pool(nbytes):
    from ndverbs.connection._memory import Pool

    Pool.MOST_BYTES = nbytes


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def begin_to_watch():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak counts from here
    return resident()


def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))


def test_an_exchange_among_workers_takes_the_data_and_the_pool(scaled):
    count = min(8, scaled(2))
    parts = scaled(21)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import it
    with (
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            memory_limit=None,
            protocol="ndverbs",
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        workers = list(client.scheduler_info(n_workers=-1)["workers"])
        client.run(limit_pool, POOL_LIMIT)
        places = [workers[i % count] for i in range(parts)]
        others = [workers[(i + 1) % count] for i in range(parts)]
        arrays = [
            client.submit(np.full, PART, i % 251, np.uint8, workers=[place], pure=False)
            for i, place in enumerate(places)
        ]
        wait(arrays)
        before = client.run(begin_to_watch)
        firsts = [
            client.submit(lambda x: int(x[-1]), array, workers=[other])
            for array, other in zip(arrays, others, strict=True)
        ]
        assert client.gather(firsts) == [i % 251 for i in range(parts)]
        after = client.run(peak)
        received = client.run(
            lambda dask_worker: sum(e["total"] for e in dask_worker.transfer_incoming_log)
        )
    assert sum(received.values()) >= PART * parts
    for worker in workers:
        beyond = after[worker] - before[worker] - received[worker]
        assert beyond <= POOL_LIMIT + SLACK, f"{beyond >> 20} MiB beyond the data"


def test_connections_that_are_closed_leave_no_descriptor_and_no_memory(in_loop, scaled):
    rounds = scaled(20)

    async def handle(comm):
        assert await comm.read() == "hello"
        await comm.close()

    async def one(address):
        comm = await connect(address)
        await comm.write("hello")
        await comm.close()

    async def body():
        found = []
        async with listen("ndverbs://127.0.0.1", handle) as listener:
            for i in range(rounds):
                for _ in range(10):
                    await one(listener.contact_address)
                if i in (rounds // 2, rounds - 1):
                    gc.collect()
                    found.append((len(os.listdir("/proc/self/fd")), resident()))
        return found

    (fds, memory), (fds_after, memory_after) = in_loop(body())
    assert fds_after <= fds
    assert memory_after - memory < MIB
