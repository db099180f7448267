# SPDX-License-Identifier: Apache-2.0
"""Peers that answer our Read Requests badly, and Terminates of every code in both orders."""

import struct

import pytest

import ndverbs as nd
from hostile.raw_peer import C, S, last_ulpdu, reply, terminate
from hostile.victim import sink_of
from wire import reference
from wire.reference import READ_RESPONSE, TERMINATE, WRITE

both_crc = pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])
SIZE = 32
SOURCE = (0x1000, 0x5500)  # address and token at the peer, which knows neither


def response(stag, to, payload, *, last=True, crc=False):
    return reference.tagged(READ_RESPONSE, stag, to, payload, last=last, crc=crc)


def reading(victim, listening, *, crc=False, count=1):
    """A stream with `count` Reads of 32 bytes under way; their sinks as the peer sees them."""
    stream = victim.stream()
    stream.connected(listening, reply(S | (C if crc else 0)))
    stream.peer.crc = crc
    for i in range(count):
        segment = victim.regions["arena"].segment(0x100 + i * SIZE, SIZE)
        stream.qp.read(segment, SOURCE, context=f"read {i}")
    sinks = []
    while len(sinks) < count:
        ulpdu = stream.peer.receive_fpdu()
        if ulpdu[1] & 0x0F == reference.READ_REQUEST:
            sinks.append(sink_of(ulpdu))
    return stream, sinks


# What the peer answers to a Read of 32 bytes with sink `stag` and `to`; code; bytes of it that
# were good and are placed.
DATA = b"\x77" * SIZE
BAD = {
    "another_stag": (lambda s, t, c: response(s ^ 1, t, DATA, crc=c), (1, 1, 0), 0),
    "a_later_offset": (lambda s, t, c: response(s, t + 1, DATA[1:], crc=c), (1, 1, 1), 0),
    "an_earlier_offset": (
        lambda s, t, c: response(s, (t - 1) % 2**64, DATA, crc=c),
        (1, 1, 1),
        0,
    ),
    "one_byte_too_many": (lambda s, t, c: response(s, t, DATA + b"!", crc=c), (1, 1, 1), 0),
    "far_too_many_bytes": (lambda s, t, c: response(s, t, bytes(4000), crc=c), (1, 1, 1), 0),
    "one_byte_too_few": (lambda s, t, c: response(s, t, DATA[1:], crc=c), (1, 1, 1), 0),
    "no_byte": (lambda s, t, c: response(s, t, b"", crc=c), (1, 1, 1), 0),
    "a_second_segment_too_long": (
        lambda s, t, c: (
            response(s, t, DATA[:16], last=False, crc=c) + response(s, t + 16, bytes(17), crc=c)
        ),
        (1, 1, 1),
        16,
    ),
    "a_second_segment_with_a_gap": (
        lambda s, t, c: (
            response(s, t, DATA[:16], last=False, crc=c) + response(s, t + 17, bytes(15), crc=c)
        ),
        (1, 1, 1),
        16,
    ),
    "a_second_segment_of_another_stag": (
        lambda s, t, c: (
            response(s, t, DATA[:16], last=False, crc=c) + response(s + 1, t + 16, bytes(16), crc=c)
        ),
        (1, 1, 0),
        16,
    ),
    "a_write_in_the_middle": (
        lambda s, t, c: (
            response(s, t, DATA[:16], last=False, crc=c)
            + reference.tagged(WRITE, s, t + 16, bytes(16), crc=c)
        ),
        (0, 2, 6),
        16,
    ),
}


@both_crc
@pytest.mark.parametrize("name", BAD)
def test_a_response_that_does_not_fit_its_read_ends_the_stream(victim, silent_listener, name, crc):
    build, code, placed = BAD[name]

    stream, [(stag, to, size, _, _)] = reading(victim, silent_listener, crc=crc)
    assert size == SIZE

    sent = build(stag, to, crc)
    stream.peer.send(sent)
    assert stream.peer.receive_all() == terminate(code, last_ulpdu(sent), crc=crc)

    (done,) = stream.wait_for(1)
    assert done.status != nd.Status.SUCCESS
    assert done.detail.endswith("({}/{}/{:02x})".format(*code))

    stream.wait_for_disconnect()
    assert victim.untouched((0x100, placed))


def test_a_second_response_to_one_read_ends_the_stream(victim, silent_listener):
    stream, [(stag, to, _, _, _)] = reading(victim, silent_listener)
    good = response(stag, to, DATA)

    stream.peer.send(good + good)

    assert stream.peer.receive_all() == terminate((0, 2, 6), last_ulpdu(good))
    assert stream.wait_for(1)[0].status == nd.Status.SUCCESS
    assert victim.untouched((0x100, SIZE))


def test_responses_in_another_order_end_the_stream(victim, silent_listener):
    stream, sinks = reading(victim, silent_listener, count=2)
    assert sinks[0][:2] != sinks[1][:2]

    bad = response(*sinks[1][:2], DATA)
    stream.peer.send(bad)
    assert stream.peer.receive_all() == terminate((1, 1, 0), last_ulpdu(bad))
    assert all(r.status != nd.Status.SUCCESS for r in stream.wait_for(2))
    assert victim.untouched()


