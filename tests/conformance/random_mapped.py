# SPDX-License-Identifier: Apache-2.0
"""The steps of random_run.py that are about memory which requests map, and batches."""

import numpy as np

import ndverbs as nd
from conformance.end import ALLOW_ALL
from conformance.random_model import PAGE, PAGES, SIZE, other


class MappedSteps:
    """A part of Run."""

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
        self.posted[end] += len(rows)
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
        self.receive(end, [], "invalidated")
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
        self.model.pages[peer][self.model.mapped(peer, offset, length)] = np.frombuffer(
            data, np.uint8
        )

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
        data = self.model.pages[peer][self.model.mapped(peer, offset, length)].tobytes()
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
