# SPDX-License-Identifier: Apache-2.0
"""Writes, reads and atomics of a Connection, of registered memory and any other."""

import ctypes
import gc

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT

READ, WRITE, ATOMIC = nd.Access.REMOTE_READ, nd.Access.REMOTE_WRITE, nd.Access.REMOTE_ATOMIC


@pytest.fixture
def window(ends):
    """Give a connection, and an array of the peer's with its remote buffer."""
    near, far = ends
    array = np.zeros(1 << 20, np.uint8)
    with far.register(array, READ | WRITE) as region:
        yield near, far, array, region.remote()


def test_a_notified_write_is_there_when_the_message_is(window):
    near, far, array, remote = window
    assert (
        near.write(np.full(1 << 20, 3, np.uint8), remote, notify=b"done").result(LIMIT) == 1 << 20
    )
    assert far.receive(LIMIT) == b"done"
    assert (array == 3).all()


def test_a_read_gives_the_array_that_it_filled(window):
    near, _, array, remote = window
    array[:] = np.arange(1 << 20) % 251
    target = np.zeros(1 << 20, np.uint8)
    assert near.read(target, remote).result(LIMIT) is target
    np.testing.assert_array_equal(target, array)


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, "u1")])
def test_unregistered_memory_of_any_kind_is_registered_for_it(window, make):
    near, far, array, remote = window
    near.write(make(b"hello"), remote[:5], notify=b"").result(LIMIT)
    far.receive(LIMIT)
    assert bytes(array[:5]) == b"hello"


def test_an_array_in_fortran_order_is_written_as_its_bytes_lie(window):
    near, far, array, remote = window
    source = np.asfortranarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    near.write(source, remote[:12], notify=b"").result(LIMIT)
    far.receive(LIMIT)
    np.testing.assert_array_equal(array[:12], source.ravel(order="F"))


class _Interface:
    def __init__(self, array):
        self.array = array
        self.__array_interface__ = array.__array_interface__


class _Capsule:
    def __init__(self, array, device):
        self.array = array
        self.device = device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device


def test_arrays_of_other_libraries_are_taken(window):
    near, far, array, remote = window
    for wrapped in (_Interface, lambda a: _Capsule(a, (1, 0))):
        array[:] = 0
        near.write(wrapped(np.full(64, 5, np.uint8)), remote[:64], notify=b"").result(LIMIT)
        far.receive(LIMIT)
        assert (array[:64] == 5).all()


def test_device_memory_is_refused_in_one_sentence(window):
    near, _, array, remote = window
    with pytest.raises(BufferError, match=r"device memory .*; copy it to the host first"):
        near.write(_Capsule(array, (2, 0)), remote)


def test_registrations_are_kept_and_end_with_their_array(window):
    near, _, _, remote = window
    source = np.ones(5000, np.uint8)
    for _ in range(3):
        near.write(source, remote[:5000]).result(LIMIT)
    first = near.stats()["registrations"]
    assert (first["registered"], first["kept"], first["kept_bytes"]) == (1, 1, 5000)
    del source
    gc.collect()
    then = near.stats()["registrations"]
    assert (then["kept"], then["kept_bytes"], then["ended_with_array"]) == (0, 0, 1)


def test_the_kept_registrations_are_bounded(window):
    near, _, _, remote = window
    arrays = [np.full(16, i % 256, np.uint8) for i in range(400)]
    for array in arrays:
        near.write(array, remote[:16]).result(LIMIT)
    found = near.stats()["registrations"]
    assert found["kept"] <= 256
    assert found["evicted"] >= 144


def test_a_request_keeps_its_array_until_it_has_ended(window):
    near, far, array, remote = window
    requests = [near.write(np.full(65536, 8, np.uint8), remote[:65536]) for _ in range(50)]
    gc.collect()
    for request in requests:
        request.result(LIMIT)
    near.send(b"")
    far.receive(LIMIT)
    assert (array[:65536] == 8).all()


