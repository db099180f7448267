# SPDX-License-Identifier: Apache-2.0
"""Stream sockets over RDMA, with the interface of the standard library's module of this name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ndverbs.socket._socket import Socket, create_connection, create_server

if TYPE_CHECKING:
    from ndverbs.socket._asyncio import open_connection, start_server

__all__ = ["Socket", "create_connection", "create_server", "open_connection", "start_server"]

for _public in (Socket, create_connection, create_server):
    _public.__module__ = __name__  # the path that programs import


def __getattr__(name: str) -> object:
    # asyncio is slow to import, and most programs with sockets do without.
    if name in ("open_connection", "start_server"):
        from ndverbs.socket import _asyncio

        return getattr(_asyncio, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
