# SPDX-License-Identifier: Apache-2.0
"""Clusters of Dask whose comms are ndverbs': their jobs, and what a killed worker does to them."""

import contextlib
import gc
import os
import re
import signal
import subprocess
import sys

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import Client, Event, LocalCluster

import ndverbs.dask
from conftest import native_objects

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_native_object_is_left():
    """Leave it to `no_native_object_is_left`: a cluster lives longer than a test."""


@pytest.fixture(autouse=True)
def _adapters_are_closed():
    """Leave it, too."""


@pytest.fixture(scope="module")
def no_native_object_is_left(close_adapters):
    """Check it when the clusters have gone."""
    yield
    gc.collect()
    close_adapters()
    assert native_objects() == {}


@pytest.fixture(scope="module", params=[True, False], ids=["processes", "threads"])
def client(request, no_native_object_is_left):
    """Give the client of a cluster of two workers, in processes or in this one."""
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=request.param,
            protocol="ndverbs",
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_every_address_is_of_ndverbs(client):
    info = client.scheduler_info()
    assert info["address"].startswith("ndverbs://127.0.0.1:")
    assert all(address.startswith("ndverbs://127.0.0.1:") for address in info["workers"])
    rows = client.run(ndverbs.dask.comms)
    assert all(len(each) >= 1 for each in rows.values())
    for row in [row for each in rows.values() for row in each]:
        assert row["peer"].startswith("ndverbs://")
        assert row["messages_sent"] > 0


def test_an_array_goes_from_worker_to_worker(client):
    first, second = client.scheduler_info()["workers"]
    array = client.submit(np.full, 1 << 20, 7.0, workers=[first])
    total = client.submit(np.sum, array, workers=[second])
    assert total.result() == 7 << 20

    def log(dask_worker):
        return [entry["total"] for entry in dask_worker.transfer_incoming_log]

    assert max(client.run(log, workers=[second])[second]) >= 8 << 20


def test_a_transposed_array_is_multiplied(client):
    array = da.ones((800, 800), chunks=(200, 200))
    assert client.compute(array.T.dot(array).sum()).result() == 800.0**3


@pytest.mark.parametrize("method", ["tasks", "p2p"])
def test_an_array_is_chunked_anew(client, method):
    array = (
        da.arange(1_000_000, chunks=50_000).reshape(1000, 1000).rechunk((1000, 100), method=method)
    )
    assert client.compute(array.sum()).result() == 499_999_500_000


@pytest.mark.parametrize("method", ["tasks", "p2p"])
def test_a_frame_is_shuffled(client, method):
    keys = np.random.default_rng(0).integers(0, 1000, 100_000)
    frame = dd.from_pandas(pd.DataFrame({"k": keys, "v": 1.0}), npartitions=8)
    shuffled = frame.shuffle("k", shuffle_method=method)
    sizes = client.compute(shuffled.map_partitions(lambda part: part["k"].nunique())).result()
    assert sizes.sum() == 1000  # every key is in one partition
    assert len(shuffled) == 100_000


@pytest.mark.parametrize("method", ["tasks", "p2p"])
def test_frames_are_merged(client, method):
    keys = np.random.default_rng(0).integers(0, 5000, 100_000)
    left = dd.from_pandas(pd.DataFrame({"k": keys, "v": 1.0}), npartitions=6)
    right = dd.from_pandas(pd.DataFrame({"k": np.arange(5000), "w": 2.0}), npartitions=4)
    merged = left.merge(right, on="k", shuffle_method=method)
    assert client.compute(merged["w"].sum()).result() == 200_000.0


def test_the_pool_is_a_metric_of_each_worker(client):
    def metric(dask_worker):
        return dask_worker.metrics["ndverbs pool"](dask_worker)

    assert all(value >= 0 for value in client.run(metric).values())


def test_a_job_ends_although_a_worker_is_killed(no_native_object_is_left):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "5s"}),
        LocalCluster(
            n_workers=3, threads_per_worker=1, protocol="ndverbs", dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        pids = client.run(os.getpid)
        victim = next(iter(pids))

        def work(i, victim, address=None):
            from distributed import get_worker

            Event(f"begun-{i}").set()
            if get_worker().address == victim:
                Event("killed").wait(60)
            return np.full(1 << 17, float(i))

        parts = client.map(work, range(12), victim=victim, pure=False)
        total = client.submit(lambda parts: float(sum(part[0] for part in parts)), parts)
        Event("begun-0").wait(60)
        os.kill(pids[victim], signal.SIGKILL)
        Event("killed").set()
        assert total.result(timeout=60) == sum(range(12))


def test_the_command_line_starts_a_scheduler_and_a_worker(no_native_object_is_left):
    @contextlib.contextmanager
    def start(*words):
        with subprocess.Popen(
            [sys.executable, "-m", "dask", *words, "--no-dashboard"],
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()  # nothing, when all went well

    with start("scheduler", "--protocol", "ndverbs", "--host", "127.0.0.1", "--port", "0") as one:
        address = next(
            found[0] for line in one.stderr if (found := re.findall(r"ndverbs://\S+", line))
        )
        with start("worker", address, "--nthreads", "1", "--no-nanny") as other:
            with Client(address) as client:
                client.wait_for_workers(1, timeout=60)
                (worker,) = client.scheduler_info()["workers"]
                assert worker.startswith("ndverbs://")
                assert client.submit(pow, 2, 10).result(60) == 1024
                client.shutdown()
            other.communicate()
        one.communicate()
