# SPDX-License-Identifier: Apache-2.0
"""WskControlSocket: what each code does, as one table for both kinds of sockets."""

from __future__ import annotations

import enum
import errno
import operator
import socket as _socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from ndverbs._native import Adapter, Status
from ndverbs.errors import RdmaError, error
from ndverbs.socket.options import Options, Value
from ndverbs.wsk._names import SOL_SOCKET, Ioctl, Option, RequestType

_IOCTL = -1  # the level of ioctls, which have none
Answer: TypeAlias = int | list[str] | None


class Owner(enum.Flag):
    """Kinds of sockets."""

    CONNECTION = enum.auto()
    LISTENING = enum.auto()


class Control(NamedTuple):
    """What one code does. A direction without a function is refused."""

    level: int
    get: Callable[[Any], Answer] | None = None
    set: Callable[[Any, Any], Answer] | None = None
    owners: Owner = Owner.CONNECTION | Owner.LISTENING


def _of_stream(name: int) -> Control:
    """Return the control of an option that streams have under Linux's number."""
    return Control(
        SOL_SOCKET,
        get=lambda owner: owner._get_stream_option(_socket.SOL_SOCKET, name),
        set=lambda owner, value: owner._set_stream_option(_socket.SOL_SOCKET, name, value),
    )


def _refuse_conditional_accept(owner: object, value: object) -> None:
    raise error(
        Status.INVALID_DEVICE_STATE,
        "control: conditional accept is chosen before the socket is bound",
        hint="pass on_inspect to wsk.listen()",
    )


# A code that is not named here is not supported.
CONTROLS: dict[int, Control] = {
    Option.SO_KEEPALIVE: _of_stream(_socket.SO_KEEPALIVE),
    Option.SO_RCVBUF: _of_stream(_socket.SO_RCVBUF),
    Option.SO_REUSEADDR: _of_stream(_socket.SO_REUSEADDR),
    # Addresses are never shared, so both answers hold.
    Option.SO_EXCLUSIVEADDRUSE: Control(
        SOL_SOCKET,
        get=lambda owner: int(owner._is_exclusive),
        set=lambda owner, value: setattr(owner, "_is_exclusive", bool(value)),
    ),
    Option.SO_CONDITIONAL_ACCEPT: Control(
        SOL_SOCKET,
        get=lambda owner: int(owner._is_conditional),
        set=_refuse_conditional_accept,
        owners=Owner.LISTENING,
    ),
    Option.SO_WSK_EVENT_CALLBACK: Control(
        SOL_SOCKET, set=lambda owner, mask: owner.set_event_callbacks(mask)
    ),
    Ioctl.SIO_ADDRESS_LIST_QUERY: Control(
        _IOCTL, get=lambda owner: list(owner._adapter.info.addresses)
    ),
    Ioctl.SIO_WSK_QUERY_IDEAL_SEND_BACKLOG: Control(
        _IOCTL, get=lambda owner: owner.ideal_send_backlog, owners=Owner.CONNECTION
    ),
    Ioctl.SIO_WSK_QUERY_RECEIVE_BACKLOG: Control(
        _IOCTL, get=lambda owner: owner.receive_backlog, owners=Owner.CONNECTION
    ),
    Ioctl.SIO_WSK_QUERY_INSPECT_ID: Control(
        _IOCTL, get=lambda owner: owner._inspected_as(), owners=Owner.CONNECTION
    ),
}


class Controls:
    """WskControlSocket of connection sockets and of listening ones."""

    _adapter: Adapter
    _options: Options
    _owner: Owner
    _is_exclusive = False

    if TYPE_CHECKING:

        def _check_open(self) -> None: ...

    def control(
        self, request: RequestType, code: int, value: Any = None, *, level: int = SOL_SOCKET
    ) -> Answer:
        """WskControlSocket: set an option, get one, or carry out an ioctl.

        Options of a listening socket are inherited by the sockets that it accepts. `level` is
        wsk.h's SOL_SOCKET for WSK's options; Linux's number means the same. Of other levels it has
        the options of `ndverbs.socket_options`.
        """
        self._check_open()
        code, level = operator.index(code), operator.index(level)
        if request not in tuple(RequestType):
            raise error(Status.INVALID_PARAMETER, f"control: {request!r} is no request type")
        is_set = request == RequestType.SET_OPTION
        if request == RequestType.IOCTL:
            level = _IOCTL
        elif level == _socket.SOL_SOCKET:
            level = SOL_SOCKET
        elif level != SOL_SOCKET:
            if not is_set:
                return self._get_stream_option(level, code)
            self._set_stream_option(level, code, value)
            return None
        found = CONTROLS.get(code)
        if found is None or found.level != level or not found.owners & self._owner:
            kind = (self._owner.name or "").lower()
            raise error(
                Status.NOT_SUPPORTED,
                f"control: {_name(level, code)} is not supported on a {kind} socket",
            )
        if is_set and found.set is not None:
            return found.set(self, value)
        if not is_set and found.get is not None:
            return found.get(self)
        only = "got" if is_set else "set"
        raise error(Status.INVALID_PARAMETER, f"control: {_name(level, code)} is only {only}")

    def _get_stream_option(self, level: int, name: int) -> int:
        try:
            return int(self._options.get(level, name))
        except OSError as refused:
            raise _refusal(level, name, refused) from refused

    def _set_stream_option(self, level: int, name: int, value: Value) -> None:
        try:
            self._options.set(level, name, value)
        except OSError as refused:
            raise _refusal(level, name, refused) from refused
        self._apply_options()

    def _apply_options(self) -> None:
        """Give the native object the options that may still change."""


def _name(level: int, code: int) -> str:
    """Return a code for a message, by its name in wsk.h where it has one."""
    known: type[enum.IntEnum] = Ioctl if level == _IOCTL else Option
    kind = "ioctl" if level == _IOCTL else "option"
    return known(code).name if code in tuple(known) else f"{kind} {code:#x}"


def _refusal(level: int, name: int, refused: OSError) -> RdmaError:
    status = Status.INVALID_PARAMETER if refused.errno == errno.EINVAL else Status.NOT_SUPPORTED
    return error(status, f"control: option {name} of level {level}: {refused.strerror}")


def as_bind_failure(failure: RdmaError) -> RdmaError:
    """Return a failure to bind with WSK's status for an address that is taken."""
    if failure.status != Status.SHARING_VIOLATION:
        return failure
    return error(
        Status.ADDRESS_ALREADY_EXISTS, failure.what, hint=failure.hint, os_error=failure.errno or 0
    )
