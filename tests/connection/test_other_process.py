# SPDX-License-Identifier: Apache-2.0
"""One-sided calls on memory of another process, which maps it, reaches it by calls, or sends it."""

import subprocess
import sys

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT

COUNT = 1 << 17
OWNER = """
import sys
import numpy as np, ndverbs as nd
provider, host, kind, count = sys.argv[1:]
with nd.Adapter.open(provider) as adapter:
    allocate = adapter.alloc_array if kind == "mapped" else np.zeros
    array = allocate(int(count), np.int64)
    array[:] = np.arange(int(count))
    share = nd.share(array, "a", (host, 0), writable=True, adapter=adapter)
    print(share.address, flush=True)
    sys.stdin.readline()
    share.close()
    print(array.sum(), flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(params=["mapped", "plain"])
def kind(request):
    return request.param


@pytest.fixture
def owner(provider, host, kind):
    """Start a process that shares 0, 1, 2, ... until it gets a line, and says their sum then."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, provider, host, kind, str(COUNT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


@pytest.fixture
def remote(owner, adapter):
    with nd.attach(owner.stdout.readline().strip(), LIMIT, adapter=adapter) as attached:
        yield attached


def end_share(owner):
    owner.stdin.write("\n")
    owner.stdin.flush()
    return int(owner.stdout.readline())


def test_mapped_elements_are_reached_without_a_request(remote, kind, adapter):
    assert remote.get_item(7) == 7  # which finds out where they are
    is_reached = kind == "mapped" and remote.connection.transport.startswith("direct")
    assert (remote._elements.get(7) is not None) == is_reached
    assert remote._elements.set(7, 7) == is_reached
    assert remote.get_item(7) == 7


def test_elements_are_what_an_array_would_have(remote, adapter):
    expected = np.arange(COUNT)
    random = np.random.default_rng(1)
    for index in [0, 1, -1, COUNT - 1, -COUNT, *random.integers(-COUNT, COUNT, 50)]:
        assert remote.get_item(index) == expected[index]
        assert type(remote.get_item(index)) is np.int64
        expected[index] = value = int(random.integers(-(2**63), 2**63))
        remote.set_item(index, value)
        if "atomics" in adapter.info.extensions:
            assert remote.fetch_add(index, 3 - value) == value
            expected[index] = 3
    np.testing.assert_array_equal(remote[:], expected)


@pytest.mark.parametrize(
    "call",
    [
        lambda remote, index: remote.get_item(index),
        lambda remote, index: remote.set_item(index, 1),
        lambda remote, index: remote.fetch_add(index, 1),
    ],
    ids=["get_item", "set_item", "fetch_add"],
)
def test_an_index_that_is_none_is_an_error_as_of_a_list(remote, call):
    for index in (COUNT, -COUNT - 1, 2**70):
        with pytest.raises(IndexError):
            call(remote, index)
    with pytest.raises(TypeError):
        call(remote, 1.0)


def test_an_element_that_cannot_be_converted_is_not_written(remote):
    with pytest.raises(ValueError, match="invalid literal"):
        remote.set_item(3, "three")
    assert remote.get_item(3) == 3


def test_a_revoked_array_is_out_of_reach(remote, owner):
    assert remote.get_item(5) == 5
    assert end_share(owner) == COUNT * (COUNT - 1) // 2
    with pytest.raises(nd.RdmaError):
        remote.get_item(5)
    with pytest.raises(nd.RdmaError):
        remote.set_item(5, 0)


def test_an_element_shows_what_was_written_before(remote):
    c, target = remote.connection, remote.remote
    for value in range(1, 300):
        c.write(np.full(16, value), target[:16])
        assert remote.get_item(value % 16) == value


def spans_of(lengths):
    """Return rows that lie behind each other in one array and the other way round in the other."""
    lengths = np.asarray(lengths, np.uint64)
    ends = np.cumsum(lengths, dtype=np.uint64)
    return np.column_stack([ends - lengths, ends[-1] - ends, lengths])


@pytest.mark.parametrize("call", ["write", "read", "write_many", "read_many"])
def test_arrays_of_objects_are_refused_and_stay_as_they_are(remote, call):
    c = remote.connection
    assert remote.get_item(0) == 0
    objects = np.array([{}, [], (), "text"], dtype=object)
    spans = [[[0, 0, 8]]] if call.endswith("many") else []
    with pytest.raises(BufferError, match="holds Python objects"):
        getattr(c, call)(objects, remote.remote, *spans)
    assert objects.tolist() == [{}, [], (), "text"]
    assert remote.get_item(0) == 0


MANY = {
    "words": [8] * 5000,
    "one": [8],
    "none among them": [8, 0, 16, 0, 0, 8],
    "of all sizes": [1, 3, 4096, 64 << 10, 300 << 10, 7, 300 << 10, 2],
    "more than a step": [32 << 10] * 30,
}


@pytest.mark.parametrize("lengths", MANY.values(), ids=MANY)
@pytest.mark.parametrize("size", [np.uint64, np.int32])
def test_many_pieces_arrive_where_they_belong(remote, lengths, size):
    c, target = remote.connection, remote.remote
    spans = spans_of(lengths)
    total = int(spans[:, 2].sum())
    before = remote[:].view(np.uint8)
    source = np.random.default_rng(2).integers(0, 256, total, np.uint8)
    expected = before.copy()
    for local, there, length in spans.tolist():
        expected[there : there + length] = source[local : local + length]
    assert c.write_many(source, target, spans.astype(size)).result(LIMIT) == total
    np.testing.assert_array_equal(remote[:].view(np.uint8), expected)
    found = np.zeros(total, np.uint8)
    assert c.read_many(found, target, spans.astype(size)).result(LIMIT) == total
    np.testing.assert_array_equal(found, source)


def test_what_was_written_is_in_the_owners_memory(remote, owner):
    remote.set_item(0, COUNT)
    remote.connection.write_many(np.array([10, 20]), remote.remote, [[0, 8, 8], [8, 16, 8]]).result(
        LIMIT
    )
    assert end_share(owner) == COUNT * (COUNT - 1) // 2 + COUNT + 10 - 1 + 20 - 2
