# SPDX-License-Identifier: Apache-2.0
"""Connections: messages of any size and the peer's memory, in a few lines.

`listen` and `connect` give `Connection` objects; what these begin are `Request` objects. All of it
stands on the native objects, which stay reachable. The names are in ``ndverbs`` itself.
"""

from __future__ import annotations

from ndverbs.connection._connection import Connection
from ndverbs.connection._remote_array import RemoteArray
from ndverbs.connection._request import Request
from ndverbs.connection._server import Server, connect, connect_async, listen
from ndverbs.connection._share import Share, attach, share

__all__ = [
    "Connection",
    "RemoteArray",
    "Request",
    "Server",
    "Share",
    "attach",
    "connect",
    "connect_async",
    "listen",
    "share",
]

for _public in (
    Connection,
    RemoteArray,
    Request,
    Server,
    Share,
    attach,
    connect,
    connect_async,
    listen,
    share,
):
    _public.__module__ = __name__  # the path that programs import
