# SPDX-License-Identifier: Apache-2.0
"""`open_connection` and `start_server`: asyncio's streams over `Socket`.

The transports are asyncio's own, so that StreamReader, StreamWriter, TLS and flow control are what
they are over TCP.
"""

from __future__ import annotations

import asyncio
import socket as _socket
from collections.abc import Awaitable, Callable
from typing import Any

from ndverbs import _address
from ndverbs._address import Address
from ndverbs._native import Adapter, Status
from ndverbs.errors import error
from ndverbs.socket import Socket

_LIMIT = 2**16  # asyncio's own


async def open_connection(
    host: str | tuple[str, int],
    port: int | None = None,
    *,
    adapter: Adapter | str | None = None,
    local_addr: tuple[str, int] | None = None,
    limit: int = _LIMIT,
    **options: Any,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect and return a reader and a writer, as asyncio.open_connection does.

    Parameters
    ----------
    host, port
        The peer; also one address such as ``"host:port"`` without a port.
    adapter : Adapter, str or None
        As of `Socket`.
    local_addr : (str, int), optional
        Where to connect from.
    limit : int
        Of the reader's buffer, bytes.
    **options
        ``ssl``, ``server_hostname`` and the like, as asyncio.open_connection takes them.
    """
    _check_loop("open_connection")
    name, number = await _resolved(host, port, options.pop("family", 0))
    sock = Socket(_family(name), adapter=adapter)
    try:
        sock.setblocking(False)
        if local_addr is not None:
            sock.bind(local_addr)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (name, number))  # type: ignore[arg-type]
        if options.get("ssl") and "server_hostname" not in options and isinstance(host, str):
            options["server_hostname"] = host if port is not None else _address.split(host)[0]
        reader, writer = await asyncio.open_connection(sock=sock, limit=limit, **options)
    except BaseException:
        sock.close()
        raise
    _send_files_by_copy(writer)
    return reader, writer


async def start_server(
    client_connected_cb: Callable[
        [asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None
    ],
    host: str | tuple[str, int] | None = None,
    port: int | None = None,
    *,
    adapter: Adapter | str | None = None,
    backlog: int = 1024,
    limit: int = _LIMIT,
    **options: Any,
) -> asyncio.Server:
    """Listen and call back with a reader and a writer, as asyncio.start_server does.

    Without a host it listens on loopback, because RDMA connections have neither encryption nor
    authentication of their own.
    """
    _check_loop("start_server")
    family = options.pop("family", 0)
    loopback = "::1" if family == _socket.AF_INET6 else "127.0.0.1"
    name, number = await _resolved(host or loopback, port or 0 if host is None else port, family)
    sock = Socket(_family(name), adapter=adapter)

    def connected(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> Awaitable[None] | None:
        _send_files_by_copy(writer)
        return client_connected_cb(reader, writer)

    try:
        sock.bind((name, number))
        return await asyncio.start_server(
            connected, sock=sock, backlog=backlog, limit=limit, **options
        )
    except BaseException:
        sock.close()
        raise


def _family(host: str) -> int:
    return _socket.AF_INET6 if ":" in host else _socket.AF_INET


def _check_loop(call: str) -> None:
    """Refuse loops whose transports would look for the data in the descriptor itself."""
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.selector_events.BaseSelectorEventLoop):
        kind = f"{type(loop).__module__}.{type(loop).__qualname__}"
        raise error(
            Status.NOT_SUPPORTED,
            f"{call}: the running loop is a {kind}, whose streams read and write descriptors "
            "themselves, and none carries the data of a stream over RDMA",
            hint="run it in asyncio's own loop: asyncio.Runner(loop_factory="
            "asyncio.SelectorEventLoop)",
        )


async def _resolved(host: Address, port: int | None, family: int) -> tuple[str, int]:
    given = _address.split(host if port is None and not _is_host(host) else (str(host), port or 0))
    if _address.is_numeric(given[0]):
        return _address.resolve(given, family)
    return await asyncio.get_running_loop().run_in_executor(None, _address.resolve, given, family)


def _is_host(host: Address) -> bool:
    return isinstance(host, str) and (_address.is_numeric(host) or ":" not in host)


def _send_files_by_copy(writer: asyncio.StreamWriter) -> None:
    # asyncio would hand the descriptor to os.sendfile, and no data goes through it.
    mode = getattr(writer.transport, "_sendfile_compatible", None)
    if mode is not None:
        writer.transport._sendfile_compatible = type(mode).FALLBACK  # type: ignore[attr-defined]


for _public in (open_connection, start_server):
    _public.__module__ = "ndverbs.socket"  # the path that programs import
