# SPDX-License-Identifier: Apache-2.0
"""What a connected peer may not send: each case ends the stream with the RFCs' layer, type, code.

The peer is a raw socket. Our side must send exactly one Terminate, byte by byte as RFC 5040 section
4.8 has it, end the stream, cancel what is posted, say why, and leave memory alone.
"""

import numpy as np
import pytest

import ndverbs as nd
from hostile.raw_peer import C as CRC
from hostile.raw_peer import RawPeer, last_ulpdu, request, terminate
from hostile.raw_peer import S as ENHANCED
from hostile.victim import REGIONS
from wire import reference
from wire.reference import (
    READ_REQUEST,
    READ_RESPONSE,
    SEND,
    SEND_INVALIDATE,
    SEND_SOLICITED,
    SEND_SOLICITED_INVALIDATE,
    TERMINATE,
    WRITE,
)

WINDOW = REGIONS["window"][0]
END = REGIONS["window"][1]
DDP, NOTHING, DDP_AND_READ = "ddp", "nothing", "ddp and read request"


def write(region, offset=0, payload=b"data", *, key=0, last=True):
    def build(victim, crc):
        stag, to = victim.remote(region, offset)
        return reference.tagged(WRITE, stag ^ key, to, payload, last=last, crc=crc)

    return build


def write_at(region, to, payload=b"data"):
    def build(victim, crc):
        return reference.tagged(WRITE, victim.remote(region)[0], to, payload, crc=crc)

    return build


def read(region, offset=0, size=4, *, key=0, msn=1):
    def build(victim, crc):
        stag, to = victim.remote(region, offset)
        return reference.read_request(msn, 7, 0, size, stag ^ key, to, crc=crc)

    return build


def send(opcode=SEND, queue=0, msn=1, mo=0, payload=b"data", *, last=True, region=None, stag=0):
    def build(victim, crc):
        reserved = victim.remote(region)[0] if region else stag
        return reference.untagged(
            opcode, queue, msn, mo, payload, last=last, reserved=reserved, crc=crc
        )

    return build


def raw(ulpdu):
    return lambda victim, crc: reference.fpdu(ulpdu, crc)


def joined(*parts):
    return lambda victim, crc: b"".join(part(victim, crc) for part in parts)


