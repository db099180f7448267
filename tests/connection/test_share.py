# SPDX-License-Identifier: Apache-2.0
"""share and attach: one array for everybody."""

import subprocess
import sys
import threading

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT
from ndverbs.connection._share import _Host

ARRAY = np.arange(4 * 5 * 6, dtype=np.int64).reshape(4, 5, 6)


@pytest.fixture
def shared(adapter, host):
    """Share a copy of ARRAY, and attach it."""
    array = ARRAY.copy()
    with (
        nd.share(array, "a", (host, 0), writable=True, adapter=adapter) as share,
        nd.attach(share.address, LIMIT, adapter=adapter) as remote,
    ):
        yield array, remote


KEYS = [
    np.s_[1],
    np.s_[1, 2, 3],
    np.s_[-1, ..., 2],
    np.s_[1:3],
    np.s_[...],
    np.s_[:],
    np.s_[::2],
    np.s_[::-1],
    np.s_[:, 1],
    np.s_[3:0:-2, ::2, ::-3],
    np.s_[:, :, 5],
    np.s_[0:0],
    np.s_[2, 3, 1:4],
    np.s_[1, 2, ...],
    np.s_[1, 2, 3, ...],
    np.s_[()],
]


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_a_slice_reads_what_numpy_would_return(shared, key):
    _, remote = shared
    found, wanted = remote[key], ARRAY[key]
    np.testing.assert_array_equal(found, wanted)
    assert type(found) is type(wanted)
    assert np.shape(found) == np.shape(wanted)


@pytest.mark.parametrize(
    "key", [np.s_[1], np.s_[1:3], np.s_[2, 3, 1:4], np.s_[...], np.s_[0, 0, 0]]
)
def test_a_slice_writes_what_numpy_would_assign(shared, key):
    array, remote = shared
    remote[key] = 7
    wanted = ARRAY.copy()
    wanted[key] = 7
    np.testing.assert_array_equal(array, wanted)


def test_it_looks_like_the_array(shared):
    array, remote = shared
    assert (remote.shape, remote.dtype, remote.ndim) == (array.shape, array.dtype, array.ndim)
    assert (remote.size, remote.nbytes, len(remote)) == (array.size, array.nbytes, len(array))
    np.testing.assert_array_equal(np.asarray(remote), array)
    np.testing.assert_array_equal(np.asarray(remote, np.float32), array)
    out = np.empty_like(array)
    assert remote.get(out=out) is out
    np.testing.assert_array_equal(out, array)
    remote.put(array[::-1].copy())
    np.testing.assert_array_equal(array, ARRAY[::-1])
    assert repr(remote).startswith("<RemoteArray int64 (4, 5, 6) at ")


def test_single_elements_are_read_and_written_by_flat_index(shared):
    array, remote = shared
    assert [remote.get_item(i) for i in (0, 7, 119, -1)] == [0, 7, 119, 119]
    remote.set_item(-2, -5)
    remote.fence()
    assert array.flat[118] == -5


def test_elements_are_added_to_by_many_at_once(adapter, host, scaled):
    if "atomics" not in adapter.info.extensions:
        pytest.skip("the adapter has no atomics")
    counter = np.zeros(1, np.int64)
    count = scaled(200)
    with nd.share(counter, "n", (host, 0), writable=True, adapter=adapter) as share:

        def add():
            with nd.attach(share.address, LIMIT, adapter=adapter) as remote:
                found.extend(remote.fetch_add(0, 1) for _ in range(count))

        found = []
        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
    assert sorted(found) == list(range(4 * count))
    assert counter[0] == 4 * count