def test_more_requests_than_a_queue_holds_wait_their_turn(window, scaled):
    near, far, array, remote = window
    source = np.arange(256, dtype=np.uint8)
    with near.register(source, nd.Access.LOCAL_READ):
        count = scaled(2000)
        requests = [
            near.write(source[i % 256 : i % 256 + 1], remote[i : i + 1]) for i in range(count)
        ]
        requests.append(near.write(source[:1], remote[:1], notify=b"last"))
        assert far.receive(LIMIT) == b"last"
        for request in requests:
            request.result(LIMIT)
    np.testing.assert_array_equal(array[1:count], np.arange(1, count) % 256)


def test_progress_is_reported_up_to_the_last_byte(window):
    near, far, _, _ = window
    seen = []
    with far.register(np.zeros(40 << 20, np.uint8), WRITE) as region:
        source = np.zeros(40 << 20, np.uint8)
        assert near.write(source, region.remote(), progress=seen.append).result(LIMIT) == 40 << 20
    step = min(16 << 20, near.adapter.info.max_transfer_length)
    assert seen == [*range(step, 40 << 20, step), 40 << 20]


def test_progress_prints_a_line(window, capsys):
    near, _, array, remote = window
    near.write(array, remote, progress=True).result(LIMIT)
    assert capsys.readouterr().out == "\rwrite: 1 of 1 MiB\n"


def test_pieces_of_an_array_go_where_they_are_told(window):
    near, far, array, remote = window
    rng = np.random.default_rng(1)
    source = rng.integers(0, 256, 1 << 20, np.uint8)
    lengths = rng.integers(0, 300, 3000)
    places = np.arange(3000) * 300
    spans = np.stack([rng.permutation(places), places, lengths], 1)
    total = near.write_many(source, remote, spans).result(LIMIT)
    near.send(b"")
    far.receive(LIMIT)
    assert total == lengths.sum()
    wanted = np.zeros_like(array)
    for begin, to, length in spans:
        wanted[to : to + length] = source[begin : begin + length]
    np.testing.assert_array_equal(array, wanted)
    back = np.zeros_like(array)
    assert near.read_many(back, remote, spans[:, [1, 0, 2]]).result(LIMIT) == total
    assert near.write_many(source, remote, np.empty((0, 3), int)).result(LIMIT) == 0


@pytest.mark.parametrize(
    ("spans", "words"),
    [
        ([[0, 0]], r"shape \(1, 2\)"),
        ([[0.0, 0, 1]], "float64"),
        ([[-1, 0, 1]], "negative"),
        ([[0, 0, 1], [(1 << 20) - 1, 0, 2]], "span 1 is 2 bytes at 1048575 of the local array"),
        ([[0, (1 << 20) + 1, 0]], "of the remote array, which has 1048576"),
        (np.array([[0, 0, 2**64 - 1]], np.uint64), "span 0 is 18446744073709551615 bytes"),
        (np.array([[2**64 - 1, 0, 2]], np.uint64), "span 0"),
    ],
)
def test_spans_that_lie_outside_are_refused_and_nothing_moves(window, spans, words):
    near, far, array, remote = window
    with pytest.raises(ValueError, match=words):
        near.write_many(np.ones(1 << 20, np.uint8), remote, spans)
    near.send(b"")
    far.receive(LIMIT)
    assert not array.any()


@pytest.mark.parametrize("kind", [np.uint64, np.int64])
def test_atomics_bring_what_the_word_was(ends, kind):
    near, far = ends
    if "atomics" not in near.adapter.info.extensions:
        pytest.skip("the adapter has no atomics")
    words = np.array([5, 7], kind)
    with far.register(words, ATOMIC) as region:
        remote = region.remote()
        assert near.fetch_add(remote[0], -6).result(LIMIT) == 5
        second = near.fetch_add(remote[0], 0).result(LIMIT)
        assert second == (-1 if kind is np.int64 else 2**64 - 1)
        assert near.compare_swap(remote[1], 7, 9).result(LIMIT) == 7
        assert near.compare_swap(remote[1], 7, 11).result(LIMIT) == 9
    assert words[1] == 9


