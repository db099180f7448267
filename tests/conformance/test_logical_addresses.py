# SPDX-License-Identifier: Apache-2.0
"""Logical address mappings by themselves, and segments with the privileged token."""

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import PAGE, pattern

SUCCESS = nd.Status.SUCCESS


@pytest.fixture(autouse=True)
def _needs_mappings(provider):
    with nd.Adapter.open(provider) as adapter:
        if "build_lam" not in adapter.info.features:
            pytest.skip("no logical address mappings")


def test_mapping_has_a_page_aligned_address_per_page(adapter):
    array = np.zeros(3 * PAGE + 1, np.uint8)
    with adapter.build_lam(array) as mapping:
        offset = array.ctypes.data % PAGE
        assert mapping.first_byte_offset == offset
        assert mapping.nbytes == array.nbytes
        assert mapping.array is array
        assert len(mapping.pages) == (offset + array.nbytes + PAGE - 1) // PAGE
        assert len(set(mapping.pages.tolist())) == len(mapping.pages)
        assert not (mapping.pages % PAGE).any()
        assert f"{len(mapping.pages)} pages" in repr(mapping)
    assert mapping.closed


def test_array_is_exported_until_the_mapping_is_released(adapter):
    buffer = bytearray(100)
    mapping = adapter.build_lam(buffer)
    with pytest.raises(BufferError):
        buffer.append(0)

    mapping.release()

    buffer.append(0)
    with pytest.raises(nd.ClosedError):
        _ = mapping.pages
    mapping.close()  # idempotent


@pytest.mark.parametrize("wrong", ["empty", "strided", "objects", "none"])
def test_memory_that_cannot_be_mapped_is_a_buffer_error(adapter, wrong):
    given = {
        "empty": bytearray(),
        "strided": np.zeros((4, 4))[:, 1],
        "objects": np.array([object()]),
        "none": None,
    }[wrong]

    with pytest.raises(BufferError, match="build_lam"):
        adapter.build_lam(given)


def test_privileged_segments_name_logical_addresses(pair):
    near, far = pair.near, pair.far
    near.map_pages("pages", 2, seed=1)
    far.map_pages("pages", 2)
    first, second = near.mappings["pages"].pages.tolist()
    token = near.pd.privileged_token
    assert token == near.pd.privileged_token
    sink = far.mappings["pages"].pages.tolist()
    far_token = far.pd.privileged_token

    far.qp.receive([nd.Segment(sink[1], 100, far_token), nd.Segment(sink[0] + 8, 200, far_token)])
    near.qp.send([nd.Segment(second + 10, 100, token), nd.Segment(first + 20, 200, token)])

    assert far.received().bytes_transferred == 300
    data = pattern(2 * PAGE, 1)
    expected = bytearray(2 * PAGE)
    expected[PAGE : PAGE + 100] = data[PAGE + 10 : PAGE + 110]
    expected[8:208] = data[20:220]
    assert far.mapped_content("pages") == expected


def test_privileged_segment_is_a_sink_of_reads(pair):
    near, far = pair.near, pair.far
    near.map_pages("pages", 1)
    source = far.memory("source", 100, seed=3)

    page = near.mappings["pages"].pages.tolist()[0]
    segment = nd.Segment(page + 5, 100, near.pd.privileged_token)
    if not near.adapter_flags() & 0x2:  # NDK: only with RDMA_READ_SINK_NOT_REQUIRED
        with pytest.raises(PermissionError):
            near.qp.read(segment, source)
        return
    near.qp.read(segment, source)

    assert near.completion().status == SUCCESS
    assert near.mapped_content("pages")[5:105] == pattern(100, 3)


@pytest.mark.parametrize("wrong", ["outside", "longer", "stale", "other domain", "read-only"])
def test_privileged_segments_are_checked(pair, wrong):
    near = pair.near
    near.map_pages("pages", 2, skip=64, cut=64)
    pages = near.mappings["pages"].pages.tolist()
    token = near.pd.privileged_token
    segment = nd.Segment(pages[0] + 64, 8, token)
    if wrong == "outside":
        segment = nd.Segment(pages[0] + 63, 8, token)
    elif wrong == "longer":
        segment = nd.Segment(pages[0] + 64, 2 * PAGE - 127, token)
    elif wrong == "stale":
        near.close_mapping("pages")
    elif wrong == "other domain":
        with pair.adapter.create_pd() as other:
            segment = nd.Segment(pages[0] + 64, 8, other.privileged_token)
    else:
        mapping = pair.adapter.build_lam(bytes(100))
        offset = mapping.first_byte_offset
        segment = nd.Segment(int(mapping.pages[0]) + offset, 8, token)
        near.qp.send(segment)  # reading is fine

    with pytest.raises(PermissionError):
        near.qp.receive(segment)


def test_privileged_token_is_of_no_use_to_a_peer(pair):
    near, far = pair.near, pair.far
    far.map_pages("pages", 1, seed=1)
    near.memory("source", 8)
    page = far.mappings["pages"].pages.tolist()[0]

    near.write((page, far.pd.privileged_token), "source")

    near.receive()
    assert near.received().status != SUCCESS
    assert far.mapped_content("pages") == pattern(PAGE, 1)


def test_request_keeps_the_array_of_a_released_mapping(pair):
    near, far = pair.near, pair.far
    buffer = bytearray(PAGE)
    mapping = pair.adapter.build_lam(buffer)
    page = int(mapping.pages[0]) + mapping.first_byte_offset
    far.qp.receive(nd.Segment(page, 100, far.pd.privileged_token))
    mapping.release()
    with pytest.raises(BufferError):
        buffer.append(0)

    near.qp.send(b"data", flags=nd.Flag.INLINE)
    assert far.received().bytes_transferred == 4
    far.waiting()

    buffer.append(0)
    assert buffer[:4] == b"data"


@pytest.mark.parametrize(
    ("feature", "call"),
    [
        ("build_lam", lambda adapter: adapter.build_lam(bytearray(1))),
        (
            "create_fast_register_mr",
            lambda adapter: adapter.create_pd().create_fast_register_mr(1, remote_access=True),
        ),
        ("create_mw", lambda adapter: adapter.create_pd().create_mw()),
        ("privileged_token", lambda adapter: adapter.create_pd().privileged_token),
    ],
)
def test_feature_works_where_it_is_named_and_is_refused_elsewhere(adapter, feature, call):
    if feature in adapter.info.features:
        assert call(adapter)
        return
    with pytest.raises(nd.RdmaError) as caught:
        call(adapter)
    assert caught.value.status == nd.Status.NOT_SUPPORTED
