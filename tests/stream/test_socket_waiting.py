# SPDX-License-Identifier: Apache-2.0
"""Threads that wait for one socket: one sees to the connection, the others sleep."""

import pathlib
import socket
import time

import pytest

import ndverbs as nd
from stream.sockets import LIMIT, Background, fill

# A thread on its way to a lock is found asleep now and then, one that waits is so every time.
LOOKS = 50
MUCH = bytes(100_000) + b"last"  # more than the buffers of small ends hold


def falls_asleep(call):
    """Wait until the call's thread sleeps in the kernel; false when it never does."""
    stat = pathlib.Path(f"/proc/self/task/{call.native_id}/stat")
    give_up_at = time.monotonic() + LIMIT
    while time.monotonic() < give_up_at:
        looks = (stat.read_text().rpartition(")")[2].split()[0] for _ in range(LOOKS))
        if all(state == "S" for state in looks):
            return True
    return False


@pytest.fixture
def silent():
    """Listen at a TCP port that answers no request."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def full_ends(small_ends):
    """Two ends; the first has filled all buffers on the way to the second."""
    near, far = small_ends
    near.setblocking(False)
    fill(near)
    near.settimeout(LIMIT)
    return near, far


def test_a_thread_that_connects_sleeps_until_the_peer_answers(silent):
    with nd.Adapter.open("soft") as adapter, nd.Socket(adapter=adapter) as near:
        near.settimeout(LIMIT)

        connecting = Background(near.connect, silent.getsockname())
        assert falls_asleep(connecting)

        silent.accept()[0].close()
        with pytest.raises(OSError, match="connect"):
            connecting.result()


def test_threads_that_wait_while_another_one_leads_sleep(full_ends):
    near, far = full_ends
    readers = [Background(near.recv, 1) for _ in range(3)]

    writer = Background(near.sendall, MUCH)
    assert all(falls_asleep(call) for call in [*readers, writer])

    far.sendall(b"abc")
    assert sorted(reader.result() for reader in readers) == [b"a", b"b", b"c"]

    while not far.recv(1 << 20).endswith(b"last"):
        pass
    writer.result()


def test_a_thread_that_follows_keeps_its_own_time(full_ends):
    near, far = full_ends

    reader = Background(near.recv, 1)
    assert falls_asleep(reader)

    near.settimeout(0.05)
    with pytest.raises(TimeoutError):
        near.sendall(MUCH)

    far.sendall(b"!")
    assert reader.result() == b"!"


def test_a_thread_that_follows_leads_when_the_leading_one_is_done(full_ends):
    near, far = full_ends

    reader = Background(near.recv, 1)
    assert falls_asleep(reader)

    writer = Background(near.sendall, MUCH)
    assert falls_asleep(writer)

    far.sendall(b"!")
    assert reader.result() == b"!"
    assert falls_asleep(writer)

    while not far.recv(1 << 20).endswith(b"last"):
        pass
    writer.result()


def test_large_sends_of_several_threads_end_while_another_one_leads(ends):
    near, far = ends

    reader = Background(near.recv, 1)
    assert falls_asleep(reader)

    data = bytes(1 << 20)
    writers = [Background(near.sendall, data) for _ in range(2)]
    left = 2 * len(data)
    while left:
        left -= len(far.recv(left))
    for writer in writers:
        writer.result()
    far.sendall(b"!")
    assert reader.result() == b"!"
