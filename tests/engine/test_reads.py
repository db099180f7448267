# SPDX-License-Identifier: Apache-2.0
"""Read limits in both directions, fences, completion order, exactness of responses."""

import struct

import pytest

from engine.pair import FILL, WINDOW_OFFSET, WINDOW_STAG, WINDOW_TO, Pair, Solo, one_byte, pattern
from wire import reference

READ_SIZE = 100


def read_requests(ulpdus):
    return [ulpdu for ulpdu in ulpdus if ulpdu[1] & 0x0F == reference.READ_REQUEST]


def requester(**config):
    """An initiator whose peer is the test; its opening message is out already."""
    solo = Solo(is_initiator=True, **config)
    solo.step()
    solo.written.clear()
    return solo


def post_reads(solo, count, size=READ_SIZE, first=0):
    for context in range(first, first + count):
        offset = context % 16 * READ_SIZE
        assert solo.engine.post_read(context, [(offset, size)], WINDOW_STAG, WINDOW_TO)


def sink_stags(solo):
    return [struct.unpack_from(">I", ulpdu, 18)[0] for ulpdu in read_requests(solo.fpdus())]


def response(stag, offset=0, payload=bytes(READ_SIZE), **options):
    return reference.tagged(reference.READ_RESPONSE, stag, offset, payload, crc=False, **options)


# ---- outbound -------------------------------------------------------------------------------


@pytest.mark.parametrize("ord_", [1, 2, 3, 5, 16])
def test_no_more_reads_are_outstanding_than_the_peer_holds(ord_):
    solo = requester(ord=ord_)
    post_reads(solo, 20)

    solo.step()

    assert len(read_requests(solo.fpdus())) == ord_


def test_a_stalled_read_goes_out_when_a_response_makes_room():
    solo = requester(ord=2)
    post_reads(solo, 4)
    solo.step()

    for done in range(4):
        assert len(sink_stags(solo)) == min(4, 2 + done)
        solo.step(response(sink_stags(solo)[done]))

    assert solo.side.contexts(receives=False) == [0, 1, 2, 3]
    assert solo.side.statuses(receives=False) == ["success"] * 4


def test_requests_behind_a_stalled_read_wait_in_order():
    solo = requester(ord=1)
    post_reads(solo, 2)
    solo.engine.post_send(7, [(0, 4)])

    solo.step()
    assert [ulpdu[1] & 15 for ulpdu in solo.fpdus()] == [reference.READ_REQUEST]

    solo.step(response(sink_stags(solo)[0]))
    solo.step(response(sink_stags(solo)[1]))
    assert [ulpdu[1] & 15 for ulpdu in solo.fpdus()] == [1, 1, reference.SEND]
    assert solo.side.contexts(receives=False) == [0, 1, 7]


def test_read_requests_are_numbered_from_one():
    solo = requester()
    post_reads(solo, 3)

    solo.step()

    assert [struct.unpack_from(">II", u, 6) for u in read_requests(solo.fpdus())] == [
        (1, 1),
        (1, 2),
        (1, 3),
    ]


def test_an_opening_read_takes_number_one_and_a_slot():
    solo = Solo(is_initiator=True, rtr="read", ord=1)
    post_reads(solo, 1)

    solo.step()
    assert solo.fpdus() == [bytes.fromhex("4141 00000000 00000001 00000001 00000000") + bytes(28)]

    solo.step(response(0, payload=b""))
    assert struct.unpack_from(">II", solo.fpdus()[1], 6) == (1, 2)
    assert solo.completions == []


def test_a_read_completes_after_earlier_sends_and_before_later_ones():
    solo = requester()
    solo.engine.post_send(1, [(0, 4)])
    post_reads(solo, 1, first=2)
    solo.engine.post_send(3, [(0, 4)])
    solo.engine.post_write(4, [(0, 4)], WINDOW_STAG, WINDOW_TO)

    solo.step()
    # The later ones are with TCP, but completions follow the order of posting.
    assert len(solo.fpdus()) == 4
    assert solo.side.contexts(receives=False) == [1]

    solo.step(response(sink_stags(solo)[0]))
    assert solo.side.contexts(receives=False) == [1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["send", "write", "read"])
def test_a_fence_holds_a_request_until_all_reads_are_answered(kind):
    solo = requester()
    post_reads(solo, 2)
    if kind == "send":
        solo.engine.post_send(9, [(0, 4)], fenced=True)
    elif kind == "write":
        solo.engine.post_write(9, [(0, 4)], WINDOW_STAG, WINDOW_TO, fenced=True)
    else:
        solo.engine.post_read(9, [(0, 4)], WINDOW_STAG, WINDOW_TO, fenced=True)

    solo.step()
    assert len(solo.fpdus()) == 2

    first, second = sink_stags(solo)
    solo.step(response(first))
    assert len(solo.fpdus()) == 2

    solo.step(response(second))
    assert len(solo.fpdus()) == 3


