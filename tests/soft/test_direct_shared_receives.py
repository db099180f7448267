# SPDX-License-Identifier: Apache-2.0
"""Receives of a shared queue that peers hold by memory: hostile/test_held_receives.py for TCP."""

import contextlib
import mmap
import os
import socket
import struct
import threading
from contextlib import ExitStack

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT
from hostile.victim import descriptors
from soft.stranger import INTRODUCTION, closed_afterwards, genuine, greeted, memory_file, taking

DEPTH = 3
SIZE = 1 << 20
# Between two looks; a look that comes late only makes the test longer.
TURN_S = 0.05
# A side of the segment: its word of sleep, how many slots of the other it has taken, whether it
# ends, its own slots and what lies beside them.
ASLEEP, CONSUMED, CLOSING, SLOTS, SLOT, DATA = 64, 128, 192, 6400, 64, 22784
MESSAGE, FRAGMENT, IN_DATA = 1, 2, 4 << 8


class Stranger:
    """An end of ours that takes from a shared queue, and the peer that writes into its segment."""

    def __init__(self, stack, adapter, listener, shared, known):
        hello, sizes, _ = known
        enter = stack.enter_context
        self.ours, peer = enter(greeted(adapter, listener, shared))
        pair, files = enter(taking(peer, hello))
        answer = enter(closed_afterwards([memory_file(sizes[one]) for one in ("table", "arena")]))
        socket.send_fds(pair, [bytes(INTRODUCTION)], answer)
        self.segment = enter(mmap.mmap(files[0], sizes["segment"]))
        self.bell = files[1]
        self.first = 64
        self.own = 64 + (sizes["segment"] - 64) // 2
        self.count = self.written = 0
        self.segment[:4] = struct.pack("I", 1)  # taken up
        peer.open_stream()
        self.ours.accepting.wait(LIMIT)
        assert self.ours.connector.transport == "direct"

    def say(self, payload, *, last):
        """Publish a piece of a message; behind the slot where it has no room there."""
        at, marks = 0, 0
        if len(payload) > 40:
            at, marks = self.written, IN_DATA
            where = self.own + DATA + at % (128 << 10)
            self.segment[where : where + len(payload)] = payload
            self.written += len(payload)
            payload, size = b"", len(payload)
        else:
            size = len(payload)
        self.count += 1
        where = self.slot()
        self.segment[where + 8 : where + 64] = struct.pack("<IIQ40s", size, 0, at, payload)
        self.set_word(self.count << 16 | marks | (MESSAGE if last else FRAGMENT))
        os.eventfd_write(self.bell, 1)

    def wait_until_taken(self):
        taken = self.first + CONSUMED
        while self.segment[taken : taken + 8] != struct.pack("<Q", self.count):
            os.sched_yield()

    def slot(self):
        return self.own + SLOTS + (self.count - 1) % 256 * SLOT

    def set_word(self, value):
        self.segment[self.slot() : self.slot() + 8] = struct.pack("<Q", value)

    def hold(self, value):
        """Have a receive of the other end's in hand, or nothing."""
        self.segment[self.own : self.own + 8] = struct.pack("<Q", value)

    def is_closing(self):
        at = self.first + CLOSING
        return self.segment[at : at + 4] == struct.pack("I", 1)

    def take_back(self):
        """Have said nothing, once the other end waits for a receive and for nothing else."""
        asleep = self.first + ASLEEP
        while self.segment[asleep : asleep + 4] != struct.pack("I", 1):
            os.sched_yield()
        self.set_word(0)

    def completion(self):
        self.ours.cq.wait(LIMIT)
        return self.ours.cq.poll(1)[0]


