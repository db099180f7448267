# SPDX-License-Identifier: Apache-2.0
"""A refused remote access changes nothing outside the range, and breaks both ends.

On iWARP a Write that the peer refuses may have completed by then; on InfiniBand it completes with
the error. The part that both share is asserted here.
"""

import pytest

import ndverbs as nd
from conformance.end import ALL, pattern, status_of

SIZE = 256


class Victim:
    """Memory of the far end with a region in the middle, and receives that tell of the end."""

    def __init__(self, ends, access=ALL):
        self.ends = ends
        ends.far.memory("whole", 3 * SIZE, nd.Access.LOCAL_WRITE, seed=1)
        self.remote = ends.far.inner("whole", "inner", SIZE, SIZE, access)
        ends.near.memory("local", 2 * SIZE, seed=2)
        ends.near.memory("spare", 1)
        ends.near.receive("spare", context="near receive")
        ends.far.receive("whole", context="far receive")

    def expect_refusal(self, reason=None, *, changed=(0, 0)):
        """Both ends end in error, later requests are refused, and nothing else has changed."""
        near, far = self.ends.near, self.ends.far
        near_receive = near.received()
        far_receive = far.received()
        assert (near_receive.status, near_receive.request_context) == (
            nd.Status.CANCELLED,
            "near receive",
        )
        assert (far_receive.status, far_receive.request_context) == (
            nd.Status.CANCELLED,
            "far receive",
        )
        assert near.state() == "error"
        assert far.state() == "error"
        details = [near_receive.detail, *[done.detail for done in near.waiting()]]
        reason = reason and near.reason(reason)
        assert reason is None or any(reason in (detail or "") for detail in details), details
        with pytest.raises(nd.RdmaError) as caught:
            near.send()
        assert caught.value.status == nd.Status.CONNECTION_INVALID
        near.receive(context="late")
        assert near.received().status == nd.Status.CANCELLED
        begin, end = SIZE + changed[0], SIZE + changed[1]
        content, before = far.content("whole"), pattern(3 * SIZE, 1)
        assert content[:begin] == before[:begin]
        assert content[end:] == before[end:]

    def expect_refused_read(self, reason):
        done = self.ends.near.completion()
        assert done.type == nd.OperationType.READ
        if self.ends.near.reason(reason) is None:
            assert done.status == nd.Status.CANCELLED
        else:
            assert done.status == nd.Status.REMOTE_RESOURCES
            assert self.ends.near.reason(reason) in done.detail
        assert self.ends.near.content("local") == pattern(2 * SIZE, 2)
        is_named = self.ends.near.expects("receives name the refusal that cancelled them")
        self.expect_refusal(reason if is_named else None)


@pytest.mark.parametrize("wrong", [1, 0x80000000, 0xFFFFFFFF])
def test_write_with_a_wrong_token(ends, wrong):
    victim = Victim(ends)

    ends.near.write((victim.remote.address, victim.remote.token ^ wrong), ("local", 0, SIZE))

    victim.expect_refusal("invalid STag")


@pytest.mark.parametrize("wrong", [1, 0xFFFFFFFF])
def test_read_with_a_wrong_token(ends, wrong):
    victim = Victim(ends)

    ends.near.read((victim.remote.address, victim.remote.token ^ wrong), ("local", 0, SIZE))

    victim.expect_refused_read("invalid STag")


OUTSIDE = [
    (-1, 1),  # one byte before
    (-1, 2),
    (SIZE, 1),  # one byte behind
    (SIZE - 1, 2),
    (0, SIZE + 1),
    (-SIZE, 2 * SIZE),
    (1 << 40, 1),
]


@pytest.mark.parametrize(("offset", "length"), OUTSIDE)
def test_write_out_of_bounds(ends, offset, length):
    victim = Victim(ends)

    ends.near.write((victim.remote.address + offset, victim.remote.token), ("local", 0, length))

    victim.expect_refusal("base or bounds violation")


