# SPDX-License-Identifier: Apache-2.0
"""Arrays as segments of requests: which region they belong to, and what is checked at the call."""

import numpy as np
import pytest

import ndverbs as nd

ALL = nd.Access.REMOTE_READ | nd.Access.REMOTE_WRITE


def delivered(pair, nbytes):
    """Return what a message brings to the far end; it is sent by then."""
    pair.far.memory("sink", max(nbytes, 1))
    pair.far.receive("sink")
    done = pair.far.received()
    assert done.bytes_transferred == nbytes
    return pair.far.content("sink", 0, nbytes)


def test_whole_array_is_a_segment(pair):
    array = np.arange(10, dtype=np.int32)
    with pair.near.pd.register(array):
        pair.near.qp.send(array)

    assert delivered(pair, 40) == array.tobytes()


def test_slice_of_a_registered_array_is_a_segment(pair):
    array = np.arange(10, dtype=np.int32)
    with pair.near.pd.register(array):
        pair.near.qp.send(array[3:5])

    assert delivered(pair, 8) == array[3:5].tobytes()


def test_row_of_a_registered_matrix_is_a_segment(pair):
    matrix = np.arange(12, dtype=np.int16).reshape(3, 4)
    with pair.near.pd.register(matrix):
        pair.near.qp.send([matrix[2], matrix[0]])

    assert delivered(pair, 16) == matrix[2].tobytes() + matrix[0].tobytes()


def test_region_is_a_segment(pair):
    with pair.near.pd.register(bytearray(b"region")) as region:
        pair.near.qp.send(region)

    assert delivered(pair, 6) == b"region"


@pytest.mark.parametrize("container", [list, tuple])
def test_kinds_of_segments_mix(pair, container):
    array = np.frombuffer(bytearray(b"abcdef"), np.uint8)
    with pair.near.pd.register(array) as region, pair.near.pd.register(bytearray(b"xy")) as other:
        pair.near.qp.send(container([region.segment(4), array[:2], other, memoryview(array)[2:3]]))

    assert delivered(pair, 7) == b"efabxyc"


def test_empty_slice_is_a_segment_of_nothing(pair):
    array = np.arange(10)
    with pair.near.pd.register(array):
        pair.near.qp.send([array[3:3], array[:1], array[10:]])

    assert delivered(pair, 8) == array[:1].tobytes()


def test_segment_describes_a_part_of_its_region(pair):
    array = np.arange(10, dtype=np.uint8)
    with pair.near.pd.register(array) as region:
        whole, tail, part = region.segment(), region.segment(4), region.segment(2, 3)

        assert (whole.address, whole.length) == (array.ctypes.data, 10)
        assert (tail.address, tail.length) == (array.ctypes.data + 4, 6)
        assert (part.address, part.length) == (array.ctypes.data + 2, 3)
        assert whole.token == tail.token == part.token == region.local_token


@pytest.mark.parametrize(("offset", "nbytes"), [(11, None), (0, 11), (10, 1), (5, 6)])
def test_segment_outside_the_region_is_a_value_error(pair, offset, nbytes):
    with (
        pair.near.pd.register(bytearray(10)) as region,
        pytest.raises(ValueError, match="10 bytes"),
    ):
        region.segment(offset, nbytes)


# ---- the innermost region that grants what is needed --------------------------------------------


def test_innermost_region_is_chosen(pair):
    array = np.zeros(100, np.uint8)
    outer = pair.near.pd.register(array, nd.Access.LOCAL_WRITE)
    inner = pair.near.pd.register(array[20:30], nd.Access.LOCAL_WRITE)
    pair.near.qp.receive(array[22:25])

    outer.deregister()
    with pytest.raises(nd.RdmaError) as caught:
        inner.deregister()  # the one that the request names
    assert caught.value.status == nd.Status.DEVICE_BUSY
    pair.near.flush()
    assert pair.near.received().status == nd.Status.CANCELLED


def test_region_with_the_right_is_preferred_to_the_innermost(pair):
    array = np.zeros(100, np.uint8)
    with (
        pair.near.pd.register(array, nd.Access.LOCAL_WRITE),
        pair.near.pd.register(array[20:30], nd.Access.REMOTE_READ),
    ):
        pair.near.qp.receive(array[22:25])
        pair.far.qp.send(b"abc", flags=nd.Flag.INLINE)

        assert pair.near.received().bytes_transferred == 3
        assert array[22:25].tobytes() == b"abc"


