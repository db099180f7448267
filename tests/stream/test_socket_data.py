# SPDX-License-Identifier: Apache-2.0
"""Data that goes in at one end of a stream comes out at the other, and how calls share it."""

import random
import select
import socket

import numpy as np
import pytest

from stream.sockets import Background, connected, fill, read_exactly, read_to_end, until


def test_bytes_arrive(ends):
    near, far = ends

    near.sendall(b"hello")
    assert far.recv(100) == b"hello"

    far.sendall(b"and back")
    assert near.recv(100) == b"and back"


def test_a_receive_takes_what_is_there_and_leaves_the_rest(ends):
    near, far = ends

    near.sendall(b"abcdef")

    assert far.recv(2) == b"ab"
    assert far.recv(100) == b"cdef"


def test_sends_have_no_boundaries(ends):
    near, far = ends
    for piece in (b"one", b"two", b"three"):
        near.sendall(piece)
    assert read_exactly(far, 11) == b"onetwothree"


@pytest.mark.parametrize("size", [1, 63, 64, 65, 4096, 65536, 131072, 131073, 3_000_000])
def test_every_size_arrives_whole(ends, size):
    near, far = ends
    data = random.Random(size).randbytes(size)

    sending = Background(near.sendall, data)

    assert read_exactly(far, size) == data

    sending.result()


def test_an_empty_send_sends_nothing(ends):
    near, far = ends
    assert near.send(b"") == 0

    near.sendall(b"")
    near.sendall(b"x")
    assert far.recv(10) == b"x"


def test_a_receive_of_no_bytes_returns_at_once(ends):
    assert ends[0].recv(0) == b""


def test_recv_into_fills_part_of_a_buffer(ends):
    near, far = ends
    near.sendall(b"abcdef")

    buffer = bytearray(b".........")

    assert far.recv_into(memoryview(buffer)[2:], 3) == 3
    assert far.recv_into(buffer) == 3
    assert buffer == b"defbc...."


def test_recv_into_takes_arrays(ends):
    near, far = ends
    near.sendall(np.arange(1000, dtype=np.int32))

    array = np.zeros(1000, np.int32)

    assert far.recv_into(array, 0, socket.MSG_WAITALL) == 4000
    assert np.array_equal(array, np.arange(1000))


@pytest.mark.parametrize("buffer", [b"read only", np.zeros((4, 4))[:, ::2]])
def test_recv_into_refuses_what_it_cannot_fill(ends, buffer):
    with pytest.raises(BufferError):
        ends[0].recv_into(buffer)


def test_recv_into_refuses_more_than_the_buffer_holds(ends):
    with pytest.raises(ValueError, match="buffer too small"):
        ends[0].recv_into(bytearray(4), 5)


def test_a_negative_size_is_refused(ends):
    with pytest.raises(ValueError, match="negative"):
        ends[0].recv(-1)


def test_peeked_data_stays(ends):
    near, far = ends

    near.sendall(b"abc")

    assert far.recv(2, socket.MSG_PEEK) == b"ab"
    assert far.recv(10) == b"abc"


def test_waitall_waits_for_all_of_it(ends):
    near, far = ends
    near.sendall(b"abc")
    receiving = Background(far.recv, 6, socket.MSG_WAITALL)

    near.sendall(b"def")

    assert receiving.result() == b"abcdef"


def test_waitall_ends_short_at_the_end_of_the_stream(ends):
    near, far = ends
    near.sendall(b"abc")

    near.shutdown(socket.SHUT_WR)

    assert far.recv(6, socket.MSG_WAITALL) == b"abc"


def test_dontwait_does_not_wait(ends):
    with pytest.raises(BlockingIOError):
        ends[0].recv(1, socket.MSG_DONTWAIT)


def test_a_flag_that_streams_lack_is_refused(ends):
    with pytest.raises(OSError, match="flags"):
        ends[0].send(b"x", socket.MSG_OOB)


def test_sendmsg_sends_buffers_one_behind_the_other(ends):
    near, far = ends
    large = [bytes([number]) * 50_000 for number in range(3)]

    assert near.sendmsg(large) == 150_000
    assert read_exactly(far, 150_000) == b"".join(large)


def test_small_buffers_of_sendmsg_arrive_at_once(ends):
    near, far = ends
    for _ in range(200):
        assert near.sendmsg([b"ab", bytearray(b"cd"), memoryview(b"ef")]) == 6
        assert far.recv(100) == b"abcdef"


