# SPDX-License-Identifier: Apache-2.0
"""Sockets at the end of a direction or of the connection: what is said, lost and counted."""

import socket
import struct
import time

import pytest

import ndverbs as nd
from stream.sockets import LIMIT, Background, connected, read_exactly, read_to_end, until


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_what_came_before_a_reset_is_received_and_then_the_reset(ends):
    near, far = ends
    near.sendall(b"part")
    until(lambda: far._stream.readable == 4)

    reset(near)

    assert far.recv(100, socket.MSG_WAITALL) == b"part"
    with pytest.raises(ConnectionResetError):
        far.recv(100, socket.MSG_WAITALL)


def test_what_came_before_a_reset_is_received_into_several_buffers(ends):
    near, far = ends
    near.sendall(b"abc")
    until(lambda: far._stream.readable == 3)
    reset(near)
    until(lambda: far._stream.phase == "over")
    first, second = bytearray(3), bytearray(3)

    assert far.recvmsg_into([first, second])[0] == 3
    assert first == b"abc"
    with pytest.raises(ConnectionResetError):
        far.recvmsg_into([first, second])


def test_what_a_message_has_sent_when_the_time_is_over_is_counted(ends):
    near, far = ends
    near.settimeout(0.05)
    sent = near.sendmsg([bytes(200_000), bytes(8 << 20)])

    near.shutdown(socket.SHUT_WR)

    assert len(read_to_end(far)) == sent


def test_a_large_send_within_a_limit_returns_what_there_was_room_for(ends):
    near, far = ends
    near.settimeout(0.05)

    sent = near.send(bytes(8 << 20))
    assert 0 < sent < 8 << 20

    near.shutdown(socket.SHUT_WR)
    assert len(read_to_end(far)) == sent


def test_what_came_in_time_is_received_when_the_time_is_over(ends):
    near, far = ends
    near.sendall(b"part")
    far._stream.wait_readable(LIMIT)

    far.settimeout(0.05)

    assert far.recv(100, socket.MSG_WAITALL) == b"part"
    with pytest.raises(TimeoutError):
        far.recv(100, socket.MSG_WAITALL)


def test_a_peer_goes_on_sending_after_shutdown_of_reading(small_ends):
    near, far = small_ends
    far.sendall(b"before")

    near.shutdown(socket.SHUT_RD)
    assert near.recv(10) == b""

    sending = Background(far.sendall, bytes(1 << 20))
    sending.result()
    near.sendall(b"the other direction goes on")
    assert read_exactly(far, 27) == b"the other direction goes on"


def test_a_reading_thread_and_shutdown_of_reading_get_along(ends):
    near, far = ends
    sending = Background(far.sendall, bytes(1 << 23))
    reading = Background(lambda: sum(len(data) for data in iter(lambda: near.recv(1 << 20), b"")))
    until(lambda: near._stream.memory_use > 0)

    near.shutdown(socket.SHUT_RD)

    assert reading.result() <= 1 << 23

    sending.result()


def test_the_send_backlog_returns_to_nothing(ends):
    near, far = ends
    for size in (1, 1000, 300_000):
        near.sendall(bytes(size))
        read_exactly(far, size)
        until(lambda: near._stream.send_backlog == 0)


def test_the_send_backlog_of_a_broken_stream_is_nothing(small_ends):
    near, far = small_ends
    near.setblocking(False)
    while near._stream.send_backlog == 0:
        near.send(bytes(4096))
    reset(far)

    until(lambda: near._stream.phase == "over")

    assert near._stream.send_backlog == 0


def test_the_end_is_the_last_event_that_is_told(server, adapter):
    released = 64
    for _ in range(20):
        with nd.create_connection(server.getsockname(), LIMIT, adapter=adapter) as near:
            told = []
            near._stream.set_event_callback(told.append)
            far, _ = server.accept()
            far.sendall(bytes(1000))
            near.sendall(bytes(1000))
            far.close()
            until(lambda told=told: told and told[-1] & released)
            near._stream.set_event_callback(None)
            assert not any(bits & released for bits in told[:-1])


def test_keepalives_come_as_often_as_asked_for_however_often_that_is():
    interval = 0.02
    with nd.Adapter.open("soft") as adapter, connected(adapter, "127.0.0.1") as (near, _):
        for other in range(100):
            near._stream.set_keepalive(100 + other)
            near._stream.set_keepalive(interval)
        begin, before = time.monotonic(), adapter.stats()["rdma_out_frames"]
        until(lambda: adapter.stats()["rdma_out_frames"] >= before + 5)
        count = adapter.stats()["rdma_out_frames"] - before

        # A slow machine has fewer; one that the setting adds to the others has many at a time.
        assert count <= (time.monotonic() - begin) / interval + 1
