# SPDX-License-Identifier: Apache-2.0
"""`Socket`: the methods of socket.socket over an RDMA connection that speaks rsockets.

Data calls of a connected socket are native: they are set on the instance when it connects.
"""

from __future__ import annotations

import errno
import operator
import os
import socket as _socket
import sys
import warnings
from typing import IO, Any, NoReturn, Self, overload

from ndverbs import _address, _native
from ndverbs._address import Address, SocketAddress
from ndverbs._buffers import Buffer
from ndverbs._native import Adapter
from ndverbs._sharing import adapter_for
from ndverbs.socket import options as _options
from ndverbs.socket._mappings import Mappings
from ndverbs.socket._messages import Messages

_DATA_CALLS = ("send", "sendall", "recv", "recv_into")
# Its methods in Python work on every object that has the native ones.
_standard: Any = _socket.socket


class Socket(Mappings, Messages):
    """A stream socket over RDMA, with the interface of socket.socket.

    Parameters
    ----------
    family : int
        AF_INET or AF_INET6; of the addresses given to it.
    type : int
        SOCK_STREAM, the only one.
    adapter : Adapter, str or None
        What it runs over; a name is opened once and shared by the process, None means the
        environment variable ``NDVERBS_ADAPTER``, else ``"soft"``.

    Notes
    -----
    `fileno` gives a descriptor that select, poll and selectors see readable and writable as the
    socket is; reading from it or writing to it means nothing. A connection that ends without the
    peer's farewell raises ConnectionResetError, where TCP might report a plain end.
    """

    def __init__(
        self,
        family: int = _socket.AF_INET,
        type: int = _socket.SOCK_STREAM,
        proto: int = 0,
        *,
        adapter: Adapter | str | None = None,
    ) -> None:
        self._closed = True  # for __del__, until everything is there
        if family not in (_socket.AF_INET, _socket.AF_INET6):
            raise OSError(errno.EAFNOSUPPORT, f"a stream is AF_INET or AF_INET6, not {family!r}")
        if type & ~(_socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC) != _socket.SOCK_STREAM:
            raise OSError(errno.EPROTONOSUPPORT, f"a stream is SOCK_STREAM, not {type!r}")
        if proto not in (0, _socket.IPPROTO_TCP):
            raise OSError(errno.EPROTONOSUPPORT, f"a stream has no protocol {proto!r}")
        self.family = _socket.AddressFamily(family)
        self.type = _socket.SOCK_STREAM
        self.proto = proto
        self._adapter = adapter_for(adapter)
        self._options = _options.Options()
        self._stream: _native.Stream | None = None
        self._listener: _native.StreamListener | None = None
        self._endpoint: _native.SharedEndpoint | None = None
        self._local: tuple[str, int] | None = None
        self._io_refs = 0
        self._has_told_error = False  # by SO_ERROR
        timeout = _socket.getdefaulttimeout()
        self._timeout = 0.0 if type & _socket.SOCK_NONBLOCK else timeout
        self._closed = False

    # ---- life -------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Return the socket, which is closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it, unless that happened."""
        if not self._closed:
            self.close()

    def __del__(self) -> None:
        """Close a forgotten socket, and say so, as socket.socket does."""
        if not self._closed and not sys.is_finalizing():
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self._real_close()

    def __repr__(self) -> str:
        """Return what it is, and its addresses."""
        text = f"<{type(self).__module__}.{type(self).__qualname__} over {self._adapter!r}"
        if self._closed:
            return f"{text} [closed]>"
        for name, address in (("laddr", self.getsockname), ("raddr", self.getpeername)):
            try:
                text += f", {name}={address()}"
            except OSError:
                continue
        return text + ">"

    def __getstate__(self) -> NoReturn:
        """Refuse: a connection cannot be copied."""
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")

    def close(self) -> None:
        """Close it, when files made by `makefile` are closed, too. Sent data still arrives."""
        self._closed = True
        if self._io_refs <= 0:
            self._real_close()

    def _real_close(self) -> None:
        self._closed = True
        self._forget_data_calls()
        for part in (self._stream, self._listener, self._endpoint):
            if part is not None:
                part.close()
        self._stream = self._listener = self._endpoint = None

    def _decref_socketios(self) -> None:
        if self._io_refs > 0:
            self._io_refs -= 1
        if self._closed:
            self.close()

    def detach(self) -> int:
        """Refuse: there is no descriptor that carries the data."""
        raise OSError(errno.EOPNOTSUPP, "a stream over RDMA has no descriptor to detach")

    def dup(self) -> Socket:
        """Refuse: a connection has one owner."""
        raise OSError(errno.EOPNOTSUPP, "a stream over RDMA cannot be duplicated")

    def fileno(self) -> int:
        """Return a descriptor to wait for, -1 when the socket is closed."""
        if self._closed and self._io_refs <= 0:
            return -1
        if self._listener is not None:
            return self._listener.fileno()
        return self._made_stream().fileno()

    # ---- addresses --------------------------------------------------------------------------

    def bind(self, address: Address) -> None:
        """Take a local address; port 0 lets the system choose."""
        self._check_open()
        has_begun = self._stream is not None and self._stream.phase != "fresh"
        if self._local is not None or has_begun:
            raise OSError(errno.EINVAL, "the socket is bound already")
        host, port = self._resolved(address)
        if "create_shared_endpoint" in self._adapter.info.features:
            self._endpoint = self._adapter.create_shared_endpoint((host, port))
            host, port = self._endpoint.local_address
        self._local = host, port

    def getsockname(self) -> SocketAddress:
        """Return the local address."""
        self._check_open()
        if self._listener is not None:
            return self._pair(self._listener.local_address)
        if self._stream is not None and self._stream.phase not in ("fresh", "connecting"):
            try:
                return self._pair(self._stream.local_address)
            except OSError:
                pass  # it never connected
        if self._local is not None:
            return self._pair(self._local)
        return self._pair(("0.0.0.0" if self.family == _socket.AF_INET else "::", 0))

    def getpeername(self) -> SocketAddress:
        """Return the peer's address."""
        self._check_open()
        if self._stream is None:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._pair(self._stream.peer_address)

    def _pair(self, address: tuple[str, int]) -> SocketAddress:
        return _address.socket_address(address, self.family)

    def _resolved(self, address: Address) -> tuple[str, int]:
        if isinstance(address, tuple) and address and address[0] == "":
            address = ("0.0.0.0" if self.family == _socket.AF_INET else "::", *address[1:])
        return _address.resolve(address, self.family)

    # ---- connections ------------------------------------------------------------------------

    def connect(self, address: Address) -> None:
        """Connect; without blocking, raise BlockingIOError and go on in the background."""
        self._check_open()
        if self._listener is not None:
            raise OSError(errno.EOPNOTSUPP, "the socket listens")
        if self._stream is not None and self._stream.phase != "fresh":
            self._check_second_connect()
        stream = self._made_stream()
        timeout = self._timeout
        stream._start_connect(
            self._endpoint or self._local, self._resolved(address), timeout or _options.CONNECT_S
        )
        self._adopt(stream)
        if timeout == 0:
            raise BlockingIOError(errno.EINPROGRESS, os.strerror(errno.EINPROGRESS))
        try:
            # The attempt ends at its own timeout and says what it waited for.
            stream.wait_connected(None)
            if stream.phase != "connected":
                stream.raise_failure()
        except BaseException:
            self._drop_stream()
            raise

    def _check_second_connect(self) -> None:
        """Refuse a second connect, unless the first one failed."""
        assert self._stream is not None
        phase = self._stream.phase
        if phase == "connecting":
            raise OSError(errno.EALREADY, os.strerror(errno.EALREADY))
        if phase == "connected" or not self._stream.error:
            raise OSError(errno.EISCONN, os.strerror(errno.EISCONN))
        self._drop_stream()

    def connect_ex(self, address: Address) -> int:
        """Connect and return an errno instead of raising."""
        try:
            self.connect(address)
        except TimeoutError:
            return errno.EAGAIN
        except OSError as error:
            if error.errno is None:
                raise
            return error.errno
        return 0

    def listen(self, backlog: int = 128) -> None:
        """Take connections from now on, at the bound address, else at loopback."""
        self._check_open()
        if self._listener is not None:
            self._listener.set_backlog(_options.backlog_of(backlog))
            return
        if self._stream is not None and self._stream.phase != "fresh":
            raise OSError(errno.EINVAL, "the socket is connected")
        if self._local is None:
            self._local = ("127.0.0.1" if self.family == _socket.AF_INET else "::1", 0)
        if self._endpoint is not None:
            # It has held the port until now.
            self._endpoint.close()
            self._endpoint = None
        self._listener = self._adapter._create_stream_listener(
            self._local, self._options.native, _options.backlog_of(backlog)
        )

    def accept(self) -> tuple[Socket, SocketAddress]:
        """Wait for a connection; return its socket and the peer's address."""
        self._check_open()
        if self._listener is None:
            raise OSError(errno.EINVAL, "the socket does not listen")
        stream = self._listener.accept(self._timeout)
        if stream is None:
            if self._timeout == 0:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            raise TimeoutError("timed out")
        made = type(self).__new__(type(self))
        Socket.__init__(made, self.family, adapter=self._adapter)
        made._options = self._options.copy()
        made._adopt(stream)
        if _socket.getdefaulttimeout() is None and self._timeout:
            made.setblocking(True)
        return made, made._peer_or_empty()

    def _peer_or_empty(self) -> SocketAddress:
        try:
            return self.getpeername()
        except OSError:
            return self._pair(("", 0))  # gone already

    def shutdown(self, how: int) -> None:
        """End one direction (SHUT_RD, SHUT_WR) or both (SHUT_RDWR)."""
        stream = self._connected_stream()
        how = operator.index(how)
        if not -(1 << 31) <= how < 1 << 31:
            raise OverflowError("how does not fit a C int")
        if how not in (_socket.SHUT_RD, _socket.SHUT_WR, _socket.SHUT_RDWR):
            raise OSError(errno.EINVAL, f"how is SHUT_RD, SHUT_WR or SHUT_RDWR, not {how}")
        stream.shutdown(how)

    # ---- timeouts and options ---------------------------------------------------------------

    def settimeout(self, value: float | None) -> None:
        """Set how long calls wait: None without a limit, 0 not at all."""
        if value is not None:
            value = float(value)
            if not value >= 0:
                raise ValueError("Timeout value out of range")
        self._timeout = value
        if self._stream is not None:
            self._stream.timeout = value

    def gettimeout(self) -> float | None:
        """Return how long calls wait."""
        return self._timeout

    timeout = property(gettimeout, doc="How long calls wait.")

    def setblocking(self, flag: bool) -> None:
        """Let calls wait without a limit, or not at all."""
        self.settimeout(None if flag else 0.0)

    def getblocking(self) -> bool:
        """Return whether calls may wait."""
        return self._timeout != 0

    def setsockopt(
        self, level: int, name: int, value: _options.Value, length: int | None = None
    ) -> None:
        """Set an option of `ndverbs.socket_options`; others raise OSError with ENOPROTOOPT."""
        self._check_open()
        self._options.set(level, name, value)
        if self._stream is not None:
            self._options.apply(self._stream)
        if self._listener is not None:
            self._listener.set_options(self._options.native)

    @overload
    def getsockopt(self, level: int, name: int) -> int: ...
    @overload
    def getsockopt(self, level: int, name: int, length: int) -> int | bytes: ...
    def getsockopt(self, level: int, name: int, length: int = 0) -> int | bytes:
        """Get an option."""
        self._check_open()
        if level == _socket.SOL_SOCKET:
            if name == _socket.SO_ERROR:
                return _options.packed_value(self._take_error(), length)
            known = {
                _socket.SO_TYPE: int(self.type),
                _socket.SO_DOMAIN: int(self.family),
                _socket.SO_PROTOCOL: _socket.IPPROTO_TCP,
                _socket.SO_ACCEPTCONN: int(self._listener is not None),
            }
            if name in known:
                return _options.packed_value(known[name], length)
        return self._options.get(level, name, length)

    def _take_error(self) -> int:
        """Return what broke the connection, once."""
        if self._stream is None or self._has_told_error:
            return 0
        found = self._stream.error
        self._has_told_error = found != 0
        return found

    # ---- data -------------------------------------------------------------------------------

    def send(self, data: Buffer, flags: int = 0, /) -> int:
        """Send what there is room for and return its length."""
        return self._connected_stream().send(data, flags)

    def sendall(self, data: Buffer, flags: int = 0, /) -> None:
        """Send all of it. After a failure it is not known how much was sent."""
        self._connected_stream().sendall(data, flags)

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Receive up to `bufsize` bytes; none is the end of the stream."""
        return self._connected_stream().recv(bufsize, flags)

    def recv_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive into a buffer and return how much; 0 is the end of the stream."""
        return self._connected_stream().recv_into(buffer, nbytes, flags)

    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, None]:
        """Receive; a stream's data has no address."""
        return self.recv(bufsize, flags), None

    def recvfrom_into(self, buffer: Buffer, nbytes: int = 0, flags: int = 0) -> tuple[int, None]:
        """Receive into a buffer; a stream's data has no address."""
        return self.recv_into(buffer, nbytes, flags), None

    def makefile(
        self, mode: str = "r", buffering: int | None = None, **options: str | None
    ) -> IO[Any]:
        """Make a file of it, as socket.socket.makefile does."""
        made: IO[Any] = _standard.makefile(self, mode, buffering, **options)
        return made

    def sendfile(self, file: IO[bytes], offset: int = 0, count: int | None = None) -> int:
        """Send a file, by send()."""
        return int(_standard._sendfile_use_send(self, file, offset, count))

    def _check_sendfile_params(self, file: IO[bytes], offset: int, count: int | None) -> None:
        _standard._check_sendfile_params(self, file, offset, count)

    # ---- inside -----------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed and self._io_refs <= 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def _connected_stream(self) -> _native.Stream:
        self._check_open()
        if self._stream is None or self._stream.phase == "fresh":
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return self._stream

    def _made_stream(self) -> _native.Stream:
        if self._stream is None:
            self._stream = self._adapter._create_stream(self._options.native)
        return self._stream

    def _adopt(self, stream: _native.Stream) -> None:
        self._stream = stream
        self._has_told_error = False
        stream.timeout = self._timeout
        self._options.apply(stream)
        if type(self) is Socket:
            # The native calls, without a frame of Python around them.
            for name in _DATA_CALLS:
                self.__dict__[name] = getattr(stream, name)

    def _drop_stream(self) -> None:
        self._forget_data_calls()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _forget_data_calls(self) -> None:
        for name in _DATA_CALLS:
            self.__dict__.pop(name, None)


