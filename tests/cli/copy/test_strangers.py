# SPDX-License-Identifier: Apache-2.0
"""What strangers take of a copy server before they have proven useful, and which give way."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from pathlib import Path

import pytest

from cli.copying import LIMIT, Client, Serving, assert_serves, serving
from ndverbs import Adapter, crc32c
from ndverbs.cli.filecopy.channel import Channel
from ndverbs.cli.filecopy.places import Places
from ndverbs.cli.filecopy.protocol import (
    Commit,
    CopyError,
    Done,
    Failure,
    Reason,
    Store,
    Window,
    Wrote,
)
from ndverbs.cli.filecopy.receiving import WINDOW

# An MPA request with and without peer-to-peer mode: all that these strangers ever say.
MPA_REQUESTS = [
    b"MPA ID Req Frame\x10\x02\0\x04\xc0\x01\x80\x01",
    b"MPA ID Req Frame\x10\x02\0\x04\0\x01\0\x01",
]


@pytest.mark.parametrize("request_bytes", [b"", *MPA_REQUESTS], ids=["tcp", "rtr", "plain"])
def test_half_open_strangers_keep_nobody_from_the_server(tmp_path: Path, request_bytes: bytes):
    with serving(tmp_path / "served") as server, contextlib.ExitStack() as stack:
        for _ in range(100):
            stranger = stack.enter_context(socket.create_connection(server.address, timeout=LIMIT))
            stranger.sendall(request_bytes)

        assert_serves(server, tmp_path)


def test_half_open_strangers_do_not_keep_a_server_from_stopping(tmp_path: Path):
    """Its threads end before the time that strangers have to become connections."""
    with (
        serving(tmp_path / "served", request_time=LIMIT) as server,
        socket.create_connection(server.address, timeout=LIMIT) as stranger,
    ):
        stranger.sendall(MPA_REQUESTS[0])
        assert stranger.recv(1) == b"M"  # the reply: the server waits for more
        server.server.close()

        assert server.server._threads == set()


def test_who_asks_for_nothing_gives_its_place_to_the_next(tmp_path: Path, adapter: Adapter):
    with serving(tmp_path / "served", max_active=1, max_queued=1) as server:
        oldest, youngest = Client(adapter, server), Client(adapter, server)

        honest = Client(adapter, server)
        honest.send(Store(b"target", 0))
        honest.send(Commit(0, 0))

        assert honest.receive() == Done(0, 0)
        assert oldest.failure().reason in (Reason.BUSY, Reason.CONNECTION)
        youngest.window(10, b"other")
        for client in (oldest, youngest, honest):
            client.close()


def test_a_silent_copy_gives_its_turn_to_one_that_waits(tmp_path: Path, adapter: Adapter):
    with serving(tmp_path / "served", max_active=2, patience_first=0.2) as server:
        strangers = [Client(adapter, server) for _ in range(2)]
        for number, stranger in enumerate(strangers):
            stranger.window(10, b"%d" % number)

        assert_serves(server, tmp_path)

        assert "waits, 2 copies are under way" in server.next_line()
        said = server.next_line() + server.next_line()  # in any order
        assert re.search(r"it gave way: nothing came for \d+ s, and others waited", said)
        assert "stored 'good'" in said
        assert {s.failure().reason for s in strangers[:1]} <= {Reason.BUSY, Reason.CONNECTION}
        assert server.names() == []
        for stranger in strangers:
            stranger.close()


def test_a_client_that_has_sent_has_more_patience_to_hope_for(tmp_path: Path, adapter: Adapter):
    with serving(tmp_path / "served", max_active=1, patience_first=0.0) as server:
        slow = Client(adapter, server)
        slow.window(WINDOW + 10)
        slow.send(Wrote(0, WINDOW, crc32c(bytes(WINDOW))))
        assert isinstance(slow.receive(), Window)
        waiting = Client(adapter, server)
        waiting.send(Store(b"other", 0))
        assert "waits, 1 copies are under way" in server.next_line()

        crc = crc32c(bytes(WINDOW + 10))
        slow.send(Wrote(WINDOW, 10, crc))
        slow.send(Commit(WINDOW + 10, crc))
        assert slow.receive() == Done(WINDOW + 10, crc)
        slow.close()
        waiting.send(Commit(0, 0))

        assert waiting.receive() == Done(0, 0)
        waiting.close()


def one_copies_and_one_waits(adapter: Adapter, server: Serving) -> tuple[Client, Client]:
    """Fill a server that has one turn and one place more."""
    first, second = Client(adapter, server), Client(adapter, server)
    first.window(10)
    second.send(Store(b"other", 0))
    assert "waits, 1 copies are under way" in server.next_line()
    return first, second


def test_more_copies_than_turns_wait_and_more_than_places_are_turned_away(
    tmp_path: Path, adapter: Adapter
):
    with serving(tmp_path / "served", max_active=1, max_queued=1, patience_first=LIMIT) as server:
        first, second = one_copies_and_one_waits(adapter, server)

        with pytest.raises(ConnectionRefusedError):
            Client(adapter, server)
        assert "turned away, too many connections" in server.next_line()
        first.close()
        second.send(Commit(0, 0))

        assert second.receive() == Done(0, 0)
        second.close()


def test_an_announcement_takes_no_disk(tmp_path: Path, adapter: Adapter):
    """The disk is taken as bytes come: one small window for a client that has sent none."""
    with serving(tmp_path / "served", is_unnamed=False) as server:
        stranger = Client(adapter, server)
        stranger.window(4 * WINDOW)
        (partial,) = server.names()

        assert (server.directory / partial).stat().st_size == WINDOW
        stranger.close()
        assert "ended the connection" in server.next_line()
        assert server.names() == []


def test_a_farewell_takes_no_completion_from_the_thread_that_waits(adapter: Adapter):
    with adapter.create_listener() as listener, Channel(adapter) as client:
        listener.listen(("127.0.0.1", 0))
        connecting = threading.Thread(target=client.connect, args=(listener.local_address, LIMIT))
        connecting.start()
        with Channel(adapter, listener.get_connector(LIMIT)) as channel:
            channel.accept(LIMIT)
            connecting.join()
            client.close()
            channel._cq.wait(LIMIT)

            channel.farewell(Failure(Reason.STOPPING, "it stops"))

            assert channel._cq.poll(64)


def test_a_peer_that_says_too_much_is_cut_off_while_it_is_not_listened_to(adapter: Adapter):
    """As a client does that takes nothing, so that the server waits for its own messages."""
    with adapter.create_listener() as listener, Channel(adapter) as client:
        listener.listen(("127.0.0.1", 0))
        connecting = threading.Thread(target=client.connect, args=(listener.local_address, LIMIT))
        connecting.start()
        with Channel(adapter, listener.get_connector(LIMIT)) as channel:
            channel.accept(LIMIT)
            connecting.join()

            def flood() -> None:
                with contextlib.suppress(CopyError):
                    while True:
                        client.send(Commit(0, 0), LIMIT)

            def wait() -> None:
                while True:
                    channel.pump(time.monotonic() + LIMIT, "in a test")

            flooding = threading.Thread(target=flood)
            flooding.start()
            with pytest.raises(CopyError, match="messages before its turn") as caught:
                wait()

        flooding.join(LIMIT)
        assert caught.value.reason is Reason.PROTOCOL
        assert not flooding.is_alive()


class Guest:
    """A guest without a connection."""

    def __init__(self, idle_since: float | None = None, *, has_sent: bool = False) -> None:
        self.idle_since = idle_since
        self.has_sent = has_sent
        self.failure: Failure | None = None

    def give_way(self, failure: Failure) -> None:
        self.failure = failure

    def check(self) -> None:
        pass


def test_the_longest_idle_guest_that_asks_gives_way():
    places = Places(1, 3)
    guests = [Guest(3.0), Guest(1.0), Guest(2.0)]
    for guest in guests:
        assert places.enter(guest)

    assert places.enter(Guest(4.0))

    assert [guest.failure is not None for guest in guests] == [False, True, False]


def test_a_guest_that_waits_for_the_server_does_not_give_way():
    places = Places(1, 2, patience_first=0.0)
    busy, waiting = Guest(None), Guest(None)
    assert places.enter(busy)
    places.take_turn(busy, lambda: None)
    assert places.enter(waiting)
    thread = threading.Thread(target=lambda: places.take_turn(waiting, lambda: places.leave(busy)))
    thread.start()
    thread.join(LIMIT)

    assert not thread.is_alive()
    assert busy.failure is None


def test_no_copy_gives_way_while_nobody_waits():
    places = Places(2, 2, patience_first=0.0)
    idle, other = Guest(0.0), Guest(None)
    for guest in (idle, other):
        assert places.enter(guest)
        places.take_turn(guest, lambda: None)

    assert not places.enter(Guest(None))
    assert idle.failure is None


def test_who_waits_for_a_turn_learns_that_the_server_stops():
    places = Places(1, 2)
    first, second = Guest(None), Guest(None)
    for guest in (first, second):
        assert places.enter(guest)
    places.take_turn(first, lambda: None)

    with pytest.raises(CopyError, match="stops"):
        places.take_turn(second, lambda: places.stop(CopyError(Reason.STOPPING, "it stops")))

    assert not places.enter(Guest(None))


def test_a_client_that_goes_while_it_waits_gives_its_place_back(tmp_path: Path, adapter: Adapter):
    with serving(tmp_path / "served", max_active=1, max_queued=1, patience_first=LIMIT) as server:
        first, second = one_copies_and_one_waits(adapter, server)

        second.close()
        assert "ended the connection" in server.next_line()
        third = Client(adapter, server)
        third.send(Store(b"other", 0))

        assert "waits, 1 copies are under way" in server.next_line()
        first.close()
        third.send(Commit(0, 0))
        assert third.receive() == Done(0, 0)
        third.close()


def test_a_client_that_says_too_much_while_it_waits_gives_its_place_back(
    tmp_path: Path, adapter: Adapter
):
    with serving(tmp_path / "served", max_active=1, max_queued=1, patience_first=LIMIT) as server:
        first, second = one_copies_and_one_waits(adapter, server)

        def flood() -> None:
            while True:
                second.send(Commit(0, 0))

        with pytest.raises(CopyError):
            flood()
        assert "messages before its turn" in server.next_line()
        for client in (first, second):
            client.close()
