# SPDX-License-Identifier: Apache-2.0
"""Bytes of the stream protocol: golden vectors both ways, and round trips."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndverbs import _testing

VECTORS = json.loads((Path(__file__).parent / "vectors" / "rsockets.json").read_text())
IS_LITTLE = sys.byteorder == "little"
U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))
RANGES = st.tuples(U64, U32, U32)


def bytes_of(vector):
    return bytes.fromhex(vector["bytes"])


def fields_of(vector):
    fields = dict(vector["fields"])
    return fields | {"targets": tuple(fields["targets"]), "data": tuple(fields["data"])}


def named(kind):
    return pytest.mark.parametrize("vector", VECTORS[kind], ids=lambda vector: vector["name"])


@named("connection_data")
def test_connection_data_is_read_and_written_as_librdmacm_does(vector):
    assert _testing.parse_connection_data(bytes_of(vector)) == fields_of(vector)
    assert _testing.emit_connection_data(fields_of(vector)) == bytes_of(vector)


@named("message_words")
def test_a_message_word_is_read_and_written_as_librdmacm_does(vector):
    assert IS_LITTLE
    assert _testing.parse_message_word(bytes_of(vector)) == (vector["op"], vector["data"])
    assert _testing.emit_message_word(vector["op"], vector["data"]) == bytes_of(vector)


@named("descriptors")
def test_a_descriptor_is_read_and_written_as_librdmacm_does(vector):
    assert IS_LITTLE
    assert _testing.parse_descriptor(bytes_of(vector), False) == tuple(vector["range"])
    assert _testing.emit_descriptor(tuple(vector["range"]), False) == bytes_of(vector)


@given(
    big=st.booleans(),
    iomap=st.booleans(),
    credits=U16,
    entries=st.one_of(st.integers(0, 128), st.integers(1, 127).map(lambda n: n * 256)),
    targets=RANGES,
    data=RANGES,
)
def test_connection_data_survives_a_round_trip(big, iomap, credits, entries, targets, data):
    fields = {
        "is_big_endian": big,
        "knows_iomap": iomap,
        "credits": credits,
        "iomap_entries": entries,
        "targets": targets,
        "data": data,
    }
    assert _testing.parse_connection_data(_testing.emit_connection_data(fields)) == fields


@given(st.integers(0, 7), st.integers(0, 2**29 - 1))
def test_a_message_word_survives_a_round_trip(op, data):
    assert _testing.parse_message_word(_testing.emit_message_word(op, data)) == (op, data)


@given(RANGES, st.booleans())
def test_a_descriptor_survives_a_round_trip(range_, is_swapped):
    emitted = _testing.emit_descriptor(range_, is_swapped)
    assert _testing.parse_descriptor(emitted, is_swapped) == range_


@given(RANGES)
def test_a_swapped_descriptor_has_each_field_reversed(range_):
    plain = _testing.emit_descriptor(range_, False)
    assert _testing.emit_descriptor(range_, True) == (plain[7::-1] + plain[11:7:-1] + plain[:11:-1])


def test_bytes_behind_the_connection_data_are_ignored():
    data = bytes_of(VECTORS["connection_data"][0])
    assert _testing.parse_connection_data(data + bytes(20)) == _testing.parse_connection_data(data)


@pytest.mark.parametrize("length", [0, 1, 39])
def test_connection_data_that_is_too_short_is_refused(length):
    data = bytes_of(VECTORS["connection_data"][0])[:length]
    assert f"has {length} bytes" in _testing.parse_connection_data(data)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_connection_data_of_another_version_is_refused(version):
    data = bytes([version]) + bytes_of(VECTORS["connection_data"][0])[1:]
    assert f"version {version} " in _testing.parse_connection_data(data)


@given(st.binary(max_size=80))
def test_any_bytes_are_connection_data_or_refused_with_a_reason(data):
    parsed = _testing.parse_connection_data(data)
    assert isinstance(parsed, dict if len(data) >= 40 and data[0] == 1 else str)
