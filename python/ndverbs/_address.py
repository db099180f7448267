# SPDX-License-Identifier: Apache-2.0
"""Addresses as users write them: "host:port", "[v6]:port" or (host, port)."""

from __future__ import annotations

import errno
import operator
from typing import TypeAlias

from ndverbs._native import Status
from ndverbs.errors import RdmaError, error

# As the socket module has addresses: of IPv6 also with flow and scope.
SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
Address: TypeAlias = str | SocketAddress

_FORMS = 'an address is a string "host:port" or "[v6]:port", or a pair (host, port)'


def split(address: Address) -> tuple[str, int]:
    """Return host and port of an address, without resolving the host.

    Parameters
    ----------
    address : str or (str, int)
        ``"host:port"``, ``"[v6]:port"`` or ``(host, port)``; the longer tuples that the socket
        module gives for IPv6 are taken too, and their scope becomes part of the host, as in
        ``"fe80::1%3"``. Port 0 lets the system choose where it listens.

    Raises
    ------
    TypeError
        It is neither a string nor a pair.
    RdmaError
        A ValueError with status INVALID_ADDRESS: it has no host, or no port from 0 to 65535.
    """
    if isinstance(address, str):
        return _split_text(address)
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], _integer(address[1])
        scope = _integer(address[3]) if len(address) > 3 else 0
        if isinstance(host, str) and port is not None and scope is not None:
            if not 0 <= scope < 1 << 32:
                raise _invalid(address, f"the scope {scope} is no number of an interface")
            if scope and ":" in host and "%" not in host:
                host = f"{host}%{scope}"
            return _checked(host, port, address)
    raise TypeError(f"{_FORMS}, not {address!r}")


def resolve(address: Address, family: int = 0) -> tuple[str, int]:
    """Return a numeric host and the port of an address.

    Of a name that has several addresses, the first IPv4 one is taken, else the first: "localhost"
    finds a listener at 127.0.0.1 also where the name means ::1 as well. With a family, only
    addresses of that family are found.

    Raises
    ------
    TypeError, RdmaError
        As `split` does.
    RdmaError
        A ValueError with status INVALID_ADDRESS: the name is unknown, or it has no address of the
        family.

    Notes
    -----
    Blocks, without the GIL, while a name is looked up; numeric hosts need no look-up.
    """
    import socket

    host, port = split(address)
    if is_numeric(host):
        if family and family != (socket.AF_INET6 if ":" in host else socket.AF_INET):
            raise error(
                Status.INVALID_ADDRESS,
                f"the host {host!r} is not an address of {socket.AddressFamily(family).name}",
                hint="the family of a socket and that of its addresses are the same",
                os_error=errno.EAFNOSUPPORT,
            )
        return host, port
    try:
        found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as cause:
        raise error(
            Status.INVALID_ADDRESS,
            f"the host {host!r} cannot be resolved: {cause}",
            hint="check the name, or give an IP address",
            os_error=0,
        ) from cause
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    for kind, _, _, _, name in found:
        if kind in (socket.AF_INET, socket.AF_INET6):
            return split((*name[:1], port, *name[2:]))
    raise error(Status.INVALID_ADDRESS, f"the host {host!r} has no IP address")


def text(address: tuple[str, int]) -> str:
    """Return "host:port", with brackets around an IPv6 host."""
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def socket_address(address: tuple[str, int], family: int) -> SocketAddress:
    """Return an address as the socket module gives it: of IPv6, with its flow and scope."""
    import socket

    if family == socket.AF_INET:
        return address
    name = address[0].partition("%")[2]
    try:
        scope = socket.if_nametoindex(name) if name else 0
    except OSError:  # the interface has gone, or its number is given
        scope = int(name) if name.isdigit() else 0
    return (*address, 0, scope)


def is_numeric(host: str) -> bool:
    """Return whether a host is an IPv4 or IPv6 address, which needs no look-up."""
    import socket

    for family, candidate in ((socket.AF_INET, host), (socket.AF_INET6, host.partition("%")[0])):
        try:
            socket.inet_pton(family, candidate)
        except (OSError, ValueError):  # ValueError: a null character
            continue
        return True
    return False


def _split_text(address: str) -> tuple[str, int]:
    if address.startswith("["):
        host, bracket, rest = address[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise _invalid(address, 'an IPv6 host is written as "[host]:port"')
        digits = rest[1:]
    else:
        host, colon, digits = address.rpartition(":")
        if not colon:
            raise _invalid(address, 'the port is missing, as in "host:7471"')
        if "://" in host:
            raise _invalid(address, 'it takes no scheme, as in "host:7471"')
        if ":" in host:
            raise _invalid(address, 'an IPv6 host needs brackets, as in "[::1]:7471"')
    if "/" in digits:
        raise _invalid(address, 'a name behind the port, as in "host:7472/x", is for attach')
    if not (digits.isascii() and digits.isdigit()):
        raise _invalid(address, f"the port {digits!r} is not a number")
    # Longer numbers are out of range anyway, and int() has a limit of its own.
    return _checked(host, int(digits[:6]), address)


def _integer(value: object) -> int | None:
    """Return an integer of any type, NumPy's too; None for other values."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _checked(host: str, port: int, address: object) -> tuple[str, int]:
    if host in ("", "*"):  # the resolver takes "*" for the loopback address
        what = f"the host {host!r} names none" if host else "the host is missing"
        raise _invalid(address, f'{what}; every IPv4 interface is "0.0.0.0"')
    if "\0" in host:
        raise _invalid(address, "the host holds a null character")
    if not 0 <= port <= 65535:
        raise _invalid(address, f"the port {port} is not in 0 to 65535")
    return host, port


def _invalid(address: object, reason: str) -> RdmaError:
    return error(Status.INVALID_ADDRESS, f"{address!r} is not an address: {reason}")
