# SPDX-License-Identifier: Apache-2.0
"""Two engines over one segment of memory, in virtual time: what `pair.Pair` is to byte pipes."""

from engine.pair import ARENA, Side
from ndverbs import _testing


class DirectPair:
    """``a`` and ``b``; the window of each is open to the other."""

    way = "loads"  # how each gets to the memory of the other, unless a test says so

    def __init__(self, *, window=True, fin=True, budget=1 << 20, has_lane=False, **config):
        config.setdefault("arena_size", ARENA)
        config.setdefault("way", self.way)
        first, second = _testing.direct_pair(**config)
        self.a, self.b = Side("a", first), Side("b", second)
        if window:
            self.a.add_window()
            self.b.add_window()
        self.now = 0
        self.fin = fin
        self.budget = budget
        self.has_lane = has_lane  # messages are taken beside steps where that is enough

    def other(self, side):
        return self.b if side is self.a else self.a

    def step(self, side):
        """One step of a side; returns how much happened, and whether more could at once."""
        engine, peer = side.engine, self.other(side)
        before = engine.counters, len(side.completions), side.engine.is_over
        if self.has_lane and not peer.engine.is_over and engine.take_ahead(self.budget):
            side.collect()
            return before != (engine.counters, len(side.completions), side.engine.is_over)
        engine.begin(self.now)
        is_more = engine.transmit(self.budget)
        is_more = engine.receive(self.budget) or is_more
        is_more = engine.transmit(self.budget) or is_more
        if self.fin and peer.engine.is_over and not side.peer_is_closed:
            # Behind what the peer has published, as its FIN is.
            side.peer_is_closed = True
            engine.end_of_stream()
            engine.receive(self.budget)
            engine.transmit(self.budget)
            is_more = True
        engine.end()
        side.collect()
        after = engine.counters, len(side.completions), side.engine.is_over
        return (before != after) + is_more

    def settle(self, limit=200_000):
        """Step both sides until nothing moves."""
        rest = 0  # what a side asks the other is counted with the answer, a round later
        for _ in range(limit):
            rest = 0 if self.step(self.a) + self.step(self.b) else rest + 1
            if rest == 2:
                return self
        raise AssertionError("the exchange does not come to rest")

    def advance(self, delta_ns):
        self.now += delta_ns
        return self.settle()
