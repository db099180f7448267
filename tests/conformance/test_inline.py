# SPDX-License-Identifier: Apache-2.0
"""INLINE data: whose memory it is, how long it is looked at, and what its tokens say."""

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import PAGE, pattern, status_of

INLINE = nd.Flag.INLINE
SUCCESS = nd.Status.SUCCESS


class MadeOnDemand:
    """A sequence that keeps none of its items."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError(index)
        return bytearray(bytes([65 + index]) * 60)


def test_inline_items_that_a_sequence_makes_on_demand_arrive_as_they_were(pair):
    pair.far.memory("sink", 240)

    for _ in range(20):
        pair.far.receive("sink")
        pair.near.qp.send(MadeOnDemand(), flags=INLINE)
        assert pair.far.received().bytes_transferred == 240
        assert pair.far.content("sink") == b"".join(MadeOnDemand())


def test_inline_data_outlives_what_a_remote_argument_drops(pair):
    target = pair.far.memory("target", 120)
    items = [bytearray(b"x" * 60), bytearray(b"y" * 60)]

    class Remote:
        token = target.token

        @property
        def address(self):
            items.clear()
            return target.address

    pair.far.receive()
    pair.near.qp.write(items, Remote(), flags=INLINE)
    pair.near.send()

    assert pair.far.received().status == SUCCESS
    assert pair.far.content("target") == b"x" * 60 + b"y" * 60


def test_inline_data_is_not_exported_when_the_call_has_failed(pair):
    buffers = [bytearray(100) for _ in range(4)]

    with pytest.raises(nd.RdmaError, match="inline_size"):
        pair.near.qp.send(buffers, flags=INLINE)

    for buffer in buffers:
        buffer.append(0)


def test_inline_takes_segments_of_registered_memory(pair):
    pair.near.memory("source", 100, nd.Access.LOCAL_READ, seed=1)
    pair.far.memory("sink", 250)
    pair.far.receive("sink")
    region = pair.near.regions["source"]

    pair.near.qp.send([region.segment(10, 50), b"between", region], flags=INLINE)

    data = pattern(100, 1)
    assert pair.far.received().bytes_transferred == 157
    assert pair.far.content("sink", 0, 157) == data[10:60] + b"between" + data


def test_inline_takes_more_segments_of_regions_than_any_request(pair):
    pair.near.memory("source", 200, seed=1)
    pair.far.memory("sink", 200)
    pair.far.receive("sink")
    region = pair.near.regions["source"]

    pair.near.qp.send([region.segment(i, 1) for i in range(200)], flags=INLINE)

    assert pair.far.received().bytes_transferred == 200
    assert pair.far.content("sink") == pattern(200, 1)


@pytest.mark.parametrize("wrong", ["dead", "outside", "other domain"])
@pytest.mark.parametrize("nbytes", [8, 0])
def test_inline_token_is_checked_as_without_inline(pair, wrong, nbytes):
    array = np.zeros(64, np.uint8)
    region = pair.near.pd.register(array)
    segment = nd.Segment(region.address, nbytes, region.local_token)
    if wrong == "dead":
        region.deregister()
    elif wrong == "outside":
        segment = nd.Segment(region.address + 60 + 8 - nbytes, nbytes, region.local_token)
    else:
        with pair.adapter.create_pd() as other:
            foreign = other.register(array)
        segment = nd.Segment(foreign.address, nbytes, foreign.local_token)

    for flags in (0, INLINE):
        assert status_of(pair.near.qp.send, segment, flags=flags) == nd.Status.ACCESS_VIOLATION
        assert status_of(pair.near.qp.send, [b"", segment], flags=INLINE) != SUCCESS

    pair.far.receive()
    pair.near.send()  # the queue pair stays usable
    assert pair.far.received().bytes_transferred == 0


@pytest.mark.parametrize("flags", [0, INLINE])
def test_lengths_whose_sum_does_not_fit_64_bits_are_refused(pair, flags):
    pair.near.memory("source", 64)
    region = pair.near.regions["source"]
    half = nd.Segment(region.address, 2**63, region.local_token)
    target = pair.far.memory("target", 64)
    segments = [half, half, region.segment(0, 8)]

    assert status_of(pair.near.qp.send, segments, flags=flags) == nd.Status.BUFFER_OVERFLOW
    assert status_of(pair.near.qp.receive, segments) == nd.Status.BUFFER_OVERFLOW
    with pytest.raises(ValueError, match="remote buffer"):
        pair.near.qp.write(segments, target, flags=flags)


def test_inline_reads_logical_addresses(pair):
    near = pair.near
    if "build_lam" not in pair.adapter.info.features:
        pytest.skip("no logical address mappings")
    near.map_pages("pages", 2, seed=1)
    pages = near.mappings["pages"].pages.tolist()
    token = near.pd.privileged_token
    pair.far.memory("sink", 100)
    pair.far.receive("sink")

    near.qp.send(
        [nd.Segment(pages[1] + 10, 60, token), nd.Segment(pages[0], 40, token)], flags=INLINE
    )

    data = pattern(2 * PAGE, 1)
    assert pair.far.received().bytes_transferred == 100
    assert pair.far.content("sink") == data[PAGE + 10 : PAGE + 70] + data[:40]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_inline_reads_fast_registered_memory_by_its_own_addresses(
    pair, needs_fast_registration, order
):
    near = pair.near
    near.map_pages("pages", 2, seed=1)
    near.create_fast_register_mr("region")
    base, _ = near.fast_register("region", "pages", order, base_address=16 * PAGE)
    near.memory("unused", 8)
    pair.far.memory("sink", 100)
    pair.far.receive("sink")

    segment = nd.Segment(base + PAGE - 50, 100, near.local_token("region"))
    near.qp.send(segment, flags=INLINE)

    data = pattern(2 * PAGE, 1)
    in_order = b"".join(data[i * PAGE : (i + 1) * PAGE] for i in order)
    assert pair.far.received().bytes_transferred == 100
    assert pair.far.content("sink") == in_order[PAGE - 50 : PAGE + 50]


def test_inline_segment_without_a_token_is_refused(pair):
    stray = nd.Segment(8, 64, 0)

    for segments in (stray, [b"abc", stray]):
        assert status_of(pair.near.qp.send, segments, flags=INLINE) == nd.Status.ACCESS_VIOLATION
    with pytest.raises(PermissionError, match="has no token"):
        pair.near.qp.write(stray, pair.far.memory("target", 64), flags=INLINE)

    pair.far.receive()
    pair.near.qp.send(nd.Segment(8, 0, 0), flags=INLINE)  # nothing lies nowhere
    assert pair.far.received().bytes_transferred == 0
