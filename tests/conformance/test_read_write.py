# SPDX-License-Identifier: Apache-2.0
"""Write and Read: the peer's memory, without the peer's help."""

import os

import pytest

import ndverbs as nd
from conformance.end import pattern


def test_write_places_bytes_at_the_peer(ends):
    target = ends.far.memory("target", 32)
    ends.near.memory("source", 8, seed=2)
    ends.far.receive()

    ends.near.write((target.address + 3, target.token), "source", context=9)
    ends.near.send()

    written = ends.near.completion()
    assert (written.status, written.type, written.request_context) == (
        nd.Status.SUCCESS,
        nd.OperationType.WRITE,
        9,
    )
    assert ends.far.received().status == nd.Status.SUCCESS
    assert ends.far.content("target") == bytes(3) + pattern(8, 2) + bytes(21)


def test_write_gives_the_peer_no_completion(ends):
    target = ends.far.memory("target", 8)
    ends.near.memory("source", 8)
    ends.far.receive(context=1)

    ends.near.write(target, "source")
    ends.near.send()

    assert ends.far.received().request_context == 1
    assert ends.far.waiting("receive") == []
    assert ends.far.waiting("initiator") == []


def test_read_fetches_bytes_of_the_peer(ends):
    target = ends.far.memory("target", 32, seed=7)
    ends.near.memory("sink", 10)

    ends.near.read((target.address + 5, target.token), ("sink", 1, 8), context=4)

    done = ends.near.completion()
    assert (done.status, done.type, done.request_context) == (
        nd.Status.SUCCESS,
        nd.OperationType.READ,
        4,
    )
    assert ends.near.content("sink") == b"\0" + pattern(32, 7)[5:13] + b"\0"


def test_passive_end_writes_and_reads_as_well(ends):
    target = ends.near.memory("target", 16, seed=1)
    ends.far.memory("source", 8, seed=2)
    ends.far.memory("sink", 8)

    ends.far.write((target.address + 8, target.token), "source")
    ends.far.read(target, "sink")

    assert [done.status for done in ends.far.completions("initiator", 2)] == [nd.Status.SUCCESS] * 2
    assert ends.far.content("sink") == pattern(16, 1)[:8]
    assert ends.near.content("target", 8, 8) == pattern(8, 2)


def test_both_ends_read_and_write_at_the_same_time(ends):
    size, rounds = 20_000, 20
    far_target = ends.far.memory("target", size, seed=3)
    near_target = ends.near.memory("target", size, seed=4)
    ends.near.memory("sink", size)
    ends.far.memory("sink", size)

    for _ in range(rounds):
        reading = ends.far.begin("read", near_target, "sink")
        ends.near.read(far_target, "sink")
        reading.result()
    for status in (
        *[done.status for done in ends.near.completions("initiator", rounds)],
        *[done.status for done in ends.far.completions("initiator", rounds)],
    ):
        assert status == nd.Status.SUCCESS
    assert ends.near.content("sink") == pattern(size, 3)
    assert ends.far.content("sink") == pattern(size, 4)


def test_write_gathers_segments(ends):
    target = ends.far.memory("target", 30)
    ends.near.memory("source", 30, seed=5)
    ends.far.receive()

    ends.near.write(target, ("source", 20, 10), ("source", 0, 0), ("source", 0, 20))
    ends.near.send()

    assert ends.far.received().status == nd.Status.SUCCESS
    source = pattern(30, 5)
    assert ends.far.content("target") == source[20:] + source[:20]


def test_read_completes_before_what_is_posted_behind_it(ends, scaled):
    near, far = ends.near, ends.far
    near.memory("sink", 4096)
    near.memory("data", 8)
    target = far.memory("target", 8)
    for i in range(scaled(200)):
        source = far.memory(f"source {i}", 4096, seed=1 + i)
        far.receive()

        near.read(source, "sink", context=1)
        near.write(target, "data", context=2)
        near.send(context=3)

        assert near.completion().request_context == 1
        assert near.content("sink") == pattern(4096, 1 + i)
        assert [done.request_context for done in near.completions("initiator", 2)] == [2, 3]
        assert far.received().status == nd.Status.SUCCESS
        far.close_region(f"source {i}")


def test_read_scatters_into_segments(ends):
    target = ends.far.memory("target", 30, seed=6)
    ends.near.memory("sink", 30)

    ends.near.read(target, ("sink", 20, 10), ("sink", 5, 0), ("sink", 0, 20))

    assert ends.near.completion().status == nd.Status.SUCCESS
    source = pattern(30, 6)
    assert ends.near.content("sink") == source[10:] + source[:10]


