# SPDX-License-Identifier: Apache-2.0
"""Strangers under the names by which processes meet: wrong hellos, wrong offers, wrong answers.

They come from sockets of the test. What they say costs a connection its memory at most, never TCP,
and leaves no descriptor behind.
"""

import contextlib
import fcntl
import mmap
import os
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT
from hostile.victim import descriptors
from soft.stranger import (
    FILES,
    INTRODUCTION,
    SEALS,
    address_of,
    closed_afterwards,
    datagram_socket,
    genuine,
    greeted,
    hear_hello,
    memory_file,
    name_of,
    pair_for,
    renamed,
    taking,
)


@pytest.fixture
def adapter():
    before = descriptors()
    with nd.Adapter.open("soft") as opened:
        yield opened
    assert descriptors() == before


# ---- our end is passive -------------------------------------------------------------------------

# What a stranger makes of a good hello, and how many descriptors come with it.
HELLOS = {
    "nothing": (lambda _: b"", 0),
    "nothing, with a descriptor": (lambda _: b"", 1),
    "garbage": (lambda _: os.urandom(8) * 20, 1),
    "one byte less": (lambda hello: hello[:-1], 1),
    "one byte more": (lambda hello: hello + b"\0", 1),
    "a large one": (lambda hello: hello.ljust(50_000, b"\0"), 1),
    "another layout": (lambda hello: bytes([hello[0] ^ 1]) + hello[1:], 1),
    "a connection that is not its own": (lambda hello: hello[:8] + b"1" + hello[9:], 1),
    "no descriptor": (lambda hello: hello, 0),
    "two descriptors": (lambda hello: hello, 2),
    "six descriptors": (lambda hello: hello, 6),
    "many descriptors": (lambda hello: hello, 250),
}


@pytest.mark.parametrize(("change", "count"), HELLOS.values(), ids=HELLOS)
def test_a_wrong_hello_leaves_a_connection_with_tcp(adapter, change, count):
    hello, *_ = genuine(adapter)
    with adapter.create_listener() as listener:
        listener.listen(("127.0.0.1", 0))
        with greeted(adapter, listener) as (ours, peer), datagram_socket() as speaking:
            before = descriptors()
            # An end that has waited long enough hears no more.
            with socket.socket() as some, contextlib.suppress(ConnectionRefusedError):
                speaking.connect(address_of(name_of(peer.sock, of_peer=True)))
                for _ in range(3):
                    socket.send_fds(
                        speaking, [change(renamed(hello, peer))], [some.fileno()] * count
                    )
            peer.open_stream()
            ours.accepting.wait(LIMIT)

            assert ours.goes_on_by_tcp(peer)
            assert descriptors() <= before


# What a stranger does with a good offer.
def close_it(kept, _peer):
    kept.close()


def answer_garbage(kept, _peer):
    kept.send(bytes(INTRODUCTION))


def answer_with_files_that_are_none(kept, _peer):
    with open(os.devnull) as nothing:
        socket.send_fds(kept, [bytes(INTRODUCTION)], [nothing.fileno()] * 2)


def say_hello_again(kept, peer):
    hello = renamed(bytes(168), peer)
    with datagram_socket() as speaking, contextlib.suppress(ConnectionRefusedError):
        speaking.connect(address_of(name_of(peer.sock, of_peer=True)))
        socket.send_fds(speaking, [hello], [kept.fileno()])


@pytest.mark.parametrize(
    "do", [close_it, answer_garbage, answer_with_files_that_are_none, say_hello_again]
)
def test_an_offer_that_is_not_taken_up_leaves_a_connection_with_tcp(adapter, do):
    hello, *_ = genuine(adapter)
    with adapter.create_listener() as listener:
        listener.listen(("127.0.0.1", 0))
        with greeted(adapter, listener) as (ours, peer), taking(peer, hello) as (kept, _):
            do(kept, peer)
            peer.open_stream()
            ours.accepting.wait(LIMIT)
            assert ours.goes_on_by_tcp(peer)


@pytest.mark.parametrize("do", [close_it, answer_garbage, answer_with_files_that_are_none])
def test_an_offer_that_is_taken_up_without_an_answer_ends_the_connection(adapter, do):
    hello, *_ = genuine(adapter)
    with adapter.create_listener() as listener:
        listener.listen(("127.0.0.1", 0))
        with greeted(adapter, listener) as (ours, peer), taking(peer, hello) as (kept, files):
            do(kept, peer)
            with mmap.mmap(files[0], mmap.PAGESIZE) as segment:
                segment[:4] = struct.pack("I", 1)  # taken up
            peer.open_stream()

            with contextlib.suppress(nd.RdmaError):
                ours.accepting.wait(LIMIT)

            ours.ends()


