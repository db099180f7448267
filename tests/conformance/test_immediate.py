# SPDX-License-Identifier: Apache-2.0
"""Write with immediate: a write that a number announces to the peer (RFC 7306 section 6)."""

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT, pattern, status_of

pytestmark = pytest.mark.usefixtures("needs_immediate")


def test_the_receive_has_the_number_and_the_length(ends):
    target = ends.far.memory("target", 64)
    ends.far.memory("sink", 8)
    ends.near.memory("source", 10, seed=2)
    ends.far.receive("sink", context=5)

    ends.near.write_with_immediate((target.address + 3, target.token), 7, "source", context=9)

    done = ends.near.completion()
    assert (done.status, done.type, done.request_context) == (
        nd.Status.SUCCESS,
        nd.OperationType.WRITE,
        9,
    )
    assert done.immediate is None
    received = ends.far.received()
    assert (received.status, received.type, received.request_context) == (
        nd.Status.SUCCESS,
        nd.OperationType.RECEIVE,
        5,
    )
    assert (received.immediate, received.bytes_transferred) == (7, 10)
    assert received.invalidated_token == 0
    assert ends.far.content("target") == bytes(3) + pattern(10, 2) + bytes(51)
    assert ends.far.content("sink") == bytes(8)


@pytest.mark.parametrize("value", [0, 1, 0x12345678, 2**32 - 1])
def test_any_32_bits_arrive(ends, value):
    target = ends.far.memory("target", 8)
    ends.near.memory("source", 8)
    ends.far.receive()

    ends.near.write_with_immediate(target, value, "source")

    assert ends.far.received().immediate == value


@pytest.mark.parametrize("value", [-1, 2**32, 2**64])
def test_a_number_that_does_not_fit_is_refused_at_the_call(pair, value):
    target = pair.far.memory("target", 8)
    pair.near.memory("source", 8)

    status = status_of(pair.near.write_with_immediate, target, value, "source")

    assert status == nd.Status.INVALID_PARAMETER


def test_a_write_of_nothing_tells_its_number(ends):
    ends.far.memory("target", 8)
    ends.far.receive()

    ends.near.write_with_immediate((0, 0), 7)

    received = ends.far.received()
    assert (received.immediate, received.bytes_transferred) == (7, 0)


def test_large_data_is_there_when_the_number_is(ends):
    size = 3_000_001
    target = ends.far.memory("target", size)
    ends.near.memory("source", size, seed=3)
    ends.far.receive()

    ends.near.write_with_immediate(target, 7, "source")

    assert ends.far.received().bytes_transferred == size
    assert ends.far.content("target") == pattern(size, 3)


def test_sends_and_immediates_take_receives_in_order(ends):
    target = ends.far.memory("target", 64)
    ends.near.memory("source", 64)
    ends.far.memory("sink", 64)
    for context in range(1, 5):
        ends.far.receive("sink", context=context)

    ends.near.send(("source", 0, 5))
    ends.near.write_with_immediate(target, 2, ("source", 0, 6))
    ends.near.write(target, ("source", 0, 60))
    ends.near.send()
    ends.near.write_with_immediate(target, 4, ("source", 0, 8))

    received = ends.far.completions("receive", 4)
    assert [done.request_context for done in received] == [1, 2, 3, 4]
    assert [done.immediate for done in received] == [None, 2, None, 4]
    assert [done.bytes_transferred for done in received] == [5, 6, 0, 8]


def test_only_a_solicited_number_satisfies_a_solicited_arm(ends):
    target = ends.far.memory("target", 8)
    ends.near.memory("source", 8)
    ends.far.receive()
    ends.far.receive()
    ends.far.arm("receive", nd.Notify.SOLICITED)

    ends.near.write_with_immediate(target, 1, "source")
    ends.near.completion()
    ends.far.received()
    assert not ends.far.is_notified("receive")

    ends.near.write_with_immediate(target, 2, "source", flags=nd.Flag.SEND_AND_SOLICIT_EVENT)
    assert ends.far.received().immediate == 2
    assert ends.far.is_notified("receive", LIMIT)


def test_inline_data_may_be_reused_when_the_call_returns(pair):
    target = pair.far.memory("target", 8)
    pair.far.receive()
    data = bytearray(b"inlined!")

    pair.near.qp.write_with_immediate(data, target, 1, flags=nd.Flag.INLINE)
    data[:] = bytes(8)

    assert pair.far.received().bytes_transferred == 8
    assert pair.far.content("target") == b"inlined!"


def test_a_silent_success_has_no_completion(ends):
    target = ends.far.memory("target", 8)
    ends.near.memory("source", 8)
    ends.far.receive()

    ends.near.write_with_immediate(target, 1, "source", context=1, flags=nd.Flag.SILENT_SUCCESS)
    ends.near.read((0, 0), context=2)

    assert ends.near.completion().request_context == 2
    assert ends.far.received().immediate == 1


@pytest.mark.parametrize("flag", [nd.Flag.RDMA_READ_LOCAL_INVALIDATE, nd.Flag.ALLOW_REMOTE_READ])
def test_flags_of_other_requests_are_refused(pair, flag):
    target = pair.far.memory("target", 8)
    pair.near.memory("source", 8)

    status = status_of(pair.near.write_with_immediate, target, 1, "source", flags=flag)

    assert status == nd.Status.INVALID_PARAMETER


def test_a_missing_receive_delays_the_number_until_it_is_posted(ends):
    target = ends.far.memory("target", 8)
    ends.near.memory("source", 8)

    ends.near.write_with_immediate(target, 1, "source")
    ends.far.receive()

    assert ends.far.received().immediate == 1
    assert ends.near.completion().status == nd.Status.SUCCESS


def test_a_write_beyond_the_region_gives_no_number(ends):
    target = ends.far.memory("target", 8)
    ends.near.memory("source", 9)
    ends.far.receive()

    ends.near.write_with_immediate((target.address, target.token), 1, "source")

    received = ends.far.received()
    # RoCE devices blame the receive that the number would have taken.
    assert received.status in (nd.Status.CANCELLED, nd.Status.REMOTE_RESOURCES)
    assert received.immediate is None
    assert ends.far.content("target") == bytes(8)


def test_a_shared_receive_queue_takes_numbers(connect_pair):
    pair = connect_pair(is_connected=False)
    far = pair.far
    with far.pd.create_srq(8, max_sge=1) as srq:
        far.qp = far.pd.create_qp_with_srq(far.receive_cq, far.initiator_cq, srq)
        srq.receive(context=3)
        pair.connect()
        target = far.memory("target", 8)
        pair.near.memory("source", 8)

        pair.near.write_with_immediate(target, 9, "source")

        received = far.received()
        assert (received.request_context, received.immediate) == (3, 9)


def test_rows_of_results_have_the_number(pair):
    target = pair.far.memory("target", 8)
    pair.near.memory("source", 8)
    pair.far.receive(context=1)
    pair.far.receive(context=2)
    pair.near.write_with_immediate(target, 2**32 - 1, "source")
    pair.near.send()
    rows = np.zeros(4, nd.result_dtype)
    taken = 0
    while taken < 2:
        pair.far.receive_cq.wait(30)
        taken += pair.far.receive_cq.poll_into(rows[taken:])

    assert rows["request_context"][:2].tolist() == [1, 2]
    assert rows["immediate"][:2].tolist() == [2**32 - 1, 0]
    assert (rows["flags"][:2] & 2).tolist() == [2, 0]
    assert rows["bytes_transferred"][:2].tolist() == [8, 0]