def test_without_reads_a_fence_holds_nothing():
    solo = requester()
    solo.engine.post_send(9, [(0, 4)], fenced=True)

    solo.step()

    assert solo.side.contexts(receives=False) == [9]


def test_sink_tokens_differ_and_depend_on_the_seed():
    def tokens(seed):
        solo = requester(seed=seed)
        post_reads(solo, 16)
        solo.step()
        return sink_stags(solo)

    assert len(set(tokens(1))) == 16
    assert not set(tokens(1)) & set(tokens(2))
    assert 0 not in tokens(1)


# ---- responses are exact --------------------------------------------------------------------


WRONG_RESPONSES = {
    "wrong_stag": (lambda s: response(s ^ 1), (1, 1, 0)),
    "stag_of_the_second_read": (lambda s: None, (1, 1, 0)),
    "starts_late": (lambda s: response(s, 4, bytes(READ_SIZE - 4)), (1, 1, 1)),
    "too_short": (lambda s: response(s, 0, bytes(READ_SIZE - 1)), (1, 1, 1)),
    "empty": (lambda s: response(s, 0, b""), (1, 1, 1)),
    "too_long": (lambda s: response(s, 0, bytes(READ_SIZE + 1)), (1, 1, 1)),
    "too_long_not_last": (lambda s: response(s, 0, bytes(READ_SIZE + 1), last=False), (1, 1, 1)),
    "gap": (
        lambda s: response(s, 0, bytes(50), last=False) + response(s, 51, bytes(50)),
        (1, 1, 1),
    ),
    "repeats": (
        lambda s: response(s, 0, bytes(50), last=False) + response(s, 0, bytes(50)),
        (1, 1, 1),
    ),
    "goes_on_after_the_end": (
        lambda s: response(s, last=False) + response(s, 100, b"x"),
        (1, 1, 1),
    ),
    "offset_wraps": (lambda s: response(s, 2**64 - 1), (1, 1, 1)),
    "becomes_a_write": (
        lambda s: (
            response(s, 0, bytes(50), last=False)
            + reference.tagged(reference.WRITE, WINDOW_STAG, WINDOW_TO, b"data", crc=False)
        ),
        (0, 2, 6),
    ),
    "write_becomes_a_response": (
        lambda s: (
            reference.tagged(
                reference.WRITE, WINDOW_STAG, WINDOW_TO, b"data", last=False, crc=False
            )
            + response(s)
        ),
        (0, 2, 6),
    ),
}


@pytest.mark.parametrize("case", WRONG_RESPONSES)
def test_a_response_that_is_not_exact_breaks_the_connection(case):
    build, code = WRONG_RESPONSES[case]
    solo = requester()
    post_reads(solo, 2)
    solo.step()
    first, second = sink_stags(solo)
    solo.step(response(second) if case == "stag_of_the_second_read" else build(first))
    solo.step()
    assert solo.terminate()["code"] == code
    assert solo.side.statuses(receives=False) == ["cancelled"] * 2

    memory = solo.side.memory()
    assert memory[READ_SIZE:WINDOW_OFFSET] == bytes([FILL]) * (WINDOW_OFFSET - READ_SIZE)


def test_a_second_response_to_one_read_breaks_the_connection():
    solo = requester()
    post_reads(solo, 1)
    solo.step()
    answer = response(sink_stags(solo)[0])

    solo.step(answer + answer)
    solo.step()

    assert solo.side.statuses(receives=False) == ["success"]
    assert solo.terminate()["code"] == (0, 2, 6)


def test_a_response_in_many_segments_fills_a_scattered_sink():
    solo = requester()
    solo.engine.post_read(1, [(0, 30), (64, 50), (200, 20)], WINDOW_STAG, WINDOW_TO)
    solo.step()
    (stag,) = sink_stags(solo)
    data = pattern(100)

    for at in range(0, 100, 7):
        part = data[at : at + 7]
        solo.step(response(stag, at, part, last=at + 7 >= 100))

    assert solo.side.statuses(receives=False) == ["success"]
    assert solo.engine.read(0, 30) + solo.engine.read(64, 50) + solo.engine.read(200, 20) == data


def test_sends_may_come_between_the_segments_of_a_response():
    solo = requester()
    solo.engine.post_receive(5, [(0x800, 16)])
    post_reads(solo, 1)
    solo.step()
    (stag,) = sink_stags(solo)

    solo.step(response(stag, 0, bytes(60), last=False))
    solo.step(reference.untagged(reference.SEND, 0, 1, 0, b"between", crc=False))
    solo.step(response(stag, 60, bytes(40)))

    assert [c["context"] for c in solo.completions] == [5, 0]


