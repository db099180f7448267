# SPDX-License-Identifier: Apache-2.0
"""RemoteBuffer: slices, the binary form, and what is refused."""

import ast
import contextlib
import itertools
import math
import pickle
import re
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ndverbs import Access, RdmaError, RemoteBuffer

ADDRESS = 0x7F00_0000_1000
TOKEN = 0xDEADBEEF


def buffer(shape=(10,), dtype=np.float64, **kwargs):
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    return RemoteBuffer(ADDRESS, TOKEN, nbytes, dtype, shape, **kwargs)


def fields(remote):
    return (remote.address - ADDRESS, remote.nbytes, remote.dtype, remote.shape)


def test_dtype_and_shape_default_to_bytes():
    remote = RemoteBuffer(ADDRESS, TOKEN, 12)
    assert fields(remote) == (0, 12, np.dtype(np.uint8), (12,))
    assert remote.access == Access.REMOTE_READ | Access.REMOTE_WRITE


def test_a_missing_shape_is_one_dimension_of_the_dtype():
    assert RemoteBuffer(ADDRESS, TOKEN, 16, np.int32).shape == (4,)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (slice(None), (0, 80, (10,))),
        (slice(2, 5), (16, 24, (3,))),
        (slice(-3, None), (56, 24, (3,))),
        (slice(8, 100), (64, 16, (2,))),
        (slice(5, 2), (40, 0, (0,))),
        (slice(10, 20), (80, 0, (0,))),
        (3, (24, 8, ())),
        (-1, (72, 8, ())),
        (np.int64(1), (8, 8, ())),
    ],
)
def test_slicing_counts_elements_of_axis_0(key, expected):
    part = buffer()[key]
    assert (part.address - ADDRESS, part.nbytes, part.shape) == expected
    assert part.dtype == np.float64
    assert part.token == TOKEN


def test_rows_of_a_matrix_are_contiguous_parts():
    matrix = buffer((4, 3), np.int16)
    assert fields(matrix[1:3]) == (6, 12, np.dtype(np.int16), (2, 3))
    assert fields(matrix[2]) == (12, 6, np.dtype(np.int16), (3,))
    assert fields(matrix[2][1]) == (14, 2, np.dtype(np.int16), ())


def test_a_slice_keeps_the_access():
    assert buffer(access=Access.REMOTE_READ)[1:2].access is Access.REMOTE_READ


def test_a_step_is_refused_because_it_is_not_contiguous():
    with pytest.raises(ValueError, match="only a step of 1 is contiguous"):
        buffer()[::2]


@pytest.mark.parametrize("key", ["0", 1.0, None, [1, 2]], ids=repr)
def test_what_is_neither_integer_nor_slice_is_a_type_error(key):
    with pytest.raises(TypeError, match=r"takes integers and slices of its axes, not"):
        buffer()[key]


ARRAY = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
KEYS = [
    np.s_[1],
    np.s_[1, 2],
    np.s_[-1, 1:3],
    np.s_[2, 4, 1:5],
    np.s_[1:3],
    np.s_[1:3, :, :],
    np.s_[..., :],
    np.s_[...],
    np.s_[3, ...],
    np.s_[3, ..., 0:6],
    np.s_[1:2, 2:4],
    np.s_[1:2, 2:3, 4:6],
    np.s_[3, 5:],
    np.s_[:0],
    np.s_[()],
]


def named(array=ARRAY):
    return RemoteBuffer(ADDRESS, TOKEN, array.nbytes, array.dtype, array.shape)


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_indices_name_what_they_name_of_the_array(key):
    part, wanted = named()[key], ARRAY[key]
    assert part.shape == wanted.shape
    if wanted.size:
        assert part.address - ADDRESS == wanted.ctypes.data - ARRAY.ctypes.data
    assert (part.nbytes, part.ndim, part.size) == (wanted.nbytes, wanted.ndim, wanted.size)


