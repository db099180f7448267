# SPDX-License-Identifier: Apache-2.0
"""The life of a stream: every state meets every input, deadlines, closing, flushing."""

import errno

import pytest

from engine.pair import SECOND, WINDOW_STAG, WINDOW_TO, Pair, Solo
from wire import reference

OPENING = reference.tagged(reference.WRITE, 0, 0, b"", crc=False)
SEND = reference.untagged(reference.SEND, 0, 1, 0, b"data", crc=False)
BAD_WRITE = reference.tagged(reference.WRITE, 0x9900, 0, b"data", crc=False)
TERMINATE = reference.untagged(
    reference.TERMINATE, 2, 1, payload=bytes.fromhex("20020000"), crc=False
)
READ = reference.read_request(1, 1, 0, 400, WINDOW_STAG, WINDOW_TO, crc=False)


# ---- every state meets every input ----------------------------------------------------------


class Recorded(Solo):
    """Remembers what was posted, in order."""

    def __init__(self, **config):
        super().__init__(**config)
        self.posted = {"requests": [], "receives": []}

    def post(self, name, context, *arguments):
        assert getattr(self.engine, name)(context, *arguments)
        self.posted["receives" if name == "post_receive" else "requests"].append(context)


def held():
    return Recorded(ird=2)


def opened():
    solo = held()
    solo.step(OPENING)
    return solo


def half_read():
    solo = opened()
    solo.step(reference.tagged(reference.WRITE, WINDOW_STAG, WINDOW_TO, b"half read")[:-10])
    return solo


def paused():
    solo = opened()
    solo.step(SEND)
    assert not solo.engine.wants_read
    return solo


def reading():
    solo = opened()
    solo.post("post_read", 91, [(0x700, 4)], WINDOW_STAG, WINDOW_TO)
    solo.step()
    return solo


def half_written():
    solo = opened()
    solo.post("post_send", 92, [(0x400, 700)])
    solo.step(limit=300)
    return solo


def answering():
    solo = opened()
    solo.step(READ, limit=0)
    solo.step(limit=300)
    return solo


def disconnecting():
    solo = opened()
    solo.engine.disconnect()
    solo.step()
    return solo


def peer_closed():
    solo = opened()
    solo.engine.end_of_stream()
    solo.step()
    return solo


def terminating():
    solo = opened()
    solo.step(BAD_WRITE, limit=0)
    return solo


def half_terminated():
    solo = terminating()
    solo.step(limit=10)
    return solo


def over():
    solo = opened()
    solo.step(BAD_WRITE)
    solo.step()
    return solo


def flushed():
    solo = opened()
    solo.engine.flush()
    solo.step()
    return solo


STATES = [
    held,
    opened,
    half_read,
    paused,
    reading,
    half_written,
    answering,
    disconnecting,
    peer_closed,
    terminating,
    half_terminated,
    over,
    flushed,
]


def feed(data):
    return lambda solo: solo.step(data)


def post(name, *arguments):
    return lambda solo: (solo.post(name, *arguments), solo.step())


def call(name, *arguments):
    return lambda solo: (getattr(solo.engine, name)(*arguments), solo.step())


INPUTS = {
    "nothing": lambda solo: solo.step(),
    "opening": feed(OPENING),
    "send": feed(SEND),
    "read_request": feed(READ),
    "bad_write": feed(BAD_WRITE),
    "terminate": feed(TERMINATE),
    "garbage": feed(b"\xff" * 300),
    "post_send": post("post_send", 10, [(0, 4)]),
    "post_write": post("post_write", 10, [(0, 400)], WINDOW_STAG, WINDOW_TO),
    "post_read": post("post_read", 10, [(0, 4)], WINDOW_STAG, WINDOW_TO),
    "post_receive": post("post_receive", 11, [(0, 16)]),
    "end_of_stream": call("end_of_stream"),
    "link_error": call("link_error", errno.ECONNRESET),
    "disconnect": call("disconnect"),
    "flush": call("flush"),
    "release_hold": call("release_hold"),
    "one_second": lambda solo: solo.advance(SECOND),
    "ten_seconds": lambda solo: solo.advance(10 * SECOND),
    "region_gone": call("remove_region", WINDOW_STAG),
}
# In these states nothing can end the stream a second time or bring it back.
DEAD = {"over", "flushed"}
# Inputs that end an open stream, whatever else it does. A paused or closed one does not read.
ENDING = {"bad_write", "terminate", "garbage", "link_error", "flush"}
NOT_READ_IN = {"paused", "peer_closed", "half_read"}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("first", INPUTS)
def test_every_input_in_every_state_keeps_the_promises(state, first):
    solo = state()
    name = state.__name__
    cause = solo.engine.cause

    INPUTS[first](solo)
    assert_promises(solo)

    if name in DEAD:
        assert solo.engine.is_over
        assert solo.engine.cause == cause
    elif first in ENDING and name not in NOT_READ_IN:
        assert solo.engine.is_over or solo.engine.deadline() is not None
    assert_a_flush_ends_it(solo)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