# What comes in (only its last FPDU is at fault), the code, what the Terminate carries, and what
# the messages before it may have changed: (offset in the arena, size).
REFUSALS = {
    # RFC 5041 section 7.1, tagged buffers.
    "write_to_an_unknown_stag": (write("window", key=0x80000000), (1, 1, 0), DDP),
    "write_to_a_stag_that_differs_in_one_bit": (write("window", key=1), (1, 1, 0), DDP),
    "write_to_stag_zero": (
        lambda victim, crc: reference.tagged(WRITE, 0, 0, b"data", crc=crc),
        (1, 1, 0),
        DDP,
    ),
    "write_below_the_base": (write("window", -1), (1, 1, 1), DDP),
    "write_one_past_the_end": (write("window", END - 3), (1, 1, 1), DDP),
    "write_at_the_end": (write("window", END), (1, 1, 1), DDP),
    "write_at_address_zero": (write_at("window", 0), (1, 1, 1), DDP),
    "write_larger_than_the_region": (write("window", 0, bytes(END + 1)), (1, 1, 1), DDP),
    "write_that_wraps": (write_at("window", 2**64 - 2), (1, 1, 3), DDP),
    "write_that_wraps_by_one": (write_at("window", 2**64 - 3), (1, 1, 3), DDP),
    "write_of_the_last_bytes_there_are": (write_at("window", 2**64 - 4), (1, 1, 1), DDP),
    "write_to_another_protection_domain": (write("other_pd"), (1, 1, 2), DDP),
    "write_without_the_right": (write("read_only"), (1, 1, 0), DDP),
    "write_to_memory_registered_for_local_use": (write("local"), (1, 1, 0), DDP),
    "write_whose_stag_changes": (
        joined(write("window", last=False), write("write_only", 4)),
        (1, 1, 0),
        DDP,
        (WINDOW, 4),
    ),
    "write_that_leaves_a_gap": (
        joined(write("window", last=False), write("window", 5)),
        (1, 1, 1),
        DDP,
        (WINDOW, 4),
    ),
    "write_that_goes_back": (
        joined(write("window", 8, last=False), write("window", 8)),
        (1, 1, 1),
        DDP,
        (WINDOW + 8, 4),
    ),
    "write_whose_next_segment_passes_the_end": (
        joined(write("window", END - 4, last=False), write("window", END)),
        (1, 1, 1),
        DDP,
        (WINDOW + END - 4, 4),
    ),
    # RFC 5040 section 7.2, the source of a read.
    "read_of_an_unknown_stag": (read("window", key=0x80000000), (0, 1, 0), DDP_AND_READ),
    "read_below_the_base": (read("window", -1), (0, 1, 1), DDP_AND_READ),
    "read_past_the_end": (read("window", END - 3), (0, 1, 1), DDP_AND_READ),
    "read_of_4_gib_less_one": (read("window", size=2**32 - 1), (0, 1, 1), DDP_AND_READ),
    "read_without_the_right": (read("write_only"), (0, 1, 2), DDP_AND_READ),
    "read_of_memory_registered_for_local_use": (read("local"), (0, 1, 2), DDP_AND_READ),
    "read_of_another_protection_domain": (read("other_pd"), (0, 1, 3), DDP_AND_READ),
    "read_that_wraps": (
        lambda victim, crc: reference.read_request(
            1, 7, 0, 4, victim.remote("window")[0], 2**64 - 2, crc=crc
        ),
        (0, 1, 4),
        DDP_AND_READ,
    ),
    "read_request_with_msn_0": (read("window", msn=0), (1, 2, 3), DDP),
    "read_request_with_msn_2": (read("window", msn=2), (1, 2, 3), DDP),
    "read_request_on_queue_0": (send(READ_REQUEST, payload=bytes(28)), (1, 2, 1), DDP),
    "read_request_with_an_offset": (
        send(READ_REQUEST, queue=1, mo=4, payload=bytes(28)),
        (1, 2, 4),
        DDP,
    ),
    "read_request_that_is_too_long": (
        send(READ_REQUEST, queue=1, payload=bytes(32)),
        (0, 2, 6),
        DDP,
    ),
    "read_request_that_is_too_short": (
        send(READ_REQUEST, queue=1, payload=bytes(27)),
        (2, 0, 3),
        NOTHING,
    ),
    "read_request_in_segments": (
        send(READ_REQUEST, queue=1, payload=bytes(28), last=False),
        (0, 2, 6),
        DDP,
    ),
    # RFC 5041 section 7.1, untagged buffers.
    "send_on_queue_1": (send(queue=1), (1, 2, 1), DDP),
    "send_on_queue_3": (send(queue=3), (1, 2, 1), DDP),
    "send_on_queue_2_to_the_32_less_1": (send(queue=2**32 - 1), (1, 2, 1), DDP),
    "send_with_msn_0": (send(msn=0), (1, 2, 3), DDP),
    "send_with_msn_2": (send(msn=2), (1, 2, 3), DDP),
    "send_that_starts_at_an_offset": (send(mo=4), (1, 2, 4), DDP),
    "send_that_leaves_a_gap": (
        joined(send(last=False), send(mo=5)),
        (1, 2, 4),
        DDP,
        (0, 4),
    ),
    "send_that_overlaps": (joined(send(last=False), send(mo=3)), (1, 2, 4), DDP, (0, 4)),
    "send_at_the_last_offset_there_is": (
        joined(send(last=False), send(mo=2**32 - 2)),
        (1, 2, 4),
        DDP,
        (0, 4),
    ),
    "send_that_becomes_another_kind": (
        joined(send(last=False), send(SEND_SOLICITED, mo=4)),
        (0, 2, 6),
        DDP,
        (0, 4),
    ),
    # NDK: what register() made is not the peer's to invalidate.
    "invalidate_of_an_unknown_stag": (
        send(SEND_INVALIDATE, stag=0x9900),
        (0, 2, 9),
        DDP,
        (0, 4),
    ),
    "invalidate_of_a_region": (send(SEND_INVALIDATE, region="window"), (0, 2, 9), DDP, (0, 4)),
    "invalidate_with_event_of_a_region": (
        send(SEND_SOLICITED_INVALIDATE, region="window"),
        (0, 2, 9),
        DDP,
        (0, 4),
    ),
    "invalidate_in_another_protection_domain": (
        send(SEND_INVALIDATE, region="other_pd"),
        (0, 1, 9),
        DDP,
        (0, 4),
    ),
    # Versions, opcodes and lengths: the layout behind them is not trusted, so nothing is attached.
    "tagged_ddp_version_0": (raw(bytes.fromhex("c040") + bytes(16)), (1, 1, 4), NOTHING),
    "tagged_ddp_version_3": (raw(bytes.fromhex("c340") + bytes(16)), (1, 1, 4), NOTHING),
    "untagged_ddp_version_2": (raw(bytes.fromhex("4243") + bytes(16)), (1, 2, 6), NOTHING),
    "rdmap_version_0": (raw(bytes.fromhex("4103") + bytes(16)), (0, 2, 5), NOTHING),
    "rdmap_version_3": (raw(bytes.fromhex("c1c0") + bytes(16)), (0, 2, 5), NOTHING),
    "write_without_the_tagged_bit": (raw(bytes.fromhex("4140") + bytes(16)), (0, 2, 6), NOTHING),
    "send_with_the_tagged_bit": (raw(bytes.fromhex("c143") + bytes(16)), (0, 2, 6), NOTHING),
    "write_shorter_than_its_header": (raw(bytes.fromhex("c140") + bytes(11)), (2, 0, 3), NOTHING),
    "send_shorter_than_its_header": (raw(bytes.fromhex("4143") + bytes(15)), (2, 0, 3), NOTHING),
    "ulpdu_of_one_byte": (raw(b"\xc1"), (2, 0, 3), NOTHING),
    "ulpdu_of_no_byte": (raw(b""), (2, 0, 3), NOTHING),
    "read_response_that_nobody_asked_for": (
        lambda victim, crc: reference.tagged(READ_RESPONSE, 1, 0, b"data", crc=crc),
        (0, 2, 6),
        DDP,
    ),
    "terminate_without_a_control_word": (
        send(TERMINATE, queue=2, payload=b""),
        (2, 0, 3),
        NOTHING,
    ),
    "terminate_whose_header_is_cut": (
        send(TERMINATE, queue=2, payload=bytes.fromhex("1100c000 0012 c140")),
        (2, 0, 3),
        NOTHING,
    ),
    "terminate_on_queue_0": (send(TERMINATE, payload=b"\x20\x02\0\0"), (1, 2, 1), DDP),
}
REFUSALS |= {
    f"unknown_opcode_{opcode}": (
        raw(reference.control(opcode, tagged=False) + bytes(60)),
        (0, 2, 6),
        NOTHING,
    )
    for opcode in range(12, 16)
}
both_crc = pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])


