# SPDX-License-Identifier: Apache-2.0
"""What a peer may not do: each case gives the RFCs' layer, type and code, and places nothing."""

import struct

import pytest

from engine.pair import (
    FILL,
    SECOND,
    WINDOW_OFFSET,
    WINDOW_SIZE,
    WINDOW_STAG,
    WINDOW_TO,
    Solo,
    pattern,
    terminate_of,
)
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

OTHER_PD, READ_ONLY, WRITE_ONLY, TOP = 0x3300, 0x4400, 0x5500, 0x6600
TOP_TO = 2**64 - 0x100
END = WINDOW_TO + WINDOW_SIZE
both_crc = pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])


def responder(crc=False, receives=1, **config):
    solo = Solo(crc=crc, **config)
    engine = solo.engine
    engine.add_region(OTHER_PD, 0, 0x1900, 0x100, remote_read=True, remote_write=True, pd=2)
    engine.add_region(READ_ONLY, 0, 0x1A00, 0x100, remote_read=True)
    engine.add_region(WRITE_ONLY, 0, 0x1B00, 0x100, remote_write=True)
    engine.add_region(TOP, TOP_TO, 0x1C00, 0x100, remote_read=True, remote_write=True)
    for i in range(receives):
        assert engine.post_receive(100 + i, [(i * 64, 16)])
    return solo


def write(stag, to, payload=b"data", **options):
    return lambda crc: reference.tagged(WRITE, stag, to, payload, crc=crc, **options)


def read(stag, to, size, msn=1):
    return lambda crc: reference.read_request(msn, 7, 0, size, stag, to, crc=crc)


def send(opcode=SEND, queue=0, msn=1, mo=0, payload=b"data", **options):
    return lambda crc: reference.untagged(opcode, queue, msn, mo, payload, crc=crc, **options)


def raw(ulpdu):
    return lambda crc: reference.fpdu(ulpdu, crc)


def joined(*parts):
    return lambda crc: b"".join(part(crc) for part in parts)