@pytest.mark.parametrize(("offset", "length"), OUTSIDE)
def test_read_out_of_bounds(ends, offset, length):
    victim = Victim(ends)

    ends.near.read((victim.remote.address + offset, victim.remote.token), ("local", 0, length))

    victim.expect_refused_read("base or bounds violation")


def test_write_whose_end_passes_64_bits(ends):
    victim = Victim(ends)

    ends.near.write(((1 << 64) - 1, victim.remote.token), ("local", 0, 2))

    victim.expect_refusal("wrap")


def test_read_whose_end_passes_64_bits(ends):
    victim = Victim(ends)

    ends.near.read(((1 << 64) - 1, victim.remote.token), ("local", 0, 2))

    victim.expect_refused_read("wrap")


def test_long_write_that_leaves_the_region_changes_nothing_behind_it(ends):
    # Several FPDUs: those inside are placed, the one that crosses the end is not.
    length = 200_000
    whole_bytes = 300_000
    ends.far.memory("whole", whole_bytes, nd.Access.LOCAL_WRITE, seed=1)
    remote = ends.far.inner("whole", "inner", 0, length, ALL)
    ends.near.memory("local", length + 1, seed=2)
    ends.far.receive(context=1)

    ends.near.write(remote_pair(remote), "local")

    assert ends.far.received().status == nd.Status.CANCELLED
    assert ends.far.content("whole", length) == pattern(whole_bytes, 1)[length:]


def remote_pair(remote):
    return remote.address, remote.token


@pytest.mark.parametrize("access", [nd.Access.REMOTE_READ, nd.Access.REMOTE_READ | 1])
def test_write_without_the_right(ends, access):
    victim = Victim(ends, access)

    ends.near.write(remote_pair(victim.remote), ("local", 0, SIZE))

    victim.expect_refusal("STag")  # DDP has no code for rights, RDMAP has


def test_read_without_the_right(ends):
    victim = Victim(ends, nd.Access.REMOTE_WRITE)

    ends.near.read(remote_pair(victim.remote), ("local", 0, SIZE))

    victim.expect_refused_read("access rights violation")


def test_remote_buffer_without_the_right_is_refused_at_the_call(ends):
    target = ends.far.memory("target", 8, nd.Access.REMOTE_READ)
    ends.near.memory("local", 8)

    with pytest.raises(PermissionError):
        ends.near.write(target, "local")

    ends.near.read(target, "local")
    assert ends.near.completion().status == nd.Status.SUCCESS


def test_remote_buffer_that_is_too_small_is_refused_at_the_call(ends):
    target = ends.far.memory("target", 8)
    ends.near.memory("local", 9)

    with pytest.raises(ValueError, match="9"):
        ends.near.write(target, "local")
    with pytest.raises(ValueError, match="9"):
        ends.near.read(target, "local")

    ends.near.write(target, ("local", 0, 8))
    assert ends.near.completion().status == nd.Status.SUCCESS


def test_write_into_another_protection_domain(ends):
    victim = Victim(ends)
    foreign = ends.far.foreign_memory("foreign", SIZE)

    ends.near.write(remote_pair(foreign), ("local", 0, SIZE))

    victim.expect_refusal("not associated with the stream")
    assert ends.far.content("foreign") == bytes(SIZE)


def test_read_from_another_protection_domain(ends):
    victim = Victim(ends)
    foreign = ends.far.foreign_memory("foreign", SIZE)

    ends.near.read(remote_pair(foreign), ("local", 0, SIZE))

    victim.expect_refused_read("not associated with the stream")


def test_write_into_a_deregistered_region(ends):
    victim = Victim(ends)
    ends.far.deregister("inner")

    ends.near.write(remote_pair(victim.remote), ("local", 0, SIZE))

    victim.expect_refusal("invalid STag")


def test_read_from_a_deregistered_region(ends):
    victim = Victim(ends)
    ends.far.deregister("inner")

    ends.near.read(remote_pair(victim.remote), ("local", 0, SIZE))

    victim.expect_refused_read("invalid STag")


