# SPDX-License-Identifier: Apache-2.0
"""INLINE, SILENT_SUCCESS, READ_FENCE, SEND_AND_SOLICIT_EVENT, and flags that are not allowed."""

import gc
import weakref

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import pattern, status_of
from conformance.initiator_requests import posting

SILENT = nd.Flag.SILENT_SUCCESS
INLINE = nd.Flag.INLINE


class Token:
    """A context that weak references can watch."""


# ---- INLINE -------------------------------------------------------------------------------------


def test_inline_send_needs_no_registered_memory(ends):
    ends.far.memory("sink", 8)
    ends.far.receive("sink")

    ends.near.qp.send(b"inlined!", flags=INLINE)

    assert ends.far.received().bytes_transferred == 8
    assert ends.far.content("sink") == b"inlined!"


def test_inline_write_needs_no_registered_memory(ends):
    target = ends.far.memory("target", 8)
    ends.far.receive()

    ends.near.qp.write(np.arange(8, dtype=np.uint8), target, flags=INLINE)
    ends.near.send()

    assert ends.far.received().status == nd.Status.SUCCESS
    assert ends.far.content("target") == bytes(range(8))


def test_inline_memory_is_free_when_the_call_returns(ends):
    # Reading is paused at the far end, so the bytes leave long after the call.
    ends.far.memory("sink", 8)
    buffer = bytearray(b"12345678")

    ends.near.qp.send(buffer, flags=INLINE)
    buffer[:] = b"overlaid"
    buffer.append(0)  # nothing exports it any more
    ends.far.receive("sink")

    assert ends.far.received().status == nd.Status.SUCCESS
    assert ends.far.content("sink") == b"12345678"


def test_inline_takes_more_segments_than_the_queue_pair_allows(make_ends):
    ends = make_ends(max_initiator_sge=1).connect()
    ends.far.memory("sink", 30)
    ends.far.receive("sink")

    ends.near.qp.send([bytes([i]) for i in range(30)], flags=INLINE)

    assert ends.far.received().bytes_transferred == 30
    assert ends.far.content("sink") == bytes(range(30))


def test_inline_of_zero_bytes_is_fine(ends):
    ends.far.receive()

    ends.near.qp.send(b"", flags=INLINE)

    assert ends.far.received().bytes_transferred == 0


@pytest.mark.parametrize("size", [0, 1, 64, 4096])
def test_inline_takes_exactly_the_size_of_the_queue_pair(connect_pair, size):
    pair = connect_pair(near={"inline_size": size})
    pair.far.memory("sink", 4097)
    pair.far.receive("sink")

    with pytest.raises(nd.RdmaError) as caught:
        pair.near.qp.send(bytes(size + 1), flags=INLINE)
    assert caught.value.status == nd.Status.BUFFER_OVERFLOW
    assert str(size) in str(caught.value)

    pair.near.qp.send(pattern(size), flags=INLINE)
    assert pair.far.received().bytes_transferred == size
    assert pair.far.content("sink", 0, size) == pattern(size)


def test_inline_data_of_a_send_and_invalidate_is_limited_alike(pair):
    posting(pair, "send_and_invalidate")  # where there is one
    too_much = bytes(257)

    status = status_of(pair.near.qp.send_and_invalidate, too_much, 1, flags=INLINE)

    assert status == nd.Status.BUFFER_OVERFLOW


def test_inline_size_beyond_the_adapter_is_refused(pair):
    too_much = pair.adapter.info.max_inline_data_size + 1

    with pytest.raises(ValueError, match="inline"):
        pair.near.create_qp(inline_size=too_much)


# ---- SILENT_SUCCESS -----------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["send", "write", "read"])
def test_silent_request_has_no_completion_when_it_succeeds(ends, operation):
    target = ends.far.memory("target", 8)
    ends.near.memory("local", 8)
    ends.far.receive("target")
    ends.far.receive(context=2)
    arguments = ("local",) if operation == "send" else (target, "local")

    getattr(ends.near, operation)(*arguments, context=1, flags=SILENT)
    ends.near.send(context=2)

    # Completions come in posting order: the second is the first to show.
    assert ends.near.completion().request_context == 2
    assert ends.near.waiting() == []


def test_silent_requests_far_beyond_the_depth_never_fill_the_queue(make_ends):
    ends = make_ends(initiator_queue_depth=4).connect()
    target = ends.far.memory("target", 8)
    ends.near.memory("source", 8, seed=1)
    ends.far.receive()

    posted = 0
    while posted < 1000:
        status = status_of(ends.near.write, target, "source", flags=SILENT)
        assert status in (nd.Status.SUCCESS, nd.Status.NO_MORE_ENTRIES)
        posted += status == nd.Status.SUCCESS
        assert ends.near.waiting() == []
    while status_of(ends.near.send, flags=SILENT) == nd.Status.NO_MORE_ENTRIES:
        assert ends.near.waiting() == []

    assert ends.far.received().status == nd.Status.SUCCESS
    assert ends.far.content("target") == pattern(8, 1)


def test_contexts_of_silent_requests_are_released_without_polling(pair):
    target = pair.far.memory("target", 8)
    pair.near.memory("source", 8)
    tokens = [Token() for _ in range(50)]
    watched = [weakref.ref(token) for token in tokens]

    pair.far.receive()
    for token in tokens:
        pair.near.write(target, "source", context=token, flags=SILENT)
    del tokens, token
    pair.near.send(flags=SILENT)
    assert pair.far.received().status == nd.Status.SUCCESS
    # The next call that holds the GIL drops them; the last may still be in flight to the socket.
    pair.near.write(target, "source", flags=SILENT)
    pair.near.write(target, "source", flags=SILENT)

    gc.collect()
    assert [ref for ref in watched if ref() is not None] == []


