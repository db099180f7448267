# SPDX-License-Identifier: Apache-2.0
"""Arguments of calls into the extension: what is no good is named, what is an integer is taken.

The functions and their parameters come from the stub, so that new ones are covered.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import check_stub
import ndverbs as nd
from ndverbs import _native

# Parameters that take any object at all: contexts are given back.
TAKES_ANYTHING = {"context", "kind", "error", "trace"}
# Parameters whose message names them by what they are.
ANOTHER_NAME = {"peer": "address", "local": "address", "array": "object"}
PYBIND = "incompatible"


class Wrong:
    """An object that is nothing of what any parameter takes."""


class Call(NamedTuple):
    owner: str
    function: str
    parameters: list[tuple[str, bool]]  # name, whether it is required
    integers: set[str]
    positional: int  # how many may be given by position

    @property
    def name(self) -> str:
        return f"{self.owner}.{self.function}" if self.owner else self.function


def calls() -> list[Call]:
    """Every public function of the stub that has parameters."""
    integers: dict[str, set[str]] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                every = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                integers[prefix + node.name] = {
                    a.arg
                    for a in every
                    if a.annotation is not None
                    and ast.unparse(a.annotation) in ("int", "int | None", "SupportsIndex")
                }

    visit(ast.parse(check_stub.STUB.read_text()).body, "")
    found = []
    for name, signature in check_stub.stub_signatures().items():
        owner, _, function = name.rpartition(".")
        is_hidden = function.startswith("_") and function != "__init__"
        is_hidden = is_hidden or owner.startswith("Stream")  # an object of sockets
        if is_hidden or owner.startswith("_") or (owner and not hasattr(_native, owner)):
            continue
        parameters = [
            (parameter, default is check_stub.NO_DEFAULT)
            for parameter, default in signature
            if parameter not in ("*", "/")
        ]
        if parameters:
            names = [parameter for parameter, _ in signature if parameter != "/"]
            positional = names.index("*") if "*" in names else len(names)
            found.append(Call(owner, function, parameters, integers[name], positional))
    return found


CALLS = calls()


@pytest.fixture(scope="module")
def world() -> Iterator[dict[str, Any]]:
    """One object of each class, by its name; and values for required parameters, by theirs."""
    with nd.Adapter.open("soft") as adapter:
        pd, cq = adapter.create_pd(), adapter.create_cq(4096)
        srq = pd.create_srq(4, max_sge=1)
        region = pd.register(np.zeros(64), nd.Access.REMOTE_WRITE | nd.Access.REMOTE_READ)
        listener = adapter.create_listener()
        listener.listen("127.0.0.1:0")
        connector = adapter.create_connector()
        endpoint = adapter.create_shared_endpoint("127.0.0.1:0")
        objects = {
            "Adapter": adapter,
            "ProtectionDomain": pd,
            "CompletionQueue": cq,
            "SharedReceiveQueue": srq,
            "QueuePair": pd.create_qp(cq, cq),
            "MemoryRegion": region,
            "LogicalAddressMapping": adapter.build_lam(np.zeros(4096, np.uint8)),
            "FastRegisterMemoryRegion": pd.create_fast_register_mr(4, remote_access=True),
            "MemoryWindow": pd.create_mw(),
            "Connector": connector,
            "Listener": listener,
            "SharedEndpoint": endpoint,
        }
        objects |= {
            "receive_cq": cq,
            "initiator_cq": cq,
            "srq": srq,
            "qp": objects["QueuePair"],
            "endpoint": endpoint,
            "window": objects["MemoryWindow"],
            "segments": region.segment(0, 8),
            "remote": (region.address, region.remote_token),
            "peer": "127.0.0.1:1",
            "local": region.segment(0, 8),
            "address": "127.0.0.1:0",
            "array": bytearray(8),
            "buffer": bytearray(8),
            "access": nd.Access.LOCAL_WRITE,
            "name": "nothing",
            "shape": (2, 4),
            "dtype": "u1",
            "depth": 4,
            "max_sge": 1,
            "max_pages": 4,
            "remote_access": True,
            "pages": objects["LogicalAddressMapping"],
            "length": 8,
            "token": 1,
            "remote_token": 1,
            "immediate": 1,
            "value": 1,
            "expected": 1,
            "new": 1,
            "interval_us": 0,
            "count": 0,
            "pause": False,
            "timeout": 0.01,
        }
        yield objects
        objects.clear()


@pytest.fixture
def _no_native_object_is_left() -> None:
    """The module's objects outlive each test."""


