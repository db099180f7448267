# SPDX-License-Identifier: Apache-2.0
"""WSK sockets: requests for sends and receives, and how a connection ends."""

import asyncio
import queue

import pytest

import ndverbs as nd
from ndverbs import wsk
from stream.sockets import LIMIT
from stream.wsk_ends import receive


def test_a_send_completes_with_its_length(ends):
    request = ends.near.send(b"hello")
    assert request.result(LIMIT) == 5
    assert request.status == nd.Status.SUCCESS
    assert receive(ends.far) == b"hello"


def test_a_request_can_be_awaited(ends):
    async def exchange():
        buffer = bytearray(10)
        received = ends.far.receive(buffer)
        await ends.near.send(b"async")
        return bytes(buffer[: await received])

    assert asyncio.run(exchange()) == b"async"


def test_a_request_calls_back_once_it_is_done(ends):
    done = queue.Queue()
    ends.far.receive(bytearray(10)).add_done_callback(done.put)

    ends.near.send(b"x").result(LIMIT)

    assert done.get(timeout=LIMIT).information == 1


def test_receives_are_filled_in_order(ends):
    buffers = [bytearray(2), bytearray(2), bytearray(10)]
    requests = [ends.far.receive(buffer) for buffer in buffers]

    ends.near.send(b"abcdef").result(LIMIT)

    assert [request.result(LIMIT) for request in requests] == [2, 2, 2]
    assert (buffers[0], buffers[1], buffers[2][:2]) == (b"ab", b"cd", b"ef")


def test_waitall_completes_when_the_buffer_is_full(ends):
    buffer = bytearray(6)
    request = ends.far.receive(buffer, wsk.Flag.WAITALL)

    ends.near.send(b"abc").result(LIMIT)
    assert not request.done()

    ends.near.send(b"def").result(LIMIT)
    assert request.result(LIMIT) == 6
    assert buffer == b"abcdef"


def test_waitall_completes_short_at_a_graceful_end(ends):
    request = ends.far.receive(bytearray(6), wsk.Flag.WAITALL)
    ends.near.disconnect(b"abc").result(LIMIT)
    assert request.result(LIMIT) == 3


def test_drain_discards_until_the_end(ends):
    request = ends.far.receive(flags=wsk.Flag.DRAIN)

    ends.near.send(bytes(500_000)).result(LIMIT)
    assert not request.done()

    ends.near.disconnect().result(LIMIT)
    assert request.result(LIMIT) == 0


def test_drain_takes_neither_a_buffer_nor_waitall(ends):
    for buffer, flags in ((bytearray(1), 4), (None, 6)):
        with pytest.raises(ValueError, match="DRAIN"):
            ends.far.receive(buffer, flags)


def test_a_receive_of_no_bytes_completes_at_once(ends):
    assert ends.far.receive(bytearray()).result(0) == 0


def test_all_receives_complete_with_nothing_at_a_graceful_end(ends):
    requests = [ends.far.receive(bytearray(4)) for _ in range(3)]
    ends.near.disconnect().result(LIMIT)
    assert [request.result(LIMIT) for request in requests] == [0, 0, 0]


def test_a_graceful_end_carries_final_data_and_the_other_direction_goes_on(ends):
    ends.near.disconnect(b"last words").result(LIMIT)
    assert receive(ends.far) == b"last words"
    assert receive(ends.far) == b""

    ends.far.send(b"answer").result(LIMIT)
    assert receive(ends.near) == b"answer"


def test_sending_after_a_graceful_end_is_refused(ends):
    ends.near.disconnect().result(LIMIT)
    with pytest.raises(nd.RdmaError) as caught:
        ends.near.send(b"x")
    assert caught.value.status == nd.Status.INVALID_DEVICE_STATE


def test_an_abortive_end_cancels_sends_and_resets_the_peer(ends):
    waiting = ends.near.send(bytes(50_000_000))
    receiving = ends.far.receive(bytearray(60_000_000), wsk.Flag.WAITALL)
    ends.near.disconnect(abortive=True).result(LIMIT)

    with pytest.raises(nd.RdmaError) as caught:
        waiting.result(LIMIT)
    assert caught.value.status == nd.Status.CANCELLED

    receiving.wait(LIMIT)


def test_an_abortive_end_takes_no_data(ends):
    with pytest.raises(ValueError, match="no final data"):
        ends.near.disconnect(b"x", abortive=True)


def test_an_abortive_end_rescues_a_graceful_one_that_hangs(ends):
    ends.near.send(bytes(50_000_000))  # the peer reads nothing

    hanging = ends.near.disconnect()
    assert not hanging.done()

    ends.near.disconnect(abortive=True)
    with pytest.raises(nd.RdmaError):
        hanging.result(LIMIT)


def test_a_receive_fails_with_reset_when_the_peer_aborts(ends):
    request = ends.far.receive(bytearray(4))
    ends.near.disconnect(abortive=True)
    with pytest.raises(ConnectionResetError):
        request.result(LIMIT)


def test_closing_cancels_pending_requests(ends):
    request = ends.near.receive(bytearray(4))

    ends.near.close()

    with pytest.raises(nd.RdmaError) as caught:
        request.result(LIMIT)
    assert caught.value.status == nd.Status.CANCELLED


def test_a_receive_can_be_cancelled(ends):
    request = ends.near.receive(bytearray(4))

    request.cancel()
    with pytest.raises(nd.RdmaError) as caught:
        request.result(LIMIT)
    assert caught.value.status == nd.Status.CANCELLED

    ends.far.send(b"next").result(LIMIT)
    assert receive(ends.near) == b"next"


def test_a_flag_that_is_not_known_is_not_supported(ends):
    for call in (lambda: ends.near.send(b"x", 64), lambda: ends.near.receive(bytearray(1), 64)):
        with pytest.raises(nd.RdmaError) as caught:
            call()
        assert caught.value.status == nd.Status.NOT_SUPPORTED


def test_the_reserved_calls_say_so(ends):
    for call in (ends.near.send_ex, ends.near.receive_ex):
        with pytest.raises(nd.RdmaError, match="reserved"):
            call()


def test_calls_on_a_closed_socket_say_forced_closed(ends):
    ends.near.close()
    for call in (
        lambda: ends.near.send(b"x"),
        lambda: ends.near.receive(bytearray(1)),
        lambda: ends.near.local_address,
        ends.near.disconnect,
    ):
        with pytest.raises(nd.ClosedError):
            call()
