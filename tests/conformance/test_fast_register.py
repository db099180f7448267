# SPDX-License-Identifier: Apache-2.0
"""Fast registration: pages as one range, tokens, queue order, and every way a region ends."""

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import ALLOW_ALL, LIMIT, PAGE, pattern, status_of
from conformance.mapped_pages import (
    BROKEN,
    READ,
    SUCCESS,
    WRITE,
    expect_broken,
    expect_ended,
    in_order,
    is_alive,
)

pytestmark = pytest.mark.usefixtures("needs_fast_registration")


def test_peer_reads_pages_in_any_order_as_one_range(far_pages):
    near, far = far_pages.near, far_pages.far
    near.memory("sink", 3 * PAGE)

    remote = far.fast_register("region", "pages", [4, 0, 2], context=1)
    assert far.completion().type == nd.OperationType.FAST_REGISTER
    near.read(remote, "sink")

    assert near.completion().status == SUCCESS
    assert near.content("sink") == in_order(pattern(5 * PAGE, 1), [4, 0, 2])


@pytest.mark.parametrize("crc", [False, True])
def test_peer_writes_over_page_borders_land_in_the_right_pages(make_ends, crc):
    ends = make_ends().connect(active_options={"crc": crc})
    near, far = ends.near, ends.far
    order = [*range(63, 31, -1), *range(32)]
    far.map_pages("pages", 64)
    far.create_fast_register_mr("region")
    near.memory("source", 64 * PAGE - 700, seed=3)

    address, token = far.fast_register("region", "pages", order, first_byte_offset=300)
    near.write((address + 100, token), ("source", 0, 64 * PAGE - 700))
    near.read((address, token), ("source", 0, 0), flags=nd.Flag.READ_FENCE)

    assert [done.status for done in near.completions("initiator", 2)] == [SUCCESS, SUCCESS]
    whole = bytearray(64 * PAGE)
    whole[400 : 400 + 64 * PAGE - 700] = pattern(64 * PAGE - 700, 3)
    expected = bytearray(64 * PAGE)
    for i, page in enumerate(order):
        expected[page * PAGE : (page + 1) * PAGE] = whole[i * PAGE : (i + 1) * PAGE]
    assert far.mapped_content("pages") == expected