@pytest.mark.parametrize("first", INPUTS)
def test_every_two_inputs_in_every_state_keep_the_promises(state, first):
    for second in INPUTS.values():
        solo = state()
        INPUTS[first](solo)
        second(solo)
        assert_promises(solo)
        assert_a_flush_ends_it(solo)


def assert_a_flush_ends_it(solo):
    solo.engine.flush()
    solo.step()
    assert_promises(solo)
    assert solo.engine.is_over
    written = bytes(solo.written)
    solo.engine.post_send(98, [(0, 4)])
    solo.engine.post_receive(99, [(0, 4)])
    solo.step(OPENING)
    assert bytes(solo.written) == written
    # Every request completes exactly once, and the last ones as cancelled.
    assert solo.side.contexts(receives=False) == solo.posted["requests"] + [98]
    assert solo.side.contexts(receives=True) == solo.posted["receives"] + [99]
    assert [c["status"] for c in solo.completions[-2:]] == ["cancelled", "cancelled"]


def assert_promises(solo):
    engine = solo.engine
    if engine.is_over:
        assert "over" in solo.events
        assert not engine.wants_read
        assert not engine.wants_write
        assert engine.deadline() is None
    if engine.deadline() is not None:
        # Time alone ends whatever waits.
        assert engine.deadline() <= solo.now + 5 * SECOND


# ---- closing --------------------------------------------------------------------------------


def test_an_idle_stream_is_drained_at_once():
    solo = opened()

    solo.engine.disconnect()
    solo.step()

    assert "drained" in solo.events
    assert not solo.engine.is_over


def test_a_stream_is_drained_when_its_requests_are_out_and_its_reads_answered():
    pair = Pair(fin=False)
    pair.settle()
    pair.a.engine.post_send(1, [(0, 4)])
    pair.a.engine.post_read(2, [(0, 4)], WINDOW_STAG, WINDOW_TO)
    pair.a.engine.disconnect()

    pair.step(pair.a)
    assert "drained" not in pair.a.events

    pair.b.engine.post_receive(1, [(0, 4)])
    pair.settle()
    assert "drained" in pair.a.events
    assert pair.a.statuses(receives=False) == ["success", "success"]


def test_a_response_in_progress_is_finished_before_a_stream_is_drained():
    solo = answering()
    solo.engine.disconnect()

    solo.step(limit=0)
    assert "drained" not in solo.events

    solo.step()
    assert "drained" in solo.events


def test_a_clean_end_of_stream_is_an_event_and_no_error():
    solo = opened()
    solo.engine.post_receive(1, [(0, 16)])

    solo.engine.end_of_stream()
    solo.step()

    assert "peer_closed" in solo.events
    assert not solo.engine.is_over
    assert solo.engine.cause is None
    assert solo.completions == []


def test_an_end_in_the_middle_of_an_fpdu_is_an_error():
    solo = half_read()
    solo.engine.post_receive(2, [(0, 16)])

    solo.engine.end_of_stream()
    solo.step()

    assert solo.engine.is_over
    assert solo.engine.cause == ("local", 2, 0, 1)


def test_an_end_in_the_middle_of_a_message_is_an_error():
    solo = opened()
    solo.step(
        reference.tagged(reference.WRITE, WINDOW_STAG, WINDOW_TO, b"half", last=False, crc=False)
    )

    solo.engine.end_of_stream()
    solo.step()

    assert solo.engine.cause == ("local", 2, 0, 1)


def test_an_end_with_a_read_unanswered_fails_the_read():
    solo = reading()
    solo.engine.post_send(93, [(0, 4)])

    solo.engine.end_of_stream()
    solo.step()

    assert solo.engine.is_over
    assert solo.side.outcome() == [("request", 91, "io_timeout"), ("request", 93, "cancelled")]


def test_after_the_peer_closed_requests_still_go_out():
    solo = peer_closed()
    solo.engine.post_send(1, [(0, 4)])

    solo.step()

    assert solo.side.outcome() == [("request", 1, "success")]


