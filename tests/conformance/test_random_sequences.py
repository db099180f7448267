# SPDX-License-Identifier: Apache-2.0
"""Random sequences of verbs against a model: what the memory holds, which completions come.

The model runs a request at once, in posting order, as an application may see it that fences every
request behind its Reads and looks only after everything has completed.
"""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ndverbs as nd
from conformance.end import ALLOW_ALL, PAGE, pattern
from conformance.pair import Pair

SIZE = 200_000
DEPTH = 16
LENGTHS = st.one_of(
    st.integers(0, 64),
    st.sampled_from([4095, 4096, 65455, 65456, 65457, 65460, 65461, 65536, 131_000]),
)
OFFSETS = st.one_of(st.just(0), st.integers(0, SIZE))

# Pages that fast_register maps, beside the memory that is registered for good.
PAGES = 5

SPANS = st.lists(st.tuples(OFFSETS, LENGTHS), max_size=4)
ENDS = st.sampled_from(["near", "far"])

STEPS = st.one_of(
    st.tuples(st.just("send"), ENDS, SPANS, SPANS, st.booleans()),
    st.tuples(st.just("inline"), ENDS, st.binary(max_size=256), SPANS, st.booleans()),
    st.tuples(st.just("write"), ENDS, SPANS, OFFSETS, st.booleans()),
    st.tuples(st.just("read"), ENDS, SPANS, OFFSETS, st.booleans()),
    st.tuples(st.just("many"), ENDS, st.lists(st.tuples(OFFSETS, LENGTHS, OFFSETS), max_size=6)),
    st.tuples(st.just("map"), ENDS, st.permutations(range(PAGES)), st.integers(0, PAGE - 1)),
    st.tuples(st.just("bind"), ENDS, OFFSETS, LENGTHS),
    st.tuples(st.just("unmap"), ENDS, st.sampled_from(["region", "window"]), st.booleans()),
    st.tuples(st.just("mapped_write"), ENDS, OFFSETS, LENGTHS, OFFSETS),
    st.tuples(st.just("mapped_read"), ENDS, OFFSETS, LENGTHS, OFFSETS),
    st.tuples(st.just("window_write"), ENDS, OFFSETS, LENGTHS),
    st.tuples(st.just("resize"), ENDS, st.integers(64, 4096)),
    st.tuples(st.just("refused"), ENDS, st.sampled_from(["flags", "segment", "sge", "inline"])),
    st.tuples(st.just("settle")),
)


def clipped(spans):
    """The spans inside the memory, none of them over another: order would matter there."""
    taken = []
    for offset, length in spans:
        offset = min(offset, SIZE)
        span = (offset, min(length, SIZE - offset))
        if all(span[0] + span[1] <= other[0] or other[0] + other[1] <= span[0] for other in taken):
            taken.append(span)
    return taken


