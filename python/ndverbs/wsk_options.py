# SPDX-License-Identifier: Apache-2.0
"""Options of WSK sockets of both kinds, by WSK's numbers."""

from __future__ import annotations

import socket as _socket
from typing import Any

from ndverbs._native import Status
from ndverbs.errors import RdmaError, error
from ndverbs.socket_options import Options
from ndverbs.wsk_names import Option


def option(
    owner: Any, options: Options, is_set: bool, code: int, value: Any, level: int
) -> int | None:
    """Set or get an option of a socket of either kind."""
    if code == Option.SO_WSK_SECURITY:
        raise error(Status.NOT_SUPPORTED, "control: there are no security descriptors here")
    if code == Option.SO_EXCLUSIVEADDRUSE:
        # Addresses are never shared, so both answers hold.
        if not is_set:
            return int(owner._is_exclusive)
        owner._is_exclusive = int(bool(value))
        return None
    names = {
        Option.SO_KEEPALIVE: _socket.SO_KEEPALIVE,
        Option.SO_RCVBUF: _socket.SO_RCVBUF,
        Option.SO_REUSEADDR: _socket.SO_REUSEADDR,
    }
    name = names.get(Option(code)) if level == _socket.SOL_SOCKET and code in list(Option) else code
    if name is None or (level == _socket.SOL_SOCKET and code not in list(Option)):
        raise error(Status.NOT_SUPPORTED, f"control: there is no option {code:#x}")
    try:
        if not is_set:
            return int(options.get(level, name))
        options.set(level, name, value)
    except OSError as refused:
        raise error(
            Status.NOT_SUPPORTED, f"control: option {code} of level {level}: {refused}"
        ) from refused
    stream = getattr(owner, "_stream", None)
    if stream is not None:
        options.apply(stream)
    return None


def as_bind_failure(failure: RdmaError) -> RdmaError:
    """WSK's status for an address that is taken."""
    if failure.status != Status.SHARING_VIOLATION:
        return failure
    return error(
        Status.ADDRESS_ALREADY_EXISTS, failure.what, hint=failure.hint, os_error=failure.errno or 0
    )
