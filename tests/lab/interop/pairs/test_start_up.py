# SPDX-License-Identifier: Apache-2.0
"""Starting a connection between soft and siw, both ways: private data, read limits, rejections."""

import pytest

import ndverbs as nd
from conformance.end import LIMIT, pattern

# What siw can carry: rdma_cm knows 255 bytes, and siw writes the length with the four bytes of
# enhanced data in eight bits.
SIZES = [0, 1, 3, 16, 251]


@pytest.mark.parametrize("size", SIZES)
def test_private_data_travels_both_ways(idle_ends, size):
    idle_ends.connect(
        active_options={"private_data": pattern(size, 1)},
        passive_options={"private_data": pattern(size, 2)},
    )

    assert idle_ends.near.data()[0] == pattern(size, 2)
    assert idle_ends.far.data()[0] == pattern(size, 1)


@pytest.mark.parametrize("size", SIZES)
def test_rejection_carries_private_data(idle_ends, size):
    near, far = idle_ends.near, idle_ends.far
    address = far.listen(idle_ends.host)
    taken = far.begin("take_request")
    connecting = near.adapter.create_connector()
    attempt = connecting._start_connect(near.qp, None, address, timeout=LIMIT)
    taken.result(LIMIT)

    far.reject(pattern(size, 3))

    with pytest.raises(nd.RdmaConnectionRefusedError):
        attempt.wait(LIMIT)
    assert connecting.connection_data.private_data == pattern(size, 3)
    connecting.close()


@pytest.mark.parametrize(("active", "passive"), [(4, 4), (1, 8), (8, 1), (16, 16)])
def test_as_many_reads_are_under_way_as_both_allow(idle_ends, active, passive):
    idle_ends.connect(
        active_options={"inbound_read_limit": active, "outbound_read_limit": active},
        passive_options={"inbound_read_limit": passive, "outbound_read_limit": passive},
    )
    near, far = idle_ends.near, idle_ends.far
    count = 24
    source = far.memory("source", count * 64, seed=5)
    near.memory("sink", count * 64)

    for number in range(count):
        span = source.address + number * 64, source.token
        near.read(span, ("sink", number * 64, 64), context=number)

    done = near.completions("initiator", count)
    assert [(each.status, each.request_context) for each in done] == [
        (nd.Status.SUCCESS, number) for number in range(count)
    ]
    assert near.content("sink") == pattern(count * 64, 5)


def test_fifty_connections_one_after_the_other(make_ends):
    for number in range(50):
        ends = make_ends().connect()
        ends.far.receive(context=number)
        ends.near.send()
        assert ends.far.received().request_context == number
        ends.near.end_connection()
        ends.far.end_connection()
