# SPDX-License-Identifier: Apache-2.0
"""The MPA start-up of both roles: RFC 5044 section 7.1, RFC 6581, and what kernel siw does."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ndverbs._testing import Handshake

from engine.pair import Solo, terminate_of
from wire import reference

REQUEST, REPLY = b"MPA ID Req Frame", b"MPA ID Rep Frame"
M, C, R, S = 0x80, 0x40, 0x20, 0x10
A = 0x8000
NO_NEGOTIATION = 0x3FFF
private_sizes = pytest.mark.parametrize("size", [0, 1, 196, 508])


def frame(key, flags, revision, private_data=b"", limits=None):
    """A start-up frame; `limits` are the two words of enhanced data."""
    data = (b"" if limits is None else struct.pack(">HH", *limits)) + private_data
    return key + struct.pack(">BBH", flags, revision, len(data)) + data


def asked(request):
    """A responder that has read a request."""
    responder = Handshake.responder()
    assert responder.receive(request) == len(request)
    return responder


def answer_to(request, **accept):
    """The reply that a responder gives, and the responder."""
    responder = asked(request)
    assert responder.outcome == "request_received"
    assert responder.accept(**accept)
    reply = responder.transmit()
    assert responder.outcome == "agreed"
    return reply, responder


def answered(reply, **offer):
    """An initiator that has sent its request and read a reply."""
    initiator = Handshake.initiator(**offer)
    initiator.transmit()
    initiator.receive(reply)
    return initiator


def words(reply):
    return struct.unpack_from(">HH", reply, 20)


# ---- both roles together --------------------------------------------------------------------


@pytest.mark.parametrize("crc_a", [False, True])
@pytest.mark.parametrize("crc_b", [False, True])
@pytest.mark.parametrize("revision", [0, 1, 2])
@pytest.mark.parametrize("peer_to_peer", [False, True])
@private_sizes
def test_initiator_and_responder_agree(crc_a, crc_b, revision, peer_to_peer, size):
    data = bytes(range(256)) * 2
    initiator = Handshake.initiator(
        ird=4,
        ord=8,
        crc=crc_a,
        revision=revision,
        peer_to_peer=peer_to_peer,
        private_data=data[:size],
    )
    responder = Handshake.responder()
    request = initiator.transmit()
    assert initiator.transmit() == b""
    assert responder.receive(request) == len(request)
    assert responder.outcome == "request_received"
    assert responder.private_data == data[:size]
    assert responder.accept(ird=16, ord=2, crc=crc_b, private_data=data[100 : 100 + size])
    reply = responder.transmit()
    assert initiator.receive(reply) == len(reply)
    assert initiator.outcome == responder.outcome == "agreed"
    assert initiator.private_data == data[100 : 100 + size]

    left, right = initiator.agreement, responder.agreement
    assert left["crc"] is right["crc"] is (crc_a or crc_b)
    assert left["revision"] == right["revision"] == revision
    if revision == 2:
        assert (left["ird"], left["ord"]) == (2, 8)
        assert (right["ird"], right["ord"]) == (8, 2)
        assert left["rtr"] == right["rtr"] == ("read" if peer_to_peer else "none")
    else:
        assert (left["ird"], left["ord"]) == (4, 8)
        assert (right["ird"], right["ord"]) == (16, 2)
        assert left["rtr"] == right["rtr"] == "none"


@pytest.mark.parametrize("size", [1, 7])
def test_frames_may_be_written_and_read_in_bits(size):
    initiator = Handshake.initiator(private_data=b"request data")
    responder = Handshake.responder()

    while data := initiator.transmit(size):
        assert responder.outcome == "pending"
        assert responder.receive(data, 1) == len(data)
    assert responder.private_data == b"request data"
    assert responder.accept(private_data=b"reply data")

    while data := responder.transmit(size):
        assert initiator.outcome == "pending"
        assert initiator.receive(data, 1) == len(data)
    assert initiator.outcome == "agreed"
    assert initiator.private_data == b"reply data"


@pytest.mark.parametrize("crc", [False, True])
@pytest.mark.parametrize("peer_to_peer", [False, True])
def test_requests_are_the_bytes_that_the_rfcs_name(crc, peer_to_peer):
    request = Handshake.initiator(
        ird=32, ord=16, crc=crc, peer_to_peer=peer_to_peer, private_data=b"xyz"
    ).transmit()
    # Peer-to-peer mode offers Read and Write.
    limits = (A | 32, 0xC000 | 16) if peer_to_peer else (32, 16)
    assert request == frame(REQUEST, S | (C if crc else 0), 2, b"xyz", limits)


def test_revision_1_requests_have_no_enhanced_data():
    request = Handshake.initiator(revision=1, private_data=b"xyz").transmit()
    assert request == frame(REQUEST, 0, 1, b"xyz")


# ---- responder ------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", [0, 1, 2])
@pytest.mark.parametrize("flags", [0, C])
def test_replies_carry_the_revision_of_the_request(revision, flags):
    reply, _ = answer_to(frame(REQUEST, flags, revision), private_data=b"ok")
    assert reply == frame(REPLY, flags, revision, b"ok")


def test_the_reply_to_stock_siw_is_what_siw_itself_answers():
    reply, responder = answer_to(frame(REQUEST, S, 2, limits=(1, 1)))
    assert reply == bytes.fromhex("4d504120494420526570204672616d65 10 02 0004 0001 0001")
    assert responder.agreement == {
        "crc": False,
        "rtr": "none",
        "ird": 1,
        "ord": 1,
        "revision": 2,
        "enhanced": True,
    }


RTR_OFFERS = [
    ("read", (A, 0x4000), "read", (A, 0x4000)),
    ("write", (A, 0x8000), "write", (A, 0x8000)),
    ("send", (A | 0x4000, 0), "send", (A | 0x4000, 0)),
    ("read_and_write", (A, 0xC000), "read", (A, 0x4000)),
    ("write_and_send", (A | 0x4000, 0x8000), "write", (A, 0x8000)),
    ("all", (A | 0x4000, 0xC000), "read", (A, 0x4000)),
    ("nothing", (A, 0), "write", (A, 0x8000)),
    ("kinds_without_a", (0x4000, 0xC000), "none", (0, 0)),
]


@pytest.mark.parametrize(
    ("offered", "rtr", "granted"), [pytest.param(*o[1:], id=o[0]) for o in RTR_OFFERS]
)
def test_exactly_one_opening_kind_is_granted(offered, rtr, granted):
    limits = (offered[0] | 4, offered[1] | 4)

    reply, responder = answer_to(frame(REQUEST, S, 2, limits=limits))

    assert responder.agreement["rtr"] == rtr
    assert words(reply) == (granted[0] | 4, granted[1] | 4)


NEGOTIATIONS = [
    # request IRD and ORD, our IRD and ORD, reply IRD and ORD, what we use.
    ((1, 1), (16, 16), (1, 1), (1, 1)),
    ((16, 16), (16, 16), (16, 16), (16, 16)),
    ((128, 128), (16, 16), (16, 16), (16, 16)),
    ((0, 0), (16, 16), (0, 0), (0, 0)),
    ((4, 0), (16, 16), (0, 4), (0, 4)),
    ((16, 16), (0, 0), (0, 0), (0, 0)),
    ((16, 16), (4, 2), (4, 2), (4, 2)),
    ((NO_NEGOTIATION, 5), (16, 7), (5, NO_NEGOTIATION), (5, 7)),
    ((5, NO_NEGOTIATION), (16, 7), (NO_NEGOTIATION, 5), (16, 5)),
    ((NO_NEGOTIATION, NO_NEGOTIATION), (3, 4), (NO_NEGOTIATION, NO_NEGOTIATION), (3, 4)),
    ((0x3FFE, 0x3FFE), (16, 16), (16, 16), (16, 16)),
]


@pytest.mark.parametrize(("request_limits", "own", "reply_limits", "used"), NEGOTIATIONS)
def test_a_responder_answers_read_limits_it_can_keep(request_limits, own, reply_limits, used):
    reply, responder = answer_to(
        frame(REQUEST, S, 2, limits=request_limits), ird=own[0], ord=own[1]
    )
    assert words(reply) == reply_limits
    assert (responder.agreement["ird"], responder.agreement["ord"]) == used


@pytest.mark.parametrize(("request_ord", "own_ird"), [(0, 16), (0, 0), (4, 0)])
def test_a_read_that_opens_the_stream_has_a_slot_even_without_reads(request_ord, own_ird):
    reply, responder = answer_to(
        frame(REQUEST, S, 2, limits=(A, 0x4000 | request_ord)), ird=own_ird, ord=0
    )
    assert words(reply)[0] & 0x3FFF == 1
    assert responder.agreement["ird"] == 1


def test_the_peers_limits_are_shown_before_accepting():
    responder = asked(frame(REQUEST, S, 2, limits=(7, 9)))
    assert (responder.peer_ird, responder.peer_ord) == (7, 9)
    responder = asked(frame(REQUEST, 0, 1))
    assert (responder.peer_ird, responder.peer_ord) == (NO_NEGOTIATION, NO_NEGOTIATION)


@pytest.mark.parametrize(
    ("request_frame", "reply"),
    [
        (frame(REQUEST, M | S, 2, limits=(1, 1)), frame(REPLY, R | S, 2, limits=(0, 0))),
        (frame(REQUEST, M, 1, b"xyz"), frame(REPLY, R, 1)),
        (frame(REQUEST, M | C, 0), frame(REPLY, R, 0)),
    ],
)
def test_markers_are_refused_with_a_reject_without_m(request_frame, reply):
    responder = asked(request_frame)
    assert responder.transmit() == reply
    assert responder.outcome == "markers_refused"


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        (frame(REPLY, 0, 1), "bad_frame"),
        (b"X" * 20, "bad_frame"),
        (b"X", "bad_frame"),
        (b"MPA ID Req frame", "bad_frame"),
        (b"GET / HTTP/1.0\r\n\r\n", "bad_frame"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", "bad_frame"),
        (frame(REQUEST, S, 2), "bad_frame"),
        (frame(REQUEST, S, 2, b"\0"), "bad_frame"),
        (frame(REQUEST, S, 2, b"\0\0\0"), "bad_frame"),
        (frame(REQUEST, S | R, 2), "bad_frame"),
        (frame(REQUEST, 0, 1)[:18] + b"\x02\x01", "bad_frame"),
        (frame(REQUEST, 0, 1)[:18] + b"\xff\xff", "bad_frame"),
        (frame(REQUEST, 0, 3), "bad_revision"),
        (frame(REQUEST, S, 255, limits=(1, 1)), "bad_revision"),
    ],
)
def test_a_request_that_is_none_ends_without_an_answer(case, outcome):
    responder = Handshake.responder()

    responder.receive(case)

    assert responder.outcome == outcome
    assert responder.transmit() == b""
    assert responder.wanted == 0


def test_reserved_flag_bits_of_a_request_are_ignored_and_not_echoed():
    reply, _ = answer_to(frame(REQUEST, S | 0x0F, 2, limits=(1, 1)))
    assert reply[16] == S


@pytest.mark.parametrize("revision", [0, 1])
@pytest.mark.parametrize("data", [b"", b"ab", b"abcdef"])
def test_before_revision_2_the_bit_of_enhanced_data_means_nothing(revision, data):
    responder = asked(frame(REQUEST, S, revision, data))
    assert responder.outcome == "request_received"
    assert responder.private_data == data
    assert responder.accept(private_data=b"ok")
    assert responder.transmit() == frame(REPLY, 0, revision, b"ok")


def test_a_responder_reads_nothing_beyond_the_request():
    request = frame(REQUEST, S, 2, b"data", limits=(1, 1))

    responder = Handshake.responder()

    assert responder.receive(request + b"more") == len(request)
    assert responder.wanted == 0


@pytest.mark.parametrize("size", [0, 1, 508])
def test_a_reject_carries_its_reason(size):
    responder = asked(frame(REQUEST, S, 2, limits=(1, 1)))

    reason = bytes(i & 0xFF for i in range(size))
    assert responder.reject(reason)

    reply = responder.transmit()
    assert reply == frame(REPLY, S | R, 2, reason, limits=(0, 0))
    assert responder.outcome == "rejected"

    initiator = answered(reply)
    assert initiator.outcome == "refused"
    assert initiator.private_data == reason


@pytest.mark.parametrize("revision", [0, 1])
def test_revision_1_takes_512_bytes_of_private_data_and_revision_2_takes_508(revision):
    data = bytes(512)

    responder = asked(frame(REQUEST, 0, revision, data))

    assert responder.private_data == data
    assert responder.accept(private_data=data)
    assert len(responder.transmit()) == 532
    for too_much, flags, limits in ((509, S, (1, 1)), (513, 0, None)):
        responder = asked(frame(REQUEST, flags, 2, limits=limits))
        assert not responder.accept(private_data=bytes(too_much))
        assert not responder.reject(bytes(too_much))
        assert responder.outcome == "request_received"
        assert responder.accept(private_data=b"")


# ---- initiator ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply_limits", "own", "used"),
    [
        ((16, 16), (16, 16), (16, 16)),
        ((4, 2), (16, 16), (2, 4)),
        ((0, 0), (16, 16), (0, 0)),
        ((128, 16), (16, 16), (16, 16)),
        ((NO_NEGOTIATION, NO_NEGOTIATION), (3, 4), (3, 4)),
        ((2, NO_NEGOTIATION), (3, 4), (3, 2)),
        ((NO_NEGOTIATION, 1), (3, 4), (1, 4)),
    ],
)
def test_an_initiator_uses_the_smaller_limits(reply_limits, own, used):
    initiator = answered(frame(REPLY, S, 2, limits=reply_limits), ird=own[0], ord=own[1])
    assert initiator.outcome == "agreed"
    assert (initiator.agreement["ird"], initiator.agreement["ord"]) == used


def test_a_responder_that_needs_more_reads_than_we_hold_gets_a_terminate():
    initiator = answered(frame(REPLY, S, 2, limits=(16, 17)), ird=16)

    sent = initiator.transmit()

    assert terminate_of(sent)["code"] == (2, 0, 6)
    assert initiator.outcome == "insufficient_ird"


@pytest.mark.parametrize(
    ("granted", "own_ord", "rtr"),
    [
        ((A, 0x4000), 16, "read"),
        ((A, 0x8000), 16, "write"),
        ((A, 0xC000), 16, "read"),
        ((A | 0x4000, 0xC000), 16, "read"),
        ((A, 0xC000), 0, "write"),
        ((0, 0), 16, "none"),
    ],
)
def test_an_initiator_opens_with_a_kind_that_was_granted(granted, own_ord, rtr):
    initiator = answered(
        frame(REPLY, S, 2, limits=(granted[0] | 8, granted[1] | 8)),
        peer_to_peer=True,
        ord=own_ord,
    )
    assert initiator.outcome == "agreed"
    assert initiator.agreement["rtr"] == rtr


@pytest.mark.parametrize("granted", [(A | 0x4000, 0), (A, 0)])
@pytest.mark.parametrize(("flags", "crc"), [(S, "00000000"), (S | C, "1bd2babe")])
def test_without_a_common_kind_the_responder_gets_the_golden_terminate(granted, flags, crc):
    initiator = answered(
        frame(REPLY, flags, 2, limits=(granted[0] | 8, granted[1] | 8)), peer_to_peer=True
    )
    assert initiator.transmit() == bytes.fromhex(
        "00164147 00000000 00000002 00000001 00000000 20070000" + crc
    )
    assert initiator.outcome == "no_common_rtr"


def test_kinds_in_the_reply_mean_nothing_when_peer_to_peer_mode_was_not_asked_for():
    initiator = answered(frame(REPLY, S, 2, limits=(A | 8, 0xC000 | 8)))
    assert initiator.outcome == "agreed"
    assert initiator.agreement["rtr"] == "none"


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (frame(REQUEST, S, 2, limits=(1, 1)), "bad_frame"),
        (b"HTTP/1.1 400 Bad Request\r\n", "bad_frame"),
        (frame(REPLY, S, 2), "bad_frame"),
        (frame(REPLY, S, 2, b"\0\0\0"), "bad_frame"),
        (frame(REPLY, S, 3, limits=(1, 1)), "bad_revision"),
        (frame(REPLY, 0, 1), "bad_revision"),
        (frame(REPLY, 0, 2), "bad_revision"),
        (frame(REPLY, S | M, 2, limits=(1, 1)), "markers_refused"),
        (frame(REPLY, 0, 2)[:18] + b"\x02\x01", "bad_frame"),
    ],
)
def test_a_reply_that_cannot_be_used_ends_the_attempt(reply, outcome):
    initiator = answered(reply)
    assert initiator.outcome == outcome
    assert initiator.transmit() == b""
    assert initiator.wanted == 0


def test_siw_rejects_without_the_four_bytes_that_it_announces():
    initiator = answered(bytes.fromhex("4d504120494420526570204672616d65 30 02 0000"))
    assert initiator.outcome == "refused"
    assert initiator.private_data == b""


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (frame(REPLY, R, 1, b"no"), b"no"),
        (frame(REPLY, R | S, 2, b"no", limits=(0, 0)), b"no"),
        (frame(REPLY, R, 2, b"no"), b"no"),
        (frame(REPLY, R | M | S, 2, limits=(0, 0)), b""),
    ],
)
def test_a_reject_is_one_in_every_revision(reply, reason):
    initiator = answered(reply)
    assert initiator.outcome == "refused"
    assert initiator.private_data == reason


@pytest.mark.parametrize("flags", [0, S])
def test_in_a_reply_of_revision_1_private_data_starts_at_once(flags):
    initiator = answered(frame(REPLY, flags, 1, b"abcdef"), revision=1)
    assert initiator.outcome == "agreed"
    assert initiator.private_data == b"abcdef"
    assert not initiator.agreement["enhanced"]


def test_crc_is_on_when_the_reply_says_so():
    assert answered(frame(REPLY, S | C, 2, limits=(1, 1))).agreement["crc"]
    assert answered(frame(REPLY, S, 2, limits=(1, 1)), crc=True).agreement["crc"]
    assert not answered(frame(REPLY, S, 2, limits=(1, 1))).agreement["crc"]


def test_an_fpdu_glued_to_the_reply_is_left_for_the_connection():
    reply = frame(REPLY, S, 2, b"data", limits=(16, 16))
    fpdu = reference.untagged(reference.SEND, 0, 1, 0, b"first", crc=False)
    stream = reply + fpdu
    initiator = Handshake.initiator()
    initiator.transmit()

    taken = initiator.receive(stream)
    assert taken == len(reply)
    assert initiator.outcome == "agreed"

    solo = Solo(is_initiator=True)
    solo.engine.post_receive(1, [(0, 16)])
    solo.step(stream[taken:])
    assert solo.side.outcome() == [("receive", 1, "success")]


def test_a_reply_is_not_read_before_the_request_is_out():
    initiator = Handshake.initiator()
    assert initiator.wanted == 0

    initiator.transmit(10)
    assert initiator.wanted == 0

    initiator.transmit()
    assert initiator.wanted == 20


@pytest.mark.parametrize(("size", "fits"), [(508, True), (509, False)])
def test_an_initiator_sends_508_bytes_of_private_data_at_most(size, fits):
    initiator = Handshake.initiator(private_data=bytes(size))
    assert (initiator.transmit() != b"") is fits
    assert (initiator.outcome == "pending") is fits


# ---- both, anything -------------------------------------------------------------------------

startups = st.binary(max_size=600) | st.builds(
    frame,
    st.sampled_from([REQUEST, REPLY]),
    st.integers(0, 255),
    st.integers(0, 3),
    st.binary(max_size=512),
    st.none() | st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)),
)


@given(data=startups, read_size=st.integers(1, 600), crc=st.booleans())
def test_a_responder_survives_any_bytes(data, read_size, crc):
    responder = Handshake.responder()
    responder.receive(data, read_size)
    if responder.outcome == "request_received":
        assert len(responder.private_data) <= 512
        assert responder.accept(crc=crc)
        assert responder.transmit().startswith(REPLY)
        assert responder.outcome == "agreed"
        assert responder.agreement["ird"] <= 16
        assert responder.agreement["ord"] <= 16
        assert responder.agreement["crc"] or not crc
    else:
        assert responder.outcome in {"pending", "bad_frame", "bad_revision"}


@given(
    data=startups,
    read_size=st.integers(1, 600),
    peer_to_peer=st.booleans(),
    revision=st.integers(0, 2),
)
def test_an_initiator_survives_any_bytes(data, read_size, peer_to_peer, revision):
    initiator = Handshake.initiator(peer_to_peer=peer_to_peer, revision=revision)
    initiator.transmit()

    initiator.receive(data, read_size)

    assert len(initiator.private_data) <= 512

    initiator.transmit()
    if initiator.outcome == "agreed":
        assert initiator.agreement["ird"] <= 16
        assert initiator.agreement["ord"] <= 16
    elif initiator.outcome == "pending":
        assert initiator.wanted > 0