def test_what_cannot_be_posted_raises_and_leaves_the_connection(window):
    near, far, array, remote = window
    with pytest.raises(ValueError, match=r"5 .*bytes"):
        near.write(b"12345", remote[:4])
    with pytest.raises(TypeError):
        near.write(b"1", None)
    with pytest.raises(BufferError, match="read-only"):
        near.read(b"12345", remote)
    with far.register(array, READ) as other, pytest.raises(PermissionError):
        near.write(b"1", other.remote())
    near.write(b"fine", remote, notify=b"").result(LIMIT)
    far.receive(LIMIT)
    assert bytes(array[:4]) == b"fine"


def test_a_request_of_a_dead_token_fails_and_ends_the_connection(ends):
    near, far = ends
    region = far.register(np.zeros(64, np.uint8), WRITE | READ)
    remote = region.remote()
    region.deregister()
    with pytest.raises(nd.RdmaError):
        near.read(bytearray(64), remote).result(LIMIT)
    with pytest.raises(ConnectionError):
        near.receive(LIMIT)


def test_ctypes_arrays_can_be_written_to(window):
    near, _, array, remote = window
    array[:8] = range(8)
    target = (ctypes.c_uint8 * 8)()
    near.read(target, remote[:8]).result(LIMIT)
    assert bytes(target) == bytes(range(8))


@pytest.mark.parametrize("count", [128, 200])
def test_messages_wait_for_room_behind_requests_that_fill_the_queue(window, count):
    near, far, _, remote = window
    source = np.full(65536, 3, np.uint8)
    requests = [near.write(source, remote[:65536]) for _ in range(count)]
    near.send(b"short")
    near.send([b"of parts"])
    near.send(source)
    for i in range(20):  # credits that are owed have to go out, too
        far.send(bytes([i]) * 1000)
    assert far.receive(LIMIT) == b"short"
    assert far.receive(LIMIT) == [b"of parts"]
    np.testing.assert_array_equal(far.receive(LIMIT), source)
    assert [near.receive(LIMIT)[0] for _ in range(20)] == list(range(20))
    for request in requests:
        request.result(LIMIT)


def test_a_wrong_argument_behind_a_full_queue_fails_alone(window):
    near, far, _, remote = window
    source = np.zeros(65536, np.uint8)
    requests = [near.write(source, remote[:65536]) for _ in range(200)]
    with pytest.raises(TypeError):
        near.write(b"1", None).result(LIMIT)
    near.send(b"fine")
    assert far.receive(LIMIT) == b"fine"
    for request in requests:
        request.result(LIMIT)


@pytest.fixture
def full(ends):
    """Keep what is posted behind a request for which there is no room, until it is called."""
    link = ends[0]._link
    has_room = []
    with link.hub.lock:
        link.do(lambda: bool(has_room))

    def make_room():
        has_room.append(True)
        with link.hub.lock:
            link.pump()
        link.hub.tell()

    return make_room


def test_messages_behind_a_full_queue_are_unsent(ends, full):
    near, far = ends
    near.send(bytes(1000))
    assert near.unsent_bytes >= 1000
    full()
    assert far.receive(LIMIT) == bytes(1000)
    assert near.unsent_bytes == 0


def test_rows_that_cannot_be_posted_later_fail_with_the_connection(window, full):
    near, _, array, remote = window
    request = near.write_many(array.copy(), remote, [(i, i, 1) for i in range(100)])
    near.qp.flush()
    full()
    with pytest.raises(ConnectionError):
        request.result(LIMIT)
    with pytest.raises(ConnectionError):
        near.receive(LIMIT)
