# SPDX-License-Identifier: Apache-2.0
"""Addresses, listeners and connectors: where comms come from."""

import asyncio
import errno
import gc
import socket
import threading

import dask
import numpy as np
import pytest
from distributed.comm import (
    CommClosedError,
    connect,
    get_address_host,
    get_local_address_for,
    listen,
    parse_address,
    parse_host_port,
    resolve_address,
)
from distributed.comm.addressing import get_address_host_port
from distributed.comm.registry import get_backend
from distributed.protocol import to_serialize
from distributed.utils import get_ip

from conformance.end import LIMIT


async def ignore(comm):
    """Handle a comm by doing nothing with it."""


async def echo(comm):
    """Send back what comes."""
    try:
        while True:
            await comm.write(await comm.read())
    except CommClosedError:
        await comm.close()


def test_addresses_are_taken_apart(protocol):
    address = f"{protocol}://127.0.0.1:123"
    assert get_address_host(address) == "127.0.0.1"
    assert get_address_host_port(address) == ("127.0.0.1", 123)
    assert resolve_address(address) == address
    assert resolve_address(f"{protocol}://localhost:456") == f"{protocol}://127.0.0.1:456"
    assert resolve_address(f"{protocol}://[::1]:789") == f"{protocol}://[::1]:789"
    assert get_local_address_for(address) == f"{protocol}://127.0.0.1"


@pytest.mark.parametrize(
    ("where", "bound", "contact"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("localhost", "127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0", get_ip()),
        ("", "0.0.0.0", get_ip()),
        ("[::1]", "::1", "::1"),
    ],
)
def test_a_listener_says_where_it_is_and_serves_many_at_once(
    protocol, in_loop, where, bound, contact
):
    async def ask(address, key):
        comm = await connect(address, unknown="is ignored")
        assert comm.peer_address == address
        await comm.write({"key": key})
        answer = await comm.read()
        await comm.close()
        return answer["key"]

    async def body():
        async with listen(f"{protocol}://{where}", echo, unknown="is ignored") as listener:
            found = [parse_address(a) for a in (listener.listen_address, listener.contact_address)]
            answers = await asyncio.gather(*(ask(listener.contact_address, i) for i in range(40)))
        return found, answers

    found, answers = in_loop(body())
    assert [scheme for scheme, _ in found] == [protocol] * 2
    (host, port), (contact_host, contact_port) = (parse_host_port(place) for _, place in found)
    assert (host, contact_host) == (bound, contact)
    assert port == contact_port > 1023
    assert answers == list(range(40))


def test_both_ends_have_the_same_two_addresses(with_pair):
    async def body(a, b):
        assert a.local_address == b.peer_address
        assert a.peer_address == b.local_address
        assert a.same_host
        assert b.same_host
        assert a.handshake_options["compression"] is None
        assert a.remote_info["address"] == a.peer_address

    with_pair(body)


def test_an_accepted_comm_of_a_wildcard_has_the_address_that_its_peer_named(protocol, in_loop):
    async def body():
        accepted = asyncio.get_running_loop().create_future()

        async def handle(comm):
            accepted.set_result(comm)

        async with listen(f"{protocol}://0.0.0.0", handle) as listener:
            port = listener.listen_address.rpartition(":")[2]
            a = await connect(f"{protocol}://127.0.0.1:{port}")
            b = await accepted
        found = (b.local_address, a.peer_address, b.peer_address, a.local_address)
        a.abort()
        b.abort()
        return found

    b_local, a_peer, b_peer, a_local = in_loop(body())
    assert b_local == a_peer
    assert b_peer == a_local


def test_hosts_that_differ_compress_as_the_configuration_says(protocol, in_loop):
    async def body():
        accepted = asyncio.get_running_loop().create_future()

        async def handle(comm):
            accepted.set_result(comm)

        async with listen(f"{protocol}://127.0.0.2", handle) as listener:
            a = await connect(listener.contact_address)
            b = await accepted
        try:
            assert not a.same_host
            assert not b.same_host
            assert a.handshake_options["compression"] == "zlib"
            await a.write(to_serialize(np.zeros(1 << 20)))
            assert not (await b.read()).any()
        finally:
            a.abort()
            b.abort()

    with dask.config.set({"distributed.comm.compression": "zlib"}):
        in_loop(body())


def test_many_listeners_have_many_addresses(protocol, in_loop):
    async def body():
        listeners = [await listen(f"{protocol}://127.0.0.1", ignore) for _ in range(50)]
        addresses = {listener.listen_address for listener in listeners}
        for listener in listeners:
            listener.stop()
            listener.stop()
        return len(addresses)

    assert in_loop(body()) == 50


def test_a_listener_that_was_not_started_has_no_address(protocol):
    listener = listen(f"{protocol}://127.0.0.1", ignore)
    with pytest.raises(ValueError, match=r"non-started|not started"):
        _ = listener.listen_address