def test_a_response_to_a_request_that_is_only_half_out_breaks_the_connection():
    solo = requester()
    post_reads(solo, 1)
    solo.step(limit=40)  # the sink STag is out, the end of the frame is not
    stag = struct.unpack_from(">I", solo.written, 20)[0]

    solo.step(response(stag), limit=0)
    solo.step()

    assert solo.terminate()["code"] == (0, 2, 6)
    assert solo.side.statuses(receives=False) == ["cancelled"]
    assert solo.engine.read(0, READ_SIZE) == bytes([FILL]) * READ_SIZE


# ---- inbound --------------------------------------------------------------------------------


def incoming_read(msn, size=READ_SIZE, sink=None):
    return reference.read_request(
        msn, sink if sink is not None else msn, 0, size, WINDOW_STAG, WINDOW_TO, crc=False
    )


@pytest.mark.parametrize(("ird", "held"), [(1, 1), (2, 2), (3, 4), (5, 8), (16, 16)])
def test_reads_up_to_the_next_power_of_two_are_held_and_one_more_is_refused(ird, held):
    # siw rounds its limits up to a power of two and sends that many
    # (docs/wire/siw.md#start-up-as-responder).
    solo = Solo(ird=ird)
    solo.step(*(incoming_read(msn) for msn in range(1, held + 1)), limit=0)
    solo.step(limit=0)
    assert not solo.engine.is_over
    assert solo.engine.cause is None

    solo.step(incoming_read(held + 1), limit=0)
    solo.step()
    assert solo.terminate()["code"] == (0, 2, 7)


def test_without_a_limit_every_read_is_refused():
    solo = Solo(ird=0)
    solo.step(incoming_read(1))
    solo.step()

    assert solo.terminate()["code"] == (0, 2, 7)


def test_an_answered_read_gives_its_slot_back():
    solo = Solo(ird=1)

    for msn in range(1, 20):
        solo.step(incoming_read(msn))
        solo.step()

    assert not solo.engine.is_over
    assert len(solo.fpdus()) == 19


def test_responses_come_in_the_order_of_the_requests():
    solo = Solo(ird=4)
    solo.step(*(incoming_read(msn, sink=0x100 + msn) for msn in (1, 2, 3)))
    solo.step()

    assert [struct.unpack_from(">I", u, 2)[0] for u in solo.fpdus()] == [0x101, 0x102, 0x103]


def test_a_read_sees_the_write_before_it():
    solo = Solo()

    solo.step(
        reference.tagged(reference.WRITE, WINDOW_STAG, WINDOW_TO, b"fresh", crc=False)
        + incoming_read(1, size=5)
    )
    solo.step()

    assert solo.fpdus()[0][14:] == b"fresh"


def test_a_response_never_begins_when_its_end_is_out_of_bounds():
    solo = Solo(max_fpdu=64)

    solo.step(reference.read_request(1, 1, 0, 0x801, WINDOW_STAG, WINDOW_TO, crc=False))
    solo.step()

    assert len(solo.fpdus()) == 1
    assert solo.terminate()["code"] == (0, 1, 1)


def test_own_requests_and_responses_take_turns():
    solo = Solo(ird=16)
    for context in range(4):
        solo.engine.post_send(context, [(0, 4)])

    solo.step(*(incoming_read(msn) for msn in range(1, 5)), limit=0)
    solo.step()

    kinds = [ulpdu[1] & 15 for ulpdu in solo.fpdus()]
    assert sorted(kinds) == [2, 2, 2, 2, 3, 3, 3, 3]
    assert kinds not in ([2, 2, 2, 2, 3, 3, 3, 3], [3, 3, 3, 3, 2, 2, 2, 2])


def test_messages_are_never_interleaved():
    solo = Solo(ird=16, max_fpdu=64)
    for context in range(3):
        solo.engine.post_write(context, [(0, 200)], WINDOW_STAG, WINDOW_TO)
    solo.step(*(incoming_read(msn, size=200) for msn in range(1, 4)), limit=0)
    solo.step()
    open_opcode = None

    for ulpdu in solo.fpdus():
        opcode, is_last = ulpdu[1] & 15, bool(ulpdu[0] & 0x40)
        assert open_opcode in (None, opcode)
        open_opcode = None if is_last else opcode

    assert open_opcode is None


def test_many_reads_through_a_narrow_link_all_arrive():
    pair = Pair(ird=4, ord=4, max_fpdu=64, a={"send_depth": 64})

    pair.b.engine.write(WINDOW_OFFSET, pattern(0x800))
    for context in range(40):
        at = context * 50
        assert pair.a.engine.post_read(context, [(context * 50, 50)], WINDOW_STAG, WINDOW_TO + at)

    pair.a.inbound.read_policy = pair.b.inbound.read_policy = one_byte
    pair.settle()
    assert pair.a.contexts(receives=False) == list(range(40))
    assert pair.a.engine.read(0, 2000) == pattern(0x800)[:2000]