class Model:
    """Both memories, and the completions that each queue owes."""

    def __init__(self):
        self.memory = {
            "near": bytearray(pattern(SIZE, 1)),
            "far": bytearray(pattern(SIZE, 2)),
        }
        self.pages = {"near": bytearray(PAGES * PAGE), "far": bytearray(PAGES * PAGE)}
        # What is valid: the order of the pages and the first byte's offset; the window's range.
        self.region = {"near": None, "far": None}
        self.window = {"near": None, "far": None}
        self.tokens = set()
        self.initiator = {"near": deque(), "far": deque()}
        self.receive = {"near": deque(), "far": deque()}

    def gather(self, end, spans):
        return b"".join(bytes(self.memory[end][at : at + size]) for at, size in spans)

    def mapped(self, end, offset, length):
        """Positions in the pages of a range of the region."""
        order, first = self.region[end]
        for at in range(first + offset, first + offset + length):
            yield order[at // PAGE] * PAGE + at % PAGE

    def scatter(self, end, spans, data):
        done = 0
        for at, size in spans:
            piece = data[done : done + size]
            self.memory[end][at : at + len(piece)] = piece
            done += len(piece)


class Run:
    def __init__(self, provider, crc):
        options = {"crc": crc}
        self.pair = Pair(provider, active=options, receive_queue_depth=DEPTH)
        self.ends = {"near": self.pair.near, "far": self.pair.far}
        self.model = Model()
        self.remote = {}
        for name, end in self.ends.items():
            self.remote[name] = end.memory("all", SIZE)
            end.store("all", bytes(self.model.memory[name]))
            end.map_pages("pages", PAGES)
            end.create_fast_register_mr("region", PAGES)
            end.create_mw("window")
        self.mapped = {}
        self.bound = {}
        self.next_context = 0

    def context(self):
        # By value, and as an object.
        self.next_context += 1
        return self.next_context if self.next_context % 2 else ("object", self.next_context)

    def begin(self, end, request, kind, is_silent):
        """Post a request that is fenced behind earlier Reads; note what it owes."""
        context = self.context()
        request(context, nd.Flag.READ_FENCE | (nd.Flag.SILENT_SUCCESS if is_silent else 0))
        if not is_silent:
            self.model.initiator[end].append((context, kind))

    def prepare(self, end, peer, length, sinks):
        """Make room at the peer for a message; two ends write into one memory only in turn."""
        sinks = clipped(sinks)
        room = sum(size for _, size in sinks)
        if room < length:
            sinks = [(0, SIZE)]
        context = self.context()
        self.ends[peer].receive(*[("all", *span) for span in sinks], context=context)
        self.model.receive[peer].append((context, length))
        return sinks

    def send(self, end, spans, sinks, is_silent):
        peer = other(end)
        spans = clipped(spans)
        data = self.model.gather(end, spans)
        sinks = self.prepare(end, peer, len(data), sinks)
        self.begin(
            end,
            lambda context, flags: self.ends[end].send(
                *[("all", *span) for span in spans], context=context, flags=flags
            ),
            nd.OperationType.SEND,
            is_silent,
        )
        self.model.scatter(peer, sinks, data)

    def inline(self, end, data, sinks, is_silent):
        peer = other(end)
        sinks = self.prepare(end, peer, len(data), sinks)
        self.begin(
            end,
            lambda context, flags: self.ends[end].qp.send(
                data, context=context, flags=flags | nd.Flag.INLINE
            ),
            nd.OperationType.SEND,
            is_silent,
        )
        self.model.scatter(peer, sinks, data)

    # ---- memory that requests map ------------------------------------------------------------

    def many(self, end, writes):
        """Writes of one batch."""
        self.settle()  # so that there is room for all of them
        peer = other(end)
        rows = np.zeros(len(writes), nd.request_dtype)
        region = self.ends[end].regions["all"]
        for i, (source, length, target) in enumerate(writes):
            length = min(length, SIZE // 4)
            source, target = min(source, SIZE - length), min(target, SIZE - length)
            rows[i] = (
                nd.OperationType.WRITE,
                nd.Flag.READ_FENCE | (nd.Flag.DEFER if i % 2 else 0),
                0,
                region.address + source,
                length,
                region.local_token,
                self.remote[peer].token,
                self.remote[peer].address + target,
            )
            data = bytes(self.model.memory[end][source : source + length])
            self.model.memory[peer][target : target + length] = data
            self.next_context += 2 - self.next_context % 2  # even, so as not to meet context()
            rows[i]["context"] = self.next_context
            self.model.initiator[end].append((self.next_context, nd.OperationType.WRITE))
        assert self.ends[end].qp.post_many(rows) == len(rows)

    def note_token(self, token):
        assert token not in self.model.tokens
        self.model.tokens.add(token)

    def map(self, end, order, first):
        if self.model.region[end] is not None:
            return
        self.model.region[end] = (order, first)

        def post(context, flags):
            self.mapped[end] = self.ends[end].fast_register(
                "region",
                "pages",
                order,
                first_byte_offset=first,
                context=context,
                flags=flags | ALLOW_ALL,
            )

        self.begin(end, post, nd.OperationType.FAST_REGISTER, False)
        self.note_token(self.mapped[end][1])
        self.settle()  # the peer may use it only when it knows that it is there

    def bind(self, end, offset, length):
        if self.model.window[end] is not None:
            return
        length = max(1, min(length, SIZE))
        offset = min(offset, SIZE - length)
        self.model.window[end] = (offset, length)

        def post(context, flags):
            self.bound[end] = self.ends[end].bind(
                "window", "all", offset, length, context=context, flags=flags | ALLOW_ALL
            )

        self.begin(end, post, nd.OperationType.BIND, False)
        self.note_token(self.bound[end][1])
        self.settle()

    def unmap(self, end, what, by_peer):
        valid = self.model.region if what == "region" else self.model.window
        if valid[end] is None:
            return
        valid[end] = None
        _, token = (self.mapped if what == "region" else self.bound)[end]
        if not by_peer:
            self.begin(
                end,
                lambda context, flags: self.ends[end].invalidate(
                    what, context=context, flags=flags
                ),
                nd.OperationType.INVALIDATE,
                False,
            )
            return
        self.settle()
        self.ends[end].receive(context="invalidated")
        self.ends[other(end)].send_and_invalidate(token, flags=nd.Flag.SILENT_SUCCESS)
        done = self.ends[end].received()
        assert (done.status, done.invalidated_token) == (nd.Status.SUCCESS, token)

    def mapped_range(self, peer, offset, length):
        _, first = self.model.region[peer]
        room = PAGES * PAGE - first
        length = min(length, room)
        return min(offset, room - length), length

    def mapped_write(self, end, source, length, offset):
        peer = other(end)
        if self.model.region[peer] is None:
            return
        offset, length = self.mapped_range(peer, offset, length)
        source = min(source, SIZE - length)
        address, token = self.mapped[peer]
        self.begin(
            end,
            lambda context, flags: self.ends[end].write(
                (address + offset, token), ("all", source, length), context=context, flags=flags
            ),
            nd.OperationType.WRITE,
            False,
        )
        data = self.model.memory[end][source : source + length]
        for position, byte in zip(self.model.mapped(peer, offset, length), data, strict=True):
            self.model.pages[peer][position] = byte

    def mapped_read(self, end, sink, length, offset):
        peer = other(end)
        if self.model.region[peer] is None:
            return
        offset, length = self.mapped_range(peer, offset, length)
        sink = min(sink, SIZE - length)
        address, token = self.mapped[peer]
        self.begin(
            end,
            lambda context, flags: self.ends[end].read(
                (address + offset, token), ("all", sink, length), context=context, flags=flags
            ),
            nd.OperationType.READ,
            False,
        )
        data = bytes(self.model.pages[peer][at] for at in self.model.mapped(peer, offset, length))
        self.model.memory[end][sink : sink + length] = data

    def window_write(self, end, source, length):
        """Fill the beginning of the peer's window."""
        peer = other(end)
        if self.model.window[peer] is None:
            return
        begin, size = self.model.window[peer]
        length = min(length, size)
        source = min(source, SIZE - length)
        self.begin(
            end,
            lambda context, flags: self.ends[end].write(
                self.bound[peer], ("all", source, length), context=context, flags=flags
            ),
            nd.OperationType.WRITE,
            False,
        )
        self.model.memory[peer][begin : begin + length] = self.model.memory[end][
            source : source + length
        ]

    def resize(self, end, depth):
        for cq in (self.ends[end].initiator_cq, self.ends[end].receive_cq):
            cq.resize(max(depth, 1024))

    # ---- what both ends do -------------------------------------------------------------------

    def remote_range(self, peer, offset, length):
        offset = min(offset, SIZE - length)
        return offset, (self.remote[peer].address + offset, self.remote[peer].token)

    def write(self, end, spans, offset, is_silent):
        spans = self.shortened(spans)
        data = self.model.gather(end, spans)
        peer = other(end)
        offset, remote = self.remote_range(peer, offset, len(data))
        self.begin(
            end,
            lambda context, flags: self.ends[end].write(
                remote, *[("all", *span) for span in spans], context=context, flags=flags
            ),
            nd.OperationType.WRITE,
            is_silent,
        )
        self.model.memory[peer][offset : offset + len(data)] = data

    def read(self, end, spans, offset, is_silent):
        spans = self.shortened(spans)
        peer = other(end)
        offset, remote = self.remote_range(peer, offset, sum(size for _, size in spans))
        self.begin(
            end,
            lambda context, flags: self.ends[end].read(
                remote, *[("all", *span) for span in spans], context=context, flags=flags
            ),
            nd.OperationType.READ,
            is_silent,
        )
        data = bytes(self.model.memory[peer][offset:])
        self.model.scatter(end, spans, data)

    @staticmethod
    def shortened(spans):
        spans = clipped(spans)
        while sum(size for _, size in spans) > SIZE:
            spans.pop()
        return spans

    def refused(self, end, how):
        endpoint = self.ends[end]
        whole = endpoint.regions["all"].segment()
        call = {
            "flags": lambda: endpoint.send(flags=0x8, context=object()),
            "segment": lambda: endpoint.qp.send(
                nd.Segment(whole.address + 1, SIZE, whole.token), context=object()
            ),
            "sge": lambda: endpoint.send(*[("all", 0, 1)] * 5, context=object()),
            "inline": lambda: endpoint.qp.send(bytes(257), flags=nd.Flag.INLINE),
        }[how]
        try:
            call()
        except nd.RdmaError:
            return
        raise AssertionError(f"{how} was not refused")

    def settle(self):
        """Everything that is owed comes, in order, and the memories are the model's."""
        for name, end in self.ends.items():
            # The last request is fenced and signalled: it ends after all silent ones.
            self.begin(
                name,
                lambda context, flags, end=end: end.read((0, 0), context=context, flags=flags),
                nd.OperationType.READ,
                False,
            )
        for name, end in self.ends.items():
            for context, kind in self.model.initiator[name]:
                done = end.completion()
                assert (done.status, done.type) == (nd.Status.SUCCESS, kind)
                assert done.request_context == context
            for context, length in self.model.receive[name]:
                done = end.received()
                assert (done.status, done.bytes_transferred) == (nd.Status.SUCCESS, length)
                assert done.request_context == context
            self.model.initiator[name].clear()
            self.model.receive[name].clear()
            assert end.waiting() == []
            assert end.waiting("receive") == []
        for name, end in self.ends.items():
            assert end.content("all") == bytes(self.model.memory[name])
            assert end.mapped_content("pages") == bytes(self.model.pages[name])

    def must_settle_before(self, step, before):
        """Whether two ends would touch the same memory at once, or a queue would overflow."""
        if before is None or step[0] in ("refused", "settle"):
            return False
        is_full = any(len(owed) >= DEPTH for owed in self.model.receive.values())
        return is_full or step[1] != before


def other(end):
    return "far" if end == "near" else "near"


@given(st.lists(STEPS, max_size=40), st.booleans())
@settings(max_examples=60)
def test_any_sequence_of_valid_requests_does_what_the_model_does(provider, steps, crc):
    with nd.Adapter.open(provider) as adapter:
        if not {"create_fast_register_mr", "create_mw"} <= adapter.info.features:
            pytest.skip("no memory that requests map")
    run = Run(provider, crc)
    actor = None
    for step in steps:
        if run.must_settle_before(step, actor):
            run.settle()
        if step[0] not in ("refused", "settle"):
            actor = step[1]
        getattr(run, step[0])(*step[1:])
    run.settle()
    run.pair.close()
