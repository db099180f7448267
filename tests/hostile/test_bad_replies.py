# SPDX-License-Identifier: Apache-2.0
"""Listeners that answer our request badly, late, or not at all."""

import pytest

import ndverbs as nd
from hostile.raw_peer import (
    REPLY_KEY,
    C,
    M,
    R,
    S,
    mpa,
    reply,
    request,
    terminate,
)
from wire import reference
from wire.reference import READ_REQUEST, SEND, WRITE

pytestmark = pytest.mark.tsan

ABORTED, REFUSED = nd.RdmaConnectionAbortedError, nd.RdmaConnectionRefusedError
LLP = {"ird": terminate((2, 0, 6)), "rtr": terminate((2, 0, 7))}
# The answer, what connect raises, and what we send before we close.
ANSWERS = {
    "garbage": (bytes(range(256)), ABORTED, b""),
    "an_http_server": (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", ABORTED, b""),
    "an_ssh_server": (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", ABORTED, b""),
    "the_key_of_a_request": (request(), ABORTED, b""),
    "revision_3": (reply(revision=3), ABORTED, b""),
    "revision_1": (reply(0, 1), ABORTED, b""),
    "revision_2_without_s": (reply(0, 2, b"data"), ABORTED, b""),
    "markers": (reply(M | S), REFUSED, b""),
    "enhanced_data_of_no_byte": (mpa(REPLY_KEY, S, words=b""), ABORTED, b""),
    "enhanced_data_of_three_bytes": (mpa(REPLY_KEY, S, words=b"\0\0\0"), ABORTED, b""),
    "513_bytes_of_private_data": (reply(private_data=bytes(509)), ABORTED, b""),
    "private_data_of_65535_bytes": (reply(length=0xFFFF), ABORTED, b""),
    "more_reads_than_we_hold": (reply(ird=16, ord=17), ABORTED, LLP["ird"]),
    "absurdly_many_reads": (reply(ird=0x3FFE, ord=0x3FFE), ABORTED, LLP["ird"]),
    "a_reject": (reply(R | S, words=bytes(4)), REFUSED, b""),
    "a_reject_without_s": (reply(R, 2, b"no"), REFUSED, b""),
    "a_reject_of_revision_1": (reply(R, 1, b"no"), REFUSED, b""),
    "a_reject_with_s_and_no_data": (mpa(REPLY_KEY, R | S, words=b""), REFUSED, b""),
    "a_reject_with_markers": (reply(R | M | S, words=bytes(4)), REFUSED, b""),
}


def good_stream(victim, listening, stream=None, **options):
    stream = stream or victim.stream()
    stream.connected(listening, reply(), **options)
    stream.qp.write(victim.regions["arena"].segment(0, 4), (1, 0), context="write", flags=0)
    assert stream.wait_for(1)[0].status == nd.Status.SUCCESS
    return stream


@pytest.mark.parametrize("name", ANSWERS)
def test_a_bad_answer_fails_the_connect_and_nothing_else(victim, silent_listener, name):
    answer, error, farewell = ANSWERS[name]
    stream = victim.stream()
    stream.post_receives(1)
    connecting = stream.connect(silent_listener)

    stream.peer.send(answer)
    with pytest.raises(error):
        connecting.wait(20)
    assert stream.peer.receive_all() == farewell

    stream.peer.sock.close()
    # Nothing was lost with the attempt: the same objects connect to a better listener.
    assert stream.qp.state == "idle"
    assert stream.no_more_completions()

    good_stream(victim, silent_listener, stream)
    assert victim.untouched()


def test_a_reject_hands_over_its_private_data(victim, silent_listener):
    stream = victim.stream()
    connecting = stream.connect(silent_listener)

    stream.peer.send(reply(R | S, private_data=b"try later", words=bytes(4)))

    with pytest.raises(REFUSED):
        connecting.wait(20)
    assert stream.connector.connection_data.private_data == b"try later"


@pytest.mark.parametrize("size", range(27))
def test_an_answer_cut_at_any_length_fails_the_connect(victim, silent_listener, size):
    stream = victim.stream()
    connecting = stream.connect(silent_listener)

    stream.peer.send(reply(private_data=b"abc")[:size])
    stream.peer.finish()

    with pytest.raises(ABORTED):
        connecting.wait(20)
    assert stream.peer.receive_all() == b""


@pytest.mark.parametrize("size", [0, 1, 20, 26])
def test_a_reset_in_the_answer_fails_the_connect(victim, silent_listener, size):
    stream = victim.stream()
    connecting = stream.connect(silent_listener)

    stream.peer.send(reply(private_data=b"abc")[:size])
    stream.peer.reset()

    with pytest.raises(nd.RdmaConnectionResetError):
        connecting.wait(20)


def test_a_listener_that_never_answers_runs_into_the_time_limit(victim, silent_listener):
    stream = victim.stream()

    connecting = stream.connect(silent_listener, timeout=0.05)

    with pytest.raises(nd.RdmaTimeoutError):
        connecting.wait(20)
    assert stream.peer.receive_all() == b""
    assert stream.qp.state == "idle"


def test_an_answer_in_single_bytes_is_one_answer(victim, silent_listener):
    stream = victim.stream()
    connecting = stream.connect(silent_listener)
    for byte in reply(private_data=b"drip"):
        stream.peer.send(bytes([byte]))

    connecting.wait(20)

    assert stream.connector.connection_data.private_data == b"drip"

    stream.connector.reject()


def test_a_message_glued_to_the_answer_is_received(victim, silent_listener):
    stream = victim.stream()
    stream.post_receives(1)
    glued = reference.untagged(SEND, 0, 1, payload=b"at once", crc=False)

    stream.connected(silent_listener, reply() + glued)

    (done,) = stream.wait_for(1)
    assert (done.status, done.bytes_transferred) == (nd.Status.SUCCESS, 7)
    assert bytes(victim.arena[:7]) == b"at once"
    assert victim.untouched((0, 7))


@pytest.mark.parametrize(
    ("words", "inbound", "outbound"),
    [
        ("00100010", 16, 16),
        ("00000000", 0, 0),
        ("3fff3fff", 16, 16),
        ("3ffe0001", 1, 16),
        ("00010010", 16, 1),
    ],
)
def test_read_limits_of_an_answer_are_capped_at_ours(
    victim, silent_listener, words, inbound, outbound
):
    stream = victim.stream()
    stream.connected(silent_listener, reply(words=bytes.fromhex(words)))
    data = stream.connector.connection_data

    assert (data.inbound_read_limit, data.outbound_read_limit) == (inbound, outbound)


def test_a_read_is_refused_locally_where_the_peer_takes_none(victim, silent_listener):
    stream = victim.stream()

    stream.connected(silent_listener, reply(ird=0))

    with pytest.raises(nd.RdmaError) as raised:
        stream.qp.read(victim.regions["arena"].segment(0, 4), (1, 0))
    assert raised.value.status == nd.Status.INVALID_DEVICE_REQUEST
    assert stream.qp.state == "connected"


@pytest.mark.parametrize(("words", "opcode"), [("80108010", WRITE), ("8010c010", READ_REQUEST)])
def test_a_granted_peer_to_peer_stream_opens_at_once(victim, silent_listener, words, opcode):
    stream = victim.stream()
    answer = reply(words=bytes.fromhex(words))

    stream.connected(silent_listener, answer, peer_to_peer=True)

    assert stream.peer.receive_fpdu()[1] == 0x40 | opcode


def test_a_peer_to_peer_grant_without_a_kind_gets_a_terminate(victim, silent_listener):
    stream = victim.stream()
    connecting = stream.connect(silent_listener, peer_to_peer=True)

    stream.peer.send(reply(words=bytes.fromhex("80100010")))

    with pytest.raises(ABORTED):
        connecting.wait(20)
    assert stream.peer.receive_all() == LLP["rtr"]


def test_our_request_is_what_the_rfcs_have(victim, silent_listener):
    stream = victim.stream()
    stream.connect(silent_listener, private_data=b"who", inbound_read_limit=3, crc=True)
    assert stream.request == (b"MPA ID Req Frame", C | S, 2, bytes.fromhex("00030010") + b"who")


def test_a_peer_that_leaves_before_complete_connect_is_noticed_there(victim, silent_listener):
    stream = victim.stream()
    connecting = stream.connect(silent_listener)
    stream.peer.send(reply())
    connecting.wait(20)

    stream.peer.reset()

    with pytest.raises((ABORTED, nd.RdmaConnectionResetError)):
        stream.connector.complete_connect()
