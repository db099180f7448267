# SPDX-License-Identifier: Apache-2.0
"""Peers that are killed at any instruction: the survivor's calls end, and nothing is left.

Where a peer dies is counted in turns of a loop, drawn from a seed.
"""

import gc
import os
import random

import pytest

import ndverbs as nd
from conformance.end import End
from hostile.victim import descriptors
from soft.mortals import Survivor, shared_mappings

pytestmark = pytest.mark.usefixtures("kernel_copies")

ROUNDS = 5  # of each of ten phases
SIZES = (8, 3000, 40_000, 3_000_000)
RECEIVES = 4


@pytest.fixture
def adapter():
    before = descriptors(), shared_mappings()
    with nd.Adapter.open("soft") as opened:
        yield opened
    gc.collect()
    assert (descriptors(), shared_mappings()) == before


def draws(seed, phase):
    return random.Random(f"{seed} {phase}")


def ends_in_order(survivor, receives):
    """See the end of a survivor whose peer has died: what it has posted is its own again."""
    survivor.flush()  # a death looks like an end in order, which its handler hears of
    for _ in range(receives):
        survivor.receive()
    done = survivor.completions("receive", receives)
    assert {each.status for each in done} <= {nd.Status.CANCELLED}
    assert survivor.state() == "error"


# ---- while they make a connection ---------------------------------------------------------------


@pytest.mark.parametrize("is_active", [True, False], ids=["accepts", "connects"])
def test_a_peer_that_is_killed_while_it(mother, adapter, scaled, first_seed, is_active):
    """Before the offer, between offer and answer, and behind it."""
    draw = draws(first_seed, is_active)
    for _ in range(scaled(ROUNDS)):
        end = End(adapter=adapter, is_direct=True, has_arena=True)
        mortal = mother.bear()
        mortal.call("open", is_direct=True, has_arena=True)
        end.memory("sink", 100_000)
        turns = draw.randrange(300_000)
        try:
            if is_active:
                address = mortal.call("listen", "127.0.0.1")
                mortal.begin("die_in", "accept", turns)
                end.connect(address)
            else:
                mortal.begin("die_in", "connect", turns, end.listen("127.0.0.1"))
                take_request(end, mortal)
                end.answer()
        except nd.RdmaError:
            end.flush()
        mortal.wait_for_end()
        end.deregister("sink")
        ends_in_order(end, 1)
        end.end_connection()
        end.close()
        mortal.close()


def take_request(end, mortal):
    """Wait for a request, or for the death of who makes it, which an answer then finds."""
    while end.incoming is None:
        is_there = mortal.is_there()
        try:
            end.incoming = end.listener.get_connector(timeout=0)
        except nd.RdmaTimeoutError:
            if not is_there:
                raise
            os.sched_yield()


# ---- while they use memory ----------------------------------------------------------------------

# What the peer does, where the survivor's memory is, and what the peer's kernel may do.
PHASES = {
    f"{what}s {where}": (what, where)
    for what in ("write", "read", "send")
    for where in ("in an arena", "by the kernel", "by the survivor's steps")
    if (what, where) != ("read", "in an arena")
}


@pytest.mark.parametrize(("what", "where"), PHASES.values(), ids=PHASES)
def test_a_peer_that_is_killed_while_it_(mother, adapter, scaled, first_seed, what, where):
    draw = draws(first_seed, what + where)
    for _ in range(scaled(ROUNDS)):
        survivor = Survivor(
            mother,
            adapter,
            is_active=draw.random() < 0.5,
            has_arena=where == "in an arena",
            far={"direct": "no-vm" if where == "by the survivor's steps" else "auto"},
        )
        size = draw.choice(SIZES)
        sink = survivor.memory("sink", size)
        array = survivor.regions["sink"].array
        survivor.mortal.begin("hammer", what, sink, size)
        be_hammered(survivor, what, draw.randrange(1, 10))
        for _ in range(draw.randrange(100_000 if what == "read" else 1000)):
            pass

        survivor.mortal.send_kill()

        if what == "send":  # into the receive that is left
            survivor.flush()
            assert survivor.received().status in (nd.Status.SUCCESS, nd.Status.CANCELLED)
        survivor.deregister("sink")
        array[:] = 0xEE
        survivor.mortal.wait_for_end()
        assert (array == 0xEE).all()
        ends_in_order(survivor, RECEIVES)
        survivor.close()


def be_hammered(survivor, what, times):
    """Wait until the peer has done it so often, or so."""
    if what == "send":
        for _ in range(times):
            survivor.receive("sink")
            assert survivor.received().status == nd.Status.SUCCESS
        survivor.receive("sink")
    elif what == "write":
        array = survivor.regions["sink"].array
        before = int(array[-1])
        while (int(array[-1]) - before) % 256 < times:
            survivor.waiting("receive")