def flags(crc):
    return ENHANCED | (CRC if crc else 0)


def expected_terminate(stream, code, attached, crc):
    culprit = last_ulpdu(stream) if attached != NOTHING else b""
    body = culprit[18:46] if attached == DDP_AND_READ else b""
    return terminate(code, culprit, read_request=body, crc=crc)


@both_crc
@pytest.mark.parametrize("name", REFUSALS)
def test_a_refused_message_ends_the_stream_with_the_terminate_of_the_rfcs(victim, name, crc):
    build, code, attached, *changed = REFUSALS[name]
    stream = victim.accepted(receives=2, start=lambda: request(flags(crc)))
    sent = build(victim, crc)

    stream.peer.send(sent)
    assert stream.peer.receive_all() == expected_terminate(sent, code, attached, crc)

    results = stream.wait_for(2)
    assert [r.status for r in results] == [nd.Status.CANCELLED] * 2
    assert [r.request_context for r in results] == ["receive 0", "receive 1"]

    text = "({}/{}/{:02x})".format(*code)
    assert all(r.detail.startswith("this side terminated the stream: ") for r in results)
    assert all(r.detail.endswith(text) for r in results)

    stream.wait_for_disconnect()
    assert stream.qp.state == "error"
    assert victim.untouched(*changed)


@both_crc
def test_a_send_longer_than_the_receive_overflows_it_and_ends_the_stream(victim, crc):
    stream = victim.accepted(receives=2, start=lambda: request(flags(crc)))
    sent = send(payload=bytes(65))(victim, crc)

    stream.peer.send(sent)
    assert stream.peer.receive_all() == expected_terminate(sent, (1, 2, 5), DDP, crc)

    first, second = stream.wait_for(2)
    assert (first.status, second.status) == (nd.Status.BUFFER_OVERFLOW, nd.Status.CANCELLED)
    assert first.bytes_transferred == 0
    assert victim.untouched()


def test_a_second_segment_that_is_too_long_places_nothing_of_itself(victim):
    stream = victim.accepted(receives=1)
    first = send(payload=b"\x11" * 32, last=False)(victim, False)
    second = send(mo=32, payload=b"\x22" * 33)(victim, False)

    stream.peer.send(first + second)

    assert stream.peer.receive_all() == expected_terminate(second, (1, 2, 5), DDP, False)
    assert stream.wait_for(1)[0].status == nd.Status.BUFFER_OVERFLOW
    assert bytes(victim.arena[:33]) == b"\x11" * 32 + b"\xee"
    assert victim.untouched((0, 32))


