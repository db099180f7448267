# SPDX-License-Identifier: Apache-2.0
"""Clients that break the protocol in every phase: each is answered or cut off, nothing is left,
and the next client is served.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cli.copying import LIMIT, Client, Serving, assert_serves, serving
from ndverbs import Adapter, crc32c
from ndverbs.cli.filecopy.channel import Channel
from ndverbs.cli.filecopy.client import copy_file
from ndverbs.cli.filecopy.protocol import (
    MAX_MESSAGE,
    Commit,
    CopyError,
    Done,
    Failure,
    Message,
    Reason,
    Store,
    Window,
    Wrote,
)
from ndverbs.cli.filecopy.receiving import WINDOW, WINDOWS
from ndverbs.cli.filecopy.source import SourceFile


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "served") as server:
        yield server
        assert_serves(server, tmp_path)


@pytest.fixture
def client(server: Serving, adapter: Adapter) -> Iterator[Client]:
    client = Client(adapter, server)
    yield client
    client.close()


def test_garbage_is_answered_with_the_reason(client: Client, server: Serving):
    client.send_bytes(b"GET / HTTP/1.1\r\n\r\n")

    failure = client.failure()

    assert failure.reason is Reason.PROTOCOL
    assert "does not speak the copy protocol" in failure.text
    assert "does not speak the copy protocol" in server.next_line()


def test_another_version_is_answered_with_both(client: Client):
    client.send_bytes(b"NDCP\x07\x01\0\0")

    assert "speaks version 7 of the copy protocol, the other version 2" in client.failure().text


@pytest.mark.parametrize("size", [0, 1, 7, 8])
def test_a_message_too_short_is_answered(client: Client, size: int):
    client.send_bytes(b"NDCP\x02\x01\0\0"[:size])

    assert client.failure().reason is Reason.PROTOCOL


def test_an_oversized_message_ends_the_connection(client: Client, server: Serving):
    client.send_bytes(bytes(MAX_MESSAGE + 1))

    assert client.failure().reason is Reason.CONNECTION
    assert "ended the connection" in server.next_line()


def test_a_flood_of_messages_ends_the_connection(client: Client, server: Serving):
    with contextlib.suppress(CopyError):
        for _ in range(1000):
            client.send(Commit(0, 0))
    line = server.next_line()

    assert "a Commit where none belongs" in line


@pytest.mark.parametrize(
    "message",
    [
        Wrote(0, 1, 0),
        Commit(0, 0),
        Done(0, 0),
        Window(0, 1, 0, 0),
        Failure(Reason.SOURCE, "\x1b[31mred"),
    ],
    ids=lambda m: type(m).__name__,
)
def test_a_first_message_that_is_no_request_is_refused(
    client: Client, server: Serving, message: Message
):
    client.send(message)

    line = server.next_line()
    assert type(message).__name__ in line or "\\x1b[31mred" in line
    assert line.isprintable()


@pytest.mark.parametrize(
    "message",
    [
        Store(b"other", 1),
        Commit(10, 0),
        Done(10, 0),
        Window(0, 10, 0, 0),
        Wrote(1, 9, 0),
        Wrote(0, 9, 0),
        Wrote(0, 11, 0),
        Wrote(2**64 - 1, 2**64 - 1, 0),
    ],
    ids=str,
)
def test_what_is_not_due_during_the_content_is_refused(client: Client, message: Message):
    client.window(10)
    client.send(message)

    assert client.failure().reason is Reason.PROTOCOL


@pytest.mark.parametrize("message", [Store(b"other", 1), Wrote(0, 10, 0)], ids=str)
def test_what_is_not_due_after_the_content_is_refused(client: Client, message: Message):
    window = client.window(10)
    client.write(window, bytes(10))
    client.send(Wrote(0, 10, crc32c(bytes(10))))
    client.send(message)

    assert client.failure().reason is Reason.PROTOCOL


def test_a_window_with_another_checksum_is_refused(client: Client):
    window = client.window(10)
    client.write(window, b"0123456789")
    client.send(Wrote(0, 10, crc32c(b"0123456788")))

    failure = client.failure()

    assert failure.reason is Reason.CHECKSUM
    assert "bytes 0 to 10 do not have the sender's checksum" in failure.text


@pytest.mark.parametrize(
    "commit", [Commit(9, crc32c(bytes(10))), Commit(10, 1)], ids=["size", "crc"]
)
def test_a_commit_of_something_else_is_refused(client: Client, commit: Commit):
    client.window(10)
    client.send(Wrote(0, 10, crc32c(bytes(10))))
    client.send(commit)

    assert client.failure().reason is Reason.CHECKSUM


def test_a_write_beyond_the_window_ends_the_connection(client: Client, server: Serving):
    window = client.window(10)
    client.write(window, bytes(10), offset=4096)

    assert client.failure().reason is Reason.CONNECTION
    assert "ended the connection" in server.next_line()


def test_a_write_with_a_guessed_token_ends_the_connection(client: Client, server: Serving):
    window = client.window(10)
    client.write(Window(0, 10, window.address, window.token ^ 0x100), bytes(10))

    assert client.failure().reason is Reason.CONNECTION
    server.next_line()


def test_a_write_after_the_window_was_handed_back_changes_nothing(client: Client, server: Serving):
    """The server has ended remote access before it looks at the checksum."""
    window = client.window(WINDOW * 20)
    client.send(Wrote(0, WINDOW, crc32c(bytes(WINDOW))))
    for _ in range(WINDOWS):
        assert isinstance(client.receive(), Window)
    client.write(window, b"too late")

    assert client.failure().reason is Reason.CONNECTION
    assert "ended the connection" in server.next_line()


def test_another_connections_token_is_worth_nothing(
    client: Client, server: Serving, adapter: Adapter
):
    """Each connection has a protection domain of its own."""
    window = client.window(10)
    thief = Client(adapter, server)
    try:
        thief.send(Store(b"other", 10))
        assert isinstance(thief.receive(), Window)
        thief.write(window, b"stolen")
        assert thief.failure().reason is Reason.CONNECTION
    finally:
        thief.close()
    server.next_line()

    client.send(Wrote(0, 10, crc32c(bytes(10))))
    client.send(Commit(10, crc32c(bytes(10))))

    assert client.receive() == Done(10, crc32c(bytes(10)))
    assert (server.directory / "target").read_bytes() == bytes(10)


def steps(client: Client, count: int) -> None:
    """Go so far in the exchange."""
    if count > 0:
        window = client.window(WINDOW + 10)
    content = b"some bytes".ljust(WINDOW + 10, b"\0")
    if count > 1:
        client.write(window, b"some bytes")
    if count > 2:
        client.send(Wrote(0, WINDOW, crc32c(content[:WINDOW])))
    if count > 3:
        client.send(Wrote(WINDOW, 10, crc32c(content)))


@pytest.mark.parametrize("count", range(5))
@pytest.mark.parametrize("is_unnamed", [True, False], ids=["unnamed", "named"])
def test_a_client_that_leaves_in_any_phase_leaves_nothing(
    tmp_path: Path, adapter: Adapter, count: int, is_unnamed: bool
):
    with serving(tmp_path / "served", is_unnamed=is_unnamed) as server:
        client = Client(adapter, server)
        steps(client, count)
        client.close()

        server.next_line()
        assert_serves(server, tmp_path)
        assert server.names() == []


@pytest.mark.parametrize("count", range(5))
def test_a_client_that_goes_silent_in_any_phase_is_cut_off(
    tmp_path: Path, adapter: Adapter, count: int
):
    with serving(tmp_path / "served", request_time=0.3, silence=0.3) as server:
        client = Client(adapter, server)
        steps(client, count)

        line = server.next_line()
        assert "was silent for too long" in line or "checksum" in line
        assert server.names() == []
        client.close()
        assert_serves(server, tmp_path)


def test_bytes_that_are_no_rdma_at_all_disturb_nobody(server: Serving):
    for data in (b"", b"\0" * 100, b"GET / HTTP/1.1\r\n\r\n", b"MPA ID Req Frame" + b"\xff" * 64):
        with socket.create_connection(server.address, timeout=LIMIT) as stranger:
            stranger.sendall(data)


def test_a_busy_server_says_so_to_the_user(tmp_path: Path, adapter: Adapter):
    path = tmp_path / "source"
    path.write_bytes(b"x")
    with serving(tmp_path / "served", max_active=1, max_queued=0) as server:
        first = Client(adapter, server)
        first.window(10)
        with SourceFile(str(path)) as source, pytest.raises(CopyError) as caught:
            copy_file(source, server.address, "other", adapter=adapter)
        first.close()

        assert caught.value.reason is Reason.BUSY


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.lists(st.binary(max_size=200), min_size=1, max_size=4), is_prefixed=st.booleans())
def test_any_bytes_leave_the_server_serving(
    server: Serving, adapter: Adapter, data: list[bytes], is_prefixed: bool
):
    client = Client(adapter, server)
    with contextlib.suppress(CopyError, OSError):
        for piece in data:
            client.send_bytes((b"NDCP\x02" if is_prefixed else b"") + piece)
    client.close()

    server.next_line()
    assert server.names() == []


def test_a_stopping_server_tells_its_clients(tmp_path: Path, adapter: Adapter):
    with serving(tmp_path / "served") as server:
        client = Client(adapter, server)
        client.window(WINDOW * 6)
        server.close()

        failure = client.failure()
        client.close()

    assert failure.reason is Reason.STOPPING
    assert os.listdir(tmp_path / "served") == []


# A hostile server, for the client.


@contextlib.contextmanager
def fake_server(adapter: Adapter, *answers: Message | bytes) -> Iterator[tuple[str, int]]:
    """Answer the request of one client with `answers`."""
    with adapter.create_listener() as listener:
        listener.listen(("127.0.0.1", 0))

        def run() -> None:
            with Channel(adapter, listener.get_connector(timeout=LIMIT)) as channel:
                channel.accept(LIMIT)
                with contextlib.suppress(CopyError):
                    channel.receive(LIMIT, "in a test")
                    for answer in answers:
                        channel.send(answer, LIMIT)  # type: ignore[arg-type]
                    while True:
                        channel.receive(LIMIT, "in a test")

        thread = threading.Thread(target=run)
        thread.start()
        yield listener.local_address
        thread.join(LIMIT)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "answers",
    [
        [Window(1, 10, 4096, 1)],
        [Window(0, 11, 4096, 1)],
        [Window(0, 5, 4096, 1), Window(0, 5, 4096, 1)],
        [Wrote(0, 10, 0)],
        [Done(10, 0)],
        [Store(b"x", 1)],
    ],
    ids=["offset", "length", "twice", "wrote", "early", "request"],
)
def test_a_server_that_breaks_the_protocol_is_told_from_a_good_one(
    tmp_path: Path, adapter: Adapter, answers: list[Message]
):
    path = tmp_path / "source"
    path.write_bytes(b"0123456789")
    with (
        fake_server(adapter, *answers) as address,
        SourceFile(str(path)) as source,
        pytest.raises(CopyError) as caught,
    ):
        copy_file(source, address, "x", adapter=adapter)

    assert caught.value.reason in (Reason.PROTOCOL, Reason.CONNECTION)


def test_a_server_that_goes_silent_is_given_up(tmp_path: Path, adapter: Adapter):
    path = tmp_path / "source"
    path.write_bytes(b"0123456789")
    with (
        fake_server(adapter) as address,
        SourceFile(str(path)) as source,
        pytest.raises(CopyError, match="was silent for too long") as caught,
    ):
        copy_file(source, address, "x", adapter=adapter, silence=0.2)

    assert caught.value.reason is Reason.TIMED_OUT


def test_a_server_that_stored_something_else_is_caught(tmp_path: Path, adapter: Adapter):
    path = tmp_path / "source"
    path.touch()
    with (
        fake_server(adapter, Done(0, 1)) as address,
        SourceFile(str(path)) as source,
        pytest.raises(CopyError, match="the receiver stored crc32c 00000001") as caught,
    ):
        copy_file(source, address, "x", adapter=adapter)

    assert caught.value.reason is Reason.CHECKSUM
