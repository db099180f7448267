# SPDX-License-Identifier: Apache-2.0
"""Requests that cannot be posted are refused at the call, and the queue pair stays usable."""

import resource

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import ALL, pattern, status_of
from conformance.initiator_requests import REQUESTS, hold_up, posting

pytestmark = pytest.mark.tsan


def refusal(call, *args, **options):
    with pytest.raises(nd.RdmaError) as caught:
        call(*args, **options)
    return caught.value.status


def assert_usable(pair):
    pair.far.receive()
    pair.near.send()
    assert pair.far.received().status == nd.Status.SUCCESS
    assert pair.near.completion().status == nd.Status.SUCCESS


def test_full_initiator_queue_refuses_and_takes_again_after_polling(connect_pair):
    pair = connect_pair(near={"initiator_queue_depth": 4}, active={"outbound_read_limit": 1})
    target = pair.far.memory("target", 1 << 22)
    pair.near.memory("sink", 1 << 22)
    # Reads take a round trip each, and the peer's responses wait for a thread that reads them.
    posted = 0
    status = nd.Status.SUCCESS
    while status == nd.Status.SUCCESS and posted < 1000:
        try:
            pair.near.read(target, "sink", context=posted)
            posted += 1
        except nd.RdmaError as error:
            status = error.status

    assert status == nd.Status.NO_MORE_ENTRIES
    assert posted >= 4
    done = pair.near.completions("initiator", posted)
    assert [each.request_context for each in done] == [*range(posted)]
    assert_usable(pair)


@pytest.mark.parametrize("request_name", REQUESTS)
def test_full_queue_takes_no_request_of_any_kind(connect_pair, request_name):
    pair = connect_pair(near={"initiator_queue_depth": 8})
    post = posting(pair, request_name)
    hold_up(pair)
    fill = {"flags": nd.Flag.READ_FENCE | nd.Flag.SILENT_SUCCESS}
    posted = 0
    while status_of(pair.near.send, **fill) == nd.Status.SUCCESS:
        posted += 1
        assert posted <= 8

    assert refusal(post) == nd.Status.NO_MORE_ENTRIES

    for _ in range(posted + 1):
        pair.far.receive()
    assert [done.type.name for done in pair.near.completions("initiator", 2)] == ["SEND", "READ"]
    for _ in range(posted + 1):
        assert pair.far.received().status == nd.Status.SUCCESS
    assert_usable(pair)


def test_full_receive_queue_refuses_and_takes_again_after_a_receive(connect_pair):
    pair = connect_pair(far={"receive_queue_depth": 3})
    for i in range(3):
        pair.far.receive(context=i)

    assert refusal(pair.far.receive) == nd.Status.NO_MORE_ENTRIES

    pair.near.send()
    assert pair.far.received().request_context == 0
    pair.far.receive(context=3)
    for i in range(1, 4):
        pair.near.send()
        assert pair.far.received().request_context == i


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 128])
def test_queues_hold_exactly_their_depth(connect_pair, depth):
    pair = connect_pair(receive_queue_depth=depth, is_connected=False)

    for i in range(depth):
        pair.near.receive(context=i)

    assert refusal(pair.near.receive) == nd.Status.NO_MORE_ENTRIES
    pair.near.flush()
    done = pair.near.completions("receive", depth)
    assert [each.request_context for each in done] == [*range(depth)]


@pytest.mark.parametrize("operation", ["send", "write", "read"])
def test_too_many_segments_are_a_data_overrun(pair, operation):
    target = pair.far.memory("target", 8)
    pair.near.memory("local", 8)
    spans = [("local", 0, 1)] * 5
    arguments = spans if operation == "send" else [target, *spans]

    assert refusal(getattr(pair.near, operation), *arguments) == nd.Status.DATA_OVERRUN
    assert_usable(pair)


def test_too_many_segments_of_a_send_and_invalidate_are_a_data_overrun(pair):
    posting(pair, "send_and_invalidate")  # where there is one

    status = status_of(pair.near.send_and_invalidate, 1, *[("local", 0, 1)] * 5)

    assert status == nd.Status.DATA_OVERRUN
    assert_usable(pair)


