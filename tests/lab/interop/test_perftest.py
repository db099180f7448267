# SPDX-License-Identifier: Apache-2.0
"""perftest's bandwidth tests on kernel siw as clients of our soft side, with their data."""

import time

import pytest

import ndverbs as nd
from conformance.end import pattern
from lab.interop import perftest

SHAPES = [(1, 100), (1024, 1000), (65536, 100), (1 << 20, 10)]


class Peer:
    """A client of perftest, and both connections to it."""

    def __init__(self, make_end, tool, place, program, size, count, *options):
        self.started = time.time()
        control_end = make_end()
        self.data = make_end(adapter=control_end.adapter, receive_queue_depth=256)
        self.control = perftest.Control(control_end)
        port = control_end.listen(place.listen_on)[1]
        self.client = tool(
            *(program, "-R", "-F", "-d", "siw0", "-p", port, "-s", size, "-n", count, *options),
            place.seen_as,
        )
        perftest.connect(self.control, self.data)

    def expect_client_data(self, received):
        """Check data that the client made up by itself."""
        assert perftest.is_client_data(received, self.started, time.time())

    def finish(self):
        self.control.exchange_keys()
        self.data.wait_for_disconnect()
        self.data.disconnect()
        self.control.end.wait_for_disconnect()
        self.control.end.disconnect()
        assert self.client.finish()


@pytest.mark.parametrize(("size", "count"), SHAPES)
def test_data_that_ib_write_bw_writes_arrives(make_end, tool, place, size, count):
    peer = Peer(make_end, tool, place, "ib_write_bw", size, count)
    target = peer.data.memory("target", max(size, perftest.CYCLE))
    peer.control.keys = perftest.Keys(target.address, target.token)
    peer.control.exchange_keys(3)
    peer.control.exchange_keys()  # the client has written
    peer.control.exchange_results()
    peer.finish()
    # The message that ends the test overtakes the last writes, the end of their connection not.
    peer.expect_client_data(peer.data.content("target", 0, size))


@pytest.mark.parametrize(("size", "count"), SHAPES)
def test_ib_read_bw_gets_what_the_region_holds(make_end, tool, place, size, count):
    peer = Peer(make_end, tool, place, "ib_read_bw", size, count)
    nbytes = max(size, perftest.CYCLE)
    source = peer.data.memory("source", nbytes, seed=3)
    peer.data.memory("copy", size)
    peer.control.keys = perftest.Keys(source.address, source.token)
    theirs = peer.control.exchange_keys(3)
    assert peer.control.take_keys() == theirs  # the client has read
    # It tells the end of its buffer's first half, where its own reads went.
    peer.data.read((theirs.address - nbytes, theirs.token), "copy")
    assert peer.data.completion().status == nd.Status.SUCCESS
    assert peer.data.content("copy") == pattern(nbytes, 3)[:size]
    peer.control.tell_keys()
    peer.control.exchange_results()
    peer.finish()


@pytest.mark.parametrize("size", [4096, 65536])
def test_every_message_of_ib_send_bw_arrives(make_end, tool, place, size):
    count, window = 300, 64
    peer = Peer(make_end, tool, place, "ib_send_bw", size, count, "-r", window)
    data = peer.data
    inboxes = 2 * window
    data.memory("inbox", inboxes * size, nd.Access.LOCAL_WRITE)
    data.memory("credit", 4, nd.Access.LOCAL_READ)
    for slot in range(inboxes):
        data.receive(("inbox", slot * size, size), context=slot)
    credit = peer.control.exchange_keys(3)
    peer.control.exchange_keys()
    messages = set()
    for number in range(1, count + 1):
        done = data.received()
        assert (done.status, done.bytes_transferred) == (nd.Status.SUCCESS, size)
        messages.add(data.content("inbox", done.request_context * size, size))
        data.receive(("inbox", done.request_context * size, size), context=done.request_context)
        if number % (window // 4) == 0:
            # iWARP has no flow control of receives; the client sends on when it sees the count.
            data.store("credit", number.to_bytes(4, "little"))
            data.write((credit.address, credit.token), "credit")
            assert data.completion().status == nd.Status.SUCCESS
    (message,) = messages
    peer.finish()
    peer.expect_client_data(message)