def test_an_end_before_the_opening_waits_for_a_peer_that_stands_still_in_its_memory(adapter):
    hello, sizes, _ = genuine(adapter)
    with adapter.create_listener() as listener:
        listener.listen(("127.0.0.1", 0))
        with greeted(adapter, listener) as (ours, peer), taking(peer, hello) as (kept, files):
            answer = [memory_file(sizes["table"]), memory_file(sizes["arena"])]
            with closed_afterwards(answer):
                socket.send_fds(kept, [bytes(INTRODUCTION)], answer)
            with mmap.mmap(files[0], sizes["segment"]) as segment:
                hazard = 64 + (sizes["segment"] - 64) // 2
                segment[:4] = struct.pack("I", 1)  # taken up
                segment[hazard : hazard + 8] = struct.pack("Q", 1)

                ours.qp.flush()

                ours.qp.receive((), context=1)
                genuine(adapter)  # nothing else stands still
                assert ours.cq.poll() == []
                segment[hazard : hazard + 8] = bytes(8)
                ours.cq.wait(LIMIT)
                assert [one.request_context for one in ours.cq.poll()] == [1]


def hazard_of(table, size, token):
    """Return what a peer's hazard says of a token, by the line that has it."""
    lines = 64 << 20
    with mmap.mmap(table, size, prot=mmap.PROT_READ) as found:
        return (found.find(struct.pack("Q", 1 << 32 | token)) - (size - lines)) // 64 + 2


def test_memory_in_the_hand_of_a_peer_that_did_not_answer_is_not_given_back(adapter):
    hello, sizes, _ = genuine(adapter)
    with adapter.create_listener() as listener, ThreadPoolExecutor() as pool:
        listener.listen(("127.0.0.1", 0))
        with greeted(adapter, listener) as (ours, peer), taking(peer, hello) as (kept, files):
            region = ours.pd.register(np.zeros(8, np.uint8), nd.Access.REMOTE_WRITE)
            hazard = hazard_of(files[3], sizes["table"], region.remote_token)
            answer_garbage(kept, peer)
            with mmap.mmap(files[0], sizes["segment"]) as segment:
                at = 64 + (sizes["segment"] - 64) // 2
                segment[:4] = struct.pack("I", 1)  # taken up
                segment[at : at + 8] = struct.pack("Q", hazard)
                peer.open_stream()
                with contextlib.suppress(nd.RdmaError):
                    ours.accepting.wait(LIMIT)
                ours.ends()

                ending = pool.submit(region.deregister)

                genuine(adapter)
                assert not ending.done()
                segment[at : at + 8] = bytes(8)
                ending.result(LIMIT)


@contextlib.contextmanager
def left_behind(adapter, listener, known):
    """Have a peer stand still in the memory of an end of ours that is gone; give its letting go."""
    hello, sizes, _ = known
    with greeted(adapter, listener) as (ours, peer), taking(peer, hello) as (kept, files):
        answer_garbage(kept, peer)
        with mmap.mmap(files[0], sizes["segment"]) as segment:
            hazard = 64 + (sizes["segment"] - 64) // 2
            segment[:4] = struct.pack("I", 1)  # taken up
            segment[hazard : hazard + 8] = struct.pack("Q", 1)
            peer.open_stream()
            with contextlib.suppress(nd.RdmaError):
                ours.accepting.wait(LIMIT)
            ours.ends()
            ours.close()
            yield lambda: segment.__setitem__(slice(hazard, hazard + 8), bytes(8))


def segments():
    return Path("/proc/self/maps").read_text().count("memfd:ndverbs-segment")


def test_what_is_left_of_an_end_goes_when_its_peer_lets_go(adapter):
    known = genuine(adapter)
    with adapter.create_listener() as listener:
        listener.listen(("127.0.0.1", 0))
        with left_behind(adapter, listener, known) as let_go:
            assert segments() == 2  # with the test's own

            let_go()

            while segments() > 1:
                os.sched_yield()


def test_strangers_who_stand_still_in_memory_keep_a_few_pieces_of_it(adapter):
    known = genuine(adapter)
    with adapter.create_listener() as listener, contextlib.ExitStack() as stack:
        listener.listen(("127.0.0.1", 0))
        left = [stack.enter_context(left_behind(adapter, listener, known)) for _ in range(16)]

        with greeted(adapter, listener) as (ours, peer):
            with pair_for(peer, renamed(known[0], peer)) as kept:
                assert kept.recv(1) == b""  # no offer is made
            peer.open_stream()
            ours.accepting.wait(LIMIT)
            assert ours.goes_on_by_tcp(peer)

        # One goes, and there is a place.
        left[0]()
        while segments() > 31:
            os.sched_yield()
        with greeted(adapter, listener) as (ours, peer), taking(peer, known[0]) as (_, files):
            assert files


