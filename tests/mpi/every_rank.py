# SPDX-License-Identifier: Apache-2.0
"""What every rank of a job runs for test_ranks.py: the cases that are named, one after the other.

    mpiexec -n RANKS python every_rank.py FILE CASE ...

Rank 0 writes a JSON object to FILE: for each case what each rank says went wrong, or null.
"""

import contextlib
import faulthandler
import itertools
import json
import os
import random
import sys
import tempfile
import threading
import traceback

import numpy as np
from mpi4py import MPI

import ndverbs as nd
import ndverbs.mpi

LIMIT = 60  # seconds; only means failure
COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
CASES = {}


def case(function):
    CASES[function.__name__.replace("_", " ")] = function
    return function


@contextlib.contextmanager
def raises(kind, text=""):
    failure = None
    try:
        yield
    except kind as raised:
        failure = raised
    assert failure is not None, f"no {kind.__name__}"
    assert text in str(failure), f"{text!r} is not in: {failure}"


def connected(**options):
    return ndverbs.mpi.connect_all(COMM, timeout=LIMIT, **options)


@case
def ranks_may_dial_in_any_order():
    for seed in range(5):
        order = list(range(SIZE))
        # All the same way round, all against each other, and at random.
        if seed == 1:
            order = [(RANK + step) % SIZE for step in order]
        elif seed == 2:
            order.reverse()
        elif seed > 2:
            random.Random(1000 * seed + RANK).shuffle(order)
        with connected() as peers, peers.window(np.zeros(1, np.int64)) as window:
            for rank in order:
                window[rank].fetch_add(0, 1)
            window.fence()
            assert window.array[0] == SIZE


@case
def every_rank_sends_to_every_rank():
    with connected() as peers:
        for rank in range(SIZE):
            peers[rank].send([RANK.to_bytes(), np.full(20_000, RANK)])
        for rank in reversed(range(SIZE)):
            first, array = peers.accepted(rank, LIMIT).receive(LIMIT)
            assert first[0] == rank
            assert (array == rank).all()
            peers.accepted(rank).send(b"an answer to %d" % rank)
        assert {peers[rank].receive(LIMIT) for rank in range(SIZE)} == {b"an answer to %d" % RANK}


@case
def the_dialled_rank_is_told_by_a_callback():
    told, everything = [], threading.Event()

    def on_connection(rank, connection):
        told.append((rank, connection))
        if len(told) == SIZE:
            everything.set()

    with connected(on_connection=on_connection) as peers:
        for rank in range(SIZE):
            peers[rank].send(b"from %d" % RANK)
        assert everything.wait(LIMIT)
        assert sorted(rank for rank, _ in told) == list(range(SIZE))
        for rank, connection in told:
            assert connection.receive(LIMIT) == b"from %d" % rank
            assert peers.accepted(rank) is connection


@case
def threads_that_dial_one_rank_share_a_connection():
    with connected() as peers:
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(peers[(RANK + 1) % SIZE]))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert len(set(map(id, found))) == 1


@case
def every_rank_gets_and_puts_parts_of_every_other():
    with connected() as peers:
        array = (
            peers.adapter.alloc_array((SIZE, 50), np.int32)
            if RANK % 2
            else np.empty((SIZE, 50), np.int32)
        )
        array[...] = RANK
        with peers.window(array) as window:
            for rank in range(SIZE):
                part = window[rank]
                assert (part.shape, part.dtype) == ((SIZE, 50), np.int32)
                part[RANK, 10:20] = 100 * rank + RANK
                np.testing.assert_array_equal(part[RANK, 10:20], np.full(10, 100 * rank + RANK))
            window.fence()
            for rank in range(SIZE):
                assert (array[rank, 10:20] == 100 * RANK + rank).all()
                assert (array[rank, :10] == RANK).all()
            whole = window[(RANK + 1) % SIZE].get()
            assert (whole[:, 20:] == (RANK + 1) % SIZE).all()
            window.fence()
            if RANK == 0:
                window[SIZE - 1].put(np.arange(SIZE * 50).reshape(SIZE, 50))
            window.fence()
            if RANK == SIZE - 1:
                assert (array == np.arange(SIZE * 50).reshape(SIZE, 50)).all()


