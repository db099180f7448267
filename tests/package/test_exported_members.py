# SPDX-License-Identifier: Apache-2.0
"""The paths and names that programs import, pickle and run, whatever folder they are kept in."""

import importlib
import inspect
import pickle
import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import pytest

import ndverbs as nd

ERRORS = [
    "ClosedError",
    "OverrunWarning",
    "RdmaBrokenPipeError",
    "RdmaBufferError",
    "RdmaConnectionAbortedError",
    "RdmaConnectionRefusedError",
    "RdmaConnectionResetError",
    "RdmaError",
    "RdmaPermissionError",
    "RdmaTimeoutError",
    "RdmaValueError",
]
CONNECTIONS = [
    "Connection",
    "RemoteArray",
    "Request",
    "Server",
    "Share",
    "attach",
    "connect",
    "connect_async",
    "listen",
    "share",
]
SOCKETS = ["Socket", "create_connection", "create_server", "open_connection", "start_server"]
# Path -> what a program may import from it.
MEMBERS = {
    "ndverbs": [
        *ERRORS,
        *CONNECTIONS,
        *SOCKETS,
        "Access",
        "Adapter",
        "AdapterInfo",
        "CompletionQueue",
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
        "ProtectionDomain",
        "QueuePair",
        "RemoteBuffer",
        "Result",
        "Segment",
        "SharedEndpoint",
        "SharedReceiveQueue",
        "Status",
        "__version__",
        "adapters",
        "crc32c",
        "request_dtype",
        "result_dtype",
        "table",
        "wsk",
    ],
    "ndverbs.connection": CONNECTIONS,
    "ndverbs.dask": ["Backend", "NdverbsComm", "NdverbsConnector", "NdverbsListener", "comms"],
    "ndverbs.errors": [*ERRORS, "error", "error_class", "error_from_result"],
    "ndverbs.mpi": ["Peers", "Window", "connect_all"],
    "ndverbs.remote": ["RemoteBuffer"],
    "ndverbs.socket": SOCKETS,
    "ndverbs.socket_options": [
        "RDMA_INLINE",
        "RDMA_IOMAPSIZE",
        "RDMA_RQSIZE",
        "RDMA_SQSIZE",
        "SOL_RDMA",
    ],
    "ndverbs.wsk": [
        "CONNECTION_EVENTS",
        "ClientControl",
        "DataIndication",
        "EventMask",
        "Flag",
        "InspectAction",
        "Ioctl",
        "ListeningSocket",
        "Option",
        "Request",
        "RequestType",
        "SOL_SOCKET",
        "Socket",
        "VERSION",
        "control_client",
        "get_address_info",
        "get_name_info",
        "listen",
        "set_static_event_callbacks",
        "socket",
        "socket_connect",
    ],
    "ndverbs.cli": ["main"],
}


@pytest.mark.parametrize("path", MEMBERS)
def test_a_public_path_has_its_members(path):
    module = importlib.import_module(path)

    assert [name for name in MEMBERS[path] if not hasattr(module, name)] == []
    if hasattr(module, "__all__"):
        assert sorted(module.__all__) == sorted(MEMBERS[path])


@pytest.mark.parametrize("path", ["ndverbs.dask", "ndverbs.mpi", "ndverbs.socket", "ndverbs.wsk"])
def test_a_public_object_names_the_path_that_programs_import(path):
    module = importlib.import_module(path)
    named = {name: getattr(module, name) for name in MEMBERS[path]}

    defined = {n: o for n, o in named.items() if inspect.isclass(o) or inspect.isfunction(o)}

    assert {name: thing.__module__ for name, thing in defined.items()} == dict.fromkeys(
        defined, path
    )


@pytest.mark.parametrize("name", [name for name in ERRORS if name != "OverrunWarning"])
def test_a_pickled_error_names_the_module_of_errors(name):
    failure = getattr(nd, name)(nd.Status.IO_TIMEOUT, "what", detail="detail")

    data = pickle.dumps(failure, protocol=0)

    assert f"cndverbs.errors\n{name}\n".encode() in data
    assert b"cndverbs.errors\n_rebuilt\n" in data
    assert str(pickle.loads(data)) == "what (detail)"


def test_a_pickled_remote_buffer_names_its_module():
    buffer = nd.RemoteBuffer(4096, 7, 2, np.uint8)

    data = pickle.dumps(buffer, protocol=0)

    assert b"ndverbs.remote\nRemoteBuffer\n" in data
    assert pickle.loads(data) == buffer


def test_the_backend_of_dask_is_an_entry_point_that_the_package_does_not_load():
    (backend,) = entry_points(group="distributed.comm.backends", name="ndverbs")
    program = "import sys, ndverbs as nd; nd.connect; print('distributed' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert backend.value == "ndverbs.dask:Backend"
    assert done.stdout == "False\n"


def test_the_command_is_the_entry_point_and_the_module():
    (command,) = entry_points(group="console_scripts", name="ndverbs")
    done = subprocess.run(
        [sys.executable, "-m", "ndverbs", "--version"], capture_output=True, text=True, check=True
    )

    assert command.value == "ndverbs.cli:main"
    assert done.stdout.startswith("ndverbs ")
