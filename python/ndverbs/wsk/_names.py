# SPDX-License-Identifier: Apache-2.0
"""WSK's constants, with the values of wsk.h."""

from __future__ import annotations

import enum

SOL_SOCKET = 0xFFFF
WSK_SO_BASE = 0x4000


class RequestType(enum.IntEnum):
    """What a control request does (WSK_CONTROL_SOCKET_TYPE)."""

    SET_OPTION = 0
    GET_OPTION = 1
    IOCTL = 2


class Option(enum.IntEnum):
    """Socket options of level SOL_SOCKET."""

    SO_REUSEADDR = 0x0004
    SO_KEEPALIVE = 0x0008
    SO_RCVBUF = 0x1002
    SO_CONDITIONAL_ACCEPT = 0x3002
    SO_EXCLUSIVEADDRUSE = 0xFFFB
    SO_WSK_SECURITY = WSK_SO_BASE + 1
    SO_WSK_EVENT_CALLBACK = WSK_SO_BASE + 2


_IOC_WSK = 0x08000000 | 0x07000000
_IOC_VOID, _IOC_OUT, _IOC_IN = 0x20000000, 0x40000000, 0x80000000


class Ioctl(enum.IntEnum):
    """Control codes."""

    SIO_WSK_SET_REMOTE_ADDRESS = _IOC_IN | _IOC_WSK | 1
    SIO_WSK_REGISTER_EXTENSION = _IOC_IN | _IOC_OUT | _IOC_WSK | 2
    SIO_WSK_QUERY_IDEAL_SEND_BACKLOG = _IOC_OUT | _IOC_WSK | 3
    SIO_WSK_QUERY_RECEIVE_BACKLOG = _IOC_OUT | _IOC_WSK | 4
    SIO_WSK_QUERY_INSPECT_ID = _IOC_OUT | _IOC_WSK | 5
    SIO_WSK_SET_SENDTO_ADDRESS = _IOC_IN | _IOC_WSK | 6
    SIO_WSK_SET_TCP_SILENT_MODE = _IOC_VOID | _IOC_WSK | 7
    SIO_ADDRESS_LIST_QUERY = _IOC_OUT | 0x08000000 | 22
    SIO_ADDRESS_LIST_CHANGE = _IOC_VOID | 0x08000000 | 23


class EventMask(enum.IntFlag):
    """Event callbacks, and the bit that switches one off (WSK_EVENT_*)."""

    SEND_BACKLOG = 0x10
    RECEIVE = 0x40
    DISCONNECT = 0x80
    ACCEPT = 0x200
    DISABLE = 0x80000000


CONNECTION_EVENTS = EventMask.SEND_BACKLOG | EventMask.RECEIVE | EventMask.DISCONNECT


class Flag(enum.IntFlag):
    """Flags of requests and of event callbacks (WSK_FLAG_*)."""

    NONE = 0
    ABORTIVE = 1
    WAITALL = 2
    NODELAY = 2
    RELEASE_ASAP = 2
    DRAIN = 4
    ENTIRE_MESSAGE = 4
    AT_DISPATCH_LEVEL = 8


class InspectAction(enum.IntEnum):
    """The answer to an inspect event (WSK_INSPECT_ACTION)."""

    REJECT = 0
    ACCEPT = 1
    PEND = 2


class ClientControl(enum.IntEnum):
    """Control codes of the client itself (WSK_CONTROL_CLIENT)."""

    TRANSPORT_LIST_QUERY = 2
    TRANSPORT_LIST_CHANGE = 3
    CACHE_SD = 4
    RELEASE_SD = 5
    TDI_DEVICENAME_MAPPING = 6
    SET_STATIC_EVENT_CALLBACKS = 7
    TDI_BEHAVIOR = 8