@case
def a_mebibyte_goes_both_ways():
    with connected() as peers:
        for make in (np.zeros, peers.adapter.alloc_array):
            values = np.random.default_rng(RANK).random(1 << 17)
            with peers.window(make(1 << 17, np.float64)) as window:
                window[(RANK + 1) % SIZE].put(values)
                window.fence()
                before = np.random.default_rng((RANK - 1) % SIZE).random(1 << 17)
                np.testing.assert_array_equal(window.array, before)
                np.testing.assert_array_equal(window[(RANK + 1) % SIZE].get(), values)


@case
def every_rank_adds_to_one_word():
    with connected() as peers:
        for make in (np.zeros, peers.adapter.alloc_array):
            with peers.window(make(2, np.int64)) as window:
                seen = [window[0].fetch_add(0, 1) for _ in range(50)]
                assert seen == sorted(set(seen))
                every = sorted(itertools.chain.from_iterable(COMM.allgather(seen)))
                assert every == list(range(50 * SIZE))
                assert window[0].fetch_add(1, -1) <= 0
                window.fence()
                assert RANK or list(window.array) == [50 * SIZE, -SIZE]


@case
def a_fence_makes_the_writes_of_all_ranks_visible():
    with connected() as peers, peers.window(np.zeros(SIZE, np.uint64)) as window:
        for turn in range(1, 20):
            for rank in range(SIZE):
                window[rank].set_item(RANK, turn * (rank + 1))  # said to be there by no answer
            window.fence()
            assert (window.array == turn * (RANK + 1)).all()
            window.fence()  # all have looked


@case
def the_fence_of_one_part_is_of_this_rank_alone():
    with connected() as peers, peers.window(np.zeros(4, np.int64)) as window:
        if RANK == 0:
            window[1].set_item(2, 77)
            window[1].fence()  # rank 1 calls none
            COMM.send(None, 1)
        elif RANK == 1:
            COMM.recv(source=0)
            assert window.array[2] == 77


@case
def ranks_may_have_windows_of_different_shapes_and_dtypes():
    kinds = [np.int64, np.float32, "S5", [("a", "<u2"), ("b", "<f8")]]
    with connected() as peers:
        array = np.zeros((RANK + 1, 3), kinds[RANK % 4])
        with peers.window(array) as window:
            for rank in range(SIZE):
                part = window[rank]
                assert (part.shape, part.dtype) == ((rank + 1, 3), np.dtype(kinds[rank % 4]))
                assert part[-1].shape == (3,)
            with raises(ValueError, "takes integers of 8 bytes"):
                window[1].fetch_add(0, 1)
            with raises(IndexError):
                window[0].get_item(3)
            with raises(IndexError):
                window[SIZE]
            with raises(IndexError):
                peers[-1]


@case
def a_rank_may_have_an_empty_part():
    with connected() as peers, peers.window(np.zeros(5 * (RANK != 0))) as window:
        assert window[0].get().shape == (0,)
        window[0].put(np.zeros(0))
        assert window[1].get().shape == (5,)


@case
def a_window_that_is_not_writable_is_read_only():
    with connected() as peers, peers.window(np.full(3, RANK), writable=False) as window:
        assert window[0].get_item(0) == 0
        with raises(PermissionError, "without REMOTE_WRITE"):
            window[0][:] = 1
        with raises(PermissionError, "without REMOTE_ATOMIC"):
            window[0].fetch_add(0, 1)