def attempt(
    world: dict[str, Any], call: Call, parameter: str, value: object
) -> BaseException | None:
    """Call with one argument wrong, the required others right; returns what was raised."""
    arguments = {
        name: world[name] for name, is_required in call.parameters if is_required and name in world
    }
    if call.owner == "Segment":
        arguments["address"] = 4096
    elif call.owner == "Connector" and "local" in arguments:
        arguments["local"] = None
    elif call.function in ("fast_register", "invalidate"):
        arguments["region"] = world["FastRegisterMemoryRegion"]
    elif call.function == "bind":
        arguments["region"] = world["MemoryRegion"]
    elif call.function == "post_many":
        arguments["requests"] = np.zeros(1, nd.request_dtype)
    arguments[parameter] = value
    is_static = call.function == "open" or call.function == "__init__" or not call.owner
    owner = getattr(_native, call.owner) if call.owner else _native
    function = owner if call.function == "__init__" else getattr(owner, call.function)
    try:
        if is_static:
            function(**arguments)
        else:
            function(world[call.owner], **arguments)
    except (TypeError, nd.RdmaError) as error:
        return error
    return None


def is_about(message: str, names: set[str]) -> bool:
    """Return whether a message begins with one of the names, behind its call or alone."""
    return re.match(rf"([\w.]+: )?(an )?({'|'.join(names)}) ", message) is not None


def known(call: Call, world: dict[str, Any]) -> bool:
    return call.function in ("open", "__init__") or call.owner in world or not call.owner


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_an_argument_of_the_wrong_type_is_named(world: dict[str, Any], call: Call):
    if not known(call, world):
        pytest.skip("an object of sockets")
    for parameter, _ in call.parameters:
        raised = attempt(world, call, parameter, Wrong())
        if parameter in TAKES_ANYTHING:
            continue
        assert raised is not None, f"{call.name}: {parameter} takes anything"
        assert PYBIND not in str(raised)
        name = ANOTHER_NAME.get(parameter, parameter)
        names = {name, parameter, "segments" if parameter == "local" else name}
        assert is_about(str(raised), names), f"{parameter}: {raised}"


@pytest.mark.parametrize("call", [c for c in CALLS if c.integers], ids=lambda call: call.name)
@pytest.mark.parametrize("value", [-1, 2**64, 10**5000, 1.0, np.float64(1)], ids=lambda v: "")
def test_a_number_that_cannot_be_is_named(world: dict[str, Any], call: Call, value: object):
    if not known(call, world):
        pytest.skip("an object of sockets")
    for parameter, _ in call.parameters:
        # -1 is a word of 64 bits to atomics.
        if parameter not in call.integers or (value == -1 and call.function in ATOMICS):
            continue
        raised = attempt(world, call, parameter, value)
        assert isinstance(raised, TypeError if isinstance(value, float) else ValueError)
        assert isinstance(raised, TypeError | nd.RdmaError)
        assert PYBIND not in str(raised)
        assert is_about(str(raised), {parameter}), f"{parameter}: {raised}"


ATOMICS = ("fetch_add", "compare_swap")


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_missing_and_unknown_arguments_are_named(world: dict[str, Any], call: Call):
    if not known(call, world):
        pytest.skip("an object of sockets")
    raised = attempt(world, call, "nonsense", 1)
    assert isinstance(raised, TypeError)
    assert "nonsense" in str(raised)

    required = [name for name, is_required in call.parameters if is_required]
    owner = getattr(_native, call.owner) if call.owner else _native
    if required and call.function != "__init__":
        given = () if call.function == "open" or not call.owner else (world[call.owner],)
        with pytest.raises(TypeError, match=required[0]) as caught:
            getattr(owner, call.function)(*given)
        assert PYBIND not in str(caught.value)


def test_a_method_of_another_class_is_refused_by_name():
    with pytest.raises(TypeError, match=r"create_cq\(\) is a method: call it on a Adapter"):
        nd.Adapter.create_cq(Wrong(), 4)  # type: ignore[arg-type]


def test_too_many_arguments_are_counted(world: dict[str, Any]):
    with pytest.raises(TypeError, match=r"create_cq\(\) takes at most 1 positional argument"):
        world["Adapter"].create_cq(1, 2)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_as_many_arguments_go_by_position_as_the_stub_says(world: dict[str, Any], call: Call):
    if not known(call, world):
        pytest.skip("an object of sockets")
    owner = getattr(_native, call.owner) if call.owner else _native
    function = owner if call.function == "__init__" else getattr(owner, call.function)
    is_static = call.function in ("open", "__init__") or not call.owner
    given = [] if is_static else [world[call.owner]]

    with pytest.raises(TypeError, match=f"takes at most {call.positional} positional argument"):
        function(*given, *[Wrong()] * (call.positional + 1))


