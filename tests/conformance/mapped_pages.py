# SPDX-License-Identifier: Apache-2.0
"""What the tests of fast registration and of invalidation share."""

import ndverbs as nd
from conformance.end import PAGE

READ = nd.Flag.ALLOW_REMOTE_READ
WRITE = nd.Flag.ALLOW_REMOTE_WRITE
SUCCESS = nd.Status.SUCCESS
BROKEN = nd.Status.INVALID_DEVICE_REQUEST


def in_order(data, order):
    return b"".join(data[i * PAGE : (i + 1) * PAGE] for i in order)


def is_alive(ends):
    """Whether a message still gets through."""
    ends.far.receive(context="alive")
    ends.near.send(context="alive")
    return ends.far.received().status == SUCCESS and ends.near.completion().status == SUCCESS


def expect_ended(ends):
    """The connection is over for the peer of a failed request, too.

    A device tells it by a disconnect: RoCE has no message that says why.
    """
    assert ends.near.wait_for_disconnect() == 1


def expect_broken(ends):
    """Both ends reach error; requests of both are refused."""
    ends.near.receive()
    assert ends.near.received().status != SUCCESS
    assert ends.near.state() == "error"
