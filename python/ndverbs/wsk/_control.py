# SPDX-License-Identifier: Apache-2.0
"""Options of WSK sockets of both kinds, by WSK's numbers."""

from __future__ import annotations

import errno
import operator
import socket as _socket
from typing import TYPE_CHECKING, Any

from ndverbs._native import Adapter, Status
from ndverbs.errors import RdmaError, error
from ndverbs.socket.options import Options
from ndverbs.wsk._names import SOL_SOCKET, Ioctl, Option, RequestType

# wsk.h's level of socket options, and Linux's.
_SOCKET_LEVELS = (SOL_SOCKET, _socket.SOL_SOCKET)
_NAMES = {
    Option.SO_KEEPALIVE: _socket.SO_KEEPALIVE,
    Option.SO_RCVBUF: _socket.SO_RCVBUF,
    Option.SO_REUSEADDR: _socket.SO_REUSEADDR,
}


class Controls:
    """WskControlSocket of connection sockets and of listening ones."""

    _adapter: Adapter
    _options: Options
    _is_exclusive = False

    if TYPE_CHECKING:

        def _check_open(self) -> None: ...
        def set_event_callbacks(self, mask: int) -> Status:
            """Of the kind of socket."""

    def control(
        self, request: RequestType, code: int, value: Any = None, *, level: int = SOL_SOCKET
    ) -> Any:
        """WskControlSocket: set an option, get one, or carry out an ioctl.

        Options of a listening socket are inherited by the sockets that it accepts. `level` is
        wsk.h's SOL_SOCKET for WSK's options; Linux's number means the same.
        """
        self._check_open()
        code, level = operator.index(code), operator.index(level)
        if request == RequestType.IOCTL:
            return self._ioctl(code)
        if request not in (RequestType.SET_OPTION, RequestType.GET_OPTION):
            raise error(Status.INVALID_PARAMETER, f"control: {request!r} is no request type")
        is_set = request == RequestType.SET_OPTION
        if level in _SOCKET_LEVELS:
            return self._socket_option(is_set, code, value)
        return self._stream_option(is_set, level, code, value)

    def _ioctl(self, code: int) -> Any:
        if code == Ioctl.SIO_ADDRESS_LIST_QUERY:
            return list(self._adapter.info.addresses)
        raise error(
            Status.NOT_SUPPORTED, f"control: ioctl {code:#x} is not supported on stream sockets"
        )

    def _socket_option(self, is_set: bool, code: int, value: Any) -> Any:
        if code == Option.SO_WSK_EVENT_CALLBACK:
            if not is_set:
                raise error(Status.INVALID_PARAMETER, "control: event callbacks are only set")
            return self.set_event_callbacks(value)
        if code == Option.SO_WSK_SECURITY:
            raise error(Status.NOT_SUPPORTED, "control: there are no security descriptors here")
        if code == Option.SO_EXCLUSIVEADDRUSE:
            # Addresses are never shared, so both answers hold.
            if not is_set:
                return int(self._is_exclusive)
            self._is_exclusive = bool(value)
            return None
        name = _NAMES.get(code)  # type: ignore[call-overload]
        if name is None:
            raise error(
                Status.NOT_SUPPORTED, f"control: there is no option {code:#x} of this socket"
            )
        return self._stream_option(is_set, _socket.SOL_SOCKET, name, value)

    def _stream_option(self, is_set: bool, level: int, name: int, value: Any) -> Any:
        try:
            if not is_set:
                return int(self._options.get(level, name))
            self._options.set(level, name, value)
        except OSError as refused:
            status = (
                Status.INVALID_PARAMETER if refused.errno == errno.EINVAL else Status.NOT_SUPPORTED
            )
            raise error(
                status, f"control: option {name} of level {level}: {refused.strerror}"
            ) from refused
        self._apply_options()
        return None

    def _apply_options(self) -> None:
        """Give what exists already what may still change."""


def as_bind_failure(failure: RdmaError) -> RdmaError:
    """WSK's status for an address that is taken."""
    if failure.status != Status.SHARING_VIOLATION:
        return failure
    return error(
        Status.ADDRESS_ALREADY_EXISTS, failure.what, hint=failure.hint, os_error=failure.errno or 0
    )
