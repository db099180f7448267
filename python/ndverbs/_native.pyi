# SPDX-License-Identifier: Apache-2.0
"""The C++ core. Use the names through ``ndverbs``; this file is their reference."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, ClassVar, Final, Protocol, Self, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

class _Remote(Protocol):
    """What ``remote`` arguments need: RemoteBuffer has it."""

    @property
    def address(self) -> int: ...
    @property
    def token(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

type _Segments = Segment | MemoryRegion | Buffer | Sequence[Segment | MemoryRegion | Buffer]
type _RemoteLike = _Remote | tuple[int, int]
type _Address = str | tuple[str, int]

class Status(enum.IntEnum):
    """NDK statuses: unsigned 32-bit NTSTATUS values; bit 31 set means failure."""

    # SUCCESS = 0, PENDING = 0x103, BUFFER_OVERFLOW = 0x80000005, ... (src/base/status.hpp)

class Flag(enum.IntFlag):
    """Request flags with NDK's values."""

    SILENT_SUCCESS = 0x001
    READ_FENCE = 0x002
    SEND_AND_SOLICIT_EVENT = 0x004
    ALLOW_REMOTE_READ = 0x008
    ALLOW_LOCAL_WRITE = 0x010
    ALLOW_REMOTE_WRITE = 0x030
    INLINE = 0x040
    RDMA_READ_SINK = 0x080
    RDMA_READ_LOCAL_INVALIDATE = 0x100
    DEFER = 0x200

class Access(enum.IntFlag):
    """Rights of a registration with NDK's values; local read is always granted."""

    LOCAL_READ = 0
    LOCAL_WRITE = 1
    REMOTE_READ = 2
    REMOTE_WRITE = 5
    RDMA_READ_SINK = 8

class Notify(enum.IntEnum):
    ERRORS = 0
    ANY = 1
    SOLICITED = 2

class OperationType(enum.IntEnum):
    RECEIVE = 1
    SEND = 2
    FAST_REGISTER = 4
    BIND = 8
    INVALIDATE = 16
    READ = 32
    WRITE = 64
    RECEIVE_AND_INVALIDATE = 0x8001

@final
class Result(tuple[Any, ...]):
    """One completion (struct sequence)."""

    @property
    def status(self) -> Status: ...
    @property
    def bytes_transferred(self) -> int: ...
    @property
    def qp_context(self) -> object: ...
    @property
    def request_context(self) -> object: ...
    @property
    def type(self) -> OperationType: ...
    @property
    def invalidated_token(self) -> int: ...
    @property
    def immediate(self) -> int | None: ...
    @property
    def detail(self) -> str | None: ...