def test_one_read_request_more_than_the_limit_ends_the_stream(victim):
    # No response can leave before the stream is over, because all requests come in one segment
    # and the responses are made after reading.
    stream = victim.stream()

    stream.accept(RawPeer.connect(victim.address), inbound_read_limit=4)
    stag, to = victim.remote("window")
    sent = b"".join(
        reference.read_request(msn, 7, 0, 4, stag, to, crc=False) for msn in range(1, 6)
    )
    stream.peer.send(sent)
    answer = stream.peer.receive_all()
    assert answer.endswith(expected_terminate(sent, (0, 2, 7), DDP, False))
    stream.wait_for_disconnect()


def test_a_read_request_is_refused_where_no_reads_were_agreed(victim):
    stream = victim.stream()

    stream.accept(RawPeer.connect(victim.address), inbound_read_limit=0)
    sent = read("window")(victim, False)
    stream.peer.send(sent)
    assert stream.peer.receive_all() == expected_terminate(sent, (0, 2, 7), DDP, False)


def test_the_first_message_may_be_the_bad_one(victim):
    stream = victim.stream()
    stream.post_receives(1)

    accepting = stream.accept(RawPeer.connect(victim.address), opened=False)
    sent = write("window", END)(victim, False)
    stream.peer.send(sent)
    assert stream.peer.receive_all() == expected_terminate(sent, (1, 1, 1), DDP, False)
    with pytest.raises(nd.RdmaConnectionAbortedError):
        accepting.wait(20)
    assert stream.wait_for(1)[0].detail.endswith("(1/1/01)")
    assert victim.untouched()


@both_crc
def test_half_a_response_is_finished_before_a_refused_invalidation_ends_the_stream(victim, crc):
    size = 1 << 25
    with victim.pd.register(np.zeros(size, np.uint8), nd.Access.REMOTE_READ) as region:
        stream = victim.accepted(receives=1, start=lambda: request(flags(crc)))
        # The first one, so that no frame of the second ends where our side's full socket does.
        for msn, part in ((1, 1000), (2, size)):
            source = region.remote_token, region.address
            stream.peer.send(reference.read_request(msn, 7, 0, part, *source, crc=crc))
        stream.peer.receive_fpdu()
        sent = send(SEND_INVALIDATE, stag=0x9900)(victim, crc)
        stream.peer.send(sent)

        answer = stream.peer.receive_all()
        assert answer.endswith(expected_terminate(sent, (0, 2, 9), DDP, crc))

        ulpdus, rest = reference.split_fpdus(answer)
        assert rest == b""
        assert all(len(ulpdu) == len(ulpdus[0][0]) for ulpdu, _ in ulpdus[:-1])
        assert stream.wait_for(1)[0].status == nd.Status.CANCELLED

        stream.wait_for_disconnect()


@both_crc
def test_zero_length_messages_are_not_checked_against_memory(victim, crc):
    stream = victim.accepted(receives=1, start=lambda: request(flags(crc)))

    stream.peer.send(
        reference.tagged(WRITE, 0xDEAD, 2**64 - 1, crc=crc)
        + reference.read_request(1, 0xBEEF, 2**64 - 1, 0, 0xDEAD, 2**64 - 1, crc=crc)
    )

    assert stream.peer.receive_fpdu() == last_ulpdu(
        reference.tagged(READ_RESPONSE, 0xBEEF, 2**64 - 1, crc=crc)
    )
    assert stream.qp.state == "connected"
    assert victim.untouched()


@both_crc
def test_reserved_bits_and_pads_are_ignored(victim, crc):
    stream = victim.accepted(receives=1, start=lambda: request(flags(crc)))
    header = bytearray(reference.control(SEND))
    header[0] |= 0x3C
    header[1] |= 0x30
    ulpdu = bytes(header) + bytes(4) + (0).to_bytes(4) + (1).to_bytes(4) + bytes(4) + b"x"
    framed = len(ulpdu).to_bytes(2) + ulpdu
    framed += b"\xa5" * (-len(framed) % 4)

    stream.peer.send(framed + (reference.crc_bytes(framed) if crc else b"junk"))

    (done,) = stream.wait_for(1)
    assert (done.status, done.bytes_transferred) == (nd.Status.SUCCESS, 1)
    assert victim.untouched((0, 1))
