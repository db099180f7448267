# SPDX-License-Identifier: Apache-2.0
"""Strangers at a listening stream socket who fall silent: they give way, and others are served."""

import contextlib
import queue
import struct

import pytest

import ndverbs as nd
from hostile.raw_peer import REQUEST_KEY, RawPeer, request
from ndverbs import _native, wsk
from stream.sockets import LIMIT, Background

BACKLOG = 2
PLACES = 64  # of a listener with such a backlog
SPARE = 16  # receives for words that take no credit
# What rsockets send with a request: version 1, flags, credits, then where descriptors and data go.
START = struct.pack(">BBH4x", 1, 2, 64) + struct.pack(">QIIQII", 0x1000, 7, 2, 0x2000, 8, 65536)
# Peer-to-peer mode: the listener answers, and waits for the peer's first message.
UNTIL_RTR = request(words=bytes.fromhex("80018001"), private_data=START)
SILENCES = {
    "before the request": b"",
    "in the request": REQUEST_KEY,
    "before the first message": UNTIL_RTR,
    "before the stream's first word": request(private_data=START),
}


@pytest.fixture
def adapter():
    with nd.Adapter.open("soft") as opened:
        yield opened


@pytest.fixture
def server(adapter):
    with nd.create_server(("127.0.0.1", 0), backlog=BACKLOG, adapter=adapter) as listening:
        listening.settimeout(LIMIT)
        yield listening


@contextlib.contextmanager
def strangers(address, count, data):
    with contextlib.ExitStack() as held:
        peers = [held.enter_context(RawPeer.connect(address)) for _ in range(count)]
        for peer in peers:
            peer.send(data)
        yield peers


def serve(server):
    """Answer the first connection that says something; the others are kept until then."""
    with contextlib.ExitStack() as kept:
        answers = queue.Queue()
        kept.enter_context(contextlib.suppress(OSError))  # the server is closed
        while answers.empty():
            connection = kept.enter_context(server.accept()[0])
            connection.settimeout(LIMIT)
            kept.callback(Background(echo, connection, answers).result)
            kept.callback(connection.close)


def echo(connection, answers):
    with contextlib.suppress(OSError):  # a stranger's ends without a word
        if data := connection.recv(10):
            answers.put(connection.sendall(data))


def talk(adapter, address):
    with nd.Socket(adapter=adapter) as honest:
        honest.settimeout(LIMIT)
        honest.connect(address)
        honest.sendall(b"hello")
        return honest.recv(10)


@pytest.mark.parametrize("silence", SILENCES)
def test_silent_strangers_do_not_keep_others_from_being_served(adapter, server, silence):
    with strangers(server.getsockname(), PLACES + 10, SILENCES[silence]):
        serving = Background(serve, server)
        assert talk(adapter, server.getsockname()) == b"hello"

        server.close()
        serving.result()


def test_strangers_take_no_more_than_the_places_of_the_listener(adapter, server):
    with strangers(server.getsockname(), 2 * PLACES, UNTIL_RTR):
        near = nd.Socket(adapter=adapter)
        near.settimeout(LIMIT)

        near.connect(server.getsockname())

        assert _native._live_objects()["stream"] <= PLACES + 2

        near.close()
        server.accept()[0].close()


def test_a_stranger_that_gives_way_sees_the_end_of_its_connection(adapter, server):
    with strangers(server.getsockname(), PLACES, UNTIL_RTR) as peers:
        for peer in peers:
            peer.receive_reply()
        with nd.create_connection(server.getsockname(), LIMIT, adapter=adapter):
            peers[0].receive_all()
            server.accept()[0].close()


def test_a_request_that_is_thought_about_gives_way_to_one_that_waits(adapter):
    asked, aborted = queue.Queue(), queue.Queue()

    def on_inspect(_, inspect_id, *__):
        asked.put(inspect_id)
        return wsk.InspectAction.PEND

    with wsk.listen(
        ("127.0.0.1", 0),
        adapter=adapter,
        backlog=1,
        on_inspect=on_inspect,
        on_abort=lambda _, inspect_id: aborted.put(inspect_id),
    ) as listening:
        with strangers(listening.local_address, PLACES, UNTIL_RTR):
            pended = [asked.get(timeout=LIMIT) for _ in range(PLACES)]
            near = wsk.socket(adapter)
            near.bind(("127.0.0.1", 0))
            connecting = near.connect(listening.local_address, timeout=LIMIT)
            second = asked.get(timeout=LIMIT)
            assert aborted.get(timeout=LIMIT) == pended[0]
            listening.inspect_complete(second, wsk.InspectAction.ACCEPT)
            connecting.result(LIMIT)
        listening.accept(LIMIT).close()
        near.close()


@pytest.mark.slow
def test_a_stranger_that_never_begins_has_ten_seconds(server):
    with strangers(server.getsockname(), 1, UNTIL_RTR) as (peer,):
        peer.receive_reply()
        peer.receive_all()


def test_credits_are_no_more_than_the_receives_that_are_posted(adapter):
    from ndverbs.socket_options import RDMA_RQSIZE, SOL_RDMA

    with nd.Socket(adapter=adapter) as server:
        server.setsockopt(SOL_RDMA, RDMA_RQSIZE, 32767)
        server.listen()
        with RawPeer.connect(server.getsockname()) as peer:
            peer.send(request(private_data=START))
            _, _, data = peer.receive_reply()
    (told,) = struct.unpack_from(">H", data, 4 + 2)  # behind the words of RFC 6581
    assert told == adapter.info.max_receive_queue_depth - SPARE
