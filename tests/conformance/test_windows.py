# SPDX-License-Identifier: Apache-2.0
"""Memory windows: parts of a region with tokens of their own, of one queue pair each."""

import pytest

import ndverbs as nd
from conformance.end import ALLOW_ALL, pattern, status_of
from conformance.mapped_pages import expect_ended

READ = nd.Flag.ALLOW_REMOTE_READ
WRITE = nd.Flag.ALLOW_REMOTE_WRITE
SUCCESS = nd.Status.SUCCESS
SIZE = 1000


@pytest.fixture(autouse=True)
def _needs_windows(provider):
    with nd.Adapter.open(provider) as adapter:
        if "create_mw" not in adapter.info.features:
            pytest.skip("no memory windows")


@pytest.fixture
def windowed(ends):
    """The far end has a region "base" without remote rights, and a window "window"."""
    ends.far.memory("base", SIZE, nd.Access.LOCAL_WRITE, seed=1)
    ends.far.create_mw("window")
    ends.near.memory("local", SIZE, seed=2)
    return ends


def expect_broken(ends):
    ends.near.receive()
    assert ends.near.received().status != SUCCESS
    assert ends.near.state() == "error"


def test_peer_reaches_the_part_that_the_window_is_over(windowed):
    near, far = windowed.near, windowed.far

    remote = far.bind("window", "base", 100, 50, context=1)
    assert far.completion().type == nd.OperationType.BIND
    near.write(remote, ("local", 0, 50))
    near.read(remote, ("local", 500, 50))

    assert [done.status for done in near.completions("initiator", 2)] == [SUCCESS, SUCCESS]
    expected = bytearray(pattern(SIZE, 1))
    expected[100:150] = pattern(SIZE, 2)[:50]
    assert far.content("base") == expected
    assert near.content("local", 500, 50) == pattern(SIZE, 2)[:50]


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (50, 1), (0, 51), (-1, 52)])
def test_peer_reaches_nothing_outside_the_window(windowed, offset, length):
    near, far = windowed.near, windowed.far
    address, token = far.bind("window", "base", 100, 50)

    near.write((address + offset, token), ("local", 0, length))

    expect_broken(windowed)
    assert far.content("base") == pattern(SIZE, 1)


@pytest.mark.parametrize("flags", [READ, WRITE])
def test_window_grants_what_was_said_and_no_more(windowed, flags):
    near, far = windowed.near, windowed.far
    remote = far.bind("window", "base", flags=flags)
    assert far.completion().status == SUCCESS

    if flags == READ:
        near.read(remote, "local")
        assert near.completion().status == SUCCESS
        near.write(remote, "local")
    else:
        near.write(remote, "local")
        near.read(remote, "local")

    expect_broken(windowed)


def test_window_that_writes_needs_a_region_with_local_write(ends):
    far = ends.far
    far.memory("base", SIZE, nd.Access.LOCAL_READ)
    far.create_mw("window")

    assert status_of(far.bind, "window", "base", flags=WRITE) == nd.Status.ACCESS_VIOLATION
    far.bind("window", "base", flags=READ)
    assert far.completion().status == SUCCESS