def test_old_token_does_not_reach_a_region_that_was_registered_again(ends):
    victim = Victim(ends)
    ends.far.deregister("inner")
    ends.far.inner("whole", "again", SIZE, SIZE, ALL)

    ends.near.write(remote_pair(victim.remote), ("local", 0, SIZE))

    victim.expect_refusal("invalid STag")


def test_requests_behind_a_refused_read_are_cancelled(ends):
    victim = Victim(ends)
    ends.near.read((victim.remote.address, victim.remote.token ^ 1), ("local", 0, 1), context=0)
    posted = 1
    for i in range(1, 10):
        request = (remote_pair(victim.remote), ("local", 0, 1))
        status = status_of(ends.near.read, *request, context=i)
        if status == nd.Status.CONNECTION_INVALID:  # the refusal was faster
            break
        assert status == nd.Status.SUCCESS
        posted += 1

    done = ends.near.completions("initiator", posted)
    is_told = ends.near.reason("invalid STag") is not None
    assert done[0].status == (nd.Status.REMOTE_RESOURCES if is_told else nd.Status.CANCELLED)
    assert [each.status for each in done[1:]] == [nd.Status.CANCELLED] * (posted - 1)
    assert [each.request_context for each in done] == [*range(posted)]


def test_refused_access_of_one_connection_leaves_others_alone(connect_pair):
    pair, bystander = connect_pair(), connect_pair()
    target = pair.far.memory("target", 8)
    pair.near.memory("local", 8)
    pair.near.read((target.address, target.token ^ 1), "local")
    assert pair.near.completion().status != nd.Status.SUCCESS

    bystander.far.receive()
    bystander.near.send()

    assert bystander.far.received().status == nd.Status.SUCCESS


def test_disconnect_handler_is_told_of_a_refused_access(ends):
    target = ends.far.memory("target", 8)
    ends.near.memory("local", 8)

    ends.near.write((target.address, target.token ^ 1), "local")

    assert ends.far.wait_for_disconnect() == 1
    assert ends.near.wait_for_disconnect() == 1


# ---- send_and_invalidate ------------------------------------------------------------------------


def test_invalidating_a_registered_region_breaks_the_connection(ends):
    # NDK: what register() made is not the peer's to invalidate.
    victim = Victim(ends)

    ends.near.send_and_invalidate(victim.remote.token, context=3)

    far = ends.far.received()
    assert far.status != nd.Status.SUCCESS
    assert far.type == nd.OperationType.RECEIVE
    assert ends.near.received().status == nd.Status.CANCELLED
    assert ends.near.state() == "error"
    assert ends.far.state() == "error"
    assert ends.far.content("whole") == pattern(3 * SIZE, 1)


def test_invalidating_an_unknown_token_breaks_the_connection(ends):
    Victim(ends)

    ends.near.send_and_invalidate(0x12345678)

    assert ends.near.received().status == nd.Status.CANCELLED
    assert ends.far.state() == "error"


def test_region_that_could_not_be_invalidated_keeps_its_token(make_ends):
    ends = make_ends().connect()
    victim = Victim(ends)
    ends.near.send_and_invalidate(victim.remote.token)
    assert ends.near.received().status == nd.Status.CANCELLED

    assert ends.far.remote_token("inner") == victim.remote.token


def test_send_and_invalidate_is_refused_at_the_call_where_the_adapter_lacks_it(ends):
    ends.far.receive()
    status = status_of(ends.near.send_and_invalidate, 0x12345678)

    if "send_and_invalidate" in ends.near.adapter.info.features:
        assert status == nd.Status.SUCCESS
    else:
        assert status == nd.Status.NOT_SUPPORTED
        ends.near.send()  # the queue pair stays usable
        assert ends.near.completion().status == nd.Status.SUCCESS


def test_send_and_invalidate_completes_as_a_send(ends):
    victim = Victim(ends)

    ends.near.send_and_invalidate(victim.remote.token, ("local", 0, 4), context=3)

    done = ends.near.completion()
    assert (done.type, done.request_context) == (nd.OperationType.SEND, 3)