def test_silent_request_that_fails_has_a_completion(ends):
    target = ends.far.memory("target", 8, nd.Access.REMOTE_READ)
    ends.near.memory("source", 8)
    ends.near.read((target.address, target.token ^ 1), "source", context=5, flags=SILENT)

    done = ends.near.completion()
    assert done.request_context == 5
    assert done.status != nd.Status.SUCCESS


def test_silent_requests_that_are_flushed_have_completions(make_ends):
    ends = make_ends(initiator_queue_depth=512).connect()
    # The peer posts no receive, so it does not look at what follows the message; or this end has
    # no room for what follows so many.
    ends.near.memory("sink", 8)
    target = ends.far.memory("target", 8)
    for _ in range(300 if ends.near.is_direct else 1):
        ends.near.send(flags=SILENT)
    for i in range(8):
        ends.near.read(target, "sink", context=i, flags=SILENT)

    ends.near.flush()

    # Where a Send waits for the peer's receive, it is cancelled, too.
    done, reads = [], []
    while len(reads) < 8:
        done.append(ends.near.completion())
        reads += [each for each in done[-1:] if each.type == nd.OperationType.READ]
    assert {each.status for each in done} == {nd.Status.CANCELLED}
    assert [each.request_context for each in reads] == [*range(8)]


# ---- READ_FENCE ---------------------------------------------------------------------------------


def test_fenced_send_carries_what_an_earlier_read_fetched(ends):
    target = ends.far.memory("target", 100_000, seed=4)
    ends.far.memory("echo", 100_000)
    ends.near.memory("buffer", 100_000)
    ends.far.receive("echo")

    ends.near.read(target, "buffer")
    ends.near.send("buffer", flags=nd.Flag.READ_FENCE)

    assert ends.far.received().bytes_transferred == 100_000
    assert ends.far.content("echo") == pattern(100_000, 4)


def test_fenced_write_carries_what_an_earlier_read_fetched(ends):
    source = ends.far.memory("source", 50_000, seed=4)
    target = ends.far.memory("target", 50_000)
    ends.near.memory("buffer", 50_000)
    ends.far.receive()

    ends.near.read(source, "buffer")
    ends.near.write(target, "buffer", flags=nd.Flag.READ_FENCE)
    ends.near.send()

    assert ends.far.received().status == nd.Status.SUCCESS
    assert ends.far.content("target") == pattern(50_000, 4)


def test_fenced_read_sees_what_an_earlier_read_let_through(ends):
    target = ends.far.memory("target", 8, seed=1)
    ends.near.memory("buffer", 16)

    ends.near.read(target, ("buffer", 0, 8))
    ends.near.read(target, ("buffer", 8, 8), flags=nd.Flag.READ_FENCE)

    assert [done.status for done in ends.near.completions("initiator", 2)] == [
        nd.Status.SUCCESS
    ] * 2
    assert ends.near.content("buffer") == pattern(8, 1) * 2


def test_fence_without_a_read_before_it_changes_nothing(ends):
    ends.far.receive()

    ends.near.send(flags=nd.Flag.READ_FENCE, context=1)

    assert ends.near.completion().request_context == 1
    assert ends.far.received().status == nd.Status.SUCCESS


# ---- SEND_AND_SOLICIT_EVENT ---------------------------------------------------------------------


def test_solicited_send_satisfies_a_solicited_arm(ends):
    ends.near.receive()
    ends.near.arm("receive", nd.Notify.SOLICITED)

    ends.far.send(flags=nd.Flag.SEND_AND_SOLICIT_EVENT)

    assert ends.near.is_notified("receive", 30)


def test_plain_send_does_not_satisfy_a_solicited_arm(ends):
    ends.near.receive(context=1)
    ends.near.receive(context=2)
    ends.near.arm("receive", nd.Notify.SOLICITED)

    ends.far.send()
    assert ends.near.received().request_context == 1
    assert not ends.near.is_notified("receive")

    ends.far.send(flags=nd.Flag.SEND_AND_SOLICIT_EVENT)
    assert ends.near.is_notified("receive", 30)
    assert ends.near.received().request_context == 2


# ---- flags that are not allowed -----------------------------------------------------------------

SEND_FLAGS = 0x001 | 0x002 | 0x004 | 0x040
WRITE_FLAGS = 0x001 | 0x002 | 0x040
READ_FLAGS = 0x001 | 0x002 | 0x100


@pytest.mark.parametrize(
    ("operation", "allowed"),
    [
        ("send", SEND_FLAGS),
        ("send_and_invalidate", SEND_FLAGS),
        ("write", WRITE_FLAGS),
        ("read", READ_FLAGS),
        ("invalidate", 0x001 | 0x002),
    ],
)
def test_illegal_flags_are_refused_at_the_call(connect_pair, operation, allowed):
    pair = connect_pair()
    post = posting(pair, operation)

    for bit in range(32):
        if allowed >> bit & 1 or (1 << bit) == nd.Flag.DEFER:
            continue
        with pytest.raises(ValueError, match="flags"):
            post(flags=1 << bit)

    pair.far.receive()
    pair.near.send()  # the queue pair stays usable
    assert pair.far.received().status == nd.Status.SUCCESS


def test_every_allowed_flag_of_send_may_come_together(ends):
    ends.far.memory("sink", 4)
    ends.far.receive("sink")

    ends.near.qp.send(b"four", flags=SEND_FLAGS)

    assert ends.far.received().bytes_transferred == 4
