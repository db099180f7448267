# SPDX-License-Identifier: Apache-2.0
"""MPA start-up frames as values: RFC 5044 section 7.1, RFC 6581 section 9."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndverbs import _testing
from wire import reference

VECTORS = reference.load_vectors("mpa")["vectors"]
HEADER = _testing.mpa_header_size
NO_FLAGS = {"markers": False, "crc": False, "reject": False, "enhanced": False}
NO_ENHANCED = {
    "peer_to_peer": False,
    "rtr_send": False,
    "rtr_write": False,
    "rtr_read": False,
    "ird": 0,
    "ord": 0,
}

headers = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["request", "reply"]),
        "markers": st.booleans(),
        "crc": st.booleans(),
        "reject": st.booleans(),
        "enhanced": st.booleans(),
        "revision": st.integers(0, 255),
        "private_data_length": st.integers(0, 512),
    }
)
enhanced_data = st.fixed_dictionaries(
    {
        "peer_to_peer": st.booleans(),
        "rtr_send": st.booleans(),
        "rtr_write": st.booleans(),
        "rtr_read": st.booleans(),
        "ird": st.integers(0, 0x3FFF),
        "ord": st.integers(0, 0x3FFF),
    }
)


def whole(vector):
    header = {**NO_FLAGS, "revision": 0, "private_data_length": 0, **vector["header"]}
    enhanced = None if vector["enhanced"] is None else {**NO_ENHANCED, **vector["enhanced"]}
    return bytes.fromhex(vector["bytes"]), header, enhanced


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_golden_frames_parse_to_their_fields(vector):
    frame, header, enhanced = whole(vector)
    assert _testing.parse_mpa_header(frame) == header
    assert len(frame) == HEADER + header["private_data_length"]
    if enhanced is not None:
        assert _testing.parse_mpa_enhanced(frame[HEADER:]) == enhanced


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_golden_fields_emit_the_frame(vector):
    frame, header, enhanced = whole(vector)
    emitted = _testing.emit_mpa_header(**header)
    if enhanced is not None:
        emitted += _testing.emit_mpa_enhanced(**enhanced)
    assert emitted + bytes.fromhex(vector["private_data"]) == frame


@given(header=headers)
def test_any_header_survives_emit_and_parse(header):
    assert _testing.parse_mpa_header(_testing.emit_mpa_header(**header)) == header


@given(enhanced=enhanced_data)
def test_any_enhanced_data_survives_emit_and_parse(enhanced):
    assert _testing.parse_mpa_enhanced(_testing.emit_mpa_enhanced(**enhanced)) == enhanced


@given(data=st.binary(min_size=4, max_size=4))
def test_all_32_bits_of_enhanced_data_have_a_meaning(data):
    assert _testing.emit_mpa_enhanced(**_testing.parse_mpa_enhanced(data)) == data


@pytest.mark.parametrize("flags", range(256))
def test_reserved_flag_bits_are_ignored_and_never_sent(flags):
    frame = b"MPA ID Req Frame" + bytes([flags, 2, 0, 0])
    header = _testing.parse_mpa_header(frame)
    assert _testing.emit_mpa_header(**header)[16] == flags & 0xF0


@pytest.mark.parametrize("position", range(16))
def test_a_key_that_differs_in_one_byte_is_refused(position):
    frame = bytearray(b"MPA ID Req Frame" + bytes(4))
    frame[position] ^= 0x20
    assert _testing.parse_mpa_header(bytes(frame)) == "bad_key"


@pytest.mark.parametrize(("length", "accepted"), [(0, True), (512, True), (513, False)])
def test_more_than_512_bytes_of_private_data_are_refused(length, accepted):
    frame = b"MPA ID Rep Frame" + bytes([0, 1]) + length.to_bytes(2, "big")
    parsed = _testing.parse_mpa_header(frame)
    assert (parsed != "bad_length") is accepted


@given(size=st.integers(0, 19))
def test_an_incomplete_header_is_refused(size):
    frame = b"MPA ID Req Frame" + bytes(4)
    assert _testing.parse_mpa_header(frame[:size]) == f"too_short: {size} of 20 bytes"


@given(data=st.binary(max_size=40) | st.binary(max_size=20).map(lambda b: b"MPA ID Req Frame" + b))
def test_arbitrary_bytes_give_fields_or_a_reason(data):
    for parse in (_testing.parse_mpa_header, _testing.parse_mpa_enhanced):
        assert isinstance(parse(data), (dict, str))
