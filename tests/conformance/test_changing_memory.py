# SPDX-License-Identifier: Apache-2.0
"""Memory that changes while a request sends it: old or new bytes come, and the connection lives."""

from concurrent.futures import ThreadPoolExecutor

import pytest

import ndverbs as nd
from conformance.end import LIMIT

SIZE, REQUESTS, ROUNDS = 1 << 20, 12, 60


@pytest.fixture(params=[False, True], ids=["plain", "crc"])
def connected(request, idle_ends):
    """Give two ends that are connected without and with CRC."""
    return idle_ends.connect(active_options={"crc": request.param})


def test_read_of_memory_that_its_owner_changes_succeeds(connected):
    near, far = connected.near, connected.far
    source = far.memory("source", SIZE)
    near.memory("sink", SIZE)

    changing = far.begin("change", "source", ROUNDS)
    for _ in range(REQUESTS):
        near.read(source, "sink")
        assert near.completion().status == nd.Status.SUCCESS

    changing.result(LIMIT)
    assert (near.state(), far.state()) == ("connected", "connected")
    near.read(source, "sink")
    assert near.completion().status == nd.Status.SUCCESS
    assert near.content("sink") == far.content("source") == bytes([ROUNDS]) * SIZE


def test_write_and_send_of_memory_that_changes_succeed(connected):
    near, far = connected.near, connected.far
    target = far.memory("target", SIZE)
    far.memory("received", SIZE)
    near.memory("source", SIZE)

    with ThreadPoolExecutor(1) as thread:
        changing = thread.submit(near.change, "source", ROUNDS)
        for _ in range(REQUESTS):
            far.receive("received")
            near.write(target, "source")
            near.send("source")
            assert [one.status for one in near.completions("initiator", 2)] == [
                nd.Status.SUCCESS
            ] * 2
            assert far.received().status == nd.Status.SUCCESS
        changing.result(LIMIT)

    assert (near.state(), far.state()) == ("connected", "connected")
