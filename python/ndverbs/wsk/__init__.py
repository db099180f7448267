# SPDX-License-Identifier: Apache-2.0
"""Winsock Kernel's connection-oriented sockets over RDMA.

Names, flags, statuses and rules are WSK's; `docs/wsk.md` maps every function. Calls that wait for a
peer or a name return a `Request`, which can be waited for, awaited, or called back from; `accept`
and `socket_connect` wait themselves, and the others answer at once.
Event callbacks run on the adapter's callback thread, one at a time for a socket, and are off until
`set_event_callbacks` switches them on.
"""

from ndverbs.wsk._client import (
    VERSION,
    control_client,
    get_address_info,
    get_name_info,
    listen,
    set_static_event_callbacks,
    socket,
    socket_connect,
)
from ndverbs.wsk._connection import Socket
from ndverbs.wsk._indication import DataIndication
from ndverbs.wsk._listening import ListeningSocket
from ndverbs.wsk._names import (
    CONNECTION_EVENTS,
    SOL_SOCKET,
    ClientControl,
    EventMask,
    Flag,
    InspectAction,
    Ioctl,
    Option,
    RequestType,
)
from ndverbs.wsk._request import Request

__all__ = [
    "CONNECTION_EVENTS",
    "SOL_SOCKET",
    "VERSION",
    "ClientControl",
    "DataIndication",
    "EventMask",
    "Flag",
    "InspectAction",
    "Ioctl",
    "ListeningSocket",
    "Option",
    "Request",
    "RequestType",
    "Socket",
    "control_client",
    "get_address_info",
    "get_name_info",
    "listen",
    "set_static_event_callbacks",
    "socket",
    "socket_connect",
]

for _name in __all__:
    _public = globals()[_name]
    if hasattr(_public, "__qualname__"):
        _public.__module__ = __name__  # the path that programs import