def test_recvmsg_into_spreads_over_buffers(ends):
    near, far = ends
    near.sendall(b"abcdef")
    far.recv(1, socket.MSG_PEEK)
    first, second = bytearray(2), bytearray(10)

    assert far.recvmsg_into([first, second])[0] == 6
    assert (first, second[:4]) == (b"ab", b"cdef")


def can_resize(sock, array):
    """Whether nothing holds the memory any more; a thread of a device may let go a moment later."""
    sock.getsockname()  # calls give back what other threads have let go
    try:
        array.resize(10, refcheck=False)
    except ValueError:
        return False
    return True


def test_the_array_of_a_large_send_may_change_afterwards(ends):
    near, far = ends
    array = np.full(1 << 20, 7, np.uint8)
    sending = Background(near.sendall, array)
    data = read_exactly(far, 1 << 20)
    sending.result()
    array[:] = 9

    until(lambda: can_resize(near, array))

    assert data == bytes([7]) * (1 << 20)


def test_random_chunks_both_ways_at_once(ends, scaled):
    total = scaled(1024) << 20
    seeds = (1, 2)
    sending = [
        Background(_send_random, end, seed, total) for end, seed in zip(ends, seeds, strict=True)
    ]
    receiving = [
        Background(_check_random, end, seed, total)
        for end, seed in zip(ends, reversed(seeds), strict=True)
    ]
    for work in (*sending, *receiving):
        work.result()


def _pattern(seed):
    return np.random.default_rng(seed).integers(0, 256, 1 << 20, np.uint8).tobytes()


def _send_random(sock, seed, total):
    draw, pattern = random.Random(seed), memoryview(_pattern(seed) * 2)
    done = 0
    while done < total:
        size = min(draw.choice([1, 100, 5000, 70_000, 1 << 20]), total - done)
        at = done % (1 << 20)
        sock.sendall(pattern[at : at + size])
        done += size


def _check_random(sock, seed, total):
    draw, pattern = random.Random(-seed), _pattern(seed) * 2
    buffer = bytearray(1 << 20)
    done = 0
    while done < total:
        got = sock.recv_into(buffer, draw.choice([1, 100, 5000, 70_000, 1 << 20]))
        assert got
        at = done % (1 << 20)
        assert buffer[:got] == pattern[at : at + got]
        done += got


def test_a_slow_reader_gets_everything(small_ends):
    near, far = small_ends
    data = random.Random(3).randbytes(200_000)

    sending = Background(lambda: (near.sendall(data), near.shutdown(socket.SHUT_WR)))

    assert read_to_end(far, 100) == data

    sending.result()


def test_a_reader_that_does_not_read_stops_the_sender(small_ends):
    near, far = small_ends
    near.setblocking(False)
    sent = fill(near)

    while select.select([], [near], [], 0.1)[1]:  # what is under way arrives, and there is room
        sent += fill(near)
    assert 16384 <= sent <= 16384 + 8192

    near.settimeout(30)
    near.shutdown(socket.SHUT_WR)
    assert len(read_to_end(far)) == sent


def test_small_messages_do_not_run_out_of_credits(adapter, host):
    with connected(adapter, host, RDMA_RQSIZE=16, RDMA_SQSIZE=16) as (near, far):
        sending = Background(lambda: [near.sendall(b"%06d" % i) for i in range(20_000)])
        assert read_exactly(far, 120_000) == b"".join(b"%06d" % i for i in range(20_000))
        sending.result()


def test_two_threads_use_one_socket_in_both_directions(ends):
    near, far = ends
    data = random.Random(4).randbytes(3_000_000)
    echo = Background(_echo, far)
    receiving = Background(read_exactly, near, len(data))

    near.sendall(data)

    assert receiving.result() == data

    near.shutdown(socket.SHUT_WR)
    echo.result()


def _echo(sock):
    while data := sock.recv(65536):
        sock.sendall(data)


def test_a_peer_that_does_nothing_still_takes_what_fits(ends):
    near, far = ends
    near.sendall(bytes(200_000))  # no thread calls anything at the other end
    near.settimeout(30)

    near.sendall(bytes(200_000))

    assert len(read_exactly(far, 400_000)) == 400_000
