# SPDX-License-Identifier: Apache-2.0
"""Frames as captures show them, against the vectors and against the structs that C++ parses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndverbs import _frames, _testing
from wire import reference

FPDUS = reference.load_vectors("fpdu")["vectors"]
START_UPS = reference.load_vectors("mpa")["vectors"]
TERMINATES = reference.load_vectors("terminate")
BODIES = ("read_request", "immediate", "atomic_request", "atomic_response")
UNTAGGED = ("queue_number", "msn", "mo", "invalidate_stag")


def named(vectors):
    return pytest.mark.parametrize("vector", vectors, ids=lambda vector: vector["name"])


@named([vector for vector in FPDUS if vector.get("payload") is not None])
def test_an_fpdu_is_shown_field_by_field(vector):
    wire = bytes.fromhex(vector["bytes"])

    fields = _frames.fpdu(wire + bytes(4))

    header = vector["header"]
    names = ("stag", "to") if header.get("tagged") else UNTAGGED
    expected = {name: header.get(name, 0) for name in names}
    for name in BODIES:
        if name in vector:
            size = getattr(_testing, f"{name}_body_size")
            expected |= getattr(_testing, f"parse_{name}_body")(wire[20 : 20 + size])
    if "operation" in expected:
        expected["operation"] = {0: "FetchAdd", 2: "CmpSwap"}[expected["operation"]]
    expected = {name: value for name, value in expected.items() if name in fields or value}
    expected |= {"length": len(vector["payload"]) // 2, "last": int(header.get("last", False))}
    assert fields == {"opcode": _frames._OPCODES[header["opcode"]]} | expected
    assert _frames.fpdu_size(wire) == _testing.fpdu_size(header["ulpdu_length"])


@named([vector for vector in START_UPS if "header" in vector])
def test_a_start_up_frame_is_shown_field_by_field(vector):
    wire = bytes.fromhex(vector["bytes"])
    header = vector["header"]
    enhanced = vector.get("enhanced") or {}

    assert _frames.start_up_size(wire) == len(wire)
    fields = _frames.start_up(wire)

    assert fields["opcode"] == {"request": "MPA Request", "reply": "MPA Reply"}[header["kind"]]
    assert fields["revision"] == header.get("revision", 0)
    assert fields.get("private_data", "") == vector["private_data"]
    assert (fields.get("ird"), fields.get("ord")) == (enhanced.get("ird"), enhanced.get("ord"))
    names = [*header, *enhanced]
    flags = [name for name in names if (header | enhanced)[name] is True and name != "enhanced"]
    assert fields.get("flags", "") == ",".join(flags)


@named(TERMINATES["complete"])
def test_a_terminate_is_shown_with_its_meaning(vector):
    fields = _frames.fpdu(bytes.fromhex(vector["bytes"]), is_first=vector["before_first_fpdu"])

    body = vector["body"]
    assert fields["error"] == f"{body['layer']}/{body['error_type']}/{body['code']:02x}"
    assert fields["meaning"] != "unknown error"


def test_every_control_word_of_a_terminate_is_read_as_cpp_reads_it():
    codes = [*range(11), 0xFF]
    words = [
        (bytes([first, code, flags, 0]) + bytes(64), is_first)
        for first in (0x00, 0x01, 0x02, 0x10, 0x11, 0x12, 0x20, 0x21, 0x22)
        for code in codes
        for flags in (0, 0x80, 0xC0, 0xE0, 0x01, 0x03, 0x07)
        for is_first in (False, True)
    ]

    for body, is_first in words:
        parsed = _testing.parse_terminate_body(body, is_first)
        error = f"{parsed['layer']}/{parsed['error_type']}/{parsed['code']:02x}"
        assert _frames._terminate(body, is_first)["error"] == error, (body[:4], is_first)


@given(data=st.binary(max_size=100), is_first=st.booleans())
def test_arbitrary_bytes_are_shown(data, is_first):
    fields = _frames.fpdu(reference.fpdu(data, crc=False), is_first=is_first)

    assert _frames.text(fields).startswith(fields["opcode"])


def test_a_line_has_numbers_of_memory_in_hexadecimal():
    fields = _frames.fpdu(reference.tagged(0, 0x3400, 0x1000, b"abcd"))

    assert _frames.text(fields) == (
        "RDMA Write: stag 0x00003400 to 0x0000000000001000 length 4 last"
    )