def test_the_end_of_a_stream_fails_the_read_that_waits(victim, silent_listener):
    stream, _ = reading(victim, silent_listener, count=2)
    stream.peer.finish()

    first, second = stream.wait_for(2)
    assert (first.status, second.status) == (nd.Status.IO_TIMEOUT, nd.Status.CANCELLED)
    assert first.detail.endswith("(2/0/01)")

    stream.wait_for_disconnect()
    assert victim.untouched()


def test_sinks_of_reads_are_not_open_to_writes(victim, silent_listener):
    stream, [(stag, to, _, _, _)] = reading(victim, silent_listener)
    bad = reference.tagged(WRITE, stag, to, b"data", crc=False)

    stream.peer.send(bad)

    assert stream.peer.receive_all() == terminate((1, 1, 0), last_ulpdu(bad))
    assert victim.untouched()


# ---- Terminates ----------------------------------------------------------------------------------

# RFC 5040 section 4.8, RFC 5041 section 7.2, RFC 5044 section 8, RFC 6581 section 8.
CODES = [(0, 0, 0)]
CODES += [(0, 1, code) for code in (0, 1, 2, 3, 4, 9, 0xFF)]
CODES += [(0, 2, code) for code in (5, 6, 7, 8, 9, 0xFF)]
CODES += [(1, 0, 0)]
CODES += [(1, 1, code) for code in range(5)]
CODES += [(1, 2, code) for code in range(1, 7)]
CODES += [(2, 0, code) for code in range(1, 8)]
# Codes that no RFC names are read all the same.
CODES += [(0, 1, 0x55), (1, 3, 1), (3, 0, 0), (15, 15, 0xFF)]


def received_terminate(code, *, swapped, read_request=b"", culprit=b""):
    """A Terminate in RFC order, or in siw's; with headers, so that the order shows."""
    layer, error_type, number = code
    m, d, r = (0x01, 0x02, 0x04) if swapped else (0x80, 0x40, 0x20)
    first = error_type << 4 | layer if swapped else layer << 4 | error_type
    flags, extra = 0, b""
    if culprit:
        flags = m | d | (r if read_request else 0)
        extra = struct.pack(">H", len(culprit)) + culprit[:18] + read_request
    body = bytes([first, number, flags, 0]) + extra
    return reference.untagged(TERMINATE, 2, 1, payload=body, crc=False)


@pytest.mark.parametrize("swapped", [False, True], ids=["rfc", "siw"])
@pytest.mark.parametrize("code", CODES, ids=lambda code: "{}-{}-{:02x}".format(*code))
def test_a_terminate_is_reported_and_gets_no_answer(victim, silent_listener, code, swapped):
    stream, sinks = reading(victim, silent_listener, count=2)
    stream.post_receives(1)
    # It names the second Read.
    body = struct.pack(">IQIIQ", *sinks[1])
    header = reference.control(reference.READ_REQUEST) + struct.pack(">IIII", 0, 1, 2, 0)

    stream.peer.send(
        received_terminate(code, swapped=swapped, culprit=header + body, read_request=body)
    )
    assert stream.peer.receive_all() == b""

    results = {r.request_context: r for r in stream.wait_for(3)}
    assert results["read 1"].status == nd.Status.REMOTE_RESOURCES
    assert results["read 0"].status == nd.Status.CANCELLED
    assert results["receive 0"].status == nd.Status.CANCELLED
    for result in results.values():
        assert result.detail.startswith("peer terminated the stream: ")
        assert result.detail.endswith("({}/{}/{:02x})".format(*code))

    stream.wait_for_disconnect()
    assert stream.qp.state == "error"
    assert victim.untouched()


@pytest.mark.parametrize("size", range(4, 54))
def test_a_terminate_cut_at_any_length_ends_the_stream(victim, silent_listener, size):
    stream, sinks = reading(victim, silent_listener)
    body = struct.pack(">IQIIQ", *sinks[0])
    header = reference.control(reference.READ_REQUEST) + struct.pack(">IIII", 0, 1, 1, 0)
    whole = bytes.fromhex("0100e000") + struct.pack(">H", 46) + header + body
    assert len(whole) == 52

    stream.peer.send(reference.untagged(TERMINATE, 2, 1, payload=(whole + b"!")[:size], crc=False))
    answer = stream.peer.receive_all()
    assert answer == (terminate((2, 0, 3)) if size < 52 else b"")
    assert stream.wait_for(1)[0].status != nd.Status.SUCCESS

    stream.wait_for_disconnect()


def test_bytes_behind_a_terminate_are_not_looked_at(victim, silent_listener):
    stream, _ = reading(victim, silent_listener)
    stag, to = victim.remote("window")

    stream.peer.send(
        received_terminate((0, 2, 8), swapped=False)
        + reference.tagged(WRITE, stag, to, b"late", crc=False)
    )

    assert stream.peer.receive_all() == b""
    assert stream.wait_for(1)[0].detail.endswith("(0/2/08)")
    assert victim.untouched()