# name, what comes in, layer/type/code, what the Terminate carries: "" nothing, D, DR. Only the
# last FPDU is at fault.
DDP, NOTHING, DDP_AND_READ = "ddp", "nothing", "ddp and read request"
REFUSALS = [
    # RFC 5041 section 7.1, tagged buffers.
    ("write_to_unknown_stag", write(0x9900, 0), (1, 1, 0), DDP),
    ("write_to_stag_zero", write(0, 0), (1, 1, 0), DDP),
    ("write_to_other_key_of_a_stag", write(WINDOW_STAG + 1, WINDOW_TO), (1, 1, 0), DDP),
    ("write_below_the_base", write(WINDOW_STAG, WINDOW_TO - 1), (1, 1, 1), DDP),
    ("write_one_past_the_end", write(WINDOW_STAG, END - 3), (1, 1, 1), DDP),
    ("write_far_past_the_end", write(WINDOW_STAG, END + 1000), (1, 1, 1), DDP),
    ("write_at_address_zero", write(WINDOW_STAG, 0), (1, 1, 1), DDP),
    ("write_to_another_protection_domain", write(OTHER_PD, 0), (1, 1, 2), DDP),
    ("write_without_the_right", write(READ_ONLY, 0), (1, 1, 0), DDP),
    ("write_that_wraps", write(TOP, 2**64 - 2), (1, 1, 3), DDP),
    (
        "write_whose_next_segment_changes_stag",
        joined(
            write(WINDOW_STAG, WINDOW_TO, last=False),
            write(WRITE_ONLY, WINDOW_TO + 4),
        ),
        (1, 1, 0),
        DDP,
    ),
    (
        "write_whose_next_segment_leaves_a_gap",
        joined(
            write(WINDOW_STAG, WINDOW_TO, last=False),
            write(WINDOW_STAG, WINDOW_TO + 5),
        ),
        (1, 1, 1),
        DDP,
    ),
    (
        "write_whose_next_segment_passes_the_end",
        joined(
            write(WINDOW_STAG, END - 4, last=False),
            write(WINDOW_STAG, END),
        ),
        (1, 1, 1),
        DDP,
    ),
    # RFC 5040 section 7.2, the source of a read.
    ("read_of_unknown_stag", read(0x9900, 0, 4), (0, 1, 0), DDP_AND_READ),
    ("read_of_stag_zero", read(0, 0, 4), (0, 1, 0), DDP_AND_READ),
    ("read_below_the_base", read(WINDOW_STAG, WINDOW_TO - 1, 4), (0, 1, 1), DDP_AND_READ),
    ("read_past_the_end", read(WINDOW_STAG, END - 3, 4), (0, 1, 1), DDP_AND_READ),
    ("read_of_4_gib_less_one", read(WINDOW_STAG, WINDOW_TO, 2**32 - 1), (0, 1, 1), DDP_AND_READ),
    ("read_without_the_right", read(WRITE_ONLY, 0, 4), (0, 1, 2), DDP_AND_READ),
    ("read_of_another_protection_domain", read(OTHER_PD, 0, 4), (0, 1, 3), DDP_AND_READ),
    ("read_that_wraps", read(TOP, 2**64 - 2, 4), (0, 1, 4), DDP_AND_READ),
    ("read_request_with_msn_2", read(WINDOW_STAG, WINDOW_TO, 4, msn=2), (1, 2, 3), DDP),
    ("read_request_with_msn_0", read(WINDOW_STAG, WINDOW_TO, 4, msn=0), (1, 2, 3), DDP),
    (
        "read_request_on_queue_0",
        send(READ_REQUEST, queue=0, payload=bytes(28)),
        (1, 2, 1),
        DDP,
    ),
    (
        "read_request_with_an_offset",
        send(READ_REQUEST, queue=1, mo=4, payload=bytes(28)),
        (1, 2, 4),
        DDP,
    ),
    ("read_request_too_long", send(READ_REQUEST, queue=1, payload=bytes(32)), (0, 2, 6), DDP),
    ("read_request_too_short", send(READ_REQUEST, queue=1, payload=bytes(27)), (2, 0, 3), NOTHING),
    # RFC 5041 section 7.1, untagged buffers.
    ("send_on_queue_1", send(queue=1), (1, 2, 1), DDP),
    ("send_on_queue_2", send(queue=2), (1, 2, 1), DDP),
    ("send_on_queue_3", send(queue=3), (1, 2, 1), DDP),
    ("send_with_msn_0", send(msn=0), (1, 2, 3), DDP),
    ("send_with_msn_2", send(msn=2), (1, 2, 3), DDP),
    ("send_with_msn_2_to_the_32_less_one", send(msn=2**32 - 1), (1, 2, 3), DDP),
    ("send_whose_msn_repeats", joined(send(), send()), (1, 2, 3), DDP),
    ("send_that_starts_at_an_offset", send(mo=4), (1, 2, 4), DDP),
    (
        "send_whose_next_segment_leaves_a_gap",
        joined(send(last=False), send(mo=5)),
        (1, 2, 4),
        DDP,
    ),
    (
        "send_whose_next_segment_overlaps",
        joined(send(last=False), send(mo=3)),
        (1, 2, 4),
        DDP,
    ),
    ("send_longer_than_the_receive", send(payload=bytes(17)), (1, 2, 5), DDP),
    (
        "send_whose_second_segment_is_too_long",
        joined(send(last=False), send(mo=4, payload=bytes(13))),
        (1, 2, 5),
        DDP,
    ),
    # RFC 5040 section 5.3 and docs/wire/iwarp.md#what-each-error-becomes.
    ("invalidate_of_unknown_stag", send(SEND_INVALIDATE, reserved=0x9900), (0, 2, 9), DDP),
    ("invalidate_of_a_region", send(SEND_INVALIDATE, reserved=WINDOW_STAG), (0, 2, 9), DDP),
    (
        "invalidate_with_event_of_a_region",
        send(SEND_SOLICITED_INVALIDATE, reserved=WINDOW_STAG),
        (0, 2, 9),
        DDP,
    ),
    (
        "invalidate_of_another_protection_domain",
        send(SEND_INVALIDATE, reserved=OTHER_PD),
        (0, 1, 9),
        DDP,
    ),
    # A message that changes before its last segment.
    (
        "send_that_becomes_another_kind",
        joined(send(last=False), send(SEND_SOLICITED, mo=4)),
        (0, 2, 6),
        DDP,
    ),
    (
        "invalidate_whose_stag_changes",
        joined(
            send(SEND_INVALIDATE, reserved=1, last=False),
            send(SEND_INVALIDATE, mo=4, reserved=2),
        ),
        (0, 2, 6),
        DDP,
    ),
    # Versions, opcodes, lengths: the layout is not trusted, so nothing is attached.
    ("tagged_ddp_version_0", raw(bytes.fromhex("c040") + bytes(12)), (1, 1, 4), NOTHING),
    ("tagged_ddp_version_2", raw(bytes.fromhex("c240") + bytes(12)), (1, 1, 4), NOTHING),
    ("untagged_ddp_version_0", raw(bytes.fromhex("4043") + bytes(16)), (1, 2, 6), NOTHING),
    ("rdmap_version_0", raw(bytes.fromhex("4103") + bytes(16)), (0, 2, 5), NOTHING),
    ("rdmap_version_2", raw(bytes.fromhex("c180") + bytes(12)), (0, 2, 5), NOTHING),
    ("write_without_the_tagged_bit", raw(bytes.fromhex("4140") + bytes(16)), (0, 2, 6), NOTHING),
    ("send_with_the_tagged_bit", raw(bytes.fromhex("c143") + bytes(16)), (0, 2, 6), NOTHING),
    ("write_shorter_than_its_header", raw(bytes.fromhex("c140") + bytes(11)), (2, 0, 3), NOTHING),
    ("send_shorter_than_its_header", raw(bytes.fromhex("4143") + bytes(15)), (2, 0, 3), NOTHING),
    ("no_control_bytes", raw(b"\xc1"), (2, 0, 3), NOTHING),
    ("no_ulpdu_at_all", raw(b""), (2, 0, 3), NOTHING),
    ("terminate_without_control_word", send(TERMINATE, queue=2, payload=b""), (2, 0, 3), NOTHING),
    ("terminate_on_queue_0", send(TERMINATE, payload=b"\x20\x02\0\0"), (1, 2, 1), DDP),
    # A response to no request of ours.
    (
        "read_response_not_asked_for",
        lambda crc: reference.tagged(READ_RESPONSE, 1, 0, b"data", crc=crc),
        (0, 2, 6),
        DDP,
    ),
]
REFUSALS += [
    (
        f"unknown_opcode_{opcode}",
        raw(reference.control(opcode, tagged=False) + bytes(60)),
        (0, 2, 6),
        NOTHING,
    )
    for opcode in range(12, 16)
]
all_refusals = pytest.mark.parametrize(
    ("incoming", "code", "attached"),
    [pytest.param(*case[1:], id=case[0]) for case in REFUSALS],
)


