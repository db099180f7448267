# SPDX-License-Identifier: Apache-2.0
"""Sockets at the end of a direction or of the connection: what is said, lost and counted."""

import socket
import struct
import time

import pytest

from stream.sockets import LIMIT


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def until(is_so):
    give_up_at = time.monotonic() + LIMIT
    while not is_so():
        assert time.monotonic() < give_up_at


def test_what_came_before_a_reset_is_received_and_then_the_reset(ends):
    near, far = ends
    near.sendall(b"part")
    until(lambda: far._stream.readable == 4)
    reset(near)
    assert far.recv(100, socket.MSG_WAITALL) == b"part"
    with pytest.raises(ConnectionResetError):
        far.recv(100, socket.MSG_WAITALL)


def test_what_came_in_time_is_received_when_the_time_is_over(ends):
    near, far = ends
    near.sendall(b"part")
    far.settimeout(0.05)
    assert far.recv(100, socket.MSG_WAITALL) == b"part"
    with pytest.raises(TimeoutError):
        far.recv(100, socket.MSG_WAITALL)
