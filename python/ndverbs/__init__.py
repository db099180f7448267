# SPDX-License-Identifier: Apache-2.0
"""RDMA for Python: queue pairs over RDMA hardware or plain TCP, with NumPy arrays as the memory.

The names follow Microsoft's Network Direct Kernel interface (NDK). Importing the package starts no
thread and configures no logging.
"""

from __future__ import annotations

import sys

if sys.platform != "linux":
    raise ImportError(f"ndverbs runs on Linux only; this is {sys.platform}.")

import logging
from typing import TYPE_CHECKING

from ndverbs import aio as _aio
from ndverbs._native import (
    Access,
    Adapter,
    AdapterInfo,
    CompletionQueue,
    ConnectionData,
    Connector,
    FastRegisterMemoryRegion,
    Flag,
    Listener,
    LogicalAddressMapping,
    MemoryRegion,
    MemoryWindow,
    Notify,
    Operation,
    OperationType,
    ProtectionDomain,
    QueuePair,
    Result,
    Segment,
    SharedEndpoint,
    SharedReceiveQueue,
    Status,
    adapters,
    request_dtype,
    result_dtype,
)
from ndverbs.errors import (
    ClosedError,
    RdmaBrokenPipeError,
    RdmaBufferError,
    RdmaConnectionAbortedError,
    RdmaConnectionRefusedError,
    RdmaConnectionResetError,
    RdmaError,
    RdmaPermissionError,
    RdmaTimeoutError,
    RdmaValueError,
)
from ndverbs.remote import RemoteBuffer

if TYPE_CHECKING:
    from ndverbs.socket import Socket, create_connection, create_server
    from ndverbs.stream_aio import open_connection, start_server

__all__ = [
    "Access",
    "Adapter",
    "AdapterInfo",
    "ClosedError",
    "CompletionQueue",
    "ConnectionData",
    "Connector",
    "FastRegisterMemoryRegion",
    "Flag",
    "Listener",
    "LogicalAddressMapping",
    "MemoryRegion",
    "MemoryWindow",
    "Notify",
    "Operation",
    "OperationType",
    "ProtectionDomain",
    "QueuePair",
    "RdmaBrokenPipeError",
    "RdmaBufferError",
    "RdmaConnectionAbortedError",
    "RdmaConnectionRefusedError",
    "RdmaConnectionResetError",
    "RdmaError",
    "RdmaPermissionError",
    "RdmaTimeoutError",
    "RdmaValueError",
    "RemoteBuffer",
    "Result",
    "Segment",
    "SharedEndpoint",
    "SharedReceiveQueue",
    "Socket",
    "Status",
    "__version__",
    "adapters",
    "create_connection",
    "create_server",
    "open_connection",
    "request_dtype",
    "result_dtype",
    "start_server",
]

__version__: str

logging.getLogger("ndverbs").addHandler(logging.NullHandler())
_aio.attach()


# Streams are loaded when they are used: what they stand on is slow to import.
_LAZY = {
    "Socket": "ndverbs.socket",
    "create_connection": "ndverbs.socket",
    "create_server": "ndverbs.socket",
    "open_connection": "ndverbs.stream_aio",
    "start_server": "ndverbs.stream_aio",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from importlib import import_module

        found: object = getattr(import_module(_LAZY[name]), name)
        globals()[name] = found
        return found
    # importlib.metadata is slow to import, and hardly anybody asks.
    if name == "__version__":
        from importlib.metadata import version

        return version("ndverbs")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
