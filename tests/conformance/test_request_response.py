# SPDX-License-Identifier: Apache-2.0
"""A file service in the style of SMB Direct: the use that NDK was made for.

The client fast-registers a page per request and sends its token; the server writes the answer into
the page and responds with a Send that invalidates the token. The program is the one that
docs/howto.md explains, for 100 000 requests.
"""

import struct

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import PAGE

REQUEST = struct.Struct("<QQII")  # number, address, token, length
WINDOW = 32
QUIET = nd.Flag.SILENT_SUCCESS | nd.Flag.INLINE


class Client:
    """Keeps a window of requests under way, each with a page and a region of its own."""

    def __init__(self, end, count):
        self.end = end
        self.count = count
        self.sent = self.answered = 0
        end.map_pages("pages", WINDOW)
        self.pages = end.mappings["pages"].pages
        self.memory = end.mappings["pages"].array.view(np.uint64)
        self.regions = [
            end.pd.create_fast_register_mr(1, remote_access=True) for _ in range(WINDOW)
        ]
        self.tokens = [0] * WINDOW
        for slot in range(WINDOW):
            end.qp.receive(context=slot)

    def ask(self, slot):
        region = self.regions[slot]
        self.end.qp.fast_register(
            region,
            self.pages[slot : slot + 1],
            flags=nd.Flag.ALLOW_REMOTE_WRITE | nd.Flag.SILENT_SUCCESS | nd.Flag.DEFER,
        )
        self.tokens[slot] = region.remote_token
        request = REQUEST.pack(self.sent * WINDOW + slot, region.address, self.tokens[slot], 8)
        self.end.qp.send(request, flags=QUIET)
        self.sent += 1

    def step(self):
        for result in self.end.receive_cq.poll():
            assert result.status == nd.Status.SUCCESS, result
            assert result.type == nd.OperationType.RECEIVE_AND_INVALIDATE
            slot = self.tokens.index(result.invalidated_token)
            # The answer is there, and no peer can write to the page any more.
            assert self.memory[slot * PAGE // 8] % WINDOW == slot
            self.answered += 1
            self.end.qp.receive()
            if self.sent < self.count:
                self.ask(slot)


class Server:
    def __init__(self, end):
        self.end = end
        self.inbox = np.zeros((2 * WINDOW, REQUEST.size), np.uint8)
        self.region = end.pd.register(self.inbox)
        for slot in range(len(self.inbox)):
            self.post(slot)

    def post(self, slot):
        segment = self.region.segment(slot * REQUEST.size, REQUEST.size)
        self.end.qp.receive(segment, context=slot)

    def step(self):
        for result in self.end.receive_cq.poll():
            assert result.status == nd.Status.SUCCESS, result
            slot = result.request_context
            number, address, token, length = REQUEST.unpack(self.inbox[slot])
            self.post(slot)
            answer = number.to_bytes(length, "little")
            self.end.qp.write(answer, (address, token), flags=QUIET | nd.Flag.DEFER)
            self.end.qp.send_and_invalidate((), token, flags=nd.Flag.SILENT_SUCCESS)


@pytest.mark.slow
def test_hundred_thousand_requests_are_answered_and_every_token_dies(connect_pair, scaled):
    pair = connect_pair(
        initiator_queue_depth=4 * WINDOW, receive_queue_depth=4 * WINDOW, inline_size=64
    )
    if "create_fast_register_mr" not in pair.adapter.info.features:
        pytest.skip("no fast registration")
    server = Server(pair.far)
    client = Client(pair.near, scaled(100_000))
    for slot in range(WINDOW):
        client.ask(slot)

    while client.answered < client.count:
        client.step()
        server.step()

    assert client.sent == client.answered == client.count
    assert pair.near.waiting() == []  # everything succeeded in silence
    assert pair.far.waiting() == []
