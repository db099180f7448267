# SPDX-License-Identifier: Apache-2.0
"""The Terminate message in both orders of its control word: RFC 5040 section 4.8 and siw's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndverbs import _testing
from wire import reference

VECTORS = reference.load_vectors("terminate")
TAGGED_HEADER = bytes.fromhex("c140 00000100 0000000000001000")
UNTAGGED_HEADER = bytes.fromhex("4143 00000000 00000000 00000003 00000000")
READ_HEADER = bytes.fromhex("4141 00000000 00000001 00000400 00000000")
READ_BODY = bytes.fromhex("00001200 0000000010000000 00000400 00003400 0000000020000000")
NOTHING = {
    "has_segment_length": False,
    "segment_length": 0,
    "ddp_header": b"",
    "read_request": b"",
    "swapped": False,
}

# RFC 5040 section 4.8, RFC 5041 section 7.2, RFC 5044 section 8, RFC 6581 section 8.
RDMAP_CODES = [(0, 0, 0x00)]
RDMAP_CODES += [(0, 1, code) for code in (0x00, 0x01, 0x02, 0x03, 0x04, 0x09, 0xFF)]
RDMAP_CODES += [(0, 2, code) for code in (0x05, 0x06, 0x07, 0x08, 0x09, 0xFF)]
DDP_CODES = [(1, 0, 0x00)]
DDP_CODES += [(1, 1, code) for code in (0x00, 0x01, 0x02, 0x03, 0x04)]
DDP_CODES += [(1, 2, code) for code in (0x01, 0x02, 0x03, 0x04, 0x05, 0x06)]
LLP_CODES = [(2, 0, code) for code in (0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07)]
ALL_CODES = RDMAP_CODES + DDP_CODES + LLP_CODES

# RDMAP/2 and LLP/0 share the codes 5, 6 and 7: with no header behind the control word both of its
# orders are possible (docs/wire/iwarp.md#terminate), and the phase decides.
AMBIGUOUS_CODES = [(layer, 2 - layer, code) for layer in (0, 2) for code in (5, 6, 7)]
UNAMBIGUOUS_CODES = [error for error in ALL_CODES if error not in AMBIGUOUS_CODES]


def each(errors):
    return pytest.mark.parametrize(
        "error", errors, ids=lambda error: f"{error[0]}/{error[1]}/{error[2]:02x}"
    )


any_code = each(ALL_CODES)
any_order = pytest.mark.parametrize("swapped", [False, True], ids=["rfc", "siw"])


def code_of(parsed):
    return parsed["layer"], parsed["error_type"], parsed["code"]


def fields_of(body):
    fields = {**NOTHING, **body}
    for name in ("ddp_header", "read_request"):
        if isinstance(fields[name], str):
            fields[name] = bytes.fromhex(fields[name])
    return fields


complete = pytest.mark.parametrize("vector", VECTORS["complete"], ids=lambda vector: vector["name"])
siw_control = pytest.mark.parametrize(
    "vector", VECTORS["siw_control"], ids=lambda vector: vector["cause"]
)


@complete
def test_golden_messages_parse_to_their_fields(vector):
    wire = bytes.fromhex(vector["bytes"])
    header = _testing.parse_untagged_header(wire)
    assert (header["opcode"], header["queue_number"], header["msn"]) == (7, 2, 1)
    body = wire[20 : 2 + header["ulpdu_length"]]
    parsed = _testing.parse_terminate_body(body, vector["before_first_fpdu"])
    assert parsed == fields_of(vector["body"])


@complete
def test_golden_fields_emit_the_message(vector):
    body = _testing.emit_terminate_body(**fields_of(vector["body"]))
    wire = reference.untagged(reference.TERMINATE, 2, 1, payload=body)
    assert wire == bytes.fromhex(vector["bytes"] + vector["crc"])


@siw_control
def test_every_terminate_of_siw_is_understood(vector):
    attached = {
        "tagged": b"\x00\x40" + TAGGED_HEADER,
        "untagged": b"\x00\x40" + UNTAGGED_HEADER,
        "read_request": b"\x00\x00" + READ_HEADER + READ_BODY,
        "nothing": b"",
    }[vector["attached"]]
    body = bytes.fromhex(vector["control"]) + attached
    parsed = _testing.parse_terminate_body(body, vector.get("before_first_fpdu", False))
    assert code_of(parsed) == tuple(vector["error"])
    assert (parsed["read_request"] != b"") is (vector["attached"] == "read_request")


@any_order
@any_code
def test_a_code_with_its_headers_is_understood_in_both_orders(error, swapped):
    layer, error_type, code = error
    body = _testing.emit_terminate_body(
        layer=layer,
        error_type=error_type,
        code=code,
        has_segment_length=True,
        segment_length=18,
        ddp_header=TAGGED_HEADER,
        swapped=swapped,
    )
    first = (error_type << 4 | layer) if swapped else (layer << 4 | error_type)
    assert body[:4] == bytes([first, code, 0x03 if swapped else 0xC0, 0])
    for before_first_fpdu in (False, True):
        parsed = _testing.parse_terminate_body(body, before_first_fpdu)
        assert code_of(parsed) == error
        assert parsed["swapped"] is swapped
        assert parsed["ddp_header"] == TAGGED_HEADER


@any_code
def test_a_code_without_headers_is_understood_in_rfc_order(error):
    layer, error_type, code = error
    body = _testing.emit_terminate_body(layer=layer, error_type=error_type, code=code)
    assert body == bytes([layer << 4 | error_type, code, 0, 0])
    # Before the peer's first FPDU only MPA fails, after it only RDMAP has the shared codes.
    before_first_fpdu = layer == 2
    assert code_of(_testing.parse_terminate_body(body, before_first_fpdu)) == error


@pytest.mark.parametrize("before_first_fpdu", [False, True])
@each(UNAMBIGUOUS_CODES)
def test_a_code_that_one_order_alone_can_mean_needs_no_phase(error, before_first_fpdu):
    layer, error_type, code = error
    body = bytes([layer << 4 | error_type, code, 0, 0])
    assert code_of(_testing.parse_terminate_body(body, before_first_fpdu)) == error


# What siw sends with no header bit (docs/wire/siw.md#terminate), in either phase where unambiguous.
@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("11040000", (1, 1, 4)),
        ("21060000", (1, 2, 6)),
        ("02010000", (2, 0, 1)),
        ("02020000", (2, 0, 2)),
        ("02030000", (2, 0, 3)),
        ("02040000", (2, 0, 4)),
    ],
)
@pytest.mark.parametrize("before_first_fpdu", [False, True])
def test_a_siw_word_without_headers_is_understood_where_rfc_order_cannot_mean_it(
    body, error, before_first_fpdu
):
    parsed = _testing.parse_terminate_body(bytes.fromhex(body), before_first_fpdu)
    assert code_of(parsed) == error


@pytest.mark.parametrize(
    ("body", "before_first_fpdu", "error"),
    [
        ("20050000", False, (0, 2, 5)),  # siw: RDMAP version
        ("20060000", False, (0, 2, 6)),  # siw: unknown opcode
        ("20050000", True, (2, 0, 5)),  # RFC: local catastrophic while starting
        ("20060000", True, (2, 0, 6)),  # RFC: insufficient IRD
        ("20070000", True, (2, 0, 7)),  # RFC: no matching RTR
        ("02050000", True, (2, 0, 5)),  # siw order of the same three
        ("02060000", True, (2, 0, 6)),
        ("02070000", True, (2, 0, 7)),
        ("02050000", False, (0, 2, 5)),  # RFC: RDMAP version
        ("02060000", False, (0, 2, 6)),  # RFC: unexpected opcode
        ("02070000", False, (0, 2, 7)),  # RFC: catastrophic, this stream
    ],
)
def test_the_phase_decides_what_a_bare_ambiguous_word_means(body, before_first_fpdu, error):
    parsed = _testing.parse_terminate_body(bytes.fromhex(body), before_first_fpdu)
    assert code_of(parsed) == error


def test_siw_sets_the_rdmap_flag_on_a_send_without_attaching_a_header():
    body = bytes.fromhex("10090700 0040") + UNTAGGED_HEADER
    parsed = _testing.parse_terminate_body(body)
    assert code_of(parsed) == (0, 1, 9)
    assert parsed["ddp_header"] == UNTAGGED_HEADER
    assert parsed["read_request"] == b""


terminates = st.fixed_dictionaries(
    {
        "error": st.sampled_from(ALL_CODES),
        "has_segment_length": st.just(True),
        "segment_length": st.integers(0, 0xFFFF),
        "attached": st.sampled_from(
            [(b"", b""), (TAGGED_HEADER, b""), (UNTAGGED_HEADER, b""), (READ_HEADER, READ_BODY)]
        ),
        "swapped": st.booleans(),
    }
)


@given(fields=terminates)
def test_any_terminate_survives_emit_and_parse(fields):
    layer, error_type, code = fields["error"]
    header, body = fields["attached"]
    given_fields = {
        "layer": layer,
        "error_type": error_type,
        "code": code,
        "has_segment_length": True,
        "segment_length": fields["segment_length"],
        "ddp_header": header,
        "read_request": body,
        "swapped": fields["swapped"],
    }
    assert (
        _testing.parse_terminate_body(_testing.emit_terminate_body(**given_fields)) == given_fields
    )


@any_order
@pytest.mark.parametrize("kept", range(52))
def test_a_message_cut_short_of_its_own_flags_is_refused(kept, swapped):
    body = _testing.emit_terminate_body(
        layer=0,
        error_type=1,
        code=1,
        has_segment_length=True,
        segment_length=46,
        ddp_header=READ_HEADER,
        read_request=READ_BODY,
        swapped=swapped,
    )
    assert len(body) == 52
    parsed = _testing.parse_terminate_body(body[:kept])
    # siw's R bit promises nothing: with the DDP header complete its message is complete.
    if swapped and kept >= 24:
        assert code_of(parsed) == (0, 1, 1)
    else:
        assert parsed == "too_short for its own flags"


@given(data=st.binary(max_size=80), before_first_fpdu=st.booleans())
def test_arbitrary_bytes_give_fields_or_a_reason(data, before_first_fpdu):
    parsed = _testing.parse_terminate_body(data, before_first_fpdu)
    assert isinstance(parsed, (dict, str))
    if isinstance(parsed, dict):
        assert _testing.emit_terminate_body(**parsed)[1] == data[1]