def test_a_port_in_use_is_refused_by_its_errno(protocol, in_loop):
    async def body():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            with pytest.raises(OSError, match=r".") as refused:
                await listen(f"{protocol}://127.0.0.1:{taken.getsockname()[1]}", ignore)
            return refused.value.errno

    assert in_loop(body()) == errno.EADDRINUSE


def test_comms_outlive_their_listener(protocol, in_loop):
    async def body():
        async with listen(f"{protocol}://127.0.0.1", echo) as listener:
            comm = await connect(listener.contact_address)
        await comm.write("still here")
        answer = await comm.read()
        await comm.close()
        return answer

    assert in_loop(body()) == "still here"


# Attempts of distributed's own tcp:// leave their sockets.
@pytest.mark.filterwarnings("ignore:unclosed.*socket:ResourceWarning")
def test_connect_gives_up_in_time(protocol, in_loop):
    async def body():
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(OSError, match="Timed out trying to connect"):
            await connect(f"{protocol}://127.0.0.1:{port}", timeout=0.2)
        return loop.time() - began

    assert 0.1 < in_loop(body()) < LIMIT / 2
    gc.collect()  # here, where the warning is expected


def test_connect_tries_until_there_is_a_listener(protocol, in_loop, monkeypatch):
    attempts = []
    connector = type(get_backend(protocol).get_connector())
    connects = connector.connect
    started = asyncio.Event()

    async def counted(self, *args, **kwargs):
        attempts.append(args)
        if len(attempts) == 3:
            started.set()
        return await connects(self, *args, **kwargs)

    monkeypatch.setattr(connector, "connect", counted)

    async def body():
        with socket.create_server(("127.0.0.1", 0)) as unused:
            address = f"{protocol}://127.0.0.1:{unused.getsockname()[1]}"
        connecting = asyncio.create_task(connect(address, timeout=LIMIT))
        await started.wait()
        async with listen(address, echo):
            comm = await connecting
            await comm.write(1)
            assert await comm.read() == 1
            await comm.close()

    in_loop(body())
    assert len(attempts) >= 3


def test_a_stranger_gets_no_comm_and_disturbs_none(protocol, in_loop):
    handled = []

    async def handle(comm):
        handled.append(comm.peer_address)
        await echo(comm)

    async def body():
        async with listen(f"{protocol}://127.0.0.1", handle) as listener:
            host, port = parse_host_port(parse_address(listener.contact_address)[1])
            _, silent = await asyncio.open_connection(host, port)
            _, talking = await asyncio.open_connection(host, port)
            talking.write(b"\xff" * 200)
            talking.close()
            comm = await connect(listener.contact_address)
            await comm.write("through")
            assert await comm.read() == "through"
            local = comm.local_address
            await comm.close()
            silent.close()
            return local

    local = in_loop(body())
    assert handled == [local]


def test_a_peer_that_leaves_during_the_handshake_disturbs_none(protocol, in_loop):
    handled = []

    async def handle(comm):
        handled.append(comm)
        await echo(comm)

    async def body():
        async with listen(f"{protocol}://127.0.0.1", handle) as listener:
            connector = get_backend(protocol).get_connector()
            place = parse_address(listener.contact_address)[1]
            for _ in range(3):
                comm = await connector.connect(place)
                await comm.close()
            comm = await connect(listener.contact_address)
            await comm.write("through")
            assert await comm.read() == "through"
            await comm.close()

    in_loop(body())
    assert len(handled) == 1


def test_a_listener_that_stops_during_a_handshake_ends_the_comm(protocol, in_loop):
    async def body():
        listener = await listen(f"{protocol}://127.0.0.1", ignore)
        connector = get_backend(protocol).get_connector()
        comm = await connector.connect(parse_address(listener.contact_address)[1])
        await comm.read()  # the listener's part of the handshake: it is at it
        listener.stop()
        listener.abort_handshaking_comms()
        with pytest.raises(CommClosedError):
            await comm.read()

    in_loop(body())


def test_encryption_that_is_required_is_refused(protocol, in_loop):
    async def body():
        with pytest.raises(RuntimeError, match="encryption"):
            await listen(f"{protocol}://127.0.0.1", ignore, require_encryption=True)
        with pytest.raises(RuntimeError, match="encryption"):
            await connect(f"{protocol}://127.0.0.1:1", require_encryption=True)

    in_loop(body())


def test_loops_of_several_threads_have_comms_of_their_own(protocol, in_loop):
    failures = []

    async def body():
        async with listen(f"{protocol}://127.0.0.1", echo) as listener:
            comm = await connect(listener.contact_address)
            for i in range(100):
                await comm.write(i)
                assert await comm.read() == i
            await comm.close()

    def go():
        try:
            in_loop(body())
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert failures == []