def test_too_many_segments_of_a_receive_are_a_data_overrun(pair):
    pair.near.memory("local", 8)

    assert refusal(pair.near.receive, *[("local", 0, 1)] * 5) == nd.Status.DATA_OVERRUN


@pytest.mark.parametrize("request_name", REQUESTS)
def test_requests_before_connecting_are_refused(connect_pair, request_name):
    pair = connect_pair(is_connected=False)
    post = posting(pair, request_name)

    assert refusal(post) == nd.Status.CONNECTION_INVALID

    pair.connect()
    assert_usable(pair)


@pytest.mark.parametrize("request_name", REQUESTS)
def test_requests_after_the_connection_are_refused(pair, request_name):
    post = posting(pair, request_name)
    pair.near.flush()

    assert refusal(post) == nd.Status.CONNECTION_INVALID


def test_receive_after_the_connection_is_cancelled(pair):
    pair.near.flush()

    pair.near.receive(context=7)

    done = pair.near.received()
    assert (done.status, done.request_context) == (nd.Status.CANCELLED, 7)


@pytest.mark.parametrize(
    "option",
    [
        "receive_queue_depth",
        "initiator_queue_depth",
        "max_receive_sge",
        "max_initiator_sge",
        "inline_size",
    ],
)
@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
def test_queue_pair_beyond_the_adapters_limits_is_refused(pair, option):
    limit = {
        "receive_queue_depth": pair.adapter.info.max_receive_queue_depth,
        "initiator_queue_depth": pair.adapter.info.max_initiator_queue_depth,
        "max_receive_sge": pair.adapter.info.max_receive_request_sge,
        "max_initiator_sge": pair.adapter.info.max_initiator_request_sge,
        "inline_size": pair.adapter.info.max_inline_data_size,
    }[option]

    with pair.near.create_qp(**{option: limit}):
        pass
    with pytest.raises(ValueError, match=option):
        pair.near.create_qp(**{option: limit + 1})


@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
@pytest.mark.parametrize("option", ["initiator_queue_depth", "max_initiator_sge", "inline_size"])
def test_queue_pair_with_a_shared_queue_beyond_the_limits_is_refused(pair, option):
    info = pair.adapter.info
    if info.max_srq_depth == 0:
        pytest.skip("no shared receive queues: test_shared_receive_queue.py has the refusal")
    limit = {
        "initiator_queue_depth": info.max_initiator_queue_depth,
        "max_initiator_sge": info.max_initiator_request_sge,
        "inline_size": info.max_inline_data_size,
    }[option]
    near = pair.near
    queues = (near.receive_cq, near.initiator_cq, near.pd.create_srq(1, max_sge=1))

    with near.pd.create_qp_with_srq(*queues, **{option: limit}):
        pass
    with pytest.raises(ValueError, match=option) as caught:
        near.pd.create_qp_with_srq(*queues, **{option: limit + 1})
    assert caught.value.status == nd.Status.INVALID_PARAMETER


@pytest.mark.parametrize("depth", [0, (1 << 22) + 1])
def test_completion_queue_beyond_the_adapters_limits_is_refused(adapter, depth):
    with pytest.raises(ValueError, match="depth"):
        adapter.create_cq(depth)


def test_hundreds_of_queues_can_be_made(adapter):
    pd = adapter.create_pd()
    queues = []
    for _ in range(200):
        cq = adapter.create_cq(16)
        queues.append(pd.create_qp(cq, cq, receive_queue_depth=8, initiator_queue_depth=8))

    assert [qp.state for qp in queues] == ["idle"] * 200


def test_queues_of_another_adapter_are_refused(adapter, pair):
    with adapter.create_cq(1) as foreign, pytest.raises(ValueError, match="another adapter"):
        pair.near.pd.create_qp(foreign, pair.near.initiator_cq)