@pytest.mark.parametrize("key", [np.s_[:, 1], np.s_[1:3, 1:2], np.s_[0, :, 2:3]], ids=repr)
def test_a_part_that_is_not_contiguous_is_refused(key):
    assert not ARRAY[key].flags.c_contiguous
    with pytest.raises(ValueError, match="is not contiguous"):
        named()[key]


@pytest.mark.parametrize("key", [np.s_[0, 0, 0, 0], np.s_[..., 0, ...], np.s_[0, 5]], ids=repr)
def test_more_indices_than_axes_or_outside_them_are_index_errors(key):
    with pytest.raises(IndexError):
        named()[key]


def test_a_view_has_the_bytes_as_another_type():
    view = named().view(np.uint8)
    assert (view.shape, view.itemsize, view.nbytes) == ((4, 5, 12), 1, ARRAY.nbytes)
    assert named().view("<i4").shape == ARRAY.view("<i4").shape
    assert named().view(np.float16).dtype == np.float16
    for wrong in ("<f8", "V5", object):
        with pytest.raises(ValueError, match=r"no row of|Python objects"):
            named().view(wrong)


def test_it_is_no_array_here():
    with pytest.raises(TypeError, match="read it first"):
        np.asarray(named())


def test_named_buffers_come_back_by_name():
    buffers = {"weights": named(), "": named()[1], "größe": named().bytes_view()}
    assert RemoteBuffer.unpack(RemoteBuffer.pack(buffers)) == buffers
    assert RemoteBuffer.unpack(RemoteBuffer.pack({})) == {}
    for wrong in ({1: named()}, {"a": b""}):
        with pytest.raises(TypeError, match="gives names"):
            RemoteBuffer.pack(wrong)


@given(st.data())
def test_bytes_of_named_buffers_that_were_changed_are_refused_or_named_buffers(data):
    packed = bytearray(RemoteBuffer.pack({"a": named(), "b": named()[1]}))
    for _ in range(data.draw(st.integers(0, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(packed)))
    with contextlib.suppress(ValueError):
        assert isinstance(RemoteBuffer.unpack(packed[:cut]), dict)


@pytest.mark.parametrize("index", [10, -11, 1 << 70])
def test_an_index_outside_the_axis_is_an_index_error(index):
    with pytest.raises(IndexError, match="out of bounds"):
        buffer()[index]


def test_a_buffer_without_dimensions_has_no_length_and_no_items():
    scalar = buffer(())
    with pytest.raises(TypeError, match="unsized"):
        len(scalar)
    with pytest.raises(IndexError, match="1 indices of a RemoteBuffer of 0 dimensions"):
        scalar[0]


def test_iteration_yields_the_rows():
    assert [row.address - ADDRESS for row in buffer((3, 2), np.uint8)] == [0, 2, 4]


def test_the_bytes_view_is_sliced_in_bytes():
    view = buffer((4, 3), np.int16).bytes_view()
    assert fields(view) == (0, 24, np.dtype(np.uint8), (24,))
    assert fields(view[5:9]) == (5, 4, np.dtype(np.uint8), (4,))


def test_the_repr_does_not_show_the_token():
    text = repr(buffer(access=Access.REMOTE_WRITE))
    assert text == (
        f"RemoteBuffer(address={ADDRESS:#x}, nbytes=80, dtype='float64', shape=(10,), "
        "access=REMOTE_WRITE)"
    )
    assert f"{TOKEN:x}" not in text
    assert str(TOKEN) not in text


def test_equal_buffers_have_equal_hashes():
    assert buffer() == buffer()
    assert hash(buffer()) == hash(buffer())
    assert buffer() != buffer(dtype=np.int64)
    assert buffer() != buffer(access=Access.REMOTE_READ)
    assert buffer() != "a buffer"


def test_it_does_not_change():
    remote = buffer()
    with pytest.raises(AttributeError, match="immutable"):
        remote.token = 1
    with pytest.raises(AttributeError, match="immutable"):
        del remote.token
    with pytest.raises(AttributeError, match="immutable"):
        remote.name = "new"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((-1, 1, 1), "address -1 does not fit 64 bits"),
        ((1 << 64, 1, 0), "does not fit 64 bits"),
        ((0, 1 << 32, 1), "token 4294967296 does not fit 32 bits"),
        ((0, 1, -1), "nbytes -1 does not fit 64 bits"),
        (((1 << 64) - 1, 1, 2), "pass the end of 64 bits"),
        ((0, 1, 7, np.int32), "are not an array of shape"),
        ((0, 1, 8, np.int32, (3,)), "are not an array of shape"),
        ((0, 1, 4, np.int32, (-1, -1)), "is impossible"),
        ((0, 1, 1, np.uint8, (1,) * 65), "is impossible"),
        ((0, 1, 8, object), "holds Python objects"),
        ((0, 1, 1, None, None, 0x10), "access 0x10 has unknown bits"),
    ],
)
def test_values_that_cannot_be_are_refused(arguments, reason):
    with pytest.raises(RdmaError, match=reason) as caught:
        RemoteBuffer(*arguments)
    assert isinstance(caught.value, ValueError)


