# SPDX-License-Identifier: Apache-2.0
"""What test_random_sequences.py drives: two connected ends, and the model beside them.

The model runs a request at once, in posting order, as an application may see it that fences every
request behind its Reads and looks only after everything has completed.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

import ndverbs as nd
from conformance.end import ALL, LIMIT, pattern, status_of
from conformance.pair import Pair
from conformance.random_mapped import MappedSteps
from conformance.random_model import DEPTH, PAGES, SIZE, TOP, WORDS, Model, clipped, other

# Requests between two settles; below the depth of the initiator queue.
MOST_POSTED = 100
ATOMIC = ALL | nd.Access.REMOTE_ATOMIC

# Steps that post nothing, or leave nothing posted when they are done.
QUIET = {"refused", "settle", "transient", "modify", "arm", "reconnect", "reject", "resize"}


def is_request(step):
    """Whether a step leaves requests of one end, step[1], under way."""
    return step[0] not in QUIET


class Run(MappedSteps):
    """Every method without an underscore that is named in STEPS is a step."""

    def __init__(self, provider, *, crc, is_shared):
        self.active = {"crc": crc}
        self.pair = Pair(provider, is_connected=False, receive_queue_depth=DEPTH)
        self.ends = {"near": self.pair.near, "far": self.pair.far}
        info = self.pair.adapter.info
        self.extensions = info.extensions
        # The far end's receives: of its queue pair, or of a shared queue.
        self.srq = None
        if is_shared and info.max_srq_depth > 0:
            self.srq = self.pair.far.pd.create_srq(2 * DEPTH, max_sge=4)
        self._renew_queue_pairs()
        self.pair.connect(active=self.active)
        self.posted = {"near": 0, "far": 0}
        self.armed = set()
        self.extra = {}
        self.words = {}
        self.model = Model()
        self.remote = {}
        for name, end in self.ends.items():
            self.remote[name] = end.memory("all", SIZE)
            end.store("all", bytes(self.model.memory[name]))
            end.map_pages("pages", PAGES)
            end.create_fast_register_mr("region", PAGES)
            end.create_mw("window")
            end.words("old", WORDS, nd.Access.LOCAL_WRITE)
            if "atomics" in self.extensions:
                self.words[name] = end.words("words", WORDS, ATOMIC)
        self.mapped = {}
        self.bound = {}
        self.next_context = 0

    def context(self):
        # By value, and as an object.
        self.next_context += 1
        return self.next_context if self.next_context % 2 else ("object", self.next_context)

    def _renew_queue_pairs(self):
        near, far = self.ends.values()
        near.qp = near.create_qp()
        if self.srq is None:
            far.qp = far.create_qp()
        else:
            far.qp = far.pd.create_qp_with_srq(far.receive_cq, far.initiator_cq, self.srq)

    def begin(self, end, request, kind, is_silent=False, defers=False):
        """Post a request that is fenced behind earlier Reads; note what it owes."""
        context = self.context()
        flags = nd.Flag.READ_FENCE
        flags |= nd.Flag.SILENT_SUCCESS if is_silent else 0
        flags |= nd.Flag.DEFER if defers else 0
        request(context, flags)
        self.posted[end] += 1
        if not is_silent:
            self.model.initiator[end].append((context, kind))

    def receive(self, end, spans, context):
        endpoint = self.ends[end]
        if end == "far" and self.srq is not None:
            self.srq.receive(endpoint.local(spans), context=context)
        else:
            endpoint.receive(*spans, context=context)

    def prepare(self, peer, length, sinks, immediate=None):
        """Make room at the peer for a message; two ends write into one memory only in turn."""
        sinks = clipped(sinks)
        room = sum(size for _, size in sinks)
        if room < length:
            sinks = [(0, SIZE)]
        context = self.context()
        self.receive(peer, [("all", *span) for span in sinks], context)
        self.model.receive[peer].append((context, length, immediate))
        return sinks

    def send(self, end, spans, sinks, is_silent, defers):
        peer = other(end)
        spans = clipped(spans)
        data = self.model.gather(end, spans)
        sinks = self.prepare(peer, len(data), sinks)
        self.begin(
            end,
            lambda context, flags: self.ends[end].send(
                *[("all", *span) for span in spans], context=context, flags=flags
            ),
            nd.OperationType.SEND,
            is_silent,
            defers,
        )
        self.model.scatter(peer, sinks, data)

    def inline(self, end, data, sinks, is_silent):
        peer = other(end)
        sinks = self.prepare(peer, len(data), sinks)
        self.begin(
            end,
            lambda context, flags: self.ends[end].qp.send(
                data, context=context, flags=flags | nd.Flag.INLINE
            ),
            nd.OperationType.SEND,
            is_silent,
        )
        self.model.scatter(peer, sinks, data)

    # ---- what both ends do -------------------------------------------------------------------

    def remote_range(self, peer, offset, length):
        offset = min(offset, SIZE - length)
        return offset, (self.remote[peer].address + offset, self.remote[peer].token)

    def write(self, end, spans, offset, is_silent, defers):
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
            defers,
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

    def immediate(self, end, spans, offset, value, is_silent):
        if "immediate" not in self.extensions:
            return
        spans = self.shortened(spans)
        data = self.model.gather(end, spans)
        peer = other(end)
        self.prepare(peer, len(data), [(0, 0)], value)
        offset, remote = self.remote_range(peer, offset, len(data))
        self.begin(
            end,
            lambda context, flags: self.ends[end].write_with_immediate(
                remote, value, *[("all", *span) for span in spans], context=context, flags=flags
            ),
            nd.OperationType.WRITE,
            is_silent,
        )
        self.model.memory[peer][offset : offset + len(data)] = data

    def atomic(self, end, index, slot, value, swaps, is_expected):
        if "atomics" not in self.extensions:
            return
        peer = other(end)
        remote = (self.words[peer].address + 8 * index, self.words[peer].token)
        before = self.model.words[peer][index]
        expected = before if is_expected else (before + 1) & TOP
        local = ("old", 8 * slot, 8)

        def post(context, flags):
            if swaps:
                self.ends[end].compare_swap(
                    remote, expected, value, local, context=context, flags=flags
                )
            else:
                self.ends[end].fetch_add(remote, value, local, context=context, flags=flags)

        kinds = nd.OperationType.FETCH_ADD, nd.OperationType.COMPARE_SWAP
        self.begin(end, post, kinds[swaps])
        self.model.old[end][slot] = before
        if not swaps:
            self.model.words[peer][index] = (before + value) & TOP
        elif is_expected:
            self.model.words[peer][index] = value

    # ---- memory and objects that come and go --------------------------------------------------

    def register(self, end, length, seed):
        if self.model.extra[end] is not None:
            return
        self.extra[end] = self.ends[end].memory("extra", max(1, length), seed=seed + 1)
        self.note_token(self.extra[end].token)
        self.model.extra[end] = bytearray(pattern(max(1, length), seed + 1))

    def deregister(self, end):
        if self.model.extra[end] is None:
            return
        self.settle()
        self.model.extra[end] = None
        self.ends[end].deregister("extra")
        self.ends[end].close_region("extra")

    def extra_write(self, end, source):
        peer = other(end)
        if self.model.extra[peer] is None:
            return
        length = len(self.model.extra[peer])
        source = min(source, SIZE - length)
        self.begin(
            end,
            lambda context, flags: self.ends[end].write(
                self.extra[peer], ("all", source, length), context=context, flags=flags
            ),
            nd.OperationType.WRITE,
        )
        self.model.extra[peer][:] = self.model.memory[end][source : source + length]

    def transient(self, end, kind):
        """Make an object beside the others, and close it."""
        endpoint = self.ends[end]
        adapter, pd = endpoint.adapter, endpoint.pd
        make = {
            "cq": lambda: adapter.create_cq(10),
            "pd": adapter.create_pd,
            "mr": pd.create_mr,
            "fast_register_mr": lambda: pd.create_fast_register_mr(PAGES, remote_access=True),
            "mw": pd.create_mw,
            "qp": endpoint.create_qp,
            "connector": adapter.create_connector,
            "listener": adapter.create_listener,
        }[kind]
        with make() as made:
            assert not made.closed
        assert made.closed

    def modify(self, depth):
        if self.srq is not None:
            self.srq.modify(depth=2 * DEPTH + depth)

    def arm(self, end):
        self.ends[end].arm()
        self.armed.add(end)

    # ---- connections ------------------------------------------------------------------------

    def reconnect(self, first):
        """Disconnect, `first` being the first to do so, and connect other queue pairs."""
        self.settle()  # what writes to a window must be done before it goes
        for end in self.ends:
            self.unmap(end, "window", False)  # it is of the queue pair
            if "fast_register_any_qp" not in self.ends[end].adapter.info.features:
                self.unmap(end, "region", False)
        self.settle()
        first, second = self.ends[first], self.ends[other(first)]
        second.disconnects = 0
        with ThreadPoolExecutor(1) as thread:
            done = thread.submit(first.disconnect)
            second.wait_for_disconnect()
            second.disconnect()
            done.result(LIMIT)
        for end in (first, second):
            assert status_of(end.send) == nd.Status.CONNECTION_INVALID
            assert end.waiting() == []
            end.close_connector()
            end.close_qp()
        self._renew_queue_pairs()
        self.pair.connect(active=self.active)

    def reject(self, data):
        """A second connection is asked for, and refused."""
        near, far = self.ends.values()
        with (
            near.adapter.create_connector() as visitor,
            near.create_qp() as qp,
            ThreadPoolExecutor(1) as thread,
        ):
            asked = thread.submit(status_of, visitor.connect, qp, None, far.listen(), timeout=LIMIT)
            far.take_request()
            far.reject(data)
            assert asked.result(LIMIT) == nd.Status.CONNECTION_REFUSED

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
            "atomic": lambda: endpoint.fetch_add((4, 1), 1, ("old", 0, 8)),
            "immediate": lambda: endpoint.write_with_immediate((0, 0), 1 << 32),
            "registered": lambda: endpoint.regions["all"].register(np.zeros(1, np.uint8), ALL),
            "bound": lambda: endpoint.bind("window", "all", SIZE, 1),
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
                assert (done.status, done.type) == (nd.Status.SUCCESS, kind), done
                assert done.request_context == context
            for context, length, immediate in self.model.receive[name]:
                done = end.received()
                assert (done.status, done.bytes_transferred) == (nd.Status.SUCCESS, length)
                assert (done.request_context, done.immediate) == (context, immediate)
            self.model.initiator[name].clear()
            self.model.receive[name].clear()
            assert end.waiting() == []
            assert end.waiting("receive") == []
            self.posted[name] = 0
            if name in self.armed:
                assert end.is_notified(timeout=LIMIT)
        self.armed.clear()
        for name, end in self.ends.items():
            assert end.content("all") == bytes(self.model.memory[name])
            assert end.mapped_content("pages") == self.model.pages[name].tobytes()
            assert [end.word("old", i) for i in range(WORDS)] == self.model.old[name]
            if name in self.words:
                assert [end.word("words", i) for i in range(WORDS)] == self.model.words[name]
            if self.model.extra[name] is not None:
                assert end.content("extra") == bytes(self.model.extra[name])

    def must_settle_before(self, step, before):
        """Whether two ends would touch the same memory at once, or a queue would overflow."""
        is_full = any(len(owed) >= DEPTH for owed in self.model.receive.values())
        is_full = is_full or any(count >= MOST_POSTED for count in self.posted.values())
        return is_full or (before is not None and is_request(step) and step[1] != before)