def create_connection(
    address: Address,
    timeout: float | object | None = ...,
    source_address: Address | None = None,
    *,
    all_errors: bool = False,
    adapter: Adapter | str | None = None,
) -> Socket:
    """Connect and return the socket, as socket.create_connection does.

    A name is resolved to one address; so the ExceptionGroup of `all_errors` has one member.
    """
    host, port = _address.resolve(address)
    family = _socket.AF_INET6 if ":" in host else _socket.AF_INET
    made = Socket(family, adapter=adapter)
    try:
        if timeout is not ... and timeout is not _DEFAULT_TIMEOUT:
            made.settimeout(timeout)  # type: ignore[arg-type]
        if source_address:
            made.bind(source_address)
        made.connect((host, port))
    except BaseException as error:
        made.close()
        if all_errors and isinstance(error, OSError):
            raise ExceptionGroup("create_connection failed", [error]) from None
        raise
    return made


def create_server(
    address: Address,
    *,
    family: int = _socket.AF_INET,
    backlog: int = 128,
    adapter: Adapter | str | None = None,
) -> Socket:
    """Listen and return the socket, as socket.create_server does."""
    made = Socket(family, adapter=adapter)
    try:
        made.bind(address)
        made.listen(backlog)
    except BaseException:
        made.close()
        raise
    return made


# The standard library's own callers pass it for "the default".
_DEFAULT_TIMEOUT: object = getattr(_socket, "_GLOBAL_DEFAULT_TIMEOUT", None)
