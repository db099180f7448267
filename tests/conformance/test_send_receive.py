# SPDX-License-Identifier: Apache-2.0
"""Send and Receive: one message, one receive."""

import re

import pytest

import ndverbs as nd
from conformance.end import pattern


def test_send_fills_the_oldest_receive_of_the_peer(ends):
    ends.far.memory("sink", 64)
    ends.far.receive(("sink", 0, 32), context=11)
    ends.far.receive(("sink", 32, 32), context=12)
    ends.near.memory("source", 5, seed=3)

    ends.near.send("source", context=7)

    sent = ends.near.completion()
    received = ends.far.received()
    assert (sent.status, sent.type, sent.request_context) == (
        nd.Status.SUCCESS,
        nd.OperationType.SEND,
        7,
    )
    assert (received.status, received.type, received.request_context) == (
        nd.Status.SUCCESS,
        nd.OperationType.RECEIVE,
        11,
    )
    assert received.bytes_transferred == 5
    assert ends.far.content("sink") == pattern(5, 3) + bytes(59)


def test_passive_end_sends_as_well(ends):
    ends.near.memory("sink", 16)
    ends.near.receive("sink")
    ends.far.memory("source", 16, seed=2)

    ends.far.send("source")

    assert ends.near.received().bytes_transferred == 16
    assert ends.near.content("sink") == pattern(16, 2)


@pytest.mark.parametrize("sent", [0, 1, 15, 16])
def test_bytes_transferred_is_the_length_of_the_message(ends, sent):
    ends.far.memory("sink", 16)
    ends.far.receive("sink")
    ends.near.memory("source", 16, seed=4)

    ends.near.send(("source", 0, sent))

    assert ends.far.received().bytes_transferred == sent
    assert ends.far.content("sink") == pattern(16, 4)[:sent] + bytes(16 - sent)


def test_send_without_segments_completes_a_receive_with_zero_bytes(ends):
    ends.far.memory("sink", 4)
    ends.far.receive("sink", context=5)

    ends.near.send(context=6)

    assert ends.near.completion().request_context == 6
    received = ends.far.received()
    assert (received.status, received.bytes_transferred) == (nd.Status.SUCCESS, 0)


def test_receive_without_segments_takes_an_empty_message(ends):
    ends.far.receive(context=5)

    ends.near.send()

    received = ends.far.received()
    assert (received.status, received.request_context) == (nd.Status.SUCCESS, 5)


def test_message_is_gathered_and_scattered_in_the_order_of_segments(make_ends, provider):
    with nd.Adapter.open(provider) as adapter:
        info = adapter.info
    limit = min(16, info.max_initiator_request_sge, info.max_receive_request_sge)
    last = limit - 1
    ends = make_ends(max_initiator_sge=limit, max_receive_sge=limit).connect()
    ends.near.memory("source", 10 * limit, seed=1)
    ends.far.memory("sink", 10 * limit)
    # Backwards: segment i of the sender holds bytes [10 (last - i), +10).
    ends.far.receive(*[("sink", 10 * i, 10) for i in range(limit)])

    ends.near.send(*[("source", 10 * (last - i), 10) for i in range(limit)])

    assert ends.far.received().bytes_transferred == 10 * limit
    source = pattern(10 * limit, 1)
    expected = b"".join(source[10 * (last - i) :][:10] for i in range(limit))
    assert ends.far.content("sink") == expected


def test_segments_of_different_lengths_at_both_ends_do_not_matter(ends):
    ends.near.memory("source", 100, seed=6)
    ends.far.memory("sink", 120)
    ends.far.receive(("sink", 0, 1), ("sink", 20, 0), ("sink", 20, 60), ("sink", 80, 40))

    ends.near.send(("source", 0, 37), ("source", 37, 0), ("source", 37, 63))

    assert ends.far.received().bytes_transferred == 100
    source = pattern(100, 6)
    content = ends.far.content("sink")
    assert content[:1] + content[20:80] + content[80:119] == source
    assert content[1:20] + content[119:] == bytes(20)


def test_receives_are_served_in_posting_order(ends):
    ends.far.memory("sink", 100)
    for i in range(100):
        ends.far.receive(("sink", i, 1), context=i)
    ends.near.memory("source", 100, seed=9)

    for i in range(100):
        ends.near.send(("source", i, 1), context=i)

    assert [done.request_context for done in ends.near.completions("initiator", 100)] == [
        *range(100)
    ]
    assert [done.request_context for done in ends.far.completions("receive", 100)] == [*range(100)]
    assert ends.far.content("sink") == pattern(100, 9)


def test_receive_posted_before_connecting_is_filled(idle_ends):
    idle_ends.far.memory("sink", 8)
    idle_ends.far.receive("sink", context=1)
    idle_ends.near.memory("sink", 8)
    idle_ends.near.receive("sink", context=2)

    idle_ends.connect()
    idle_ends.near.send()
    idle_ends.far.send()

    assert idle_ends.far.received().request_context == 1
    assert idle_ends.near.received().request_context == 2


def test_missing_receive_delays_the_message_until_it_is_posted(ends):
    ends.near.memory("source", 10, seed=5)
    ends.far.memory("sink", 10)

    ends.near.send("source")
    ends.far.receive("sink")

    assert ends.near.completion().status == nd.Status.SUCCESS
    assert ends.far.received().status == nd.Status.SUCCESS
    assert ends.far.content("sink") == pattern(10, 5)


def test_message_longer_than_the_receive_breaks_the_connection(ends):
    ends.near.memory("source", 20, seed=5)
    ends.near.memory("untouched", 4)
    ends.near.receive("untouched", context=3)
    ends.far.memory("sink", 40)
    ends.far.receive(("sink", 10, 19), context=1)
    ends.far.receive(("sink", 30, 10), context=2)

    ends.near.send("source")

    failed, cancelled = ends.far.completions("receive", 2)
    assert (failed.status, failed.request_context) == (nd.Status.BUFFER_OVERFLOW, 1)
    assert (cancelled.status, cancelled.request_context) == (nd.Status.CANCELLED, 2)
    assert ends.far.state() == "error"
    near = ends.near.received()
    assert (near.status, near.request_context) == (nd.Status.CANCELLED, 3)
    assert ends.near.state() == "error"
    content = ends.far.content("sink")
    assert content[:10] + content[29:] == bytes(21)


def test_receive_too_short_names_its_reason_at_both_ends(ends):
    ends.near.memory("source", 20)
    ends.near.memory("sink", 4)
    ends.near.receive("sink")
    ends.far.memory("sink", 19)
    ends.far.receive("sink")

    ends.near.send("source")

    at_far, at_near = ends.far.received().detail, ends.near.received().detail
    assert re.search(ends.near.expects("detail of a receive that is too short"), str(at_far))
    if ends.near.expects("receives name the refusal that cancelled them"):
        assert "peer terminated the stream" in at_near


def test_a_ping_pong_of_many_messages_keeps_its_order(ends):
    ends.far.memory("buffer", 64)
    ends.near.memory("buffer", 64)
    ends.near.memory("reply", 64)
    echo = ends.far.begin("echo", 200, "buffer")

    for i in range(200):
        ends.near.store("buffer", i.to_bytes(8, "big"))
        ends.near.receive("reply")
        ends.near.send(("buffer", 0, 8), flags=nd.Flag.SILENT_SUCCESS)
        assert ends.near.received().bytes_transferred == 8
        assert int.from_bytes(ends.near.content("reply", 0, 8), "big") == i

    echo.result(60)
