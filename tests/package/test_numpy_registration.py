# SPDX-License-Identifier: Apache-2.0
"""Registering arrays and other buffers in place: what is taken, what is refused, what it holds."""

import array
import gc
import mmap
import weakref

import numpy as np
import pytest

import ndverbs as nd

ALL = nd.Access.REMOTE_READ | nd.Access.REMOTE_WRITE

STRUCTURED = np.dtype([("name", "S5"), ("value", "<f8"), ("pair", "<i2", (2,))])


@pytest.fixture
def pd(adapter):
    return adapter.create_pd()


def address_of(buffer):
    return np.frombuffer(buffer, np.uint8).ctypes.data


# ---- what is registered in place ----------------------------------------------------------------

ARRAYS = {
    "bool": np.zeros(3, np.bool_),
    "int8": np.zeros(3, np.int8),
    "uint64": np.zeros(3, np.uint64),
    "big-endian": np.zeros(3, ">i4"),
    "float16": np.zeros(3, np.float16),
    "float64": np.zeros(3),
    "long double": np.zeros(3, np.longdouble),
    "complex64": np.zeros(3, np.complex64),
    "complex128": np.zeros(3, np.complex128),
    "datetime64": np.zeros(3, "datetime64[ns]"),
    "timedelta64": np.zeros(3, "timedelta64[s]"),
    "bytes": np.zeros(3, "S7"),
    "text": np.zeros(3, "U7"),
    "void": np.zeros(3, "V7"),
    "structured": np.zeros(3, STRUCTURED),
    "record": np.zeros(3, STRUCTURED).view(np.recarray),
    "0-d": np.zeros(()),
    "2-d": np.zeros((3, 4)),
    "one column": np.zeros((3, 1)),
    "rows of a matrix": np.zeros((5, 4))[1:3],
    "field view": np.zeros(4, np.int64).view(np.int16),
    "matrix": np.zeros((4, 4)).T.copy(),
    "masked": np.ma.zeros(4),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_array_is_registered_in_place(pd, name):
    made = ARRAYS[name]

    with pd.register(made, ALL) as region:
        assert region.address == made.ctypes.data
        assert region.nbytes == made.nbytes
        assert region.array is made
        remote = region.remote()
        assert (remote.address, remote.nbytes) == (made.ctypes.data, made.nbytes)
        assert remote.dtype == made.dtype
        assert remote.shape == made.shape
        assert remote.token == region.remote_token


@pytest.mark.parametrize(
    "make",
    [
        lambda: bytearray(10),
        lambda: memoryview(bytearray(10)),
        lambda: memoryview(bytearray(20))[5:15],
        lambda: mmap.mmap(-1, 10),
        lambda: array.array("b", bytes(10)),
        lambda: array.array("H", bytes(10)),
    ],
    ids=["bytearray", "memoryview", "part of a memoryview", "mmap", "array.array", "array of H"],
)
def test_other_buffers_are_registered_in_place(pd, make):
    buffer = make()

    with pd.register(buffer, ALL) as region:
        assert region.nbytes == 10
        assert region.address == address_of(buffer)
        assert region.array is buffer
        assert region.remote().dtype == np.uint8


@pytest.mark.parametrize("access", [nd.Access.LOCAL_READ, nd.Access.REMOTE_READ])
@pytest.mark.parametrize("make", [lambda: b"bytes", lambda: _read_only(np.arange(3))])
def test_read_only_memory_is_registered_for_reading(pd, make, access):
    with pd.register(make(), access) as region:
        assert region.access == access


def _read_only(made):
    made.flags.writeable = False
    return made


def test_one_array_is_registered_many_times(pd, adapter):
    made = np.zeros(100)
    regions = [pd.register(made, ALL), pd.register(made[10:20], ALL)]
    regions.append(adapter.create_pd().register(made, ALL))

    assert len({region.local_token for region in regions}) == 3
    for region in regions:
        region.close()


# ---- refusals -----------------------------------------------------------------------------------

REFUSED = {
    "strided": (lambda: np.zeros(10)[::2], ALL, BufferError, "contiguous"),
    "column": (lambda: np.zeros((4, 4))[:, 1], ALL, BufferError, "contiguous"),
    "Fortran order": (lambda: np.zeros((4, 4), order="F"), ALL, BufferError, "contiguous"),
    "reversed": (lambda: np.zeros(4)[::-1], ALL, BufferError, "contiguous"),
    "strided memoryview": (lambda: memoryview(bytearray(8))[::2], ALL, BufferError, "contiguous"),
    "objects": (lambda: np.array([object()]), ALL, BufferError, "objects"),
    "objects in a field": (
        lambda: np.zeros(2, [("a", "i4"), ("b", "O")]),
        ALL,
        BufferError,
        "objects",
    ),
    "empty array": (lambda: np.zeros(0), ALL, BufferError, "empty"),
    "no rows": (lambda: np.zeros((0, 5)), ALL, BufferError, "empty"),
    "empty bytes": (lambda: b"", nd.Access.LOCAL_READ, BufferError, "empty"),
    "empty bytearray": (lambda: bytearray(), ALL, BufferError, "empty"),
    "bytes for writing": (lambda: b"abc", nd.Access.LOCAL_WRITE, BufferError, "read-only"),
    "read-only array": (
        lambda: _read_only(np.arange(3)),
        nd.Access.REMOTE_WRITE,
        BufferError,
        "read-only",
    ),
    "list": (lambda: [1, 2, 3], ALL, BufferError, "buffer"),
    "int": (lambda: 5, ALL, BufferError, "buffer"),
    "text": (lambda: "text", ALL, BufferError, "buffer"),
    "None": (lambda: None, ALL, BufferError, "buffer"),
    "unknown access": (lambda: bytearray(1), 0x10, ValueError, "access"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_registered_says_why(pd, name):
    make, access, kind, word = REFUSED[name]

    with pytest.raises(kind, match=word) as caught:
        pd.register(make(), access)

    assert isinstance(caught.value, nd.RdmaError)


def test_refused_bytearray_is_not_left_exported(pd):
    buffer = bytearray(8)
    for access in (0x10, 0x100):
        with pytest.raises(nd.RdmaError):
            pd.register(buffer, access)

    buffer.append(1)


def test_refused_array_is_not_kept(pd):
    made = np.zeros(10)[::2]
    reference = weakref.ref(made)
    with pytest.raises(nd.RdmaError):
        pd.register(made, ALL)

    del made
    gc.collect()
    assert reference() is None


def test_closed_domain_leaves_nothing_exported(pd):
    buffer = bytearray(8)
    pd.close()
    with pytest.raises(nd.ClosedError):
        pd.register(buffer)

    buffer.append(1)


# ---- while it is registered ---------------------------------------------------------------------


def test_registered_array_cannot_be_resized(pd):
    made = np.zeros(10)
    with pd.register(made, ALL):
        with pytest.raises(ValueError, match="resize"):
            made.resize(20)
        with pytest.raises(ValueError, match="resize"):
            made.resize(20, refcheck=False)

    made.resize(20, refcheck=False)


VIEWS = {
    "slice": lambda array: array[8:80],
    "slice of a slice": lambda array: array[8:80][4:16],
    "ravel": lambda array: array.reshape(10, 100).ravel(),
    "reshape": lambda array: array.reshape(10, 100),
    "view": lambda array: array.view(np.int8),
    "memoryview": memoryview,
    "slice of a memoryview": lambda array: memoryview(array)[8:80].cast("H"),
    "frombuffer": lambda array: np.frombuffer(array, np.uint16),
    "frombuffer of a memoryview": lambda array: np.frombuffer(memoryview(array), np.uint16),
    "field": lambda array: array.view([("a", np.uint8), ("b", np.uint8)])[3:9],
    "recarray": lambda array: array.view([("base", np.uint8)]).view(np.recarray),
}


@pytest.mark.parametrize("view", VIEWS)
def test_array_cannot_be_resized_while_a_view_of_it_is_registered(pd, view):
    made = np.zeros(1000, np.uint8)
    shown = VIEWS[view](made)
    with pd.register(shown, nd.Access.REMOTE_WRITE), pytest.raises(ValueError, match="resize"):
        made.resize(10**6, refcheck=False)
    del shown

    made.resize(10**6, refcheck=False)


def test_array_cannot_be_resized_while_a_view_of_it_is_mapped(pd, adapter):
    made = np.zeros(1000, np.uint8)
    if "build_lam" not in adapter.info.features:
        pytest.skip("no logical address mappings")
    with adapter.build_lam(made[8:80]), pytest.raises(ValueError, match="resize"):
        made.resize(10**6, refcheck=False)

    made.resize(10**6, refcheck=False)


def test_registered_bytearray_cannot_be_resized(pd):
    buffer = bytearray(8)
    with pd.register(buffer, ALL):
        with pytest.raises(BufferError):
            buffer.append(1)
        with pytest.raises(BufferError):
            buffer.clear()
        with pytest.raises(BufferError):
            del buffer[2:4]
        buffer[0] = 5  # its content is free to change

    buffer.append(1)


def test_registered_array_array_cannot_be_resized(pd):
    buffer = array.array("b", bytes(8))
    with pd.register(buffer, ALL), pytest.raises(BufferError):
        buffer.append(1)

    buffer.append(1)


def test_registered_mmap_cannot_be_closed(pd):
    buffer = mmap.mmap(-1, 4096)
    with pd.register(buffer, ALL), pytest.raises(BufferError):
        buffer.close()

    buffer.close()


def test_registered_memoryview_cannot_be_released(pd):
    buffer = bytearray(8)
    view = memoryview(buffer)
    with pd.register(view, ALL), pytest.raises(BufferError):
        view.release()

    view.release()


def test_registered_array_outlives_its_last_name(pd):
    made = np.arange(10)
    reference = weakref.ref(made)
    region = pd.register(made, ALL)
    del made
    gc.collect()

    assert reference() is not None
    assert region.array.tolist() == [*range(10)]

    region.close()
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("end", ["close", "deregister", "drop", "adapter", "exit"])
def test_every_end_of_a_registration_gives_the_buffer_back(provider, end):
    adapter = nd.Adapter.open(provider)
    buffer = bytearray(8)
    region = adapter.create_pd().register(buffer, ALL)
    with pytest.raises(BufferError):
        buffer.append(1)

    if end == "close":
        region.close()
    elif end == "deregister":
        region.deregister()
    elif end == "drop":
        del region
    elif end == "adapter":
        adapter.close()
    else:
        with region:
            pass

    buffer.append(1)
    adapter.close()


def test_region_can_register_one_array_after_another(pd):
    with pd.create_mr() as region:
        for size in (1, 2, 3):
            buffer = bytearray(size)
            region.register(buffer, ALL)
            assert region.nbytes == size
            region.deregister()
            buffer.append(1)


def test_unregistered_region_says_so(pd):
    with pd.create_mr() as region:
        for use in (
            lambda: region.address,
            lambda: region.nbytes,
            lambda: region.local_token,
            lambda: region.remote_token,
            lambda: region.segment(),
            lambda: region.remote(),
            lambda: region.array,
        ):
            with pytest.raises(nd.RdmaError, match="not registered"):
                use()


def test_rights_of_a_region_are_those_that_were_asked_for(pd):
    buffer = bytearray(8)
    for asked, granted in [
        (nd.Access.LOCAL_READ, nd.Access.LOCAL_READ),
        (nd.Access.LOCAL_WRITE, nd.Access.LOCAL_WRITE),
        (nd.Access.REMOTE_READ, nd.Access.REMOTE_READ),
        (nd.Access.REMOTE_WRITE, nd.Access.REMOTE_WRITE | nd.Access.LOCAL_WRITE),
        (4, nd.Access.REMOTE_WRITE),  # the bare bit: NDK's remote write contains local write
    ]:
        with pd.register(buffer, asked) as region:
            assert region.access == granted


# ---- a request in flight keeps the export -------------------------------------------------------


def test_closed_buffer_stays_exported_until_its_receive_retires(pair):
    buffer = bytearray(8)
    region = pair.near.pd.register(buffer, nd.Access.LOCAL_WRITE)
    pair.near.qp.receive(region)

    region.close()
    with pytest.raises(BufferError):
        buffer.append(1)

    pair.near.flush()
    pair.near.waiting("receive")
    buffer.append(1)


def test_message_lands_in_a_buffer_whose_region_was_closed_after_posting(pair):
    buffer = bytearray(8)
    region = pair.near.pd.register(buffer, nd.Access.LOCAL_WRITE)
    pair.near.qp.receive(region)
    region.close()

    pair.far.qp.send(b"arrived!", flags=nd.Flag.INLINE)

    assert pair.near.received().bytes_transferred == 8
    assert buffer == b"arrived!"
    buffer.append(1)


def test_array_without_a_name_stays_for_its_request(pair):
    made = np.zeros(8, np.uint8)
    reference = weakref.ref(made)
    region = pair.near.pd.register(made, nd.Access.LOCAL_WRITE)
    pair.near.qp.receive(region)
    region.close()
    del made, region
    gc.collect()
    assert reference() is not None

    pair.far.qp.send(b"arrived!", flags=nd.Flag.INLINE)
    pair.near.received()

    gc.collect()
    assert reference() is None


def test_retired_send_gives_its_buffer_back(pair):
    buffer = bytearray(b"12345678")
    pair.far.memory("sink", 8)
    pair.far.receive("sink")
    region = pair.near.pd.register(buffer, nd.Access.LOCAL_READ)
    pair.near.qp.send(region)
    region.close()

    assert pair.near.completion().status == nd.Status.SUCCESS
    assert pair.far.received().bytes_transferred == 8

    buffer.append(1)


def test_pending_read_keeps_its_sink_exported(pair):
    # The peer is asked for more than fits on the way, and no thread polls here.
    size = 1 << 24
    target = pair.far.memory("target", size)
    buffer = bytearray(size)
    region = pair.near.pd.register(buffer, nd.Access.LOCAL_WRITE)
    for _ in range(4):
        pair.near.qp.read(region, target)
    region.close()

    pair.near.qp.close()
    pair.near.connector.close()
    pair.adapter.close()

    buffer.append(1)


def test_mapping_whose_file_has_become_too_short_is_refused(adapter, tmp_path):
    pd = adapter.create_pd()
    with open(tmp_path / "mapped", "w+b") as file:
        file.truncate(4 * mmap.PAGESIZE)
        memory = mmap.mmap(file.fileno(), 4 * mmap.PAGESIZE)
        pd.register(memory).close()
        file.truncate(mmap.PAGESIZE)

        with pytest.raises(BufferError, match="file is shorter"):
            pd.register(memory)

        file.truncate(4 * mmap.PAGESIZE)
        pd.register(memory).close()