INTEGERS = [np.int8, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


@pytest.mark.parametrize("kind", INTEGERS, ids=lambda kind: kind.__name__)
def test_numpys_integers_are_integers(world: dict[str, Any], kind: Any):
    adapter, pd, region = world["Adapter"], world["ProtectionDomain"], world["MemoryRegion"]
    queue = adapter.create_cq(kind(4))
    pd.create_qp(queue, queue, receive_queue_depth=kind(2), initiator_queue_depth=kind(2)).close()
    queue.resize(kind(8))
    assert queue.depth == 8
    assert queue.poll(kind(4)) == []
    assert region.segment(kind(8), kind(16)).length == 16
    assert nd.Segment(kind(1), kind(2), kind(3)).length == 2
    assert nd.RemoteBuffer(kind(16), kind(2), kind(8)) == nd.RemoteBuffer(16, 2, 8)
    with adapter.create_listener() as listener:
        listener.listen(("127.0.0.1", kind(0)))
    # Not connected: everything about the arguments has been looked at by then.
    qp = world["QueuePair"]
    remote = (np.uint64(region.address), np.uint32(region.remote_token))
    with pytest.raises(nd.RdmaError, match="not connected"):
        qp.write(region.segment(0, 8), remote, flags=kind(1))
    with pytest.raises(nd.RdmaError, match="not connected"):
        qp.fetch_add(region.segment(0, 8), remote, kind(4))
    queue.close()


def test_private_data_is_any_buffer_of_bytes(world: dict[str, Any]):
    for data in (b"abc", bytearray(b"abc"), memoryview(b"abc"), np.frombuffer(b"abc", np.uint8)):
        connector = world["Adapter"].create_connector()
        with pytest.raises(nd.RdmaError, match=r"127\.0\.0\.1:1"):
            connector.connect(world["QueuePair"], None, "127.0.0.1:1", private_data=data)
    with pytest.raises(TypeError, match=r"private_data must be bytes, .* not str"):
        connector.connect(world["QueuePair"], None, "127.0.0.1:1", private_data="abc")


def test_a_capture_goes_to_any_path(tmp_path: Path):
    for path in (tmp_path / "p", str(tmp_path / "s"), str(tmp_path / "b").encode()):
        nd.Adapter.open("soft", capture=path).close()
        assert Path(path if not isinstance(path, bytes) else path.decode()).stat().st_size == 24
    with pytest.raises(ValueError, match=r"capture .a.x00b. is no path"):
        nd.Adapter.open("soft", capture="a\0b")


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 1e18, 98302])
def test_a_keepalive_that_tcp_cannot_keep_is_refused(value: float):
    with pytest.raises(ValueError, match=r"a keepalive of .* is impossible; .* from 0"):
        nd.Adapter.open("soft", keepalive=value)


@pytest.mark.parametrize("value", [0, 1e-9, 0.5, 98301, np.float32(3), np.int64(30)])
def test_a_keepalive_is_any_number_of_seconds(value: float):
    nd.Adapter.open("soft", keepalive=value).close()


@pytest.mark.parametrize("name", ["soft\0", "soft:127.0.0.1\0", "\0"])
def test_a_null_character_in_an_adapters_name_is_refused(name: str):
    with pytest.raises(ValueError, match="the name of the adapter holds a null character"):
        nd.Adapter.open(name)


@pytest.mark.parametrize("host", ["a\0b", "127.0.0.1\0", "\0"])
def test_a_null_character_in_a_host_is_refused(world: dict[str, Any], host: str):
    with pytest.raises(ValueError, match="the host holds a null character"):
        world["Adapter"].create_listener().listen((host, 0))


def test_times_are_registered_and_their_faults_told(world: dict[str, Any]):
    pd, times = world["ProtectionDomain"], np.zeros(8, "datetime64[ns]")
    pd.register(times).close()
    with pytest.raises(BufferError, match="not C-contiguous"):
        pd.register(times[::2])
    times.flags.writeable = False
    with pytest.raises(BufferError, match="is read-only"):
        pd.register(times)


def test_a_dtype_that_cannot_be_described_is_refused_with_a_way_out():
    fields = np.dtype([("a", "i4"), ("b", "f8"), ("c", "i2")])
    strange = np.zeros(4, fields)[["c", "a"]].dtype
    buffer = nd.RemoteBuffer(4096, 1, 4 * strange.itemsize, strange)

    with pytest.raises(ValueError, match=r"has no description that could be sent: .*bytes_view"):
        bytes(buffer)

    assert nd.RemoteBuffer.from_bytes(bytes(buffer.bytes_view())).nbytes == buffer.nbytes


def test_metadata_of_a_dtype_stays_at_home():
    kind = np.dtype("i4", metadata={"unit": "m"})

    sent = nd.RemoteBuffer.from_bytes(bytes(nd.RemoteBuffer(4096, 1, 16, kind)))

    assert sent.dtype == np.dtype("i4")
    assert sent.dtype.metadata is None


def test_a_device_without_its_provider_is_told_how_it_is_named():
    with pytest.raises(nd.RdmaError, match=r"behind its provider.*verbs:mlx5_0"):
        nd.Adapter.open("mlx5_0")
