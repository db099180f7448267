# SPDX-License-Identifier: Apache-2.0
"""Copies from the server: what arrives, what is not given out, and what hostile ends may do."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli.copying import LIMIT, Client, ServeProcess, Serving, assert_serves, content, serving
from ndverbs import Access, Adapter, crc32c
from ndverbs.cli.filecopy import client as copy_client
from ndverbs.cli.filecopy import source as copy_source
from ndverbs.cli.filecopy.channel import Channel
from ndverbs.cli.filecopy.protocol import (
    Check,
    Commit,
    CopyError,
    Done,
    Entries,
    Entry,
    EntryKind,
    Fetch,
    Flags,
    Found,
    Have,
    Keep,
    List,
    MakeDirectory,
    Message,
    More,
    Reason,
    Store,
    Window,
    Wrote,
)
from ndverbs.cli.filecopy.receiving import WINDOW, WINDOWS
from ndverbs.cli.filecopy.sending import CHUNK, Sending
from ndverbs.cli.filecopy.source import SourceFile
from ndverbs.cli.filecopy.target import PARTIAL_PREFIX, PartialFile


def fetch(
    address: tuple[str, int], name: str, path: Path, adapter: Adapter, **options: object
) -> copy_client.Copied:
    def open_target(size: int) -> PartialFile:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        return PartialFile(parent, path.name, size)

    with copy_client.Client(address, adapter) as client:
        copied = client.fetch(name, open_target, **options)  # type: ignore[arg-type]
        client.finish()
    return copied


@pytest.mark.parametrize(
    "size",
    [0, 1, 4095, WINDOW - 1, WINDOW, WINDOW + 1, (2 * WINDOWS + 1) * WINDOW + 12345],
)
def test_a_fetched_file_equals_its_source(
    server: Serving, tmp_path: Path, adapter: Adapter, size: int
):
    (server.directory / "source").write_bytes(content(size))

    copied = fetch(server.address, "source", tmp_path / "target", adapter)

    assert (copied.size, copied.crc) == (size, crc32c(content(size)))
    assert (tmp_path / "target").read_bytes() == content(size)
    assert f"sent 'source', {size} bytes" in server.next_line()
    assert sorted(os.listdir(tmp_path)) == ["served", "target"]


def test_a_file_in_a_folder_of_the_server_is_found(
    server: Serving, tmp_path: Path, adapter: Adapter
):
    (server.directory / "a" / "b").mkdir(parents=True)
    (server.directory / "a" / "b" / "source").write_bytes(b"deep")

    fetch(server.address, "a/b/source", tmp_path / "target", adapter)

    assert (tmp_path / "target").read_bytes() == b"deep"


@pytest.mark.parametrize("flags", [Flags.SYNC, Flags.VERIFY], ids=lambda f: f.name)
def test_a_fetched_file_may_be_brought_to_the_disk_first(
    server: Serving, tmp_path: Path, adapter: Adapter, flags: Flags
):
    (server.directory / "source").write_bytes(content(CHUNK + 1))

    fetch(server.address, "source", tmp_path / "target", adapter, flags=flags)

    assert (tmp_path / "target").read_bytes() == content(CHUNK + 1)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "../outside",
        "folder/../../outside",
        "link",
        "link/x",
        "up/outside",
        "folder",
        ".",
        "pipe",
        "missing",
        "missing/x",
        "x" * 256,
        PARTIAL_PREFIX + "x",
    ],
    ids=lambda name: repr(name[:12]),
)
def test_nothing_outside_is_given_out_and_nothing_that_is_no_file(
    server: Serving, tmp_path: Path, adapter: Adapter, name: str
):
    (tmp_path / "outside").write_bytes(b"secret")
    (server.directory / "link").symlink_to(tmp_path / "outside")
    (server.directory / "up").symlink_to(tmp_path)
    (server.directory / "folder").mkdir()
    (server.directory / (PARTIAL_PREFIX + "x")).write_bytes(b"unfinished")
    os.mkfifo(server.directory / "pipe")

    with pytest.raises(CopyError) as caught:
        fetch(server.address, name, tmp_path / "target", adapter)

    assert caught.value.reason in (Reason.BAD_NAME, Reason.NO_DIRECTORY, Reason.SOURCE)
    assert caught.value.text in server.next_line()
    assert not (tmp_path / "target").exists()


def test_a_link_inside_the_directory_is_not_followed_either(
    server: Serving, tmp_path: Path, adapter: Adapter
):
    (server.directory / "real").write_bytes(b"x")
    (server.directory / "link").symlink_to("real")

    with pytest.raises(CopyError, match="'link' is a symbolic link, which is not followed"):
        fetch(server.address, "link", tmp_path / "target", adapter)


@pytest.mark.parametrize("size", [0, 1, 4096])
def test_a_file_that_does_not_tell_its_size_is_not_given_out(
    server: Serving, tmp_path: Path, adapter: Adapter, monkeypatch: pytest.MonkeyPatch, size: int
):
    """Its content would have to be kept in a temporary file, for any stranger."""
    path = server.directory / "source"
    path.write_bytes(bytes(1000))
    fstat, inode = os.fstat, path.stat().st_ino

    def claimed(fd: int) -> os.stat_result:
        real = fstat(fd)
        if real.st_ino != inode:
            return real
        return os.stat_result([*real[:6], size, *real[7:]])

    with monkeypatch.context() as claims:
        claims.setattr(copy_source.os, "fstat", claimed)
        with pytest.raises(CopyError, match="does not tell its size") as caught:
            fetch(server.address, "source", tmp_path / "target", adapter)

    assert caught.value.reason is Reason.SOURCE


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        (Fetch(b"source"), {"may_fetch": False}),
        (List(b"."), {"may_fetch": False}),
        (Store(b"target", 1), {"may_store": False}),
        (MakeDirectory(b"folder"), {"may_store": False}),
    ],
    ids=["fetch", "list", "store", "directory"],
)
def test_what_is_switched_off_is_refused(
    tmp_path: Path, adapter: Adapter, request_: Message, options: dict[str, bool]
):
    with serving(tmp_path / "served", **options) as server:
        (server.directory / "source").write_bytes(b"x")
        client = Client(adapter, server)
        client.send(request_)

        failure = client.failure()
        client.close()

        assert failure.reason is Reason.NOT_ALLOWED
        assert server.names() == ["source"]


def test_a_target_that_exists_here_is_left_alone(server: Serving, tmp_path: Path, adapter: Adapter):
    (server.directory / "source").write_bytes(b"new")
    (tmp_path / "target").write_bytes(b"old")

    with pytest.raises(CopyError, match="'target' exists already") as caught:
        fetch(server.address, "source", tmp_path / "target", adapter)

    assert caught.value.reason is Reason.TARGET_EXISTS
    assert (tmp_path / "target").read_bytes() == b"old"
    assert "the copy failed at the client" in server.next_line()


def test_a_source_that_shrinks_at_the_server_leaves_nothing_here(
    server: Serving, tmp_path: Path, adapter: Adapter
):
    source = server.directory / "source"
    source.write_bytes(bytes(40 * CHUNK))

    with pytest.raises(CopyError, match="'source' shrank during the copy") as caught:
        fetch(
            server.address,
            "source",
            tmp_path / "target",
            adapter,
            progress=lambda done: os.truncate(source, CHUNK),
        )

    assert caught.value.reason is Reason.SOURCE
    assert sorted(os.listdir(tmp_path)) == ["served"]
    source.unlink()
    server.next_line()
    assert_serves(server, tmp_path)


def test_a_server_killed_while_it_sends_is_noticed_and_leaves_nothing(
    tmp_path: Path, adapter: Adapter
):
    import signal

    with ServeProcess(tmp_path / "served") as server:
        (tmp_path / "served" / "source").touch()
        os.truncate(tmp_path / "served" / "source", 128 * WINDOW)

        with pytest.raises(CopyError) as caught:
            fetch(
                server.address,
                "source",
                tmp_path / "target",
                adapter,
                progress=lambda done: server.send_signal(signal.SIGKILL),
            )

    assert caught.value.reason is Reason.CONNECTION
    assert sorted(os.listdir(tmp_path)) == ["served"]


def test_one_connection_carries_one_request_after_the_other(
    server: Serving, tmp_path: Path, adapter: Adapter
):
    (tmp_path / "source").write_bytes(content(1000))

    def open_target(size: int) -> PartialFile:
        return PartialFile(os.open(tmp_path, os.O_RDONLY), "back", size)

    with (
        copy_client.Client(server.address, adapter) as client,
        SourceFile(str(tmp_path / "source")) as source,
    ):
        client.make_directory("folder")
        client.make_directory("folder")  # it exists: nothing to do
        client.store(source, "folder/a")
        client.store(source, "folder/b")
        client.fetch("folder/b", open_target)
        listed = client.list("folder")
        one = client.list("folder/a")
        client.finish()

    assert (tmp_path / "back").read_bytes() == content(1000)
    assert listed == [
        Entry(b"a", EntryKind.FILE, 1000),
        Entry(b"b", EntryKind.FILE, 1000),
    ]
    assert one == [Entry(b"", EntryKind.FILE, 1000)]
    said = [server.next_line().partition(": ")[2].rpartition(" in ")[0] for _ in range(7)]
    assert said == [
        "made the directory 'folder'",
        "made the directory 'folder'",
        "stored 'folder/a', 1000 bytes",
        "stored 'folder/b', 1000 bytes",
        "sent 'folder/b', 1000 bytes",
        "listed 'folder', 2 entries",
        "listed 'folder/a', 1 entries",
    ]


def test_a_long_directory_is_listed_whole_and_without_what_is_unfinished(
    server: Serving, adapter: Adapter
):
    names = [f"{number:04}" + "n" * (number % 250) for number in range(300)]
    for name in [*names, PARTIAL_PREFIX + "x"]:
        (server.directory / name).touch()
    (server.directory / "folder").mkdir()
    (server.directory / "link").symlink_to("folder")

    with copy_client.Client(server.address, adapter) as client:
        entries = client.list(".")
        client.finish()

    kinds = {entry.name.decode(): entry.kind for entry in entries}
    assert sorted(kinds) == sorted([*names, "folder", "link"])
    assert kinds["folder"] is EntryKind.DIRECTORY
    assert kinds["link"] is EntryKind.OTHER


@pytest.mark.parametrize("name", [b"file", b"link", b"missing/x", b"../x", b"/x", b""])
def test_a_directory_is_not_made_where_none_can_be(
    server: Serving, tmp_path: Path, adapter: Adapter, name: bytes
):
    (server.directory / "file").touch()
    (server.directory / "link").symlink_to(tmp_path)
    before = server.names(), sorted(os.listdir(tmp_path))
    client = Client(adapter, server)
    client.send(MakeDirectory(name))

    failure = client.failure()
    client.close()

    assert failure.reason in (Reason.NO_DIRECTORY, Reason.BAD_NAME)
    assert (server.names(), sorted(os.listdir(tmp_path))) == before


# Hostile clients that fetch.


@pytest.fixture
def fetching(server: Serving, adapter: Adapter, tmp_path: Path) -> Iterator[Client]:
    """A client that has asked for a file of 10 bytes, and must say what it has."""
    (server.directory / "source").write_bytes(b"0123456789")
    client = Client(adapter, server)
    client.send(Fetch(b"source"))
    assert client.receive() == Found(10)
    yield client
    client.close()
    server.next_line()
    assert_serves(server, tmp_path)


@pytest.mark.parametrize(
    "messages",
    [
        [Window(1, 9, 4096, 1)],
        [Window(0, 11, 4096, 1)],
        [Have(0)],
        [Have(11)],
        [Keep(0)],
        [Wrote(0, 10, 0)],
        [Commit(10, 0)],
        [Done(10, 0)],
        [Fetch(b"source")],
        [More()],
        [Have(10), Window(0, 10, 4096, 1)],
        [Have(10), Have(10)],
        [Have(10), Keep(11)],
        [Have(10), Keep(5)],
        [Have(10), Keep(0), Window(5, 5, 4096, 1)],
        [Have(10), Keep(10), Window(0, 10, 4096, 1)],
    ],
    ids=str,
)
def test_a_receiver_that_breaks_the_protocol_is_refused(fetching: Client, messages: list[Message]):
    with contextlib.suppress(CopyError):
        for message in messages:
            fetching.send(message)

    assert fetching.failure().reason is Reason.PROTOCOL


def test_a_receiver_with_too_many_windows_is_refused(tmp_path: Path):
    """The sender must not keep any number of them for a stranger."""
    (tmp_path / "source").write_bytes(bytes(100))
    windows = iter(Window(offset, 1, 4096, 1) for offset in range(100))
    region = SimpleNamespace(close=lambda: None)
    channel = SimpleNamespace(
        allocate=lambda nbytes: memoryview(bytearray(nbytes)),
        register=lambda memory, access: region,
        take_written=list,
        take=lambda: next(windows, None),
    )

    with (
        SourceFile(str(tmp_path / "source")) as source,
        Sending(channel, source, LIMIT) as sending,  # type: ignore[arg-type]
        pytest.raises(CopyError, match="more than 64 windows at once"),
    ):
        sending.run()


def test_a_window_that_is_none_ends_the_connection(fetching: Client):
    fetching.send(Window(0, 10, 4096, 1))

    assert fetching.failure().reason is Reason.CONNECTION


def test_a_receiver_that_stored_something_else_is_told(fetching: Client):
    region = fetching.channel.register(bytearray(10), Access.REMOTE_WRITE)
    fetching.send(Window(0, 10, region.address, region.remote_token))
    assert fetching.receive() == Wrote(0, 10, crc32c(b"0123456789"))
    assert fetching.receive() == Commit(10, crc32c(b"0123456789"))
    fetching.send(Done(10, 1))

    assert fetching.failure().reason is Reason.CHECKSUM
    region.close()


@pytest.mark.parametrize("messages", [[], [Have(10)]], ids=["windows", "keep"])
def test_a_receiver_that_goes_silent_is_cut_off(
    tmp_path: Path, adapter: Adapter, messages: list[Message]
):
    with serving(tmp_path / "served", silence=0.3) as server:
        (server.directory / "source").write_bytes(b"0123456789")
        client = Client(adapter, server)
        for message in [Fetch(b"source"), *messages]:
            client.send(message)

        assert "was silent for too long" in server.next_line()
        client.close()


def test_a_client_that_does_not_ask_for_more_entries_is_refused(server: Serving, adapter: Adapter):
    for number in range(300):
        (server.directory / f"{number:0200}").touch()
    client = Client(adapter, server)
    client.send(List(b"."))
    first = client.receive()
    client.send(List(b"."))

    assert isinstance(first, Entries)
    assert not first.is_last
    assert client.failure().reason is Reason.PROTOCOL
    client.close()


# Hostile servers.


@contextlib.contextmanager
def fake_server(adapter: Adapter, *answers: Message) -> Iterator[tuple[str, int]]:
    """Answer each message of one client with the next of `answers`."""
    with adapter.create_listener() as listener:
        listener.listen(("127.0.0.1", 0))

        def run() -> None:
            with Channel(adapter, listener.get_connector(timeout=LIMIT)) as channel:
                channel.accept(LIMIT)
                with contextlib.suppress(CopyError):
                    for answer in answers:
                        channel.receive(LIMIT, "in a test")
                        channel.send(answer, LIMIT)
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
        [Done(10, 0)],
        [Window(0, 10, 4096, 1)],
        [Found(10), Wrote(0, 9, 0)],
        [Found(10), Wrote(1, 9, 0)],
        [Found(10), Wrote(0, 10, 1)],
        [Found(10), Commit(10, 0)],
        [Found(10), Check(10, 0)],
        [Found(10), Found(10)],
        [Found(2**62)],
    ],
    ids=str,
)
def test_a_server_that_breaks_the_protocol_leaves_nothing_here(
    tmp_path: Path, adapter: Adapter, answers: list[Message]
):
    with fake_server(adapter, *answers) as address, pytest.raises(CopyError) as caught:
        fetch(address, "source", tmp_path / "target", adapter)

    assert caught.value.reason in (Reason.PROTOCOL, Reason.CHECKSUM, Reason.DISK_FULL)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name", [b"../x", b"/x", b"a/b", b".", b"..", b"", b"x\0", PARTIAL_PREFIX.encode() + b"x"]
)
def test_an_entry_that_would_lead_elsewhere_is_refused(adapter: Adapter, name: bytes):
    entries = Entry(name, EntryKind.FILE, 1), Entry(b"good", EntryKind.FILE, 1)
    with (
        fake_server(adapter, Entries(entries, is_last=True)) as address,
        copy_client.Client(address, adapter) as client,
        pytest.raises(CopyError) as caught,
    ):
        client.list(".")

    assert caught.value.reason in (Reason.PROTOCOL, Reason.BAD_NAME)


def test_a_directory_without_an_end_is_given_up(adapter: Adapter, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(copy_client, "MAX_ENTRIES", 3)
    part = Entries((Entry(b"a", EntryKind.FILE, 1),) * 2, is_last=False)
    nothing = Entries((), is_last=False)
    for answers, why in (((part, part), "more than 3 entries"), ((nothing,), "without an entry")):
        with (
            fake_server(adapter, *answers) as address,
            copy_client.Client(address, adapter) as client,
            pytest.raises(CopyError, match=why),
        ):
            client.list(".")
