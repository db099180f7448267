# SPDX-License-Identifier: Apache-2.0
"""What distributed asks of a communication backend: addresses, a listener and a connector."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from dask import config
from distributed import Worker
from distributed.comm import registry
from distributed.comm.addressing import parse_host_port, unparse_host_port
from distributed.comm.core import (
    BaseListener,
    CommClosedError,
    Connector,
    FatalCommClosedError,
)
from distributed.comm.utils import ensure_concrete_host
from distributed.utils import ensure_ip, get_ip

from ndverbs._native import Status
from ndverbs.connection import Connection, Server, connect_async, listen
from ndverbs.dask._comm import PREFIX, NdverbsComm, pooled_bytes
from ndverbs.errors import RdmaError

logger = logging.getLogger("distributed.comm.ndverbs")


class NdverbsConnector(Connector):
    """Connects to listeners; the environment variable NDVERBS_ADAPTER names the adapter."""

    async def connect(
        self, address: str, deserialize: bool = True, **connection_args: Any
    ) -> NdverbsComm:
        """Connect to an address ``host:port``.

        Raises
        ------
        RuntimeError
            Dask's configuration requires encryption, which RDMA has not.
        CommClosedError
            There is no listener; distributed tries again. A FatalCommClosedError: there is one of
            another version, and it does not.
        """
        _refuse_encryption(address, connection_args)
        try:
            connection = await connect_async(parse_host_port(address), timeout=None)
        except RdmaError as cause:
            is_final = cause.status is Status.NOT_SUPPORTED
            kind = FatalCommClosedError if is_final else CommClosedError
            raise kind(f"connect to {PREFIX}{address}: {cause}") from cause
        return NdverbsComm(connection, address, deserialize)


class NdverbsListener(BaseListener):
    """Listens; each comm is handed to distributed in a task of its own."""

    prefix = PREFIX  # by which workers make their address

    def __init__(
        self,
        address: str,
        comm_handler: Callable[[NdverbsComm], Awaitable[Any]],
        deserialize: bool = True,
        allow_offload: bool = True,
        default_host: str | None = None,
        default_port: int = 0,
        **connection_args: Any,
    ) -> None:
        super().__init__()
        _refuse_encryption(address, connection_args)
        self.ip, self.port = parse_host_port(address, default_port)
        self.default_host = default_host
        self.comm_handler = comm_handler
        self.deserialize = deserialize
        self.allow_offload = allow_offload
        self._server: Server | None = None
        self._bound: tuple[str, int] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; without a host on every IPv4 interface.

        Raises
        ------
        OSError
            The address is in use, or not one of this host.
        """
        # A worker may hear from all others at once, while its loop is busy.
        backlog = config.get("distributed.comm.socket-backlog")
        self._server = listen((self.ip or "0.0.0.0", self.port), backlog=int(backlog))
        self._bound = parse_host_port(self._server.address)
        server = getattr(self.comm_handler, "__self__", None)
        if isinstance(server, Worker):
            server.metrics.setdefault("ndverbs pool", pooled_bytes)
        self._start(self._accept(self._server))

    def stop(self) -> None:
        """Listen no more; comms that were handed out stay."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def get_host_port(self) -> tuple[str, int]:
        """Return where it listens.

        Raises
        ------
        ValueError
            It was never started.
        """
        if self._bound is None:
            raise ValueError("invalid operation on a listener that was not started")
        return self._bound

    @property
    def listen_address(self) -> str:
        """Where it listens, as ``ndverbs://host:port``."""
        return PREFIX + unparse_host_port(*self.get_host_port())

    @property
    def contact_address(self) -> str:
        """Where others reach it: an address of this host where it listens on all of them."""
        host, port = self.get_host_port()
        host = ensure_concrete_host(host, default_host=self.default_host)
        return PREFIX + unparse_host_port(host, port)

    def _start(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            logger.error("in a task of %s", self.listen_address, exc_info=failure)

    async def _accept(self, server: Server) -> None:
        async for connection in server:
            self._start(self._serve(connection))

    async def _serve(self, connection: Connection) -> None:
        comm = NdverbsComm(connection, deserialize=self.deserialize)
        comm.allow_offload = self.allow_offload
        if self._server is None:  # stopped meanwhile: distributed does not look after it
            comm.abort()
            return
        try:
            await self.on_connection(comm)
        except CommClosedError:
            logger.info("%s ended before its handshake did", comm.peer_address)
            return
        await self.comm_handler(comm)


class Backend(registry.Backend):
    """The backend of ``ndverbs://`` addresses, which distributed finds by its entry point."""

    def get_connector(self) -> NdverbsConnector:
        """Return a connector."""
        return NdverbsConnector()

    def get_listener(
        self, loc: str, handle_comm: Any, deserialize: bool, **connection_args: Any
    ) -> NdverbsListener:
        """Return a listener for an address without its scheme."""
        return NdverbsListener(loc, handle_comm, deserialize, **connection_args)

    def get_address_host(self, loc: str) -> str:
        """Return the host of an address."""
        return self.get_address_host_port(loc)[0]

    def get_address_host_port(self, loc: str) -> tuple[str, int]:
        """Return host and port of an address."""
        host, port = parse_host_port(loc)
        return host, port

    def resolve_address(self, loc: str) -> str:
        """Return an address with its host as a number."""
        host, port = parse_host_port(loc)
        return str(unparse_host_port(ensure_ip(host), port))

    def get_local_address_for(self, loc: str) -> str:
        """Return the host by which this one reaches an address."""
        return str(unparse_host_port(get_ip(ensure_ip(self.get_address_host(loc))), None))


def _refuse_encryption(address: str, connection_args: dict[str, Any]) -> None:
    if connection_args.get("require_encryption"):
        raise RuntimeError(
            f"Dask's configuration requires encryption, and {PREFIX}{address} would have none: "
            "RDMA does not encrypt; use tls://, or set distributed.comm.require-encryption to false"
        )
