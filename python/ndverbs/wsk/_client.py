# SPDX-License-Identifier: Apache-2.0
"""Functions of no single socket: making them, the client's own control codes, and names."""

from __future__ import annotations

import functools
import os
import socket as _socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from ndverbs._address import Address, SocketAddress
from ndverbs._native import Adapter, Status, adapters
from ndverbs.errors import error
from ndverbs.wsk import _events
from ndverbs.wsk._connection import Socket
from ndverbs.wsk._listening import ListeningSocket, OnAbort, OnAccept, OnInspect
from ndverbs.wsk._names import ClientControl
from ndverbs.wsk._request import Promise, Request, T

VERSION = (1, 0)

_Addresses: TypeAlias = Sequence[
    tuple[_socket.AddressFamily, _socket.SocketKind, int, str, SocketAddress | tuple[int, bytes]]
]


@functools.cache
def _resolver() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(4, thread_name_prefix="ndverbs names")


os.register_at_fork(after_in_child=_resolver.cache_clear)  # its threads are the parent's


def socket(
    adapter: Adapter | str | None = None,
    *,
    on_receive: _events.OnReceive | None = None,
    on_disconnect: _events.OnDisconnect | None = None,
    on_send_backlog: _events.OnSendBacklog | None = None,
) -> Socket:
    """WskSocket: make an unbound connection socket.

    Parameters
    ----------
    adapter : Adapter, str or None
        What it runs over; a name is opened once and shared by the process.
    on_receive : callable, optional
        ``on_receive(socket, indications, flags)`` for received data. It returns None or SUCCESS
        for all of it, an integer for its first bytes, DATA_NOT_ACCEPTED for none of it, or PENDING
        to retain the indications until they are released. After less than all, indications stop
        until a `Socket.receive` completes.
    on_disconnect : callable, optional
        ``on_disconnect(socket, flags)`` when the peer has ended; ABORTIVE in flags: for good.
    on_send_backlog : callable, optional
        ``on_send_backlog(socket, size)`` when the ideal send backlog has changed.
    """
    return Socket(
        adapter,
        on_receive=on_receive,
        on_disconnect=on_disconnect,
        on_send_backlog=on_send_backlog,
    )


def socket_connect(
    local: Address,
    remote: Address,
    adapter: Adapter | str | None = None,
    *,
    timeout: float | None = 10,
    on_receive: _events.OnReceive | None = None,
    on_disconnect: _events.OnDisconnect | None = None,
    on_send_backlog: _events.OnSendBacklog | None = None,
) -> Socket:
    """WskSocketConnect: make, bind and connect a socket; returns when it is connected.

    Callbacks are those of `socket`.
    """
    made = socket(
        adapter,
        on_receive=on_receive,
        on_disconnect=on_disconnect,
        on_send_backlog=on_send_backlog,
    )
    try:
        made.bind(local)
        made.connect(remote, timeout=timeout).result(None if timeout is None else timeout + 1)
    except BaseException:
        made.close()
        raise
    return made


def listen(
    address: Address,
    *,
    adapter: Adapter | str | None = None,
    backlog: int = 128,
    on_accept: OnAccept | None = None,
    on_inspect: OnInspect | None = None,
    on_abort: OnAbort | None = None,
) -> ListeningSocket:
    """WskBind of a listening socket, or WskListen of a stream socket: listen at an address.

    Parameters
    ----------
    address
        Port 0 lets the system choose.
    adapter : Adapter, str or None
        As of `socket`.
    backlog : int
        How many connections wait to be accepted; more requests wait unanswered.
    on_accept : callable, optional
        ``on_accept(listening, socket, local, remote)``, once ACCEPT is switched on and no accept
        request waits; REQUEST_NOT_ACCEPTED closes the socket.
    on_inspect : callable, optional
        ``on_inspect(listening, id, local, remote)`` before a connection is made: conditional
        accept. It returns an `InspectAction`; after PEND, `ListeningSocket.inspect_complete`
        answers.
    on_abort : callable, optional
        ``on_abort(listening, id)`` when an inspected request vanished before its connection was
        made.
    """
    return ListeningSocket(
        address,
        adapter=adapter,
        backlog=backlog,
        on_accept=on_accept,
        on_inspect=on_inspect,
        on_abort=on_abort,
    )


def set_static_event_callbacks(mask: int) -> None:
    """WSK_SET_STATIC_EVENT_CALLBACKS: switch events on in every socket, for good.

    Raises
    ------
    RdmaError
        INVALID_DEVICE_STATE: a socket was made before; INVALID_PARAMETER: not an event.
    """
    _events.static.choose(mask)


def control_client(code: int, value: Any = None) -> list[dict[str, object]] | None:
    """WskControlClient: what concerns no single socket.

    TRANSPORT_LIST_QUERY gives a row for each adapter and address family; codes that are about
    security descriptors and TDI say NOT_SUPPORTED.
    """
    if code == ClientControl.TRANSPORT_LIST_QUERY:
        return [
            {
                "adapter": info.name,
                "version": VERSION,
                "socket_type": int(_socket.SOCK_STREAM),
                "protocol": int(_socket.IPPROTO_TCP),
                "address_family": int(family),
            }
            for info in adapters()
            for family in (_socket.AF_INET, _socket.AF_INET6)
        ]
    if code == ClientControl.SET_STATIC_EVENT_CALLBACKS:
        set_static_event_callbacks(value)
        return None
    if code in list(ClientControl):
        raise error(
            Status.NOT_SUPPORTED, f"control_client: {ClientControl(code).name} is not supported"
        )
    raise error(Status.INVALID_PARAMETER, f"control_client: there is no code {code}")


def get_address_info(
    node: str | None = None,
    service: str | int | None = None,
    *,
    family: int = 0,
    flags: int = 0,
) -> Request[_Addresses]:
    """WskGetAddressInfo: a request whose information is what socket.getaddrinfo returns.

    WskFreeAddressInfo has nothing to do: Python frees the list.
    """
    if not node and service in (None, ""):
        raise error(Status.INVALID_PARAMETER, "get_address_info: give a node or a service")

    def look_up() -> _Addresses:
        for name in (node, service):
            if isinstance(name, str) and "\0" in name:
                raise ValueError(f"{name!r} contains a null character")
        return _socket.getaddrinfo(node, service, family, _socket.SOCK_STREAM, 0, flags)

    return _resolve("get_address_info", look_up)


def get_name_info(address: SocketAddress, flags: int = 0) -> Request[tuple[str, str]]:
    """WskGetNameInfo: a request whose information is the pair (node, service)."""
    if not address:
        raise error(Status.INVALID_PARAMETER, "get_name_info: the address is empty")
    return _resolve("get_name_info", lambda: _socket.getnameinfo(address, flags))


def _resolve(what: str, look_up: Callable[[], T]) -> Request[T]:
    promise: Promise[T] = Promise()

    def cancel() -> None:
        promise.settle(error(Status.CANCELLED, f"{what}: the request was cancelled"))

    def run() -> None:
        try:
            promise.settle(information=look_up())
        except OSError as refused:
            promise.settle(error(Status.NO_MATCH, f"{what}: {refused}"))
        except Exception as refused:  # a name that no resolver takes, a port out of range
            promise.settle(error(Status.INVALID_PARAMETER, f"{what}: {refused}"))

    try:
        _resolver().submit(run)
    except RuntimeError as refused:
        raise error(
            Status.INSUFFICIENT_RESOURCES, f"{what}: no thread to look it up on: {refused}"
        ) from refused
    return Request(what, promise=promise, on_cancel=cancel)
