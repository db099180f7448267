# SPDX-License-Identifier: Apache-2.0
"""Two engines that exchange random traffic in both directions, drawn from seeds."""

import random

import pytest

from stream.engines import make_pair

STEPS = 4000


class Simulation:
    """Draws the next event, and checks all the time and at the end the rules that must hold."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        draw = self.random.choice
        self.ends = make_pair(
            *(
                {
                    "segment": draw([2, 6, 64, 1000]),
                    "most": draw([2, 3, 5]),
                    "credits": draw([1, 2, 5, 64]),
                    "max_chunk": draw([1, 7, 65536]),
                    "waits_for_peer": is_accepting,
                }
                for is_accepting in (False, draw([False, True]))
            ),
            immediate=draw([False, True]),
        )
        self.sent = [bytearray(), bytearray()]

    def step(self):
        number = self.random.randrange(2)
        end, peer = self.ends[number], self.ends[1 - number]
        match self.random.randrange(6):
            case 0:
                data = self.random.randbytes(self.random.choice([1, 3, 50, 700]))
                if len(end.outbox) < 5000:
                    end.outbox += data
                    self.sent[number] += data
            case 1:
                end.transmit()
            case 2 if peer.wire:
                for _ in range(self.random.randint(1, len(peer.wire))):
                    end.deliver(peer.wire.popleft())
            case 3:
                end.read(self.random.choice([1, 10, 1000]))
            case 4 if len(end.views) < 5:
                end.retain(self.random.choice([1, 10, 1000]))
            case 5 if end.views:
                end.release(self.random.randrange(len(end.views)))

    def settle(self):
        """Carry everything until nothing moves any more."""
        is_moving = True
        while is_moving:
            is_moving = False
            for end, peer in (self.ends, self.ends[::-1]):
                while end.views:
                    end.release(0)
                    is_moving = True
                while end.read(1 << 30):
                    is_moving = True
                end.transmit()
                while end.wire:
                    peer.deliver(end.wire.popleft())
                    is_moving = True


@pytest.mark.parametrize("seed", range(40))
def test_random_traffic_arrives_whole_and_in_order(seed, first_seed):
    simulation = Simulation(first_seed + seed)
    for _ in range(STEPS):
        simulation.step()

    simulation.settle()

    near, far = simulation.ends
    assert near.inbox == simulation.sent[1]
    assert far.inbox == simulation.sent[0]
    assert len(simulation.sent[0]) > 1000


@pytest.mark.parametrize("seed", range(10))
def test_both_ends_see_the_end_behind_the_data(seed, first_seed):
    simulation = Simulation(first_seed + seed)
    for _ in range(500):
        simulation.step()
    for end in simulation.ends:
        end.wants_end = "shut_write"

    simulation.settle()

    for number, end in enumerate(simulation.ends):
        assert end.inbox == simulation.sent[1 - number]
        assert end.engine.is_peer_shut
        assert end.engine.is_over
