# SPDX-License-Identifier: Apache-2.0
"""RDMA for Python: queue pairs over RDMA hardware or plain TCP, with NumPy arrays as the memory.

The names follow Microsoft's Network Direct Kernel interface (NDK). Importing the package starts no
thread, and configures no logging unless the environment variable NDVERBS_LOG asks for it.
"""

from __future__ import annotations

import sys as _sys

if _sys.platform != "linux":
    raise ImportError(f"ndverbs runs on Linux only; this is {_sys.platform}.")

from typing import TYPE_CHECKING

from ndverbs import _coroutines, _logs, _shown
from ndverbs._native import (
    Access,
    Adapter,
    AdapterInfo,
    CompletionQueue,
    ConnectionData,
    Connector,
    FastRegisterMemoryRegion,
    Faults,
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
    crc32c,
    request_dtype,
    result_dtype,
)
from ndverbs.errors import (
    ClosedError,
    OverrunWarning,
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
    from ndverbs import wsk
    from ndverbs._tables import table
    from ndverbs.connection import (
        Connection,
        RemoteArray,
        Request,
        Server,
        Share,
        attach,
        connect,
        connect_async,
        listen,
        share,
    )
    from ndverbs.socket import (
        Socket,
        create_connection,
        create_server,
        open_connection,
        start_server,
    )

__all__ = [
    "Access",
    "Adapter",
    "AdapterInfo",
    "ClosedError",
    "CompletionQueue",
    "Connection",
    "ConnectionData",
    "Connector",
    "FastRegisterMemoryRegion",
    "Faults",
    "Flag",
    "Listener",
    "LogicalAddressMapping",
    "MemoryRegion",
    "MemoryWindow",
    "Notify",
    "Operation",
    "OperationType",
    "OverrunWarning",
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
    "RemoteArray",
    "RemoteBuffer",
    "Request",
    "Result",
    "Segment",
    "Server",
    "Share",
    "SharedEndpoint",
    "SharedReceiveQueue",
    "Socket",
    "Status",
    "__version__",
    "adapters",
    "attach",
    "connect",
    "connect_async",
    "crc32c",
    "create_connection",
    "create_server",
    "listen",
    "open_connection",
    "request_dtype",
    "result_dtype",
    "share",
    "start_server",
    "table",
    "wsk",
]

__version__: str

_logs.set_up()
_shown.attach()
_coroutines.attach()


# Loaded when they are used: what streams, Connections and tables stand on is slow to import.
_LAZY = {
    "Connection": "ndverbs.connection",
    "RemoteArray": "ndverbs.connection",
    "Request": "ndverbs.connection",
    "Server": "ndverbs.connection",
    "Share": "ndverbs.connection",
    "Socket": "ndverbs.socket",
    "attach": "ndverbs.connection",
    "connect": "ndverbs.connection",
    "connect_async": "ndverbs.connection",
    "create_connection": "ndverbs.socket",
    "create_server": "ndverbs.socket",
    "listen": "ndverbs.connection",
    "open_connection": "ndverbs.socket",
    "share": "ndverbs.connection",
    "start_server": "ndverbs.socket",
    "table": "ndverbs._tables",
    "wsk": "ndverbs.wsk",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        from importlib import import_module

        module = import_module(_LAZY[name])
        found: object = module if name == "wsk" else getattr(module, name)
        globals()[name] = found
        return found
    # importlib.metadata is slow to import, and programs hardly ever ask.
    if name == "__version__":
        from importlib.metadata import version

        return version("ndverbs")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