def test_values_of_another_type_are_refused():
    with pytest.raises(TypeError, match="address must be an integer, not float"):
        RemoteBuffer(1.0, 1, 1)


# ---- binary form and pickle -----------------------------------------------------------------


def test_the_binary_form_is_fixed():
    remote = RemoteBuffer(0x0102030405060708, 0x0A0B0C0D, 24, "<i4", (3, 2), Access.REMOTE_READ)
    assert bytes(remote) == (
        b"NDRB\x01\x02\x02\x00"
        b"\x08\x07\x06\x05\x04\x03\x02\x01"
        b"\x18\x00\x00\x00\x00\x00\x00\x00"
        b"\x0d\x0c\x0b\x0a"
        b"\x05\x00\x00\x00"
        b"\x03\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00"
        b"'<i4'"
    )


remote_buffers = st.builds(
    lambda dtype, shape, token, access, address: RemoteBuffer(
        address, token, math.prod(shape) * dtype.itemsize, dtype, shape, access
    ),
    st.one_of(
        hnp.scalar_dtypes(),
        hnp.array_dtypes(),
        hnp.nested_dtypes(),
    ).filter(lambda dtype: not dtype.hasobject),
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=9),
    st.integers(0, (1 << 32) - 1),
    st.sampled_from([0, 1, 2, 3, 5, 7, 15]),
    st.integers(0, 1 << 63),
)


@given(remote_buffers)
def test_bytes_and_pickle_give_an_equal_buffer_back(remote):
    for again in (RemoteBuffer.from_bytes(bytes(remote)), pickle.loads(pickle.dumps(remote))):
        assert again == remote
        assert hash(again) == hash(remote)
        assert type(again.access) is Access


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_object_is_read(kind):
    assert RemoteBuffer.from_bytes(kind(bytes(buffer()))) == buffer()


@given(remote_buffers, st.data())
def test_a_slice_names_the_elements_that_the_array_s_slice_has(remote, data):
    if not remote.shape:
        return
    key = data.draw(st.slices(remote.shape[0]).filter(lambda s: s.step in (None, 1)))
    # An array of the same shape whose bytes are never touched.
    array = np.lib.stride_tricks.as_strided(
        np.zeros(1, np.uint8), remote.shape, [0] * len(remote.shape)
    )
    part = remote[key]
    assert part.shape == array[key].shape
    assert part.nbytes == math.prod(part.shape) * remote.dtype.itemsize
    assert remote.address <= part.address
    assert part.address + part.nbytes <= remote.address + remote.nbytes