class SharedReceives:
    """A shared receive queue of a few receives, and strangers that take from it."""

    def __init__(self, stack, adapter):
        self.stack, self.adapter = stack, adapter
        self.known = genuine(adapter)
        self.pd = stack.enter_context(adapter.create_pd())
        self.is_empty = threading.Event()
        self.srq = stack.enter_context(
            self.pd.create_srq(
                DEPTH, max_sge=1, notify_threshold=1, on_notify=lambda _: self.is_empty.set()
            )
        )
        self.listener = stack.enter_context(adapter.create_listener())
        self.listener.listen(("127.0.0.1", 0))
        self.region = stack.enter_context(self.pd.register(np.zeros((DEPTH, SIZE), np.uint8)))

    def post(self, place):
        self.srq.receive(self.region.segment(place * SIZE, SIZE), context=place)

    def stranger(self):
        shared = self.pd, self.srq
        return Stranger(self.stack, self.adapter, self.listener, shared, self.known)

    def begin(self):
        """Strangers that have each sent the first half of a message, for which all receives go."""
        for place in range(DEPTH):
            self.post(place)
        made = [self.stranger() for _ in range(DEPTH)]
        for one in made:
            one.say(b"half", last=False)
            one.wait_until_taken()
        assert self.is_empty.wait(LIMIT)
        return made


@pytest.fixture
def shared():
    before = descriptors()
    with nd.Adapter.open("soft") as adapter, ExitStack() as stack:
        made = SharedReceives(stack, adapter)
        yield made
        vars(made).clear()
    assert descriptors() == before


def first_that_ends(strangers, every_turn=lambda: None):
    for _ in range(int(LIMIT / TURN_S)):
        for one in strangers:
            with contextlib.suppress(nd.RdmaTimeoutError):
                one.ours.cq.wait(TURN_S)
                return one
        every_turn()
    raise AssertionError("no stranger's receive was taken away")


def test_one_who_waits_gets_the_receive_of_a_peer_that_stands_still(shared):
    strangers = shared.begin()
    honest = shared.stranger()
    honest.say(b"whole", last=True)

    held = first_that_ends(strangers).completion()
    assert held.status == nd.Status.CANCELLED
    shared.post(held.request_context)

    done = honest.completion()
    assert (done.status, done.bytes_transferred) == (nd.Status.SUCCESS, 5)
    # One place was needed, and one stranger has paid for it.
    assert [one.ours.qp.state for one in strangers].count("error") == 1


@pytest.mark.parametrize("piece", [None, b"."], ids=["silent", "a byte at a time"])
def test_a_message_that_goes_on_is_left_alone(shared, piece):
    going_on, *standing = shared.begin()
    honest = shared.stranger()
    honest.say(b"whole", last=True)
    size = 4

    def go_on():
        nonlocal size
        going_on.say(bytes(4096), last=False)
        size += 4096
        for one in standing if piece else ():
            one.say(piece, last=False)

    shared.post(first_that_ends(standing, go_on).completion().request_context)
    assert honest.completion().status == nd.Status.SUCCESS

    going_on.say(b"end", last=True)
    done = going_on.completion()
    assert (done.status, done.bytes_transferred) == (nd.Status.SUCCESS, size + 3)


def test_one_whose_end_waits_for_its_peer_is_not_asked_twice(shared):
    first, *others = shared.begin()
    first.hold(1)
    honest = shared.stranger()
    honest.say(b"whole", last=True)

    held = first_that_ends(others).completion()

    assert first.is_closing()
    assert first.ours.cq.poll() == []
    shared.post(held.request_context)
    assert honest.completion().status == nd.Status.SUCCESS
    first.hold(0)
    assert first.completion().status == nd.Status.CANCELLED


def test_one_who_waits_gets_the_receive_of_a_message_that_was_taken_back(shared):
    stranger = shared.stranger()
    stranger.say(b"whole", last=True)
    stranger.take_back()
    shared.post(0)
    honest = shared.stranger()
    honest.say(b"whole", last=True)

    held = stranger.completion()

    assert held.status == nd.Status.CANCELLED
    shared.post(0)
    assert honest.completion().status == nd.Status.SUCCESS