@case
def all_ranks_fail_together_when_one_cannot_give_its_part():
    with connected() as peers:
        array = np.zeros((4, 4))
        if RANK == 1:
            with raises(BufferError, "is not contiguous"):
                peers.window(array[:, 1])
        else:
            with raises(nd.RdmaError, "rank 1 has failed: window: the ndarray is not contiguous"):
                peers.window(array)
        with peers.window(array) as window:  # and go on together
            window[1][0] = RANK


@case
def a_rank_that_cannot_listen_fails_on_all():
    with raises(nd.RdmaError, "" if RANK == 0 else "rank 0 has failed"):
        connected(host="192.0.2.77" if RANK == 0 else None)


@case
def several_windows_use_one_connection():
    with connected() as peers, peers.window(np.zeros(1, int)) as one:
        with peers.window(np.zeros(1, int)) as other:
            assert one[0].connection is other[0].connection is peers[0]
            one[0].fetch_add(0, 1)
            other[0].fetch_add(0, 2)
            other.fence()
        with raises(nd.ClosedError):
            other[0]
        assert one[0].fetch_add(0, 1) >= 1
        one.fence()
        assert RANK or one.array[0] == 2 * SIZE


@case
def a_rank_that_sleeps_is_read_and_written_and_dialled():
    with connected() as peers, peers.window(np.full(1000, RANK)) as window:
        pipe = COMM.bcast(tempfile.mktemp() if RANK == 0 else None)
        if RANK == 0:
            os.mkfifo(pipe)
        COMM.Barrier()
        if RANK == 1:
            with open(pipe, "rb") as told:  # sleeps until all others are done
                assert len(told.read()) == SIZE - 1
            assert window.array[1] == 1 + SIZE - 1
        else:
            part = window[1]
            assert (part[2:] == 1).all()
            part.fetch_add(1, 1)
            with open(pipe, "wb") as done:
                # The others write while this one has it open, so that its reader sees one end.
                done.write(b"x")
                done.flush()
                NOT_1.Barrier()
        COMM.Barrier()
        if RANK == 0:
            os.unlink(pipe)


@case
def what_was_closed_says_so():
    peers = connected()
    with raises(TimeoutError, f"has not dialled rank {RANK} within 0.01 s"):
        peers.accepted(0, timeout=0.01)
    COMM.Barrier()
    connection = peers[0]
    peers.accepted(RANK, LIMIT) if RANK == 0 else None
    assert f"rank {RANK} of {SIZE}: 1 dialled" in repr(peers)
    peers.close()
    peers.close()
    with raises(nd.ClosedError):
        peers[SIZE - 1]
    with raises(nd.ClosedError):
        peers.accepted(0)
    assert connection.closed


@case
def an_intercommunicator_is_refused():
    half = COMM.Split(RANK % 2)
    inter = half.Create_intercomm(0, COMM, 1 - RANK % 2)
    with raises(ValueError, "intracommunicator"):
        ndverbs.mpi.connect_all(inter)
    inter.Free()
    half.Free()


@case
def a_communicator_of_some_ranks_has_its_own_numbers():
    half = COMM.Split(RANK % 2)
    with (
        ndverbs.mpi.connect_all(half, timeout=LIMIT) as peers,
        peers.window(np.zeros(1, int)) as window,
    ):
        assert (peers.rank, len(peers)) == (half.rank, half.size)
        window[0].fetch_add(0, 1)
        window.fence()
        assert half.rank or window.array[0] == half.size
    half.Free()


NOT_1 = COMM.Split(RANK == 1)


def main():
    path, *names = sys.argv[1:]
    faulthandler.dump_traceback_later(4 * LIMIT, exit=True)
    said = {}
    for name in names or CASES:
        failure = None
        try:
            CASES[name]()
        except BaseException:
            failure = traceback.format_exc()
        if failure is not None:
            print(f"rank {RANK}, {name}: {failure}", file=sys.stderr, flush=True)
        said[name] = COMM.gather(failure)
    if RANK == 0:
        with open(path, "w") as file:
            json.dump(said, file)


if __name__ == "__main__":
    main()
