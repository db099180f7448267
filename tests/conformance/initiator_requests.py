# SPDX-License-Identifier: Apache-2.0
"""Every request of the initiator queue, for tests of a rule that all of them share."""

import pytest

import ndverbs as nd

REQUESTS = [
    "send",
    "send_and_invalidate",
    "write",
    "read",
    "fast_register",
    "bind",
    "invalidate",
]

_NEEDS = {
    "send_and_invalidate": "send_and_invalidate",
    "fast_register": "create_fast_register_mr",
    "bind": "create_mw",
    "invalidate": "create_fast_register_mr",
}


def posting(pair, request):
    """Prepare memory for a request of the near end; return the call that posts it."""
    near, far = pair.near, pair.far
    needed = _NEEDS.get(request)
    if needed is not None and needed not in near.adapter.info.features:
        pytest.skip(f"no {needed}: test_logical_addresses.py or test_remote_access.py refuses it")
    near.memory("local", 8)
    if request == "send":
        return lambda **options: near.send("local", **options)
    if request == "send_and_invalidate":
        # No token of the far end: it ends the connection if it ever gets there.
        return lambda **options: near.send_and_invalidate(0x12345678, "local", **options)
    if request in ("write", "read"):
        target = far.memory("target", 8)
        return lambda **options: getattr(near, request)(target, "local", **options)
    if request == "bind":
        near.create_mw("window")
        allowed = nd.Flag.ALLOW_REMOTE_READ
        return lambda *, flags=0, **options: near.bind(
            "window", "local", flags=flags | allowed, **options
        )
    near.map_pages("pages", 1)
    near.create_fast_register_mr("region")
    if request == "invalidate":
        return lambda **options: near.invalidate("region", **options)
    return lambda *, flags=0, **options: near.fast_register(
        "region", "pages", flags=flags | nd.Flag.ALLOW_REMOTE_READ, **options
    )


def hold_up(pair):
    """Keep the near end's queue from moving: what is posted with READ_FENCE stays in it.

    The far end posts no receive for the Send, and the Read behind it is not answered before that.
    """
    near = pair.near
    near.memory("sink", 8)
    near.send()
    near.read(pair.far.memory("source", 8), "sink")