# ---- our end is active --------------------------------------------------------------------------


def files_for(sizes, **changes):
    """Make the files of an offer; `changes` give what some of them are instead."""
    made = []
    for name in FILES:
        if name in changes:
            made.append(changes[name](sizes[name]))
        elif name.startswith("bell"):
            made.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        else:
            made.append(memory_file(sizes[name]))
    return made


def offer(pair, data, files):
    """Answer a hello, unless the end of ours has waited long enough for it."""
    with contextlib.suppress(BrokenPipeError):
        socket.send_fds(pair, [data], files)


def unsealed(size):
    return memory_file(size, 0)


def half_sealed(size):
    return memory_file(size, fcntl.F_SEAL_SHRINK)


def smaller(size):
    return memory_file(size - mmap.PAGESIZE)


def larger(size):
    return memory_file(size + mmap.PAGESIZE)


def no_memory(_size):
    return os.open(os.devnull, os.O_RDWR)


def one_end_of_a_pipe(_size):
    ours, theirs = os.pipe()
    os.close(theirs)
    return ours


def not_to_be_written(size):
    """Of the right size and sealed, but not to be mapped for writing."""
    return memory_file(size, SEALS | fcntl.F_SEAL_WRITE)


def some_memory(_size):
    return memory_file(mmap.PAGESIZE)


def an_event_that_blocks(_size):
    return os.eventfd(0, os.EFD_CLOEXEC)


NO_MEMORY = no_memory, one_end_of_a_pipe, unsealed, half_sealed, smaller, larger
NO_BELL = no_memory, one_end_of_a_pipe, some_memory, an_event_that_blocks
BAD_FILES = {
    f"{name}, {how.__name__}": {name: how}
    for name in FILES
    for how in (NO_BELL if "bell" in name else NO_MEMORY)
} | {"segment, not_to_be_written": {"segment": not_to_be_written}}


@pytest.fixture
def meeting_one(adapter):
    """Give an end of ours that has said hello, the pair to answer by, and what an offer is."""
    _, sizes, data = genuine(adapter)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        before = descriptors()
        _, pair, ours, peer = hear_hello(adapter, listening)
        with pair, peer:
            yield ours, peer, pair, sizes, data
            ours.close()
    assert descriptors() <= before


@pytest.mark.parametrize("changes", BAD_FILES.values(), ids=BAD_FILES)
def test_an_offer_of_files_that_are_not_so_leaves_a_connection_with_tcp(meeting_one, changes):
    ours, peer, pair, sizes, data = meeting_one
    with closed_afterwards(files_for(sizes, **changes)) as files:
        offer(pair, data, files)

    ours.connecting.wait(LIMIT)
    ours.connector.complete_connect()

    assert ours.goes_on_by_tcp(peer)


# What is offered -> bytes of a good offer made other ones, and how many descriptors.
OFFERS = {
    "nothing": (lambda _: b"", 5),
    "one byte less": (lambda data: data[:-1], 5),
    "one byte more": (lambda data: data + b"\0", 5),
    "no descriptor": (lambda data: data, 0),
    "four descriptors": (lambda data: data, 4),
    "six descriptors": (lambda data: data, 6),
    "many descriptors": (lambda data: data, 200),
}


@pytest.mark.parametrize(("change", "count"), OFFERS.values(), ids=OFFERS)
def test_an_offer_of_another_shape_leaves_a_connection_with_tcp(meeting_one, change, count):
    ours, peer, pair, sizes, data = meeting_one
    with closed_afterwards(files_for(sizes)) as files:
        offer(pair, change(data), (files * count)[:count])

    ours.connecting.wait(LIMIT)
    ours.connector.complete_connect()

    assert ours.goes_on_by_tcp(peer)


@pytest.mark.parametrize("how", ["silence", "hang-up"])
def test_a_hello_without_an_offer_leaves_a_connection_with_tcp(meeting_one, how):
    ours, peer, pair, *_ = meeting_one
    if how == "hang-up":
        pair.close()

    ours.connecting.wait(LIMIT)
    ours.connector.complete_connect()

    assert ours.goes_on_by_tcp(peer)


def test_an_offer_that_was_taken_back_leaves_a_connection_with_tcp(meeting_one):
    ours, peer, pair, sizes, data = meeting_one
    with closed_afterwards(files_for(sizes)) as files:
        with mmap.mmap(files[0], mmap.PAGESIZE) as segment:
            segment[:4] = struct.pack("I", 2)
        offer(pair, data, files)

    ours.connecting.wait(LIMIT)
    ours.connector.complete_connect()

    assert ours.goes_on_by_tcp(peer)