@both_crc
@all_refusals
def test_a_refusal_says_what_the_rfcs_name_and_ends_the_stream(incoming, code, attached, crc):
    solo = responder(crc)
    stream = incoming(crc)
    culprit = reference.split_fpdus(stream)[0][-1][0]
    solo.step(stream)
    solo.step()

    terminate = solo.terminate()
    assert terminate is not None
    assert terminate["code"] == code
    assert solo.engine.cause == ("local", *code)
    assert solo.engine.is_over
    assert "over" in solo.events
    if attached == NOTHING:
        assert (terminate["length"], terminate["ddp"], terminate["read"]) == (None, b"", b"")
    else:
        assert terminate["length"] == len(culprit)
        assert terminate["ddp"] == culprit[: len(terminate["ddp"])]
        assert terminate["read"] == (culprit[18:46] if attached == DDP_AND_READ else b"")


@both_crc
@all_refusals
def test_a_refusal_places_nothing_of_the_fpdu_at_fault(incoming, code, attached, crc):
    solo = responder(crc)
    solo.engine.write(0, bytes([FILL]) * 0x2000)
    stream = incoming(crc)
    parts = reference.split_fpdus(stream)[0]
    solo.step(stream)
    memory = bytearray(solo.side.memory())
    if len(parts) > 1:  # what the good segments before it placed
        memory[0:4] = bytes([FILL]) * 4
        for offset in (WINDOW_OFFSET, WINDOW_OFFSET + WINDOW_SIZE - 4):
            memory[offset : offset + 4] = bytes([FILL]) * 4
    is_late = (code[:2] == (0, 2) and code[2] == 9) or code == (0, 1, 9)
    if is_late:  # refused when the message was complete (RFC 5040 section 5.3)
        memory[0:4] = bytes([FILL]) * 4

    assert memory == bytes([FILL]) * 0x2000


