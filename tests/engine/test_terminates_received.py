# SPDX-License-Identifier: Apache-2.0
"""A Terminate of the peer ends the stream and is mapped to the request that it is about."""

import struct

import pytest

from engine.pair import WINDOW_STAG, WINDOW_TO, Solo
from ndverbs import _testing
from wire import reference

ERRORS = [
    (0, 0, 0x00),
    *((0, 1, code) for code in (0, 1, 2, 3, 4, 9, 0xFF)),
    *((0, 2, code) for code in (5, 6, 7, 8, 9, 0xFF)),
    (1, 0, 0),
    *((1, 1, code) for code in (0, 1, 2, 3, 4)),
    *((1, 2, code) for code in (1, 2, 3, 4, 5, 6)),
    *((2, 0, code) for code in (1, 2, 3, 4, 5, 6, 7)),
]
any_error = pytest.mark.parametrize(
    "error", ERRORS, ids=lambda error: f"{error[0]}/{error[1]}/{error[2]:02x}"
)
both_orders = pytest.mark.parametrize("swapped", [False, True], ids=["rfc", "siw"])
both_crc = pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])


def terminate(error, *, crc=False, **fields):
    layer, error_type, code = error
    body = _testing.emit_terminate_body(layer=layer, error_type=error_type, code=code, **fields)
    return reference.untagged(reference.TERMINATE, 2, 1, payload=body, crc=crc)


def busy(**config):
    """An initiator with a finished write, two open reads, a request behind them, a receive."""
    solo = Solo(is_initiator=True, ord=2, **config)
    solo.engine.post_receive(50, [(0x100, 16)])
    solo.engine.post_write(1, [(0, 4)], WINDOW_STAG, WINDOW_TO)
    solo.engine.post_read(2, [(0, 4)], WINDOW_STAG, WINDOW_TO)
    solo.engine.post_read(3, [(0, 4)], WINDOW_STAG, WINDOW_TO)
    solo.engine.post_read(4, [(0, 4)], WINDOW_STAG, WINDOW_TO)
    solo.step()
    assert solo.side.outcome() == [("request", 1, "success")]
    return solo


def read_request_headers(solo, index):
    requests = [u for u in solo.fpdus() if u[1] & 15 == reference.READ_REQUEST]
    return requests[index][:18], requests[index][18:]


@both_crc
@both_orders
@any_error
def test_every_code_is_understood_in_both_orders(error, swapped, crc):
    solo = busy(crc=crc)
    tagged_header = bytes.fromhex("c140 00001100 00007f0000001000")

    solo.step(
        terminate(
            error,
            crc=crc,
            swapped=swapped,
            has_segment_length=True,
            segment_length=18,
            ddp_header=tagged_header,
        )
    )

    assert solo.engine.cause == ("peer", *error)
    assert solo.engine.is_over
    assert "over" in solo.events


@pytest.mark.parametrize("about", [0, 1])
@both_orders
def test_an_embedded_read_request_names_the_read_that_failed(about, swapped):
    solo = busy()
    ddp_header, body = read_request_headers(solo, about)
    solo.step(
        terminate(
            (0, 1, 1),
            swapped=swapped,
            has_segment_length=True,
            segment_length=46,
            ddp_header=ddp_header,
            read_request=body,
        )
    )
    failed = 2 + about

    assert [c["context"] for c in solo.completions] == [1, 2, 3, 4, 50]
    for completion in solo.completions[1:]:
        is_named = completion["context"] == failed
        assert completion["status"] == ("remote_resources" if is_named else "cancelled")
        assert completion["cause"] == ("peer", 0, 1, 1)


def test_siw_names_a_read_although_it_replaces_msn_and_offset():
    solo = busy()
    _, body = read_request_headers(solo, 1)
    ddp_header = bytes.fromhex("4141") + struct.pack(">IIII", 0, 1, 4, 0)

    solo.step(
        terminate(
            (0, 1, 0),
            swapped=True,
            has_segment_length=True,
            ddp_header=ddp_header,
            read_request=body,
        )
    )

    statuses = {c["context"]: c["status"] for c in solo.completions}
    assert statuses[3] == "remote_resources"
    assert statuses[2] == statuses[4] == "cancelled"


