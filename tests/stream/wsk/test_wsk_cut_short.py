# SPDX-License-Identifier: Apache-2.0
"""WSK requests that an end cuts short: none of them says that it went well."""

import time

import numpy as np
import pytest

import ndverbs as nd
from ndverbs import wsk
from stream.sockets import LIMIT

CUTS = {
    "an abort": (lambda near, far, adapter: near.disconnect(abortive=True), "CANCELLED"),
    "a close": (lambda near, far, adapter: near.close(), "CANCELLED"),
    "the adapter's close": (lambda near, far, adapter: adapter.close(), "CANCELLED"),
    "the peer's abort": (
        lambda near, far, adapter: far.disconnect(abortive=True),
        "CONNECTION_RESET",
    ),
    "the peer's close": (lambda near, far, adapter: far.close(), "CONNECTION_RESET"),
}


def wait_for_data(sock, size):
    give_up_at = time.monotonic() + LIMIT
    while sock.receive_backlog < size:
        assert time.monotonic() < give_up_at


@pytest.mark.parametrize("cut", CUTS)
def test_a_disconnect_behind_data_that_never_left_does_not_succeed(
    provider, adapter, host, listening, cut
):
    act, status = CUTS[cut]
    with nd.Adapter.open(provider) as other:
        near = wsk.socket_connect((host, 0), listening.local_address, other)
        far = listening.accept(LIMIT)
        sends = [near.send(np.zeros(1 << 22, np.uint8)) for _ in range(2)]
        end = near.disconnect(b"final words")

        act(near, far, other)

        for request in (end, *sends):
            assert request.wait(LIMIT)
            assert request.status.name == status

        if not far.closed and status == "CANCELLED":
            # The data that came is a part, and must not look whole.
            drained = far.receive(None, wsk.Flag.DRAIN)
            assert drained.wait(LIMIT)
            assert drained.status == nd.Status.CONNECTION_RESET
        near.close()
        far.close()


@pytest.mark.parametrize("data", [b"", b"some"])
def test_a_drain_that_an_abort_ends_fails(ends, data):
    if data:
        ends.far.send(data).result(LIMIT)
        wait_for_data(ends.near, len(data))
    drain = ends.near.receive(None, wsk.Flag.DRAIN)

    ends.far.disconnect(abortive=True)

    assert drain.wait(LIMIT)
    assert drain.status == nd.Status.CONNECTION_RESET


def test_a_drain_of_what_came_before_an_abort_fails(ends):
    ends.far.send(b"some").result(LIMIT)
    wait_for_data(ends.near, 4)
    ends.far.disconnect(abortive=True)
    give_up_at = time.monotonic() + LIMIT
    while ends.near._stream.phase != "over":
        assert time.monotonic() < give_up_at

    drain = ends.near.receive(None, wsk.Flag.DRAIN)

    assert drain.wait(LIMIT)
    assert drain.status == nd.Status.CONNECTION_RESET


def test_a_drain_that_a_graceful_end_ends_succeeds(ends):
    ends.far.send(b"some").result(LIMIT)
    drain = ends.near.receive(None, wsk.Flag.DRAIN)
    ends.far.disconnect().result(LIMIT)
    drain.result(LIMIT)


def test_a_waitall_that_an_abort_cuts_fails_and_says_how_much_came(ends):
    ends.far.send(b"thirty bytes of the hundred...").result(LIMIT)
    wait_for_data(ends.near, 30)
    first = ends.near.receive(bytearray(100), wsk.Flag.WAITALL)
    second = ends.near.receive(bytearray(100), wsk.Flag.WAITALL)

    ends.far.disconnect(abortive=True)

    for request, size in ((first, 30), (second, 0)):
        assert request.wait(LIMIT)
        assert (request.status, request.information) == (nd.Status.CONNECTION_RESET, size)


def test_a_waitall_that_a_close_cuts_is_cancelled(ends):
    ends.far.send(b"part").result(LIMIT)
    wait_for_data(ends.near, 4)
    request = ends.near.receive(bytearray(100), wsk.Flag.WAITALL)

    ends.near.close()

    assert request.wait(LIMIT)
    assert (request.status, request.information) == (nd.Status.CANCELLED, 4)
