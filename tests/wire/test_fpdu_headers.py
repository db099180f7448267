# SPDX-License-Identifier: Apache-2.0
"""FPDU, DDP and RDMAP headers as values: RFC 5044, 5041 and 5040 section 4, RFC 7306."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndverbs import _testing
from wire import reference

VECTORS = reference.load_vectors("fpdu")["vectors"]
COMPLETE = [vector for vector in VECTORS if vector["crc"] is not None]
u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))

CONTROL_FIELDS = {
    "ulpdu_length": u16,
    "tagged": st.booleans(),
    "last": st.booleans(),
    "ddp_version": st.integers(0, 3),
    "rdmap_version": st.integers(0, 3),
    "opcode": st.integers(0, 15),
}
STRUCTS = {
    "control": CONTROL_FIELDS,
    "tagged_header": {**CONTROL_FIELDS, "stag": u32, "to": u64},
    "untagged_header": {
        **CONTROL_FIELDS,
        "invalidate_stag": u32,
        "queue_number": u32,
        "msn": u32,
        "mo": u32,
    },
    "read_request_body": {
        "sink_stag": u32,
        "sink_to": u64,
        "size": u32,
        "source_stag": u32,
        "source_to": u64,
    },
    "immediate_body": {"value": u32, "rest": u32},
    "atomic_request_body": {
        "operation": st.integers(0, 15),
        "request_id": u32,
        "stag": u32,
        "to": u64,
        "operand": u64,
        "operand_mask": u64,
        "compare": u64,
        "compare_mask": u64,
    },
    "atomic_response_body": {"request_id": u32, "value": u64},
}
# Bodies of a fixed size behind an untagged header, by their names in the vectors.
BODIES = {
    name.removesuffix("_body"): dict.fromkeys(fields, 0)
    for name, fields in STRUCTS.items()
    if name.endswith("_body")
}
CONTROL = {"tagged": False, "last": False, "ddp_version": 1, "rdmap_version": 1}
UNTAGGED = {**CONTROL, "invalidate_stag": 0, "queue_number": 0, "msn": 0, "mo": 0}
all_structs = pytest.mark.parametrize("struct", STRUCTS)


def by_name(vectors):
    return pytest.mark.parametrize("vector", vectors, ids=lambda vector: vector["name"])


def functions(struct):
    return (
        getattr(_testing, f"parse_{struct}"),
        getattr(_testing, f"emit_{struct}"),
        getattr(_testing, f"{struct}_size"),
    )


def expected_header(vector):
    is_tagged = vector["header"].get("tagged", False)
    struct = "tagged_header" if is_tagged else "untagged_header"
    return struct, {**(CONTROL if is_tagged else UNTAGGED), **vector["header"]}


@by_name(VECTORS)
def test_golden_headers_parse_to_their_fields(vector):
    struct, header = expected_header(vector)
    parse, _, _ = functions(struct)
    assert parse(bytes.fromhex(vector["bytes"])) == header


@by_name(VECTORS)
def test_golden_fields_emit_the_header(vector):
    struct, header = expected_header(vector)
    _, emit, size = functions(struct)
    assert emit(**header) == bytes.fromhex(vector["bytes"])[:size]


def body_of(vector):
    return next((name for name in BODIES if name in vector), None)


@by_name([vector for vector in VECTORS if body_of(vector)])
def test_golden_bodies_parse_to_their_fields_and_back(vector):
    name = body_of(vector)
    parse, emit, size = functions(f"{name}_body")
    body = {**BODIES[name], **vector[name]}
    wire = bytes.fromhex(vector["bytes"])[20 : 20 + size]
    assert parse(wire) == body
    assert emit(**body) == wire


@by_name(COMPLETE)
def test_golden_fpdus_are_header_payload_zero_pad_and_crc(vector):
    struct, header = expected_header(vector)
    _, emit, _ = functions(struct)
    body = b""
    if name := body_of(vector):
        _, emit_body, _ = functions(f"{name}_body")
        body = emit_body(**vector[name])
    length = header["ulpdu_length"]
    framed = emit(**header) + body + bytes.fromhex(vector["payload"])
    assert len(framed) == 2 + length
    framed += bytes(_testing.pad_size(length))
    assert framed == bytes.fromhex(vector["bytes"])
    crc = bytes.fromhex(vector["crc"])
    assert _testing.crc32c(framed).to_bytes(4, "little") == crc
    assert reference.fpdu(framed[2 : 2 + length]) == framed + crc


@by_name([vector for vector in VECTORS if "size" in vector])
def test_captured_fpdus_have_the_size_that_their_length_says(vector):
    assert _testing.fpdu_size(vector["header"]["ulpdu_length"]) == vector["size"]


@all_structs
@given(data=st.data())
def test_any_fields_survive_emit_and_parse(struct, data):
    parse, emit, size = functions(struct)
    fields = data.draw(st.fixed_dictionaries(STRUCTS[struct]))
    wire = emit(**fields)
    assert len(wire) == size
    assert parse(wire) == fields


@all_structs
@given(data=st.binary(max_size=60))
def test_arbitrary_bytes_give_fields_or_a_reason(struct, data):
    parse, _, size = functions(struct)
    parsed = parse(data)
    if len(data) < size:
        assert parsed == f"too_short: {len(data)} of {size} bytes"
    else:
        assert parsed.keys() == STRUCTS[struct].keys()


@given(data=st.binary(min_size=20, max_size=20))
def test_reserved_bits_are_ignored_and_never_sent(data):
    clean = bytearray(data)
    clean[2] &= 0xC3  # RFC 5041 figure 2: four reserved bits
    clean[3] &= 0xCF  # RFC 5040 figure 1: two
    assert _testing.emit_untagged_header(**_testing.parse_untagged_header(data)) == clean


@pytest.mark.parametrize("length", [*range(0, 70), 1440, 1442, 64_768, 65_533, 65_534, 65_535])
def test_pad_makes_the_fpdu_a_multiple_of_four(length):
    wire = reference.fpdu(bytes(length))
    assert _testing.fpdu_size(length) == len(wire)
    assert _testing.pad_size(length) == len(wire) - 6 - length
    assert len(wire) % 4 == 0


def test_the_largest_ulpdu_makes_a_frame_of_65544_bytes():
    assert _testing.fpdu_size(65_535) == 65_544


@given(header=st.fixed_dictionaries(STRUCTS["tagged_header"]), payload=st.binary(max_size=80))
def test_tagged_fpdus_equal_those_of_an_independent_builder(header, payload):
    header = {**header, "tagged": True, "ulpdu_length": 14 + len(payload)}
    framed = _testing.emit_tagged_header(**header) + payload
    framed += bytes(_testing.pad_size(header["ulpdu_length"]))
    framed += _testing.crc32c(framed).to_bytes(4, "little")
    control = reference.control(
        header["opcode"],
        header["last"],
        header["ddp_version"],
        header["rdmap_version"],
        tagged=True,
    )
    tail = header["stag"].to_bytes(4, "big") + header["to"].to_bytes(8, "big")
    assert framed == reference.fpdu(control + tail + payload)