def test_a_refused_payload_is_not_blamed_on_reads_which_carry_none():
    solo = busy()

    solo.step(terminate((1, 1, 0)))

    assert solo.side.outcome() == [
        ("request", 1, "success"),
        ("request", 2, "cancelled"),
        ("request", 3, "cancelled"),
        ("request", 4, "cancelled"),
        ("receive", 50, "cancelled"),
    ]


def test_without_a_name_the_oldest_open_request_is_to_blame():
    solo = busy()

    solo.step(terminate((0, 1, 0)))

    assert solo.side.outcome() == [
        ("request", 1, "success"),
        ("request", 2, "remote_resources"),
        ("request", 3, "cancelled"),
        ("request", 4, "cancelled"),
        ("receive", 50, "cancelled"),
    ]


def test_with_no_open_request_nothing_is_to_blame():
    solo = Solo(is_initiator=True)
    solo.engine.post_receive(50, [(0x100, 16)])
    solo.engine.post_write(1, [(0, 4)], WINDOW_STAG, WINDOW_TO)

    solo.step()
    solo.step(terminate((1, 1, 0)))

    assert solo.side.outcome() == [("request", 1, "success"), ("receive", 50, "cancelled")]
    assert solo.completions[1]["cause"] == ("peer", 1, 1, 0)


def test_a_request_that_was_never_sent_is_cancelled_and_not_blamed():
    solo = Solo(is_initiator=True, ord=1)
    solo.step()
    solo.engine.post_send(1, [(0, 4)])

    solo.step(terminate((1, 1, 0)), limit=0)

    assert solo.side.outcome() == [("request", 1, "cancelled")]


def test_a_request_already_done_keeps_its_success_when_a_terminate_comes_in_the_same_step():
    solo = Solo(is_initiator=True)
    solo.engine.post_write(1, [(0, 4)], WINDOW_STAG, WINDOW_TO)
    solo.engine.post_read(2, [(0, 4)], WINDOW_STAG, WINDOW_TO)

    solo.step(terminate((1, 1, 0)))

    assert solo.side.contexts(receives=False) == [1, 2]
    assert solo.completions[0]["status"] == "success"
    assert solo.completions[1]["cause"] == ("peer", 1, 1, 0)


def test_nothing_is_sent_in_answer_to_a_terminate():
    solo = busy()
    before = bytes(solo.written)

    solo.step(terminate((2, 0, 2)))
    solo.step()

    assert bytes(solo.written) == before


def test_bytes_behind_a_terminate_are_not_looked_at():
    solo = busy()
    write = reference.tagged(reference.WRITE, WINDOW_STAG, WINDOW_TO, b"late", crc=False)

    solo.step(terminate((2, 0, 2)) + write)

    assert solo.engine.read(0x1000, 4) == b"\xee" * 4
    assert solo.engine.cause == ("peer", 2, 0, 2)


def test_a_terminate_cut_short_is_a_length_error():
    body = bytes.fromhex("1101c000 0012 c140 00000100")
    solo = busy()

    solo.step(reference.untagged(reference.TERMINATE, 2, 1, payload=body, crc=False))
    solo.step()

    assert solo.terminate()["code"] == (2, 0, 3)


@pytest.mark.parametrize("extra", [0, 1, 400, 65_000])
def test_bytes_beyond_the_longest_terminate_do_not_matter(extra):
    body = bytes.fromhex("20020000") + bytes(extra)
    solo = busy()

    solo.step(reference.untagged(reference.TERMINATE, 2, 1, payload=body, crc=False))

    assert solo.engine.cause == ("peer", 2, 0, 2)


def test_the_phase_tells_start_up_errors_of_a_bare_terminate_from_later_ones():
    early = Solo()

    early.step(terminate((2, 0, 6)))
    assert early.engine.cause == ("peer", 2, 0, 6)

    late = Solo()
    late.step(reference.tagged(reference.WRITE, 0, 0, b"", crc=False))
    late.step(terminate((0, 2, 6), swapped=True))
    assert late.engine.cause == ("peer", 0, 2, 6)
