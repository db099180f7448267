# SPDX-License-Identifier: Apache-2.0
"""Whatever is asked of a connection, it comes to the same through memory as over TCP.

The engine of TCP is the model. Where the two may differ is named here, as docs/design.md has it.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.direct_pair import DirectPair
from engine.pair import SECOND, Pair

ARENA = 0x40000
# Sources never change, so that it does not matter when their bytes are taken.
SINK, RECEIVES, RECEIVE, MEMORY, MEMORY_SIZE = 0x8000, 0x10000, 0x6000, 0x30000, 0x8000
TO = 0x7F00_0000_1000
WINDOW, REVOCABLE, WAITING, UNKNOWN = 0x1100, 0x2200, 0x3300, 0x99
RIGHTS = {"remote_read": True, "remote_write": True, "remote_atomic": True}
SOURCES = [bytes((i * 7 + (i >> 8) + side) & 0xFF for i in range(SINK)) for side in (0, 1)]
BIG = 20_000  # above what goes through the ring when there is a receive

# How each side gets to the memory of the other, and whether messages are taken beside steps.
WAYS = [("loads", False), ("loads", True), ("calls", False), ("carried", False), ("carried", True)]
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way[0] + ", lane" * way[1])
SIZES = st.sampled_from([0, 1, 8, 40, 41, 64, 9000, BIG])
TOKENS = st.sampled_from([WINDOW, WINDOW, REVOCABLE, WAITING, UNKNOWN])
PLACES = st.one_of(
    st.sampled_from([0, 8, 64, 4096, MEMORY_SIZE - 8, MEMORY_SIZE]), st.integers(-1, MEMORY_SIZE)
)
SENDS = st.tuples(
    st.just("send"), SIZES, st.booleans(), st.sampled_from([None, None, REVOCABLE, UNKNOWN])
)
ACCESS = st.tuples(
    st.sampled_from(["write", "immediate", "read", "fetch_add", "compare_swap"]),
    SIZES,
    TOKENS,
    PLACES,
)
RECEIVING = st.tuples(st.just("receive"), SIZES, st.booleans())
LOCAL = st.tuples(
    st.sampled_from(["fast_register", "bind", "invalidate"]), st.sampled_from([REVOCABLE, WAITING])
)
TIME = st.tuples(st.just("wait"), st.sampled_from([1, 5]))
ENDS = {"flush", "disconnect", "reset"}
ANSWERED = {"read", "fetch_add", "compare_swap"}
AHEAD = {"write", "immediate", "fast_register", "bind", "invalidate"}
END = st.tuples(st.sampled_from(sorted(ENDS)))


class Player:
    """Plays acts on a pair, one context after the other."""

    def __init__(self, pair):
        self.pair = pair
        self.sides = pair.a, pair.b
        self.posted = [0, 0]
        self.receives = [0, 0]
        self.messages = [0, 0]
        self.has_disconnected = [False, False]
        self.has_heard = [False, False]
        for number, side in enumerate(self.sides):
            engine = side.engine
            engine.write(0, SOURCES[number])
            engine.add_region(WINDOW, TO, MEMORY, MEMORY_SIZE, **RIGHTS)
            engine.add_region(REVOCABLE, TO, MEMORY + 0x8000, 0x1000, is_revocable=True, **RIGHTS)
            engine.add_region(WAITING, TO, MEMORY + 0x9000, 0x1000, is_waiting=True, **RIGHTS)
        pair.settle()

    def is_starved(self, which):
        """Whether a message of that side waits for its receive."""
        return self.messages[which] > self.receives[1 - which]

    def play(self, which, act):
        kind, *rest = act
        side = self.sides[which]
        if kind == "receive":
            self.receive(which, *rest)
        elif kind == "wait":
            self.pair.now += rest[0] * SECOND
        elif kind == "flush":
            side.engine.flush()
        elif kind == "reset":
            side.engine.link_error(104)
        elif kind == "disconnect":
            self.has_disconnected[which] = True
            side.engine.disconnect()
        elif not self.has_disconnected[which]:
            self.post(which, kind, *rest)

    def receive(self, which, size, is_divided):
        engine, context = self.sides[which].engine, 1000 + self.receives[which]
        begin, first = RECEIVES + context % 4 * RECEIVE, size // 3 if is_divided else size
        pieces = [(begin, first), (begin + first + 8, size - first)]
        self.receives[which] += engine.post_receive(context, pieces[: 1 + is_divided])

    def post(self, which, kind, *rest):
        engine, context = self.sides[which].engine, self.posted[which]
        if kind == "send":
            size, solicited, token = rest
            is_posted = engine.post_send(
                context, [(3, size)], solicited=solicited, invalidate=token
            )
            self.messages[which] += is_posted
        elif kind in ("fast_register", "bind", "invalidate"):
            is_posted = engine.post_local(kind, context, *rest)
        else:
            size, token, place = rest
            if kind in ("write", "immediate"):
                immediate = context if kind == "immediate" else None
                pieces = [(5, size // 2), (7 + size // 2, size - size // 2)]
                is_posted = engine.post_write(
                    context, pieces, token, TO + place, immediate=immediate
                )
                self.messages[which] += is_posted and kind == "immediate"
            elif kind == "read":
                is_posted = engine.post_read(context, [(SINK, size)], token, TO + place)
            else:
                values = (3,) if kind == "fetch_add" else (0xEEEE_EEEE_EEEE_EEEE, context)
                is_posted = getattr(engine, f"post_{kind}")(
                    context, [(SINK, 8)], token, TO + place, *values
                )
        self.posted[which] += is_posted

    def settle(self):
        """Let everything come to rest; the end of a side reaches its peer behind all else."""
        for _ in range(3):
            self.pair.settle()
            for which, side in enumerate(self.sides):
                has_ended = side.engine.is_over or "drained" in side.events
                peer = self.sides[1 - which]
                if not has_ended or self.has_heard[1 - which]:
                    continue
                # Of TCP nothing is read while a message waits for its receive.
                if isinstance(self.pair, Pair) and not (
                    peer.inbound.is_empty and peer.engine.wants_read
                ):
                    continue
                self.has_heard[1 - which] = True
                peer.engine.end_of_stream()

    def result(self):
        """What both sides show: requests and receives in their order, memory, how it ended."""
        fields = ("context", "status", "received", "is_solicited", "immediate", "invalidated")
        return [
            {
                "requests": [
                    (c["context"], c["status"]) for c in side.completions if not c["is_receive"]
                ],
                "receives": [
                    tuple(c[field] for field in fields[: 2 if c["status"] != "success" else 6])
                    for c in side.completions
                    if c["is_receive"]
                ],
                "cause": side.engine.cause,
                "is_over": side.engine.is_over,
                "drained": "drained" in side.events,
                "memory": side.memory(),
            }
            for side in self.sides
        ]


def players(way):
    options = {"window": False, "fin": False, "arena_size": ARENA}
    over_tcp = Pair(**options, ird=64, ord=64)
    direct = DirectPair(**options, way=way[0], has_lane=way[1])
    return Player(over_tcp), Player(direct)


def show(results):
    """Results without memory, for the eye."""
    return [{k: v for k, v in each.items() if k != "memory"} for each in results]


def may_differ(over_tcp, which, act):
    """Whether a message that waits for its receive has another effect on the act over TCP."""
    kind = act[0]
    if over_tcp.is_starved(which) and kind in AHEAD | ENDS:
        return True  # TCP has carried the message away; in memory what is behind it waits or not
    if not over_tcp.is_starved(1 - which):
        return False
    # Of TCP this side reads nothing, neither answers nor a refusal nor an end.
    is_write = kind in ("write", "immediate")
    return kind in ENDS | ANSWERED | {"send"} or (is_write and not is_sound(act))


def is_sound(act):
    """Whether the peer refuses nothing of it."""
    kind, *rest = act
    if kind == "send":
        return rest[2] is None
    if kind == "receive":
        return rest[0] == BIG
    if kind in ("fetch_add", "compare_swap"):
        return rest[1] == WINDOW and 0 <= rest[2] <= MEMORY_SIZE - 8 and rest[2] % 8 == 0
    return rest[1] == WINDOW and 0 <= rest[2] <= MEMORY_SIZE - rest[0]


SOUND = st.one_of(SENDS, RECEIVING, ACCESS).filter(is_sound)


@ways
@given(
    acts=st.lists(st.tuples(st.integers(0, 1), st.one_of(SOUND, st.just(("step",)))), max_size=40)
)
@settings(max_examples=15)
def test_what_is_not_refused_leaves_the_same_in_whatever_order_the_sides_step(way, acts):
    results = []
    for player in players(way):
        for which, act in acts:
            if act == ("step",):
                player.pair.step(player.sides[which])
            else:
                player.play(which, act)
        for which in (0, 1):
            while player.is_starved(1 - which):
                player.receive(which, BIG, False)
        player.settle()
        results.append(player.result())

    over_tcp, direct = results
    assert show(direct) == show(over_tcp)
    assert [side["memory"] for side in direct] == [side["memory"] for side in over_tcp]
    assert all(side["cause"] is None for side in direct)


@ways
@given(
    acts=st.lists(
        st.tuples(st.integers(0, 1), st.one_of(SENDS, ACCESS, RECEIVING, LOCAL, TIME)), max_size=25
    ),
    ends=st.lists(st.tuples(st.integers(0, 1), END), max_size=1),
)
@settings(max_examples=25)
def test_whatever_is_asked_one_after_the_other_ends_alike(way, acts, ends):
    over_tcp, direct = players(way)
    writes = [set(), set()]
    for which, act in acts + ends:
        if may_differ(over_tcp, which, act):
            continue
        if act[0] in ("write", "immediate"):
            writes[which].add(over_tcp.posted[which])
        for player in (over_tcp, direct):
            player.play(which, act)
            player.settle()

    expected, found = over_tcp.result(), direct.result()
    for side, its_writes in zip(found, writes, strict=True):
        # A Write that is refused has succeeded over TCP, where its end is not waited for.
        for number, (context, status) in enumerate(side["requests"]):
            if status == "remote_resources" and context in its_writes:
                side["requests"][number] = (context, "success")
    assert show(found) == show(expected)
    assert [side["memory"] for side in found] == [side["memory"] for side in expected]
