# SPDX-License-Identifier: Apache-2.0
"""Memory that posted requests name is not given back by deregister()."""

import pytest

import ndverbs as nd
from conformance.end import ALL, status_of

pytestmark = pytest.mark.tsan


def test_deregister_refuses_while_a_receive_names_the_region(pair):
    pair.near.memory("sink", 8)
    pair.near.receive("sink")

    assert status_of(pair.near.deregister, "sink") == nd.Status.DEVICE_BUSY

    pair.far.memory("source", 8, ALL, seed=1)
    pair.far.send("source")
    assert pair.near.received().status == nd.Status.SUCCESS
    assert pair.near.content("sink") == pair.far.content("source")
    pair.near.deregister("sink")


def test_deregister_refuses_until_a_flush_has_ended_the_requests(pair):
    pair.near.memory("sink", 8)
    for _ in range(2):
        pair.near.receive("sink")

    with pytest.raises(nd.RdmaError, match="segments: 2"):
        pair.near.deregister("sink")
    pair.near.flush()

    pair.near.completions("receive", 2)
    pair.near.deregister("sink")


def test_no_byte_arrives_in_memory_whose_region_was_deregistered(pair):
    target = pair.near.memory("memory", 8, seed=1)
    array = pair.near.regions["memory"].array
    pair.near.receive("memory")
    pair.far.send()
    pair.near.received()
    pair.near.deregister("memory")
    array[:] = 7

    pair.far.memory("source", 8, seed=2)
    pair.far.write(target, "source")  # the connection is up; it ends by this
    pair.far.wait_for_disconnect()

    assert (array == 7).all()