@pytest.fixture
def no_descriptors():
    """Give the switch ``no_descriptors(True)``: files of this process that are open stay so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    def switch(is_on):
        resource.setrlimit(resource.RLIMIT_NOFILE, (0 if is_on else soft, hard))

    yield switch
    switch(False)


def test_completion_queue_without_descriptors_lacks_resources(adapter, no_descriptors):
    no_descriptors(True)
    status = status_of(adapter.create_cq, 8)
    no_descriptors(False)

    assert status == nd.Status.INSUFFICIENT_RESOURCES
    with adapter.create_cq(8) as queue:
        assert queue.depth == 8


# ---- local memory -------------------------------------------------------------------------------


def test_segment_outside_its_region_is_refused_at_the_call(pair):
    pair.near.memory("local", 8)
    whole = pair.near.regions["local"].segment()
    for address, length in (
        (whole.address - 1, 1),
        (whole.address, 9),
        (whole.address + 8, 1),
        (whole.address + 9, 0),
        (whole.address + 4, pair.adapter.info.max_transfer_length),
    ):
        segment = nd.Segment(address, length, whole.token)
        assert refusal(pair.near.qp.send, segment) == nd.Status.ACCESS_VIOLATION
        assert refusal(pair.near.qp.receive, segment) == nd.Status.ACCESS_VIOLATION
    assert_usable(pair)


def test_segment_with_an_unknown_token_is_refused_at_the_call(pair):
    pair.near.memory("local", 8)
    whole = pair.near.regions["local"].segment()

    for token in (0, whole.token ^ 1, 0xFFFFFFFF):
        segment = nd.Segment(whole.address, 8, token)
        with pytest.raises(PermissionError):
            pair.near.qp.send(segment)
    assert_usable(pair)


def test_segment_of_another_protection_domain_is_refused_at_the_call(pair):
    with pair.adapter.create_pd() as other, other.register(bytearray(8)) as region:
        assert refusal(pair.near.qp.send, region.segment()) == nd.Status.ACCESS_VIOLATION
    assert_usable(pair)


def test_segment_of_a_deregistered_region_is_refused_at_the_call(pair):
    pair.near.memory("local", 8)
    segment = pair.near.regions["local"].segment()
    pair.near.deregister("local")

    assert refusal(pair.near.qp.send, segment) == nd.Status.ACCESS_VIOLATION
    assert_usable(pair)


def test_memory_without_local_write_takes_neither_receive_nor_read(pair):
    target = pair.far.memory("target", 8)
    pair.near.memory("local", 8, nd.Access.REMOTE_READ)

    assert refusal(pair.near.receive, "local") == nd.Status.ACCESS_VIOLATION
    assert refusal(pair.near.read, target, "local") == nd.Status.ACCESS_VIOLATION
    assert_usable(pair)


def test_refused_request_has_no_completion(pair):
    pair.near.memory("local", 8)
    for _ in range(3):
        with pytest.raises(nd.RdmaError):
            pair.near.qp.send(pair.near.regions["local"], flags=0x80, context=1)

    pair.far.receive()
    pair.near.send(context=2)

    assert pair.near.completion().request_context == 2
    assert pair.near.waiting() == []


def test_tokens_are_never_zero_and_differ(pair):
    regions = [pair.near.pd.register(bytearray(1), ALL) for _ in range(100)]

    tokens = {region.local_token for region in regions}

    assert len(tokens) == 100
    assert 0 not in tokens
    for region in regions:
        region.close()


@pytest.mark.parametrize("call", ["register", "build_lam"])
def test_memory_that_is_not_one_range_is_an_invalid_parameter(pair, call):
    calls = {"register": pair.near.pd.register, "build_lam": pair.adapter.build_lam}

    assert status_of(calls[call], np.zeros(10)[::2]) == nd.Status.INVALID_PARAMETER


def test_region_registers_again_with_another_token(pair):
    with pair.near.pd.create_mr() as region:
        region.register(bytearray(8), ALL)
        first = region.remote_token
        with pytest.raises(nd.RdmaError) as caught:
            region.register(bytearray(8), ALL)
        assert caught.value.status == nd.Status.INVALID_DEVICE_REQUEST
        region.deregister()

        region.register(bytearray(pattern(8)), ALL)

        assert region.remote_token != first
        region.deregister()
        with pytest.raises(nd.RdmaError) as caught:
            region.deregister()
        assert caught.value.status == nd.Status.INVALID_DEVICE_REQUEST