@final
class Segment:
    """A piece of registered memory: address (bytes), length (bytes), local token."""

    def __init__(self, address: int, length: int, token: int) -> None: ...
    @property
    def address(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def token(self) -> int: ...

@final
class AdapterInfo:
    """NDK_ADAPTER_INFO, field by field, plus name and provider."""

    name: Final[str]                 # what Adapter.open takes: "soft"
    provider: Final[str]
    version: Final[tuple[int, int]]
    vendor_id: Final[int]
    device_id: Final[int]
    max_registration_size: Final[int]
    max_window_size: Final[int]
    frmr_page_count: Final[int]
    max_initiator_request_sge: Final[int]
    max_receive_request_sge: Final[int]
    max_read_request_sge: Final[int]
    max_transfer_length: Final[int]
    max_inline_data_size: Final[int]
    max_inbound_read_limit: Final[int]
    max_outbound_read_limit: Final[int]
    max_receive_queue_depth: Final[int]
    max_initiator_queue_depth: Final[int]
    max_srq_depth: Final[int]
    max_cq_depth: Final[int]
    large_request_threshold: Final[int]
    max_caller_data: Final[int]
    max_callee_data: Final[int]
    adapter_flags: Final[int]
    rdma_technology: Final[str]
    features: Final[frozenset[str]]  # optional functions that this adapter has, by their API name

def adapters() -> list[AdapterInfo]: ...

class _Object:
    """Common to all objects: a context manager, idempotent close()."""

    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

@final
class Adapter(_Object):
    @staticmethod
    def open(
        name: str | None = None, *, keepalive: float = 30.0, capture: str | None = None
    ) -> Adapter:
        """capture: path of a pcap file that gets every connection's stream from its first byte."""
    @property
    def info(self) -> AdapterInfo: ...
    def create_pd(self) -> ProtectionDomain: ...
    def create_cq(self, depth: int, *, affinity: Sequence[int] | None = None) -> CompletionQueue: ...
    def create_connector(self) -> Connector: ...
    def create_listener(
        self, on_connect: Callable[[Connector], object] | None = None
    ) -> Listener: ...
    def stats(self) -> dict[str, int]: ...

@final
class ProtectionDomain(_Object):
    def register(self, array: Buffer, access: Access = ...) -> MemoryRegion: ...
    def create_mr(self) -> MemoryRegion: ...
    def create_qp(
        self,
        receive_cq: CompletionQueue,
        initiator_cq: CompletionQueue,
        *,
        context: object = None,
        receive_queue_depth: int = 128,
        initiator_queue_depth: int = 128,
        max_receive_sge: int = 4,
        max_initiator_sge: int = 4,
        inline_size: int = 256,
    ) -> QueuePair: ...

@final
class MemoryRegion(_Object):
    def register(self, array: Buffer, access: Access) -> None: ...
    def deregister(self) -> None: ...
    @property
    def local_token(self) -> int: ...
    @property
    def remote_token(self) -> int: ...
    @property
    def address(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def access(self) -> Access: ...
    @property
    def array(self) -> Any: ...              # the object that was registered
    def segment(self, offset: int = 0, nbytes: int | None = None) -> Segment: ...
    def remote(self) -> Any: ...             # ndverbs.RemoteBuffer

@final
class CompletionQueue(_Object):
    @property
    def depth(self) -> int: ...
    def poll(self, limit: int = 32) -> list[Result]: ...
    def poll_into(self, results: NDArray[np.void]) -> int: ...
    def arm(self, kind: Notify = ...) -> None: ...
    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until the queue holds a completion; True, or TimeoutError. Takes nothing out."""
    def fileno(self) -> int: ...

@final
class QueuePair(_Object):
    def send(
        self, segments: _Segments = ..., *, context: object = None, flags: int = 0
    ) -> None: ...
    def send_and_invalidate(
        self, segments: _Segments, remote_token: int, *, context: object = None, flags: int = 0
    ) -> None: ...
    def receive(self, segments: _Segments = ..., *, context: object = None) -> None: ...
    def read(
        self, segments: _Segments, remote: _RemoteLike, *, context: object = None, flags: int = 0
    ) -> None: ...
    def write(
        self, segments: _Segments, remote: _RemoteLike, *, context: object = None, flags: int = 0
    ) -> None: ...
    def flush(self) -> None: ...
    @property
    def state(self) -> str: ...              # "idle", "connected", "error"

@final
class ConnectionData:
    """What the peer sent, and the read limits as known now."""

    inbound_read_limit: Final[int]
    outbound_read_limit: Final[int]
    private_data: Final[bytes]

@final
class Operation:
    """A connect, accept, ... under way (private: behind the blocking calls and their twins)."""

    def wait(self, timeout: float | None) -> None: ...   # raises its failure; TimeoutError leaves it
    def done(self) -> bool: ...
    def add_done_callback(self, function: Callable[[Operation], object]) -> None: ...
    def result(self) -> None: ...                        # raises its failure
    def abandon(self) -> None: ...

@final
class Connector(_Object):
    def connect(
        self,
        qp: QueuePair,
        local: _Address | None,
        peer: _Address,
        *,
        inbound_read_limit: int = 16,
        outbound_read_limit: int = 16,
        private_data: bytes = b"",
        timeout: float | None = 10,
        crc: bool = False,
        peer_to_peer: bool = False,
    ) -> None: ...
    def complete_connect(
        self, on_disconnect: Callable[[], object] | None = None, *, timeout: float | None = 10
    ) -> None: ...
    def accept(
        self,
        qp: QueuePair,
        *,
        inbound_read_limit: int = 16,
        outbound_read_limit: int = 16,
        private_data: bytes = b"",
        on_disconnect: Callable[[], object] | None = None,
        timeout: float | None = 60,
        crc: bool = False,
    ) -> None: ...
    def reject(self, private_data: bytes = b"") -> None: ...
    def disconnect(self, timeout: float | None = 5) -> None: ...
    # coroutine twins (bound from Python): connect_async, complete_connect_async, accept_async, disconnect_async
    def _start_connect(self, *args: Any, **kwargs: Any) -> Operation: ...
    def _start_complete_connect(self, on_disconnect: Callable[[], object] | None = None) -> Operation: ...
    def _start_accept(self, *args: Any, **kwargs: Any) -> Operation: ...
    def _start_disconnect(self) -> Operation: ...
    @property
    def connection_data(self) -> ConnectionData: ...
    @property
    def local_address(self) -> tuple[str, int]: ...
    @property
    def peer_address(self) -> tuple[str, int]: ...
    @property
    def state(self) -> str: ...

@final
class Listener(_Object):
    def listen(self, address: _Address) -> None: ...
    def get_connector(self, timeout: float | None = None) -> Connector: ...
    def control_connect_events(self, pause: bool) -> None: ...
    @property
    def local_address(self) -> tuple[str, int]: ...

result_dtype: ClassVar[np.dtype[np.void]]