@all_refusals
def test_a_refusal_is_the_same_when_its_bytes_come_one_by_one(incoming, code, attached):
    solo = responder()

    for byte in incoming(False):
        solo.step(bytes([byte]))
    solo.step()

    assert solo.terminate()["code"] == code


@all_refusals
def test_after_a_refusal_every_request_is_completed_once(incoming, code, attached):
    solo = responder(receives=3)
    solo.engine.post_send(1, [(0x700, 4)])
    solo.engine.post_read(2, [(0x700, 4)], 1, 0)
    solo.step(incoming(False))
    solo.step()
    assert solo.side.contexts(receives=True) == [100, 101, 102]
    assert solo.side.contexts(receives=False) == [1, 2]

    solo.engine.post_send(3, [(0x700, 4)])
    solo.engine.post_receive(103, [(0x700, 4)])
    solo.step()
    assert solo.side.contexts(receives=False)[2:] == [3]
    assert solo.completions[-1]["status"] == "cancelled"


def test_nothing_follows_a_terminate():
    solo = responder()
    solo.step(write(0x9900, 0)(False))
    solo.engine.post_send(1, [(0, 4)])
    before = bytes(solo.written)

    solo.step(write(WINDOW_STAG, WINDOW_TO)(False))

    assert bytes(solo.written) == before
    assert terminate_of(before)["code"] == (1, 1, 0)
    assert solo.side.memory()[WINDOW_OFFSET] == FILL


def test_zero_length_messages_are_not_checked_against_memory():
    solo = responder()

    solo.step(
        write(0, 0, b"")(False),
        write(0x9900, 2**64 - 1, b"")(False),
        read(0x9900, 2**64 - 1, 0)(False),
    )
    solo.step()

    assert not solo.engine.is_over
    # The read is answered by an empty response that echoes sink STag and offset.
    assert solo.fpdus() == [bytes.fromhex("c142 00000007 0000000000000000")]


def test_a_write_may_touch_the_last_byte_below_two_to_the_64():
    solo = responder()

    solo.step(write(TOP, 2**64 - 4)(False))

    assert not solo.engine.is_over
    assert solo.engine.read(0x1CFC, 4) == b"data"


def test_each_segment_of_a_write_is_checked_again():
    solo = responder()
    solo.step(write(WINDOW_STAG, WINDOW_TO, last=False)(False))
    solo.engine.remove_region(WINDOW_STAG)

    solo.step(write(WINDOW_STAG, WINDOW_TO + 4)(False))
    solo.step()

    assert solo.terminate()["code"] == (1, 1, 0)
    assert solo.engine.read(WINDOW_OFFSET, 8) == b"data" + bytes([FILL]) * 4


def test_a_region_that_goes_in_the_middle_of_a_segment_ends_the_stream():
    stream = write(WINDOW_STAG, WINDOW_TO, b"abcdefgh")(False)
    solo = responder()
    solo.step(stream[:20])
    solo.engine.remove_region(WINDOW_STAG)

    solo.step(stream[20:])
    solo.step()

    assert solo.terminate()["code"] == (1, 1, 0)
    assert solo.engine.read(WINDOW_OFFSET, 8) == b"abcd" + bytes([FILL]) * 4


@pytest.mark.parametrize("budget", [1, 1 << 20], ids=["to_be_built", "built"])
def test_a_read_source_that_goes_half_way_is_reported_with_the_advanced_request(budget):
    solo = responder(max_fpdu=532)  # 512 bytes of payload
    solo.step(read(WINDOW_STAG, WINDOW_TO, 2048)(False), limit=0)
    solo.step(limit=532, budget=budget)
    solo.engine.remove_region(WINDOW_STAG)

    solo.step()
    solo.step()

    terminate = solo.terminate()
    assert terminate["code"] == (0, 1, 0)
    assert terminate["ddp"] == bytes.fromhex("4141") + struct.pack(">IIII", 0, 1, 1, 0)
    assert terminate["read"] == struct.pack(">IQIIQ", 7, 512, 1536, WINDOW_STAG, WINDOW_TO + 512)
    assert solo.engine.cause == ("local", 0, 1, 0)


