# SPDX-License-Identifier: Apache-2.0
"""Queue pairs over a link that is no TCP socket: an AF_UNIX socket pair in place of it."""

import pytest

from ndverbs import _testing

A, B = 0, 1
SIZE = 300_000


@pytest.fixture(params=[False, True], ids=["plain", "crc"])
def joined(request):
    """Join two queue pairs; nothing of their link is left afterwards."""
    pair = _testing.JoinedPair(crc=request.param)
    yield pair
    pair.close()
    assert _testing.live_links() == 0


def test_a_write_arrives_over_a_socket_pair(joined):
    data = bytes(range(256)) * (SIZE // 256)
    joined.fill(A, 0, data)

    joined.post(A, "write", 0, len(data))
    joined.post(A, "send", 0, 0)
    joined.post(B, "receive", 0, 0)

    assert joined.take(A) == ("success", 0)
    assert joined.take(B) == ("success", 0)
    assert joined.at(B, 0, len(data)) == data


def test_a_read_fetches_over_a_socket_pair_from_either_side(joined):
    joined.fill(A, 0, b"a" * SIZE)
    joined.fill(B, SIZE, b"b" * SIZE)

    joined.post(A, "read", SIZE, SIZE)
    assert joined.take(A) == ("success", 0)
    joined.post(B, "read", 0, SIZE)
    assert joined.take(B) == ("success", 0)

    assert joined.at(A, SIZE, SIZE) == b"b" * SIZE
    assert joined.at(B, 0, SIZE) == b"a" * SIZE


def test_sends_go_both_ways_over_a_socket_pair(joined):
    joined.fill(A, 0, b"from a")
    joined.fill(B, 0, b"from b!")
    for side in (A, B):
        joined.post(side, "receive", 100, 16)

    joined.post(A, "send", 0, 6)
    assert joined.take(A) == ("success", 0)
    assert joined.take(B) == ("success", 6)
    joined.post(B, "send", 0, 7)
    assert joined.take(B) == ("success", 0)
    assert joined.take(A) == ("success", 7)

    assert joined.at(B, 100, 6) == b"from a"
    assert joined.at(A, 100, 7) == b"from b!"


def test_a_socket_pair_ends_in_order(joined):
    assert joined.event(B) == "established"

    joined.disconnect(A)
    assert joined.event(A) == "drained"
    assert joined.event(B) == "peer_closed"
    joined.disconnect(B)

    assert joined.event(B) == "drained"
    assert joined.event(A) == "peer_closed"