@pytest.mark.parametrize("operation", ["write", "read"])
def test_requests_take_as_many_segments_as_the_adapter_promises(make_ends, provider, operation):
    with nd.Adapter.open(provider) as adapter:
        info = adapter.info
    most = info.max_initiator_request_sge
    count = min(16, most, info.max_read_request_sge) if operation == "read" else min(16, most)
    ends = make_ends(max_initiator_sge=count).connect()
    nbytes = 10 * count
    target = ends.far.memory("target", nbytes, seed=1)
    ends.near.memory("local", nbytes, seed=2)
    ends.far.receive()

    spans = [("local", nbytes - 10 - 10 * i, 10) for i in range(count)]
    getattr(ends.near, operation)(target, *spans)
    ends.near.send()

    assert ends.near.completion().status == nd.Status.SUCCESS
    assert ends.far.received().status == nd.Status.SUCCESS
    backwards = lambda data: b"".join(data[at : at + 10] for _, at, _ in spans)  # noqa: E731
    if operation == "write":
        assert ends.far.content("target") == backwards(pattern(nbytes, 2))
    else:
        assert backwards(ends.near.content("local")) == pattern(nbytes, 1)


@pytest.mark.parametrize("spans", [(), (("local", 0, 0),), (("local", 0, 0), ("local", 4, 0))])
@pytest.mark.parametrize("operation", ["write", "read"])
def test_zero_length_requests_complete_and_move_nothing(ends, operation, spans):
    target = ends.far.memory("target", 8, seed=1)
    ends.near.memory("local", 8, seed=2)

    getattr(ends.near, operation)(target, *spans, context=3)

    done = ends.near.completion()
    assert (done.status, done.request_context) == (nd.Status.SUCCESS, 3)
    assert ends.near.content("local") == pattern(8, 2)
    assert ends.far.content("target") == pattern(8, 1)


@pytest.mark.parametrize("operation", ["write", "read"])
def test_zero_length_requests_need_no_valid_token(ends, operation):
    getattr(ends.near, operation)((0, 0))
    assert ends.near.completion().status == nd.Status.SUCCESS

    # Still alive: the probe of a zero-length Read goes to the peer and back.
    ends.near.read((12345, 0xDEADBEEF))
    assert ends.near.completion().status == nd.Status.SUCCESS


def test_initiator_requests_complete_in_posting_order(ends):
    target = ends.far.memory("target", 4096, seed=1)
    ends.near.memory("local", 4096)
    for i in range(20):
        ends.far.receive(context=i)

    for i in range(60):
        if i % 3 == 0:
            ends.near.write(target, ("local", 0, 2000), context=i)
        elif i % 3 == 1:
            ends.near.read(target, ("local", 0, 4096), context=i)
        else:
            ends.near.send(context=i)

    done = ends.near.completions("initiator", 60)
    assert [each.request_context for each in done] == [*range(60)]
    assert [each.request_context for each in ends.far.completions("receive", 20)] == [*range(20)]


def test_write_before_a_send_is_visible_with_the_receive(ends):
    target = ends.far.memory("target", 200_000)
    ends.near.memory("source", 200_000, seed=1)
    for seed in range(2, 6):
        ends.far.receive()
        ends.near.store("source", pattern(200_000, seed))

        ends.near.write(target, "source")
        ends.near.send()

        assert ends.far.received().status == nd.Status.SUCCESS
        assert ends.far.content("target") == pattern(200_000, seed)
        ends.near.completions("initiator", 2)


@pytest.mark.skipif(
    os.environ.get("NDVERBS_SANITIZED") == "thread",
    reason="a program that polls memory instead of its queue races by design",
)
def test_last_byte_of_a_write_is_written_last(ends):
    # The adapter says IN_ORDER_DMA, so a program may poll the last byte.
    assert ends.near.adapter.info.adapter_flags & 1
    target = ends.far.memory("target", 100_001)
    ends.near.memory("source", 100_001, seed=1)
    ends.near.store("source", b"\xa5", 100_000)
    seen = ends.far.begin("spin", "target", 100_000, 0xA5)

    ends.near.write(target, "source")

    assert seen.result()
    assert ends.far.content("target", 0, 100_000) == pattern(100_000, 1)


def test_regions_of_one_buffer_with_different_rights_are_separate(ends):
    readable = ends.far.memory("readable", 8, nd.Access.REMOTE_READ, seed=1)
    ends.near.memory("sink", 8)

    ends.near.read((readable.address, readable.token), "sink")

    assert ends.near.completion().status == nd.Status.SUCCESS
    assert ends.near.content("sink") == pattern(8, 1)


def test_region_of_local_rights_only_has_no_remote_token(pair):
    pair.near.memory("local", 8, nd.Access.LOCAL_WRITE)

    assert pair.near.regions["local"].remote_token == 0
    with pytest.raises(PermissionError):
        pair.near.regions["local"].remote()