def test_reserved_bits_and_pads_of_a_peer_are_ignored():
    ulpdu = bytes([0x40 | 0x3C | 1, 0x40 | 0x30 | SEND]) + struct.pack(">IIII", 99, 0, 1, 0) + b"ab"

    fpdu = bytearray(reference.fpdu(ulpdu, crc=False))
    assert len(fpdu) == 28

    fpdu[22:24] = b"\xaa\xbb"  # siw leaves its pads uncleared
    fpdu[24:28] = b"\x01\x02\x03\x04"  # and a CRC field means nothing when C is off
    solo = responder()
    solo.step(bytes(fpdu))
    assert solo.side.outcome() == [("receive", 100, "success")]


def test_empty_segments_are_legal_and_bounded():
    empty = send(payload=b"", last=False)(False)
    solo = responder()

    solo.step(empty * 10, send()(False))
    assert solo.side.outcome() == [("receive", 100, "success")]

    solo = responder()
    solo.step(empty * 100_000)
    solo.step()
    assert solo.terminate()["code"] == (0, 2, 7)


@both_crc
def test_a_crc_error_is_reported_without_headers_and_places_nothing(crc):
    fpdu = bytearray(write(WINDOW_STAG, WINDOW_TO)(True))
    fpdu[-1] ^= 1
    solo = responder(crc)
    solo.step(bytes(fpdu))
    solo.step()
    if crc:
        assert bytes(solo.written) == bytes.fromhex(
            "00164147 00000000 00000002 00000001 00000000 20020000 7fe42585"
        )
        assert solo.engine.read(WINDOW_OFFSET, 4) == bytes([FILL]) * 4
    else:
        assert not solo.engine.is_over
        assert solo.engine.read(WINDOW_OFFSET, 4) == b"data"


def test_a_terminate_that_cannot_be_sent_gives_up_at_its_deadline():
    solo = responder()

    solo.step(write(0x9900, 0)(False), limit=0)
    assert not solo.engine.is_over
    assert solo.completions == []
    assert solo.engine.deadline() == SECOND

    solo.now = SECOND
    solo.step(limit=0)
    assert solo.engine.is_over
    assert solo.side.outcome() == [("receive", 100, "cancelled")]


def test_a_half_written_frame_is_finished_before_the_terminate():
    solo = responder()
    solo.step(write(WINDOW_STAG, WINDOW_TO, b"")(False))  # ends the hold
    solo.engine.post_send(1, [(0x700, 300)])
    solo.engine.post_send(2, [(0x700, 300)])

    solo.step(limit=100)
    solo.step(write(0x9900, 0)(False), limit=0)
    solo.step()

    ulpdus = solo.fpdus()
    assert len(ulpdus) == 2
    assert (
        ulpdus[0] == bytes.fromhex("4143") + struct.pack(">IIII", 0, 0, 1, 0) + bytes([FILL]) * 300
    )
    assert solo.terminate()["code"] == (1, 1, 0)
    assert solo.side.outcome() == [
        ("request", 1, "success"),
        ("request", 2, "cancelled"),
        ("receive", 100, "cancelled"),
    ]


def test_half_a_response_is_finished_before_a_refused_invalidation_ends_the_stream():
    solo = responder()
    solo.engine.write(WINDOW_OFFSET, pattern(2000))
    solo.step(read(WINDOW_STAG, WINDOW_TO, 2000)(False), limit=0)
    solo.step(limit=100)
    solo.engine.begin(solo.now)  # one step that reads before it writes
    solo.engine.receive(send(SEND_INVALIDATE, reserved=0x9900)(False))
    solo.written += solo.engine.transmit()
    solo.side.collect()

    solo.engine.end()

    response, _ = solo.fpdus()
    assert response == bytes.fromhex("c142 00000007 0000000000000000") + pattern(2000)
    assert solo.terminate()["code"] == (0, 2, 9)
    assert solo.side.outcome() == [("receive", 100, "cancelled")]