def header(**changes):
    values = {
        "magic": b"NDRB",
        "version": 1,
        "access": 2,
        "dimensions": 1,
        "zero": 0,
        "address": ADDRESS,
        "nbytes": 8,
        "token": TOKEN,
        "dtype_length": 5,
    }
    values.update(changes)
    return struct.pack("<4sBBBBQQII", *values.values())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "0 bytes are fewer than the header's 32"),
        (header()[:31], "31 bytes are fewer"),
        (header(magic=b"NDRC") + b"\x01" + bytes(7) + b"'<i8'", "begin with b'NDRC'"),
        (header(version=2), "version 2 is not known here"),
        (header(zero=1), "a field of the header is out of range"),
        (header(dimensions=65), "a field of the header is out of range"),
        (header(dtype_length=0), "a field of the header is out of range"),
        (header(dtype_length=1 << 31), "a field of the header is out of range"),
        (header(), "32 bytes are not the 45 that the header tells"),
        (bytes(buffer()) + b"\0", "are not the"),
        (bytes(buffer())[:-1], "are not the"),
        (header() + b"\x01" + bytes(7) + b"'<i9'", "the dtype b\"'<i9'\" is none"),
        (header() + b"\x01" + bytes(7) + b"'|O8'", "the dtype b\"'|O8'\" is none"),
        (header() + b"\x01" + bytes(7) + b"[[]]]", "is none"),
        (header() + b"\x02" + bytes(7) + b"'<i8'", "are not an array of shape"),
        (header(access=0x40) + b"\x01" + bytes(7) + b"'<i8'", "access 0x40 has unknown bits"),
        (header(dtype_length=6) + b"\x01" + bytes(7) + b" '<i8'", "is not in its own form"),
    ],
    ids=itertools.count(),
)
def test_bytes_that_are_no_buffer_say_why(data, reason):
    with pytest.raises(RdmaError, match=re.escape(reason)) as caught:
        RemoteBuffer.from_bytes(data)
    assert isinstance(caught.value, ValueError)


def read_or_refuse(data):
    """Reading never fails in any other way than the documented one."""
    try:
        remote = RemoteBuffer.from_bytes(data)
    except RdmaError:
        return
    assert bytes(remote) == data


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(data):
    read_or_refuse(data)


@given(st.binary(max_size=60), st.integers(0, 3))
def test_no_dtype_literal_crashes_the_reader(literal, dimensions):
    shape = struct.pack(f"<{dimensions}Q", *(1,) * dimensions)
    read_or_refuse(header(dimensions=dimensions, dtype_length=len(literal)) + shape + literal)


@given(st.recursive(st.sampled_from(["'<f8'", "'|V0'", "1", "None", "{}", "'a'"]), st.lists))
def test_no_literal_with_structure_crashes_the_reader(literal):
    text = str(literal).replace('"', "").encode()
    read_or_refuse(header(dtype_length=len(text), dimensions=0) + text)


@given(remote_buffers, st.data())
def test_no_flipped_byte_crashes_the_reader(remote, data):
    raw = bytearray(bytes(remote))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    read_or_refuse(bytes(raw))


def test_a_deeply_nested_literal_is_refused():
    literal = b"[" * 60_000
    with pytest.raises(RdmaError, match="is none"):
        RemoteBuffer.from_bytes(header(dtype_length=len(literal), dimensions=0) + literal)


def test_a_parser_that_another_thread_confuses_is_asked_again(monkeypatch):
    real, calls = ast.literal_eval, []

    def confused(text):
        calls.append(text)
        if len(calls) == 1:
            raise SystemError("AST constructor recursion depth mismatch (before=45, after=43)")
        return real(text)

    monkeypatch.setattr(ast, "literal_eval", confused)
    remote = buffer(dtype=[("a", "<i4"), ("b", "<f8")])
    assert RemoteBuffer.from_bytes(bytes(remote)) == remote
    assert len(calls) == 2
    RemoteBuffer.from_bytes(bytes(buffer()))
    assert len(calls) == 2
