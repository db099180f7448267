# SPDX-License-Identifier: Apache-2.0
"""What a stranger can take before it has proven useful has a bound, and a rule which one gives way.

The rows of docs/design.md, "Security", that are about connections; in a process that has few
descriptors, because the bounds are parts of what it may have.
"""

import contextlib
import os
import resource
import socket

import pytest

import ndverbs as nd
from hostile.raw_peer import REQUEST_KEY, R, RawPeer, S, reply, request

DESCRIPTORS = 240
PART = DESCRIPTORS // 4  # for strangers in start-up, and as many for requests that wait
LINGERING = DESCRIPTORS // 8  # of strangers
LINGERS_S = 5


@pytest.fixture
def few_descriptors():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def count(victim, name):
    return victim.adapter.stats()[name]


def test_strangers_in_start_up_take_a_quarter_of_the_descriptors(victim, few_descriptors):
    with contextlib.ExitStack() as flood:
        peers = [flood.enter_context(RawPeer.connect(victim.address)) for _ in range(PART + 20)]

        for peer in peers:
            peer.send(REQUEST_KEY)

        assert victim.serves_others()
        assert count(victim, "starting_connection") <= PART
        # Those that have been silent the longest made room.
        assert peers[0].receive_all() == b""


def test_requests_that_wait_take_a_quarter_and_the_next_is_turned_away(victim, few_descriptors):
    with contextlib.ExitStack() as flood:
        for _ in range(PART):
            peer = flood.enter_context(RawPeer.connect(victim.address))
            peer.send(request())
            victim_sees(victim)
        late = flood.enter_context(RawPeer.connect(victim.address))

        late.send(request())

        assert late.receive_all() == b""


def test_requests_that_become_whole_at_once_take_a_quarter_as_well(victim, few_descriptors):
    with contextlib.ExitStack() as flood:
        # There is room for each of them when it comes.
        peers = [flood.enter_context(RawPeer.connect(victim.address)) for _ in range(PART // 2)]
        for peer in peers:
            peer.send(request())
        victim_sees(victim)
        strangers = [flood.enter_context(RawPeer.connect(victim.address)) for _ in range(PART - 10)]
        victim_sees(victim)
        for peer in strangers:
            peer.send(request())
        victim_sees(victim)
        waiting = []

        with contextlib.suppress(TimeoutError):
            while True:
                waiting.append(victim.listener.get_connector(timeout=0))

        assert len(waiting) == PART

        for connector in waiting:
            connector.close()


def victim_sees(victim):
    """Return when our side has served what was sent so far: it serves one after the other."""
    with RawPeer.connect(victim.address) as probe:
        probe.send(bytes(20))
        assert probe.receive_all() == b""


def test_a_request_that_its_peer_takes_back_costs_nothing_more(victim):
    stream = victim.stream()

    with RawPeer.connect(victim.address) as peer:
        peer.send(request())
        connector = victim.listener.get_connector(timeout=20)
        peer.finish()
        # Our side closes its socket, although no peer has answered.
        assert peer.receive_all() == b""

    assert count(victim, "connect_failure") == 1
    assert connector.state == "incoming"
    assert connector.peer_address[0] == "127.0.0.1"
    with pytest.raises(nd.RdmaConnectionAbortedError):
        connector.accept(stream.qp)
    assert count(victim, "connect_failure") == 1

    connector.close()


def test_requests_that_were_taken_back_give_way_to_others(victim, few_descriptors):
    for _ in range(2):
        for _ in range(PART):
            with RawPeer.connect(victim.address) as peer:
                peer.send(request())
                peer.finish()
                assert peer.receive_all() == b""
    assert victim.serves_others()


def test_strangers_that_linger_take_an_eighth_of_the_descriptors(victim, few_descriptors):
    with contextlib.ExitStack() as flood:
        for _ in range(LINGERING + 20):
            peer = flood.enter_context(RawPeer.connect(victim.address))
            peer.send(request())
            victim.listener.get_connector(timeout=20).reject()
            # The answer came; the peer does not close, and so this side waits.
            assert peer.receive_all() == reply(R | S, 2, words=bytes(4))
        assert 0 < count(victim, "lingering_connection") <= LINGERING
        assert victim.serves_others()


def test_strangers_that_linger_take_no_place_from_those_who_were_connected(victim, few_descriptors):
    with contextlib.ExitStack() as flood:
        known = victim.accepted()

        known.connector.close()
        assert known.peer.receive_all() == b""
        for _ in range(LINGERING + 1):
            peer = flood.enter_context(RawPeer.connect(victim.address))
            peer.send(request())
            victim.listener.get_connector(timeout=20).reject()
            assert peer.receive_all() == reply(R | S, 2, words=bytes(4))

        # It is still read: a stream that was closed would answer this by a reset.
        known.peer.send(bytes(100000))
        victim_sees(victim)
        assert known.peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

        known.peer.finish()


def test_connections_that_have_ended_linger_beside_each_other(victim, few_descriptors):
    ended = []
    for _ in range(LINGERING + 5):
        ended.append(victim.accepted())
        ended[-1].connector.close()
        assert ended[-1].peer.receive_all() == b""
        ended[-1].qp.close()
        ended[-1].cq.close()
    # The first one is still read.
    ended[0].peer.send(bytes(100000))

    victim_sees(victim)

    assert ended[0].peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

    for one in ended:
        one.peer.finish()


@contextlib.contextmanager
def no_descriptor_left():
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(0))
    try:
        yield
    finally:
        for fd in taken:
            os.close(fd)


def test_without_descriptors_the_oldest_stranger_makes_room_for_the_next(victim, few_descriptors):
    stream = victim.stream()
    with contextlib.ExitStack() as flood:
        strangers = [flood.enter_context(RawPeer.connect(victim.address)) for _ in range(3)]
        assert victim.serves_others()  # they are in start-up: the listener takes one by one

        victim_sees(victim)  # and the descriptor of the one that was served is free again
        honest = flood.enter_context(RawPeer(socket.socket()))
        with no_descriptor_left():
            honest.sock.connect(victim.address)
            stream.accept(honest)
            assert strangers[0].receive_all() == b""
        assert count(victim, "starting_connection") == 2

        honest.finish()
        stream.wait_for_disconnect()


def test_without_descriptors_a_connection_that_has_ended_makes_room(victim, few_descriptors):
    known = victim.accepted()

    known.connector.close()

    assert known.peer.receive_all() == b""

    with RawPeer(socket.socket()) as honest:
        with no_descriptor_left():
            honest.sock.connect(victim.address)
            honest.send(request())
            # Not only when the other one has lingered to its end.
            connector = victim.listener.get_connector(timeout=LINGERS_S / 2)
        connector.close()
    known.peer.finish()