def test_an_element_that_was_interrupted_is_written_as_it_was(shared, monkeypatch):
    array, remote = shared
    has_room = []
    link = remote.connection._link
    with link.hub.lock:
        link.do(lambda: bool(has_room))  # what follows waits behind it

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(nd.Request, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            remote.set_item(0, 70)
    has_room.append(True)
    remote.set_item(1, 71)
    remote.fence()
    assert list(array.reshape(-1)[:2]) == [70, 71]


def test_a_negative_sum_is_negative(shared):
    if "atomics" not in shared[1].connection.adapter.info.extensions:
        pytest.skip("the adapter has no atomics")
    _, remote = shared
    assert remote.fetch_add(0, -3) == 0
    assert remote.fetch_add(0, 1) == -3
    assert remote.get_item(0) == -2


def test_several_arrays_share_an_address_until_the_last_one_ends(adapter, host):
    first = nd.share(np.arange(3), "first", (host, 0), adapter=adapter)
    where = first.address.partition("/")[0]
    second = nd.share(np.arange(4), "second", where, adapter=adapter)
    with nd.attach(second.address, LIMIT, adapter=adapter) as remote:
        assert remote.shape == (4,)
        first.close()
        with pytest.raises(ValueError, match=f"no 'first': {where} shares second"):
            nd.attach(first.address, LIMIT, adapter=adapter)
        assert remote[3] == 3
    second.close()
    with pytest.raises(ConnectionRefusedError):
        nd.attach(second.address, LIMIT, adapter=adapter)


def test_a_name_at_an_address_is_taken_once(adapter, host):
    with (
        nd.share(np.arange(3), "x", (host, 0), adapter=adapter) as share,
        pytest.raises(nd.RdmaError, match="'x' is shared at") as failure,
    ):
        nd.share(np.arange(3), "x", share.address.partition("/")[0], adapter=adapter)
    assert failure.value.status is nd.Status.SHARING_VIOLATION


def test_an_array_that_is_not_writable_stays_as_it_is(adapter, host):
    array = np.arange(5)
    with (
        nd.share(array, "r", (host, 0), adapter=adapter) as share,
        nd.attach(share.address, LIMIT, adapter=adapter) as remote,
    ):
        assert remote[2] == 2
        for write in (
            lambda: remote.__setitem__(0, 1),
            lambda: remote.set_item(0, 1),
            lambda: remote.fetch_add(0, 1),
        ):
            with pytest.raises(PermissionError, match="writable=True"):
                write()
    np.testing.assert_array_equal(array, np.arange(5))


def test_a_closed_share_is_read_by_nobody(adapter, host):
    share = nd.share(np.arange(5), "r", (host, 0), adapter=adapter)
    with nd.attach(share.address, LIMIT, adapter=adapter) as remote:
        assert remote[1] == 1
        share.close()
        with pytest.raises(nd.RdmaError):
            remote[1]


@pytest.mark.parametrize(
    "key", ["a", [1, 2], np.array([True]), np.array([1]), True, None, 1.5], ids=repr
)
def test_keys_that_would_need_more_than_slices_are_refused(shared, key):
    with pytest.raises(TypeError, match="integers and slices"):
        shared[1][key]


def test_what_lies_outside_is_an_index_error(shared):
    _, remote = shared
    for wrong in (
        lambda: remote[4],
        lambda: remote[0, 0, 0, 0],
        lambda: remote.get_item(120),
        lambda: remote.set_item(-121, 0),
        lambda: remote.fetch_add(120, 1),
    ):
        with pytest.raises(IndexError):
            wrong()
    with pytest.raises(ValueError, match="not contiguous"):
        remote[:, 0] = 1
    with pytest.raises(ValueError, match="out is"):
        remote.get(out=np.empty(3))


def test_an_address_is_free_again_once_the_adapter_of_its_shares_is_closed(provider, host):
    array = np.arange(3)
    with nd.Adapter.open(provider) as first:
        share = nd.share(array, "a", (host, 0), adapter=first)
        where = share.address.partition("/")[0]
        serving = _Host._all[where]._thread
    serving.join(LIMIT)
    assert not serving.is_alive()
    with nd.Adapter.open(provider) as second, nd.share(array, "b", where, adapter=second):
        share.close()  # which is not of this one any more
        with nd.attach(f"{where}/b", LIMIT, adapter=second) as remote:
            assert remote[1] == 1


@pytest.mark.parametrize("name", ["", "a/b", "x" * 2000])
def test_names_that_are_none_are_refused(name):
    with pytest.raises(ValueError, match="the name"):
        nd.share(np.arange(3), name)


def test_an_address_without_a_name_is_refused():
    for address in ("127.0.0.1:7472", "127.0.0.1:7472/"):
        with pytest.raises(ValueError, match="names no array"):
            nd.attach(address)


def test_a_server_that_is_no_share_is_named(server, adapter, monkeypatch):
    def receive(self, timeout):
        raise TimeoutError

    monkeypatch.setattr(nd.Connection, "receive", receive)
    with pytest.raises(nd.RdmaTimeoutError, match=r"attach: .* has not answered .* ndverbs\.share"):
        nd.attach(f"{server.address}/x", LIMIT, adapter=adapter)


def test_arrays_that_are_not_contiguous_are_refused():
    with pytest.raises(ValueError, match="C-contiguous"):
        nd.share(np.zeros((3, 4), order="F"))
    with pytest.raises(BufferError, match="not contiguous"):
        nd.share(np.arange(9)[::2])


def test_a_stranger_that_asks_nothing_holds_up_nobody(adapter, host):
    with nd.share(np.arange(3), "x", (host, 0), adapter=adapter) as share:
        where = share.address.partition("/")[0]
        with nd.connect(where, adapter=adapter), nd.connect(where, adapter=adapter) as other:
            other.send(b"what?")
            assert other.receive(LIMIT).endswith(b"shares x")
            with nd.attach(share.address, LIMIT, adapter=adapter) as remote:
                assert remote[2] == 2


def test_a_stranger_that_asks_without_end_is_dropped_and_read_no_further(adapter, host):
    with nd.share(np.arange(3), "x", (host, 0), adapter=adapter) as share:
        with nd.connect(share.address.partition("/")[0], adapter=adapter) as stranger:
            lent = stranger.send(np.zeros(1 << 20))
            with pytest.raises(ConnectionResetError):
                lent.result(LIMIT)
        with nd.attach(share.address, LIMIT, adapter=adapter) as remote:
            assert remote[2] == 2


OWNER = """
import sys
import numpy as np, ndverbs as nd
array = np.zeros(1000, np.int64)
with nd.share(array, "x", (sys.argv[2], 0), writable=True, adapter=sys.argv[1]) as share:
    print(share.address, flush=True)
    sys.stdin.readline()
    print(array[5], flush=True)
"""


def test_an_array_of_another_process_is_used_by_slices(provider, adapter, host):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, provider, host],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        with nd.attach(owner.stdout.readline().strip(), LIMIT, adapter=adapter) as remote:
            remote[5] = 11
            assert remote.get_item(5) == 11
            if "atomics" in adapter.info.extensions:
                assert remote.fetch_add(5, 1) == 11
            else:
                remote[5] = 12
        said, _ = owner.communicate("\n", timeout=LIMIT)
        assert said == "12\n"