REFUSED = {
    "no right": ({"flags": 0}, "INVALID_PARAMETER"),
    "local write alone": ({"flags": nd.Flag.ALLOW_LOCAL_WRITE}, "INVALID_PARAMETER"),
    "inline": ({"flags": READ | nd.Flag.INLINE}, "INVALID_PARAMETER"),
    "nothing": ({"nbytes": 0}, "INVALID_PARAMETER"),
    "before the region": ({"offset": -1, "nbytes": 1}, "ACCESS_VIOLATION"),
    "behind it": ({"offset": SIZE, "nbytes": 1}, "ACCESS_VIOLATION"),
    "longer": ({"nbytes": SIZE + 1}, "ACCESS_VIOLATION"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_binds_are_refused_at_the_call(windowed, case):
    options, status = REFUSED[case]

    assert status_of(windowed.far.bind, "window", "base", **options) == nd.Status[status]

    windowed.far.bind("window", "base")
    assert windowed.far.completion().status == SUCCESS


def test_bind_needs_a_region_that_is_registered(pair):
    region = pair.far.pd.create_mr()
    window = pair.far.pd.create_mw()

    with pytest.raises(nd.RdmaError) as caught:
        pair.far.qp.bind(window, region, flags=READ)

    assert caught.value.status == nd.Status.INVALID_DEVICE_REQUEST


def test_window_larger_than_the_adapter_allows_is_refused(pair):
    pair.far.memory("base", 8)
    window = pair.far.pd.create_mw()
    too_much = pair.adapter.info.max_window_size + 1

    with pytest.raises(nd.RdmaError) as caught:
        pair.far.qp.bind(window, pair.far.regions["base"], None, too_much, flags=READ)

    assert caught.value.status in (nd.Status.INVALID_PARAMETER, nd.Status.ACCESS_VIOLATION)


def test_token_is_zero_before_the_first_bind_and_new_with_every_other(windowed):
    near, far = windowed.near, windowed.far
    assert far.window_token("window") == 0
    address, first = far.bind("window", "base")
    far.invalidate("window")
    _, second = far.bind("window", "base")
    assert [done.status for done in far.completions("initiator", 3)] == [SUCCESS] * 3
    assert first not in (0, second)

    near.read((address, second), "local")
    assert near.completion().status == SUCCESS
    near.read((address, first), "local")

    assert near.completion().status == nd.Status.REMOTE_RESOURCES


def test_tokens_of_a_window_do_not_repeat_in_hundreds_of_binds(windowed):
    near, far = windowed.near, windowed.far
    tokens = []
    for _ in range(600):
        tokens.append(far.bind("window", "base", flags=READ | nd.Flag.SILENT_SUCCESS)[1])
        far.invalidate("window")
        assert far.completion().status == SUCCESS
    assert len(set(tokens)) == 600

    address, token = far.bind("window", "base")
    near.read((address, token), "local")
    assert near.completion().status == SUCCESS
    near.read((address, tokens[0]), "local")
    assert near.completion().status == nd.Status.REMOTE_RESOURCES


def test_bound_window_is_not_bound_again(windowed):
    far = windowed.far
    far.bind("window", "base", context=1)
    far.bind("window", "base", context=2)
    assert far.completion().status == SUCCESS

    done = far.completion()

    assert (done.status, done.type) == (nd.Status.INVALID_DEVICE_REQUEST, nd.OperationType.BIND)
    expect_ended(windowed)


def test_unbound_window_cannot_be_invalidated(windowed):
    windowed.far.invalidate("window")

    assert windowed.far.completion().status == nd.Status.INVALID_DEVICE_REQUEST
    expect_ended(windowed)


def test_windows_may_overlap_and_end_one_by_one(windowed):
    near, far = windowed.near, windowed.far
    far.create_mw("other")
    far.bind("window", "base", 0, 600)
    other = far.bind("other", "base", 400, 600)
    far.invalidate("window")
    assert [done.status for done in far.completions("initiator", 3)] == [SUCCESS] * 3

    near.read(other, ("local", 0, 600))

    assert near.completion().status == SUCCESS
    assert near.content("local", 0, 600) == pattern(SIZE, 1)[400:]


def test_window_is_of_the_queue_pair_that_bound_it(pair):
    near, far = pair.near, pair.far
    far.memory("base", SIZE, nd.Access.LOCAL_WRITE, seed=1)
    far.create_mw("window")
    near.memory("local", SIZE)
    remote = far.bind("window", "base")
    assert far.completion().status == SUCCESS

    pair.reconnect()
    near.read(remote, "local")

    done = near.completion()
    assert done.status == nd.Status.REMOTE_RESOURCES
    assert near.content("local") == bytes(SIZE)


def test_peer_invalidates_a_window(windowed):
    near, far = windowed.near, windowed.far
    remote = far.bind("window", "base")
    assert far.completion().status == SUCCESS
    far.receive()

    near.send_and_invalidate(remote[1])

    done = far.received()
    assert done.type == nd.OperationType.RECEIVE_AND_INVALIDATE
    assert done.invalidated_token == remote[1]
    assert far.bind("window", "base")[1] != remote[1]
    assert far.completion().status == SUCCESS


def test_closed_window_is_closed_to_the_peer(windowed):
    near, far = windowed.near, windowed.far
    remote = far.bind("window", "base")
    assert far.completion().status == SUCCESS

    far.close_window("window")
    near.write(remote, "local")

    expect_broken(windowed)
    assert far.content("base") == pattern(SIZE, 1)


def test_region_with_windows_is_busy(windowed):
    far = windowed.far
    far.bind("window", "base")
    assert far.completion().status == SUCCESS

    assert status_of(far.deregister, "base") == nd.Status.DEVICE_BUSY

    far.invalidate("window")
    assert far.completion().status == SUCCESS
    assert far.waiting() == []
    far.deregister("base")


def test_region_that_is_closed_lives_on_while_it_has_windows(windowed):
    near, far = windowed.near, windowed.far
    remote = far.bind("window", "base")
    assert far.completion().status == SUCCESS

    far.close_region("base")
    near.read(remote, "local")
    assert near.completion().status == SUCCESS
    assert near.content("local") == pattern(SIZE, 1)
    far.invalidate("window")

    assert far.completion().status == SUCCESS


def test_array_is_free_when_the_last_window_of_a_closed_region_ends(pair):
    buffer = bytearray(SIZE)
    region = pair.far.pd.register(buffer)
    window = pair.far.pd.create_mw()
    pair.far.qp.bind(window, region, flags=ALLOW_ALL)
    assert pair.far.completion().status == SUCCESS
    region.close()
    with pytest.raises(BufferError):
        buffer.append(0)

    window.close()

    buffer.append(0)


def test_remote_buffer_of_a_window_names_its_part(pair):
    region = pair.far.pd.register(bytearray(SIZE))
    window = pair.far.pd.create_mw()
    with pytest.raises(nd.RdmaError, match="names no memory yet"):
        window.remote()

    pair.far.qp.bind(window, region, region.address + 10, 20, flags=READ)
    remote = window.remote()

    assert (remote.address, remote.token) == (region.address + 10, window.remote_token)
    assert (remote.nbytes, remote.access) == (20, nd.Access.REMOTE_READ)
