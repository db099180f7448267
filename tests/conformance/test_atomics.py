# SPDX-License-Identifier: Apache-2.0
"""Atomic operations on the peer's words (RFC 7306 section 5)."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import ALL, ALLOW_ALL, LIMIT, PAGE, End, pattern, status_of
from conformance.pair import join

pytestmark = pytest.mark.usefixtures("needs_atomics")

TOP = 2**64 - 1
ATOMIC = nd.Flag.ALLOW_REMOTE_ATOMIC


def test_fetch_add_adds_and_gives_the_old_value(ends):
    remote = ends.far.words("words", 3, values=[1, 40, 3])
    ends.near.words("old", 1)

    ends.near.fetch_add((remote.address + 8, remote.token), 2, "old", context=9)

    done = ends.near.completion()
    assert (done.status, done.type, done.request_context) == (
        nd.Status.SUCCESS,
        nd.OperationType.FETCH_ADD,
        9,
    )
    assert ends.near.word("old") == 40
    assert [ends.far.word("words", i) for i in range(3)] == [1, 42, 3]
    assert ends.far.waiting("receive") == []


@pytest.mark.parametrize(
    ("before", "value", "after"), [(TOP, 1, 0), (0, -1, TOP), (5, TOP, 4), (1, -(2**63), 2**63 + 1)]
)
def test_sums_are_taken_modulo_2_to_the_64(pair, before, value, after):
    remote = pair.far.words("words", 1, values=[before])
    pair.near.words("old", 1)

    pair.near.fetch_add(remote, value, "old")

    assert pair.near.completion().status == nd.Status.SUCCESS
    assert (pair.near.word("old"), pair.far.word("words")) == (before, after)


@pytest.mark.parametrize(("expected", "after"), [(5, 9), (6, 5), (-1, 5)])
def test_compare_swap_replaces_what_is_as_expected(ends, expected, after):
    remote = ends.far.words("words", 1, values=[5])
    ends.near.words("old", 1)

    ends.near.compare_swap(remote, expected, 9, "old", context=4)

    done = ends.near.completion()
    assert (done.status, done.type, done.request_context) == (
        nd.Status.SUCCESS,
        nd.OperationType.COMPARE_SWAP,
        4,
    )
    assert (ends.near.word("old"), ends.far.word("words")) == (5, after)


def test_passive_end_does_it_as_well(ends):
    remote = ends.near.words("words", 1, values=[5])
    ends.far.words("old", 1)

    ends.far.fetch_add(remote, 1, "old")

    assert ends.far.completion().status == nd.Status.SUCCESS
    assert (ends.far.word("old"), ends.near.word("words")) == (5, 6)


def test_the_old_value_may_go_to_memory_that_is_not_aligned(pair):
    remote = pair.far.words("words", 1, values=[0x0102030405060708])
    pair.near.memory("old", 32)

    pair.near.qp.fetch_add(pair.near.local([("old", 3, 5), ("old", 11, 3)]), remote, 0)

    assert pair.near.completion().status == nd.Status.SUCCESS
    value = np.uint64(0x0102030405060708).tobytes()
    content = pair.near.content("old")
    assert (content[3:8] + content[11:14], content[:3], content[8:11]) == (
        value,
        bytes(3),
        bytes(3),
    )


def test_requests_of_one_queue_pair_take_effect_in_order(ends):
    remote = ends.far.words("words", 1, ALL | nd.Access.REMOTE_ATOMIC)
    ends.near.words("old", 4)
    ends.near.words("new", 1, ALL, values=[100])

    ends.near.write(remote, "new")
    ends.near.fetch_add(remote, 1, ("old", 0, 8))
    ends.near.compare_swap(remote, 101, 7, ("old", 8, 8))
    ends.near.fetch_add(remote, 1, ("old", 16, 8))
    ends.near.read(remote, ("old", 24, 8))

    assert [done.status for done in ends.near.completions("initiator", 5)] == [
        nd.Status.SUCCESS
    ] * 5
    assert [ends.near.word("old", i) for i in range(4)] == [100, 101, 7, 8]


def test_more_atomics_than_the_read_limit_wait_in_the_queue(make_ends):
    ends = make_ends().connect(
        active_options={"outbound_read_limit": 2}, passive_options={"inbound_read_limit": 2}
    )
    remote = ends.far.words("words", 1)
    ends.near.words("old", 50)

    for i in range(50):
        ends.near.fetch_add(remote, 1, ("old", 8 * i, 8), context=i + 1)

    done = ends.near.completions("initiator", 50)
    assert [one.request_context for one in done] == list(range(1, 51))
    assert [ends.near.word("old", i) for i in range(50)] == list(range(50))


def test_a_read_limit_of_zero_refuses_atomics_at_the_call(idle_ends):
    ends = idle_ends.connect(active_options={"outbound_read_limit": 0})
    remote = ends.far.words("words", 1)
    ends.near.words("old", 1)

    status = status_of(ends.near.fetch_add, remote, 1, "old")

    assert status == nd.Status.INVALID_DEVICE_REQUEST


def test_a_fenced_send_follows_the_answer(ends):
    remote = ends.far.words("words", 1, values=[4])
    ends.near.words("old", 1)
    ends.far.memory("sink", 8)
    ends.far.receive("sink")

    ends.near.fetch_add(remote, 1, "old")
    ends.near.send("old", flags=nd.Flag.READ_FENCE)

    assert ends.far.received().bytes_transferred == 8
    assert ends.far.content("sink") == np.uint64(4).tobytes()


def test_a_silent_success_has_no_completion(ends):
    remote = ends.far.words("words", 1)
    ends.near.words("old", 1)

    ends.near.fetch_add(remote, 1, "old", context=1, flags=nd.Flag.SILENT_SUCCESS)
    ends.near.read((0, 0), context=2, flags=nd.Flag.READ_FENCE)

    assert ends.near.completion().request_context == 2
    assert ends.far.word("words") == 1


# ---- refused at the call --------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [0, 4, 7, 16])
def test_local_memory_of_another_size_is_refused_at_the_call(pair, nbytes):
    remote = pair.far.words("words", 1)
    pair.near.memory("old", 16)

    status = status_of(pair.near.fetch_add, (remote.address, remote.token), 1, ("old", 0, nbytes))

    assert status == nd.Status.INVALID_PARAMETER
    assert pair.near.state() == "connected"


@pytest.mark.parametrize("offset", [1, 2, 4, 7])
def test_a_remote_word_that_is_not_aligned_is_refused_at_the_call(pair, offset):
    remote = pair.far.words("words", 2)
    pair.near.words("old", 1)

    for call, numbers in ((pair.near.fetch_add, (1,)), (pair.near.compare_swap, (1, 2))):
        status = status_of(call, (remote.address + offset, remote.token), *numbers, "old")
        assert status == nd.Status.INVALID_PARAMETER


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1])
def test_a_number_that_does_not_fit_is_refused_at_the_call(pair, number):
    remote = pair.far.words("words", 1)
    pair.near.words("old", 1)

    assert status_of(pair.near.fetch_add, remote, number, "old") == nd.Status.INVALID_PARAMETER
    assert (
        status_of(pair.near.compare_swap, remote, number, 1, "old") == nd.Status.INVALID_PARAMETER
    )
    with pytest.raises(TypeError):
        pair.near.fetch_add(remote, 1.5, "old")


@pytest.mark.parametrize(
    "flag", [nd.Flag.INLINE, nd.Flag.SEND_AND_SOLICIT_EVENT, nd.Flag.RDMA_READ_LOCAL_INVALIDATE]
)
def test_flags_of_other_requests_are_refused(pair, flag):
    remote = pair.far.words("words", 1)
    pair.near.words("old", 1)

    assert status_of(pair.near.fetch_add, remote, 1, "old", flags=flag) == (
        nd.Status.INVALID_PARAMETER
    )


def test_local_memory_must_be_writable(pair):
    remote = pair.far.words("words", 1)
    pair.near.memory("old", 8, nd.Access.REMOTE_READ)

    assert status_of(pair.near.fetch_add, remote, 1, "old") == nd.Status.ACCESS_VIOLATION


def test_a_remote_buffer_without_the_right_is_refused_at_the_call(pair):
    remote = pair.far.words("words", 1, ALL)
    pair.near.words("old", 1)

    assert status_of(pair.near.fetch_add, remote, 1, "old") == nd.Status.ACCESS_DENIED


def test_rows_of_post_many_cannot_say_atomics(pair):
    pair.near.memory("old", 8)
    rows = np.zeros(1, nd.request_dtype)
    rows["type"] = nd.OperationType.FETCH_ADD

    assert status_of(pair.near.qp.post_many, rows) == nd.Status.INVALID_PARAMETER


# ---- rights ---------------------------------------------------------------------------------


def test_the_right_contains_local_write_and_no_other_remote_right():
    assert nd.Access.REMOTE_ATOMIC & nd.Access.LOCAL_WRITE
    assert not nd.Access.REMOTE_ATOMIC & nd.Access.REMOTE_READ
    assert nd.Access.REMOTE_ATOMIC & nd.Access.REMOTE_WRITE == nd.Access.LOCAL_WRITE


def test_the_right_alone_makes_a_remote_token(pair):
    remote = pair.far.words("words", 1)
    assert remote.token != 0
    assert remote.access == nd.Access.REMOTE_ATOMIC
    assert nd.RemoteBuffer.from_bytes(bytes(remote)) == remote


@pytest.mark.parametrize("kind", ["read", "write"])
def test_the_right_does_not_let_read_or_write(ends, kind):
    remote = ends.far.words("words", 1, values=[5])
    ends.near.memory("local", 8, seed=1)

    # Deferred: the refusal must not come before the second one is posted.
    getattr(ends.near, kind)((remote.address, remote.token), "local", flags=nd.Flag.DEFER)
    ends.near.read((0, 0), flags=nd.Flag.READ_FENCE)

    assert ends.near.completions("initiator", 2)[1].status != nd.Status.SUCCESS
    assert ends.near.content("local") == pattern(8, 1)
    assert ends.far.word("words") == 5


def reason(code, text):
    return f"peer terminated the stream: RDMAP remote {text} ({code})"


REFUSALS = {
    "without the right": (
        lambda far: far.words("words", 2, ALL),
        reason("0/1/02", "protection error: access rights violation"),
    ),
    "outside the region": (
        lambda far: _shifted(far.words("words", 2), 16),
        reason("0/1/01", "protection error: base or bounds violation"),
    ),
    "of another domain": (
        lambda far: far.foreign_memory("words", 16, nd.Access.REMOTE_ATOMIC),
        reason("0/1/03", "protection error: STag not associated with the stream"),
    ),
    "of nothing": (
        lambda far: nd.RemoteBuffer(8, 0, 8, access=nd.Access.REMOTE_ATOMIC),
        reason("0/1/00", "protection error: invalid STag"),
    ),
}


def _shifted(remote, offset):
    return nd.RemoteBuffer(remote.address + offset, remote.token, 8, access=remote.access)


@pytest.mark.parametrize(("make", "detail"), REFUSALS.values(), ids=REFUSALS)
def test_an_atomic_that_the_peer_refuses_fails_with_its_reason(pair, make, detail):
    remote = make(pair.far)
    before = pair.far.content("words") if "words" in pair.far.regions else b""
    pair.near.words("old", 1, values=[77])
    pair.far.receive(context=1)

    # Deferred: the refusal must not come before the second one is posted.
    pair.near.fetch_add((remote.address, remote.token), 1, "old", context=1, flags=nd.Flag.DEFER)
    pair.near.fetch_add((remote.address, remote.token), 1, "old", context=2)

    first, second = pair.near.completions("initiator", 2)
    assert first.status == nd.Status.REMOTE_RESOURCES
    assert second.status == nd.Status.CANCELLED
    told = pair.near.expects("detail of a refused atomic").format(re.escape(detail))
    assert re.fullmatch(told, str(first.detail))
    assert pair.far.received().status == nd.Status.CANCELLED
    assert pair.near.word("old") == 77
    if before:
        assert pair.far.content("words") == before


def test_a_deregistered_word_is_not_reached(ends):
    remote = ends.far.words("words", 1)
    ends.near.words("old", 1)
    ends.far.deregister("words")

    ends.near.fetch_add(remote, 1, "old")

    assert ends.near.completion().status == nd.Status.REMOTE_RESOURCES


# ---- memory that requests map ---------------------------------------------------------------


def test_fast_registered_pages_take_atomics(far_pages):
    ends = far_pages
    address, token = ends.far.fast_register("region", "pages", [4, 1, 0], flags=ATOMIC)
    assert ends.far.completion().status == nd.Status.SUCCESS
    ends.near.words("old", 1)
    before = ends.far.mapped_content("pages")

    ends.near.fetch_add((address + PAGE + 8, token), 1, "old")

    assert ends.near.completion().status == nd.Status.SUCCESS
    at = PAGE + 8  # page 1 of the mapping
    old = int(np.frombuffer(before, np.uint64)[at // 8])
    assert ends.near.word("old") == old
    after = ends.far.mapped_content("pages")
    assert after[:at] + after[at + 8 :] == before[:at] + before[at + 8 :]


@pytest.mark.parametrize("flags", [ATOMIC, ALLOW_ALL], ids=["with", "without"])
def test_a_window_grants_atomics_when_it_says_so(provider, ends, flags):
    with nd.Adapter.open(provider) as adapter:
        if "create_mw" not in adapter.info.features:
            pytest.skip("no windows: test_windows.py has the refusal")
    ends.far.words("words", 4, nd.Access.LOCAL_WRITE | nd.Access.REMOTE_ATOMIC)
    ends.far.create_mw("window")
    remote = ends.far.bind("window", "words", 8, 16, flags=flags)
    assert ends.far.completion().status == nd.Status.SUCCESS
    ends.near.words("old", 1)

    ends.near.fetch_add(remote, 3, "old")

    is_granted = flags == ATOMIC
    expected = nd.Status.SUCCESS if is_granted else nd.Status.REMOTE_RESOURCES
    assert ends.near.completion().status == expected
    assert ends.far.word("words", 1) == (3 if is_granted else 0)


# ---- many at once ---------------------------------------------------------------------------


@pytest.mark.tsan
def test_concurrent_adds_of_many_queue_pairs_lose_nothing(connect_pair, scaled):
    queue_pairs, each = 8, scaled(500)
    pair = connect_pair(initiator_queue_depth=64)
    remote = pair.far.words("words", 1)
    pair.near.words("old", queue_pairs * each)
    posters, kept = [pair.near.qp], []
    for _ in range(queue_pairs - 1):
        pair.reconnect()
        kept.append(pair.first)
        posters.append(pair.near.qp)
    position = 0
    outstanding = 0
    for _ in range(each):
        for poster in posters:
            poster.fetch_add(pair.near.regions["old"].segment(8 * position, 8), remote, 1)
            position += 1
            outstanding += 1
        while outstanding > 32:
            outstanding -= len(_succeeded(pair.near))
    while outstanding:
        outstanding -= len(_succeeded(pair.near))

    assert pair.far.word("words") == queue_pairs * each
    # Each sum was seen once, by the request that added to it.
    old = np.sort(pair.near.regions["old"].array.view(np.uint64))
    assert np.array_equal(old, np.arange(queue_pairs * each, dtype=np.uint64))
    kept.clear()


def _succeeded(end):
    end.initiator_cq.wait(LIMIT)
    done = end.waiting()
    assert all(one.status == nd.Status.SUCCESS for one in done)
    return done


def test_compare_swaps_in_two_threads_exclude_each_other(connect_pair, scaled):
    turns = scaled(100)
    pair = connect_pair()
    lock = pair.far.words("lock", 1)
    counter = pair.far.words("counter", 1, ALL)
    other = End(adapter=pair.adapter)
    address = pair.far.listen()
    first = pair.far.qp, pair.far.connector
    pair.far.qp = pair.far.create_qp()
    with ThreadPoolExecutor(2) as threads:
        join(
            other,
            lambda name, **options: threads.submit(getattr(pair.far, name), **options),
            address,
        )

        def work(end):
            end.words("old", 1)
            end.words("value", 1, ALL)
            for _ in range(turns):
                while True:
                    end.compare_swap(lock, 0, 1, "old")
                    assert end.completion().status == nd.Status.SUCCESS
                    if end.word("old") == 0:
                        break
                end.read(counter, "value")
                assert end.completion().status == nd.Status.SUCCESS
                end.regions["value"].array.view(np.uint64)[0] += 1
                end.write(counter, "value")
                end.compare_swap(lock, 1, 0, "old")
                assert {done.status for done in end.completions("initiator", 2)} == {
                    nd.Status.SUCCESS
                }

        for done in [threads.submit(work, end) for end in (pair.near, other)]:
            done.result(LIMIT)
    assert pair.far.word("counter") == 2 * turns
    other.close()
    for one in first:
        one.close()