@pytest.mark.parametrize("size", [1, 200, 257, 5000])
def test_small_pieces_at_a_page_border_arrive_whole(far_pages, size):
    near, far = far_pages.near, far_pages.far
    near.memory("sink", size)
    address, token = far.fast_register("region", "pages", [3, 1, 4])

    near.read((address + PAGE - size // 2, token), "sink")

    assert near.completion().status == SUCCESS
    data = in_order(pattern(5 * PAGE, 1), [3, 1, 4])
    assert near.content("sink") == data[PAGE - size // 2 :][:size]


def test_pages_of_private_memory_keep_their_order_unless_the_adapter_takes_any(pair):
    near, far = pair.near, pair.far
    array = np.frombuffer(bytearray(pattern(6 * PAGE, 1)), np.uint8)
    mapping = far.adapter.build_lam(array)
    begin = PAGE - mapping.first_byte_offset  # of the first page that is all the array's
    region = far.pd.create_fast_register_mr(4, remote_access=True)
    near.memory("sink", 2 * PAGE)

    if "fast_register_any_pages" in far.adapter.info.features:
        far.qp.fast_register(region, mapping.pages[[3, 1]], flags=READ)
        expected = in_order(bytes(mapping.first_byte_offset) + array.tobytes(), [3, 1])
    else:
        with pytest.raises(nd.RdmaError, match="order") as caught:
            far.qp.fast_register(region, mapping.pages[[3, 1]], flags=READ)
        assert caught.value.status == nd.Status.NOT_SUPPORTED
        far.qp.fast_register(region, mapping.pages[[1, 2]], flags=READ)
        expected = array[begin : begin + 2 * PAGE].tobytes()
    near.read((region.address, region.remote_token), "sink")

    assert near.completion().status == SUCCESS
    assert near.content("sink") == expected


def test_region_serves_as_local_memory(far_pages):
    near, far = far_pages.near, far_pages.far
    near.memory("both", 2 * PAGE, seed=2)
    far.fast_register("region", "pages", [2, 0], flags=nd.Flag.ALLOW_LOCAL_WRITE)
    assert far.completion().status == SUCCESS
    assert far.remote_token("region") == 0

    near.receive("both")
    far.send("region")  # out of pages 2 and 0
    assert near.received().bytes_transferred == 2 * PAGE
    assert near.content("both") == in_order(pattern(5 * PAGE, 1), [2, 0])

    near.store("both", pattern(2 * PAGE, 9))
    far.receive(("region", 100, 2 * PAGE - 100))  # into them
    near.send(("both", 0, 2 * PAGE - 100))
    assert far.received().bytes_transferred == 2 * PAGE - 100
    expected = bytearray(pattern(5 * PAGE, 1))
    expected[2 * PAGE + 100 : 3 * PAGE] = pattern(2 * PAGE, 9)[: PAGE - 100]
    expected[:PAGE] = pattern(2 * PAGE, 9)[PAGE - 100 : 2 * PAGE - 100]
    assert far.mapped_content("pages") == expected


def test_region_is_the_sink_of_a_read(far_pages):
    near, far = far_pages.near, far_pages.far
    source = near.memory("source", 2 * PAGE, seed=5)
    far.fast_register(
        "region", "pages", [4, 1], flags=nd.Flag.ALLOW_LOCAL_WRITE | nd.Flag.RDMA_READ_SINK
    )
    far.read(source, "region", flags=nd.Flag.READ_FENCE)

    assert [done.status for done in far.completions("initiator", 2)] == [SUCCESS, SUCCESS]
    expected = bytearray(pattern(5 * PAGE, 1))
    expected[4 * PAGE :] = pattern(2 * PAGE, 5)[:PAGE]
    expected[PAGE : 2 * PAGE] = pattern(2 * PAGE, 5)[PAGE:]
    assert far.mapped_content("pages") == expected


def test_local_memory_without_local_write_takes_no_data(far_pages):
    far = far_pages.far
    far.fast_register("region", "pages", flags=READ)
    assert far.completion().status == SUCCESS

    assert status_of(far.receive, "region") == nd.Status.ACCESS_VIOLATION


@pytest.mark.parametrize("base", [0, PAGE, 7 << 44, (1 << 64) - 5 * PAGE])
def test_base_address_is_what_the_owner_says(far_pages, base):
    near, far = far_pages.near, far_pages.far
    near.memory("sink", 8)

    address, token = far.fast_register("region", "pages", range(5), base_address=base)
    assert address == base
    near.read((base + 2 * PAGE, token), "sink")

    assert near.completion().status == SUCCESS
    assert near.content("sink") == pattern(5 * PAGE, 1)[2 * PAGE :][:8]


def test_mapping_of_an_array_that_begins_inside_a_page_is_registered_whole(ends):
    near, far = ends.near, ends.far
    far.map_pages("pages", 3, seed=1, skip=123, cut=50)
    far.create_fast_register_mr("region")
    near.memory("sink", 3 * PAGE - 173)

    remote = far.fast_register("region", "pages")
    near.read(remote, "sink")

    assert near.completion().status == SUCCESS
    assert near.content("sink") == pattern(3 * PAGE, 1)[123:-50]


def test_bytes_of_a_page_that_are_not_of_the_array_are_never_granted(ends):
    far = ends.far
    far.map_pages("pages", 3, skip=100, cut=50)
    far.create_fast_register_mr("region")
    before_the_array = {"order": [0], "first_byte_offset": 99}
    behind_it = {"order": [2], "length": PAGE - 49}
    inner = {"order": [2, 1]}
    for options in (before_the_array, behind_it, inner):
        status = status_of(far.fast_register, "region", "pages", **options)
        assert status == nd.Status.ACCESS_VIOLATION

    far.fast_register("region", "pages", [2], length=PAGE - 50)  # refused ones leave it usable
    assert far.completion().status == SUCCESS


REFUSED = {
    "no pages": ({"order": []}, "INVALID_PARAMETER"),
    "too many pages": ({"order": [0] * 65}, "INVALID_PARAMETER"),
    "offset of a page": ({"order": [0], "first_byte_offset": PAGE}, "INVALID_PARAMETER"),
    "too long": ({"order": [0, 1], "length": 2 * PAGE + 1}, "INVALID_PARAMETER"),
    "too long by the offset": (
        {"order": [0, 1], "first_byte_offset": 1, "length": 2 * PAGE},
        "INVALID_PARAMETER",
    ),
    "nothing": ({"order": [0], "length": 0}, "INVALID_PARAMETER"),
    "base inside a page": ({"order": [0], "base_address": PAGE + 1}, "INVALID_PARAMETER"),
    "base zero with an offset": (
        {"order": [0], "first_byte_offset": 8, "base_address": 0},
        "INVALID_PARAMETER",
    ),
    "base that wraps": ({"order": [0, 1], "base_address": (1 << 64) - PAGE}, "INVALID_PARAMETER"),
    "solicited": ({"order": [0], "flags": nd.Flag.SEND_AND_SOLICIT_EVENT}, "INVALID_PARAMETER"),
    "half a right": ({"order": [0], "flags": 0x20}, "INVALID_PARAMETER"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_requests_are_refused_at_the_call(far_pages, case):
    options, status = REFUSED[case]

    refused = status_of(far_pages.far.fast_register, "region", "pages", **options)

    assert refused == nd.Status[status]
    assert is_alive(far_pages)


def test_remote_rights_need_a_region_made_for_them(far_pages):
    far = far_pages.far
    far.create_fast_register_mr("local", remote_access=False)

    for flags in (READ, WRITE):
        refused = status_of(far.fast_register, "local", "pages", flags=flags)
        assert refused == nd.Status.ACCESS_VIOLATION
    far.fast_register("local", "pages", flags=nd.Flag.ALLOW_LOCAL_WRITE)
    assert far.completion().status == SUCCESS


def test_queue_pair_that_is_not_connected_refuses(idle_ends):
    far = idle_ends.far
    far.map_pages("pages", 1)
    far.create_fast_register_mr("region")

    refused = status_of(far.fast_register, "region", "pages")

    assert refused == nd.Status.CONNECTION_INVALID


def test_more_pages_than_the_adapter_maps_are_an_implementation_limit(adapter):
    pd = adapter.create_pd()

    assert adapter.info.frmr_page_count >= 16
    with pd.create_fast_register_mr(adapter.info.frmr_page_count, remote_access=True) as region:
        assert region.max_pages == adapter.info.frmr_page_count
    with pytest.raises(nd.RdmaError) as caught:
        pd.create_fast_register_mr((1 << 32) - 1, remote_access=False)
    assert caught.value.status == nd.Status.IMPLEMENTATION_LIMIT


# ---- tokens -------------------------------------------------------------------------------------


def test_token_is_new_when_the_call_returns_and_the_old_one_never_reaches_memory(far_pages):
    near, far = far_pages.near, far_pages.far
    near.memory("sink", 8)
    address, first = far.fast_register("region", "pages")
    far.invalidate("region")
    _, second = far.fast_register("region", "pages")
    assert first not in (0, second)
    assert [done.status for done in far.completions("initiator", 3)] == [SUCCESS] * 3

    near.read((address, second), "sink")
    assert near.completion().status == SUCCESS
    near.read((address, first), "sink")

    done = near.completion()
    assert done.status == nd.Status.REMOTE_RESOURCES
    assert near.reason("invalid STag") in done.detail


def test_tokens_of_a_region_are_none_before_the_first_fast_register(pair):
    region = pair.near.pd.create_fast_register_mr(4, remote_access=True)

    assert (region.local_token, region.remote_token) == (0, 0)
    with pytest.raises(nd.RdmaError, match="names no memory yet"):
        region.segment()
    with pytest.raises(nd.RdmaError, match="names no memory yet"):
        region.remote()


@pytest.mark.slow
def test_tokens_do_not_repeat_in_ten_thousand_registrations(pair):
    far = pair.far
    far.map_pages("pages", 1, seed=1)
    far.create_fast_register_mr("region")
    tokens = set()
    for _ in range(10_000):
        tokens.add(far.fast_register("region", "pages", flags=READ | nd.Flag.SILENT_SUCCESS)[1])
        far.invalidate("region")
        assert far.completion().status == SUCCESS

    assert len(tokens) == 10_000


def test_peer_uses_the_token_that_a_later_send_brings(far_pages):
    near, far = far_pages.near, far_pages.far
    near.memory("message", 16)
    near.memory("sink", PAGE)
    near.receive("message")

    # Nothing waits for the registration's completion: the order of the queue is enough.
    address, token = far.fast_register("region", "pages", [3], flags=READ | nd.Flag.DEFER)
    message = np.array([address, token], np.uint64)
    far.qp_send_inline(message.tobytes())

    assert near.received().bytes_transferred == 16
    address, token = np.frombuffer(near.content("message"), np.uint64)
    near.read((int(address), int(token)), "sink")
    assert near.completion().status == SUCCESS
    assert near.content("sink") == in_order(pattern(5 * PAGE, 1), [3])


@pytest.mark.parametrize("flag", [nd.Flag.DEFER, nd.Flag.READ_FENCE])
def test_local_token_serves_requests_behind_a_registration_that_waits(far_pages, flag):
    near, far = far_pages.near, far_pages.far
    near.memory("sink", PAGE)
    near.memory("message", 8)
    far.memory("fetched", 8)
    target = near.memory("target", 8)
    far.send()  # without a receive the near end does not look at the read behind it
    far.read(target, "fetched")

    far.fast_register("region", "pages", [3], flags=READ | flag)
    far.send("region")
    near.receive("message")
    near.receive("sink")

    done = far.completions("initiator", 4)
    assert [one.status for one in done] == [SUCCESS] * 4
    assert [one.status for one in near.completions("receive", 2)] == [SUCCESS] * 2
    assert near.content("sink") == in_order(pattern(5 * PAGE, 1), [3])


def test_token_is_of_the_protection_domain(far_pages):
    near, far = far_pages.near, far_pages.far
    near.memory("sink", 8)
    near.map_pages("pages", 1)
    near.create_fast_register_mr("region")
    _, foreign = near.fast_register("region", "pages")
    assert near.completion().status == SUCCESS
    address, _ = far.fast_register("region", "pages")

    # A token of another domain, here even of another adapter, names nothing.
    near.read((address, foreign), "sink")

    assert near.completion().status == nd.Status.REMOTE_RESOURCES


def test_region_of_another_domain_is_refused(pair):
    with pair.adapter.create_pd() as other:
        region = other.create_fast_register_mr(1, remote_access=True)
    pair.near.map_pages("pages", 1)

    with pytest.raises(nd.RdmaError) as caught:
        pair.near.qp.fast_register(region, pair.near.mappings["pages"])

    assert caught.value.status == nd.Status.INVALID_PARAMETER


# ---- states -------------------------------------------------------------------------------------


def test_region_that_is_valid_takes_no_second_registration(far_pages):
    far = far_pages.far
    far.fast_register("region", "pages", context=1)
    far.fast_register("region", "pages", context=2)
    assert far.completion().status == SUCCESS

    done = far.completion()

    assert (done.status, done.type) == (BROKEN, nd.OperationType.FAST_REGISTER)
    assert done.request_context == 2
    expect_ended(far_pages)
    assert status_of(far.fast_register, "region", "pages") == nd.Status.CONNECTION_INVALID


def test_region_that_is_empty_cannot_be_invalidated(far_pages):
    far = far_pages.far
    far.invalidate("region", context=3)

    done = far.completion()

    assert (done.status, done.type) == (BROKEN, nd.OperationType.INVALIDATE)
    expect_ended(far_pages)


def test_second_invalidate_fails(far_pages):
    far = far_pages.far
    far.fast_register("region", "pages")
    far.invalidate("region", flags=nd.Flag.DEFER)
    far.invalidate("region")

    assert [done.status for done in far.completions("initiator", 3)] == [SUCCESS, SUCCESS, BROKEN]


def test_chain_of_registrations_and_invalidations_runs_in_order(far_pages):
    near, far = far_pages.near, far_pages.far
    near.memory("sink", 8)
    for _ in range(10):
        far.fast_register("region", "pages", [1], flags=READ | nd.Flag.DEFER)
        far.invalidate("region", flags=nd.Flag.SILENT_SUCCESS | nd.Flag.DEFER)
    remote = far.fast_register("region", "pages", [2])
    assert [done.status for done in far.completions("initiator", 11)] == [SUCCESS] * 11

    near.read(remote, "sink")

    assert near.completion().status == SUCCESS
    assert near.content("sink") == pattern(5 * PAGE, 1)[2 * PAGE :][:8]


def test_invalidated_region_is_closed_to_the_peer_and_can_be_filled_again(far_pages):
    near, far = far_pages.near, far_pages.far
    near.memory("source", 8, seed=7)
    address, token = far.fast_register("region", "pages")
    far.invalidate("region")
    assert [done.type.name for done in far.completions("initiator", 2)] == [
        "FAST_REGISTER",
        "INVALIDATE",
    ]
    far.fast_register("region", "pages")
    assert far.completion().status == SUCCESS

    near.write((address, token), "source")

    expect_broken(far_pages)
    assert far.mapped_content("pages") == pattern(5 * PAGE, 1)


def test_plain_region_cannot_be_invalidated(pair):
    pair.near.memory("plain", 8)

    with pytest.raises(TypeError, match="deregister"):
        pair.near.invalidate("plain")


def test_region_that_is_closed_is_closed_to_the_peer(far_pages):
    near, far = far_pages.near, far_pages.far
    near.memory("source", 8, seed=7)
    remote = far.fast_register("region", "pages")
    assert far.completion().status == SUCCESS

    far.close_region("region")
    near.write(remote, "source")

    expect_broken(far_pages)
    assert far.mapped_content("pages") == pattern(5 * PAGE, 1)


def test_flushed_registration_did_not_happen_and_the_region_serves_another_queue_pair(pair):
    near, far = pair.near, pair.far
    far.map_pages("pages", 2, seed=1)
    far.create_fast_register_mr("region")
    far.memory("sink", 8)
    near.memory("target", 8)
    # The peer has no receive for this message, so it does not look at the read behind it.
    far.send()
    far.read(near.regions["target"].remote(), "sink")
    _, flushed = far.fast_register("region", "pages", flags=READ | nd.Flag.READ_FENCE)
    far.flush()
    done = far.completions("initiator", 3)
    assert done[2].type == nd.OperationType.FAST_REGISTER
    assert done[2].status == nd.Status.CANCELLED

    pair.reconnect()
    remote = far.fast_register("region", "pages", flags=READ)
    assert far.completion().status == SUCCESS
    assert remote[1] != flushed
    near.memory("sink", 8)
    near.read(remote, "sink")

    assert near.completion().status == SUCCESS
    assert near.content("sink") == pattern(8, 1)


# ---- lifetimes ----------------------------------------------------------------------------------


def test_array_stays_exported_while_anything_needs_it(pair):
    buffer = bytearray(4 * PAGE)
    mapping = pair.far.adapter.build_lam(buffer)
    region = pair.far.pd.create_fast_register_mr(8, remote_access=True)
    pair.far.qp.fast_register(region, mapping, flags=READ)
    assert pair.far.completion().status == SUCCESS
    mapping.release()  # the region still needs the array
    with pytest.raises(BufferError):
        buffer.append(0)

    pair.far.qp.invalidate(region)
    assert pair.far.completion().status == SUCCESS
    pair.far.waiting()

    buffer.append(0)


def test_region_outlives_the_mapping_of_its_pages(far_pages):
    near, far = far_pages.near, far_pages.far
    near.memory("sink", 8)
    remote = far.fast_register("region", "pages")
    assert far.completion().status == SUCCESS

    far.close_mapping("pages")
    near.read(remote, "sink")

    assert near.completion().status == SUCCESS
    assert near.content("sink") == pattern(5 * PAGE, 1)[:8]


def test_addresses_of_a_released_mapping_are_refused(pair):
    mapping = pair.far.adapter.build_lam(bytearray(4 * PAGE))
    pages = mapping.pages
    region = pair.far.pd.create_fast_register_mr(8, remote_access=True)
    mapping.release()

    for given in (pages[1:2], [int(pages[1])], np.array([5], np.uint64)):
        with pytest.raises(PermissionError, match="mapping"):
            pair.far.qp.fast_register(region, given, flags=READ)
    with pytest.raises(nd.ClosedError):
        pair.far.qp.fast_register(region, mapping, flags=READ)


@pytest.mark.parametrize("pages", [np.zeros(2), np.zeros((1, 1), np.uint64), 7, [object()]])
def test_what_names_no_pages_is_a_type_error(pair, pages):
    region = pair.far.pd.create_fast_register_mr(2, remote_access=True)

    with pytest.raises(TypeError):
        pair.far.qp.fast_register(region, pages, flags=READ)


def test_read_only_array_is_mapped_for_reading_only(pair):
    mapping = pair.far.adapter.build_lam(bytes(range(256)))
    region = pair.far.pd.create_fast_register_mr(2, remote_access=True)

    with pytest.raises(PermissionError):
        pair.far.qp.fast_register(region, mapping, flags=WRITE)
    pair.far.qp.fast_register(region, mapping, flags=READ)
    assert pair.far.completion().status == SUCCESS
    pair.near.memory("sink", 256)
    pair.near.qp.read(pair.near.regions["sink"], region.remote())

    assert pair.near.completion().status == SUCCESS
    assert pair.near.content("sink") == bytes(range(256))


def test_remote_buffer_of_a_region_names_it_whole(pair):
    mapping = pair.far.adapter.build_lam(np.arange(1000, dtype=np.uint8))
    region = pair.far.pd.create_fast_register_mr(2, remote_access=True)
    pair.far.qp.fast_register(region, mapping, flags=READ)

    remote = region.remote()

    assert (remote.address, remote.token) == (region.address, region.remote_token)
    assert (remote.nbytes, remote.access) == (1000, nd.Access.REMOTE_READ)
    assert region.segment(10, 20).address == region.address + 10
    with pytest.raises(ValueError, match="inside"):
        region.segment(990, 11)
    assert "1000 bytes" in repr(region)


@pytest.mark.tsan
def test_closing_while_the_peer_writes_and_the_queue_registers(connect_pair):
    pair = connect_pair()
    pair.far.map_pages("pages", 16)
    pair.near.memory("source", 16 * PAGE, seed=1)
    for _ in range(20):
        pair.far.create_fast_register_mr("region", 16)
        remote = pair.far.fast_register(
            "region", "pages", range(15, -1, -1), flags=ALLOW_ALL | nd.Flag.SILENT_SUCCESS
        )
        pair.near.write(remote, "source", flags=nd.Flag.SILENT_SUCCESS)
        pair.near.read(remote, ("source", 0, 0))
        assert pair.near.completion(timeout=LIMIT).status == SUCCESS
        pair.far.close_region("region")
