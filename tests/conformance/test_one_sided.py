# SPDX-License-Identifier: Apache-2.0
"""Read and Write complete although the target's Python does something else, or nothing."""

import pytest

import ndverbs as nd
from conformance.end import LIMIT, pattern

# How long the target is away at most: until it is called back.
AWAY = 2 * LIMIT


@pytest.fixture(params=["busy", "asleep"])
def absence(request):
    """Say what the target does instead."""
    return request.param


@pytest.fixture
def absent(absence, make_process_ends):
    """Connect, and send the far end away; give the ends and the future of its return."""
    ends = make_process_ends().connect()
    target = ends.far.memory("target", 5_000_000, seed=1)
    ends.near.memory("source", 5_000_000, seed=2)
    ends.near.memory("sink", 5_000_000)
    flag = ends.far.memory("flag", 1)
    away = ends.far.begin(absence, AWAY)
    while ends.near.content("sink", 0, 1) != b"!":
        ends.near.read(flag, ("sink", 0, 1))
        assert ends.near.completion().status == nd.Status.SUCCESS
    yield ends, target, away
    ends.far.process.call_back()
    assert away.result(LIMIT)


def test_read_completes_while_the_target_is_away(absent):
    ends, target, away = absent

    ends.near.read(target, "sink")

    assert ends.near.completion().status == nd.Status.SUCCESS
    assert not away.done()
    assert ends.near.content("sink") == pattern(5_000_000, 1)


def test_write_lands_while_the_target_is_away(absent):
    ends, target, away = absent

    ends.near.write(target, "source")
    ends.near.read(target, "sink")

    assert [done.status for done in ends.near.completions("initiator", 2)] == [
        nd.Status.SUCCESS
    ] * 2
    assert not away.done()
    assert ends.near.content("sink") == pattern(5_000_000, 2)


def test_refusal_arrives_while_the_target_is_away(absent):
    ends, target, away = absent

    ends.near.read((target.address, target.token ^ 1), "sink")

    is_told = ends.near.reason("invalid STag") is not None
    assert ends.near.completion().status == (
        nd.Status.REMOTE_RESOURCES if is_told else nd.Status.CANCELLED
    )
    assert not away.done()


def test_small_requests_complete_while_the_target_is_away(absent, scaled):
    ends, target, away = absent
    count = scaled(500)

    for i in range(count):
        ends.near.read((target.address + i, target.token), ("sink", i, 1))
        assert ends.near.completion().status == nd.Status.SUCCESS

    assert not away.done()
    assert ends.near.content("sink", 0, count) == pattern(5_000_000, 1)[:count]


def test_disconnect_is_answered_for_nobody_who_is_away(absent):
    ends, _, away = absent

    with pytest.raises(TimeoutError):
        ends.near.disconnect(0.1)

    assert not away.done()
