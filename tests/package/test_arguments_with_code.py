# SPDX-License-Identifier: Apache-2.0
"""Arguments that run Python code when they are looked at, which may close what is called."""

import array
import gc
from unittest.mock import Mock

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import PAGE

READ = nd.Flag.ALLOW_REMOTE_READ


def array_that_closes(closed, dtype):
    class Closing(np.ndarray):
        @property
        def dtype(self):
            closed.close()
            return dtype

    return np.zeros(4, dtype).view(Closing)


class Items:
    """A sequence of one item that closes something when it is asked for it."""

    def __init__(self, closed, item):
        self.closed = closed
        self.item = item

    def __len__(self):
        return 1

    def __getitem__(self, index):
        if index:
            raise IndexError(index)
        self.closed.close()
        return self.item


class Remote:
    def __init__(self, closed):
        self.closed = closed

    token = 1

    @property
    def address(self):
        self.closed.close()
        return 0


def test_array_that_closes_the_queue_it_is_filled_from(pair):
    queue = pair.near.receive_cq

    with pytest.raises(nd.ClosedError):
        queue.poll_into(array_that_closes(queue, nd.result_dtype))


def test_garbage_that_closes_the_queue_it_is_polled_from(pair):
    queue = pair.near.receive_cq

    class Garbage:
        def __init__(self):
            self.me = self

        def __del__(self):
            queue.close()

    threshold = gc.get_threshold()
    results = []  # kept, so that the collector counts them
    Garbage()
    try:
        gc.set_threshold(1)
        for _ in range(100):
            if queue.closed:
                break
            results.append(queue.poll())
    except nd.ClosedError:
        pass
    finally:
        gc.set_threshold(*threshold)
    assert queue.closed


def test_array_that_closes_the_queue_pair_it_is_posted_to(pair):
    qp = pair.near.qp

    with pytest.raises(nd.ClosedError):
        qp.post_many(array_that_closes(qp, nd.request_dtype))


@pytest.mark.parametrize("flags", [0, nd.Flag.INLINE])
@pytest.mark.parametrize("call", ["send", "receive", "write", "read"])
def test_segments_that_close_the_queue_pair_they_are_posted_to(pair, call, flags):
    qp = pair.near.qp
    pair.near.memory("local", 8)
    segments = Items(qp, pair.near.regions["local"])
    remote = {"write": [(0, 1)], "read": [(0, 1)]}.get(call, [])
    options = {} if call == "receive" else {"flags": flags}

    with pytest.raises(nd.ClosedError):
        getattr(qp, call)(segments, *remote, **options)


def test_segments_that_close_the_shared_queue_they_are_posted_to(adapter):
    pd = adapter.create_pd()
    region = pd.register(bytearray(8))
    queue = pd.create_srq(4, max_sge=1)

    with pytest.raises(nd.ClosedError):
        queue.receive(Items(queue, region))


def test_remote_memory_that_closes_the_queue_pair_it_is_read_by(pair):
    pair.near.memory("local", 8)

    with pytest.raises(nd.ClosedError):
        pair.near.qp.read(pair.near.regions["local"], Remote(pair.near.qp))


# ---- pages --------------------------------------------------------------------------------------


@pytest.fixture
def near(pair, needs_fast_registration):
    pair.near.map_pages("pages", 2, seed=1)
    pair.near.create_fast_register_mr("region")
    return pair.near


@pytest.fixture
def needs_fast_registration(provider):
    with nd.Adapter.open(provider) as adapter:
        if "create_fast_register_mr" not in adapter.info.features:
            pytest.skip("no fast registration")


PAGES = {
    "uint64": lambda pages: pages.astype("u8"),
    "big-endian": lambda pages: pages.astype(">u8"),
    "little-endian": lambda pages: pages.astype("<u8"),
    "int64": lambda pages: pages.astype("i8"),
    "every second": lambda pages: np.repeat(pages, 2)[::2],
    "list": lambda pages: pages.tolist(),
    "NumPy integers": list,
    "array": lambda pages: array.array("Q", pages.tolist()),
}


@pytest.mark.parametrize("kind", PAGES)
def test_pages_are_integers_of_any_kind(near, kind):
    pages = PAGES[kind](near.mappings["pages"].pages)

    near.qp.fast_register(near.regions["region"], pages, flags=READ)

    assert near.completion().status == nd.Status.SUCCESS
    assert near.regions["region"].nbytes == 2 * PAGE


@pytest.mark.parametrize("pages", [np.zeros(2), ["one"], [None], np.zeros((2, 2), np.uint64), 7])
def test_pages_that_are_no_integers_are_a_type_error(near, pages):
    with pytest.raises(TypeError):
        near.qp.fast_register(near.regions["region"], pages, flags=READ)


def test_pages_that_close_the_queue_pair_they_are_mapped_by(near):
    page = int(near.mappings["pages"].pages[0])

    with pytest.raises(nd.ClosedError):
        near.qp.fast_register(near.regions["region"], Items(near.qp, page), flags=READ)


def test_object_that_only_claims_to_be_a_region_is_a_type_error(near):
    pages = near.mappings["pages"]

    with pytest.raises(TypeError, match="region"):
        near.qp.fast_register(Mock(spec=nd.FastRegisterMemoryRegion), pages, flags=READ)
    with pytest.raises(TypeError):
        near.qp.fast_register(
            near.regions["region"], Mock(spec=nd.LogicalAddressMapping), flags=READ
        )
    with pytest.raises(TypeError, match="window"):
        near.qp.bind(Mock(spec=nd.MemoryWindow), near.pd.register(bytearray(8)), flags=READ)
    with pytest.raises(TypeError, match="region"):
        near.qp.invalidate(Mock(spec=nd.MemoryWindow))