def test_slice_across_two_regions_belongs_to_neither(pair):
    array = np.zeros(100, np.uint8)
    with (
        pair.near.pd.register(array[:50]),
        pair.near.pd.register(array[50:]),
        pytest.raises(ValueError, match="no registered region"),
    ):
        pair.near.qp.send(array[40:60])


def test_unregistered_array_is_a_value_error_that_names_the_nearest_region(pair):
    array = np.zeros(100, np.uint8)
    with (
        pair.near.pd.register(array[:50]),
        pytest.raises(ValueError, match="no registered region") as caught,
    ):
        pair.near.qp.send(array[60:70])

    assert str(array.ctypes.data + 50) in str(caught.value)
    assert str(array.ctypes.data + 60) in str(caught.value)


def test_array_registered_in_another_domain_is_a_value_error(pair, adapter):
    array = np.zeros(100, np.uint8)
    with (
        adapter.create_pd() as other,
        other.register(array),
        pytest.raises(ValueError, match="protection domain"),
    ):
        pair.near.qp.send(array)


def test_array_without_the_right_is_a_permission_error(pair):
    array = np.zeros(100, np.uint8)
    with (
        pair.near.pd.register(array, nd.Access.REMOTE_READ),
        pytest.raises(PermissionError, match="LOCAL_WRITE"),
    ):
        pair.near.qp.receive(array)


def test_read_only_array_takes_no_receive(pair):
    array = np.zeros(8, np.uint8)
    with pair.near.pd.register(array):
        view = array[:]
        view.flags.writeable = False
        with pytest.raises(BufferError, match="read-only"):
            pair.near.qp.receive(view)
        pair.near.qp.send(view)

    assert delivered(pair, 8) == bytes(8)


def test_strided_slice_is_refused(pair):
    array = np.zeros(100, np.uint8)
    with pair.near.pd.register(array), pytest.raises(BufferError, match="contiguous"):
        pair.near.qp.send(array[::2])


@pytest.mark.parametrize("segments", [5, None, "text", [5], [None], {1: 2}])
def test_other_things_are_no_segments(pair, segments):
    with pytest.raises(TypeError):
        pair.near.qp.send(segments)


# ---- remote memory ------------------------------------------------------------------------------


def test_remote_buffer_slices_like_its_array(pair):
    array = np.arange(10, dtype=np.int64)
    target = np.zeros(10, np.int64)
    with pair.far.pd.register(target, ALL) as region, pair.near.pd.register(array):
        remote = region.remote()
        pair.near.qp.write(array[2:5], remote[4:7])
        pair.near.qp.read(array[:3], remote[4:7], flags=nd.Flag.READ_FENCE)
        pair.near.completions("initiator", 2)

    assert target.tolist() == [0, 0, 0, 0, 2, 3, 4, 0, 0, 0]
    assert array[:3].tolist() == [2, 3, 4]


def test_remote_memory_may_be_an_address_and_a_token(pair):
    target = np.zeros(10, np.uint8)
    array = np.arange(3, dtype=np.uint8)
    with pair.far.pd.register(target, ALL) as region, pair.near.pd.register(array) as local:
        pair.near.qp.write(local, (region.address + 5, region.remote_token))
        pair.near.qp.read(local, (region.address, region.remote_token))
        pair.near.completions("initiator", 2)

    assert target.tolist() == [0, 0, 0, 0, 0, 0, 1, 2, 0, 0]


@pytest.mark.parametrize("remote", [None, 5, (1,), (1, 2, 3), ("a", 1), [1, 2], (1, None)])
def test_other_things_are_no_remote_memory(pair, remote):
    with pytest.raises((TypeError, AttributeError)):
        pair.near.qp.write((), remote)


@pytest.mark.parametrize("remote", [(-1, 0), (1 << 64, 0), (0, -1), (0, 1 << 32)])
def test_remote_numbers_must_fit(pair, remote):
    with pytest.raises((ValueError, OverflowError)):
        pair.near.qp.write((), remote)