def test_a_dead_link_fails_the_oldest_request_and_cancels_the_rest():
    solo = half_written()
    solo.engine.post_send(93, [(0, 4)])
    solo.engine.post_receive(7, [(0, 4)])

    solo.engine.link_error(errno.ECONNRESET)
    solo.step()

    assert solo.side.outcome() == [
        ("request", 92, "io_timeout"),
        ("request", 93, "cancelled"),
        ("receive", 7, "cancelled"),
    ]
    assert solo.engine.cause == ("system", errno.ECONNRESET)


def test_the_first_cause_is_kept():
    solo = terminating()
    solo.engine.link_error(errno.ECONNRESET)

    solo.step()

    assert solo.engine.cause == ("local", 1, 1, 0)


def test_a_flush_cancels_everything_and_says_nothing_to_the_peer():
    solo = reading()
    solo.engine.post_receive(7, [(0, 4)])
    written = bytes(solo.written)

    solo.engine.flush()
    solo.step()

    assert solo.side.outcome() == [("request", 91, "cancelled"), ("receive", 7, "cancelled")]
    assert bytes(solo.written) == written


def test_a_receive_filled_before_the_end_keeps_its_success():
    solo = opened()
    solo.engine.post_receive(1, [(0, 16)])
    solo.engine.post_receive(2, [(16, 16)])

    solo.step(SEND + BAD_WRITE)
    solo.step()

    assert solo.side.outcome() == [("receive", 1, "success"), ("receive", 2, "cancelled")]


def test_an_idle_stream_has_no_deadline():
    assert opened().engine.deadline() is None


def test_a_large_backlog_is_one_beyond_the_threshold():
    solo = opened()
    solo.engine.post_write(1, [(0, 1000)], WINDOW_STAG, WINDOW_TO)
    solo.engine.post_send(2, [(0, 1000)])
    solo.engine.post_read(3, [(0, 1000)], WINDOW_STAG, WINDOW_TO)

    assert solo.engine.has_large_backlog(1999)
    assert not solo.engine.has_large_backlog(2000)


def test_a_large_backlog_is_seen_across_the_wrap_of_positions():
    solo = Solo(ird=2, start_position=2**32 - 1)
    solo.step(OPENING)
    solo.engine.post_write(1, [(0, 1000)], WINDOW_STAG, WINDOW_TO)
    solo.engine.post_send(2, [(0, 1000)])

    assert solo.engine.has_large_backlog(1999)


def test_a_response_in_progress_is_counted_into_the_backlog_once():
    solo = Recorded(ird=2, max_fpdu=128)
    solo.step(OPENING)
    solo.engine.post_write(1, [(0, 1000)], WINDOW_STAG, WINDOW_TO)

    solo.step()  # its slot is free again, and must not count
    solo.step(READ, limit=0)
    solo.step(limit=200, budget=1)  # two of four segments built

    assert not solo.engine.has_large_backlog(400)
    assert solo.engine.has_large_backlog(100)


# ---- what a provider asks between steps -----------------------------------------------------


@pytest.mark.parametrize(
    ("state", "wants_read", "wants_write"),
    [
        (held, True, False),
        (opened, True, False),
        (half_read, True, False),
        (paused, False, False),
        (reading, True, False),
        (half_written, True, True),
        (answering, True, True),
        (disconnecting, True, False),
        (peer_closed, False, False),
        (terminating, False, True),
        (half_terminated, False, True),
        (over, False, False),
        (flushed, False, False),
    ],
)
def test_each_state_wants_what_it_can_use(state, wants_read, wants_write):
    engine = state().engine
    assert engine.wants_read is wants_read
    assert engine.wants_write is wants_write


def test_a_posted_request_wants_to_be_written_unless_it_is_held():
    solo = held()

    solo.engine.post_send(1, [(0, 4)])
    assert not solo.engine.wants_write

    solo.engine.release_hold()
    assert solo.engine.wants_write


def test_an_initiator_wants_to_write_its_opening_message():
    assert Solo(is_initiator=True).engine.wants_write


def test_a_pause_can_resume_once_a_receive_is_posted():
    solo = paused()
    assert not solo.engine.can_resume

    solo.post("post_receive", 1, [(0, 16)])
    assert solo.engine.can_resume

    solo.step()
    assert not solo.engine.can_resume


def test_a_new_limit_holds_from_the_next_frame_on():
    solo = opened()
    solo.engine.set_max_fpdu(64)
    solo.engine.post_write(1, [(0, 100)], WINDOW_STAG, WINDOW_TO)

    solo.step()

    assert [len(ulpdu) - 14 for ulpdu in solo.fpdus()] == [44, 44, 12]
