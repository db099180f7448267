# SPDX-License-Identifier: Apache-2.0
"""CRC32C against published values and the bitwise definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ndverbs import _testing
from wire import reference

VECTORS = reference.load_vectors("crc32c")["vectors"]
IMPLEMENTATIONS = [_testing.crc32c, _testing.crc32c_portable]


def by_name(vectors):
    return pytest.mark.parametrize("vector", vectors, ids=lambda vector: vector["name"])


@by_name(VECTORS)
@pytest.mark.parametrize("crc32c", IMPLEMENTATIONS, ids=["chosen", "portable"])
def test_published_inputs_give_their_published_crc(crc32c, vector):
    value = crc32c(bytes.fromhex(vector["bytes"]))
    assert value.to_bytes(4, "little") == bytes.fromhex(vector["crc"])


@by_name(VECTORS)
def test_the_reference_of_these_tests_gives_the_published_crc_too(vector):
    assert reference.crc_bytes(bytes.fromhex(vector["bytes"])) == bytes.fromhex(vector["crc"])


@given(data=st.binary(max_size=200), start=st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("crc32c", IMPLEMENTATIONS, ids=["chosen", "portable"])
def test_any_bytes_give_the_crc_of_the_bitwise_definition(crc32c, data, start):
    assert crc32c(data, start) == reference.crc32c(data, start)


@given(first=st.binary(max_size=100), second=st.binary(max_size=100))
def test_a_crc_goes_on_where_the_last_call_stopped(first, second):
    whole = _testing.crc32c(first + second)
    assert _testing.crc32c(second, _testing.crc32c(first)) == whole


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1023, 1024, 4095, 4096, 4097, 12_289, 65_544])
def test_long_inputs_give_the_same_crc_on_every_path(size):
    data = bytes(i * 131 + (i >> 8) & 0xFF for i in range(size))
    assert _testing.crc32c(data) == _testing.crc32c_portable(data) == reference.crc32c(data)


@pytest.mark.parametrize("offset", range(8))
def test_unaligned_inputs_give_the_same_crc(offset):
    data = bytes(range(256)) * 20
    part = memoryview(data)[offset:].tobytes()
    assert _testing.crc32c(part) == reference.crc32c(part)


def test_no_bytes_have_crc_zero():
    assert _testing.crc32c(b"") == 0
