# SPDX-License-Identifier: Apache-2.0
"""Comms of distributed, over TCP and over ndverbs: both have to behave alike."""

import asyncio
import contextlib
import logging

import pytest
from distributed.comm import connect, listen

from conformance.end import LIMIT
from ndverbs import _sharing


@pytest.fixture(params=["tcp", "ndverbs"])
def protocol(request):
    """Give the scheme of the addresses."""
    return request.param


@pytest.fixture(autouse=True)
def _logs_reach_pytest(monkeypatch):
    """Undo for the test that distributed's logger keeps its records from the root's handlers."""
    monkeypatch.setattr(logging.getLogger("distributed"), "propagate", True)


@pytest.fixture(autouse=True)
def _adapters_are_closed():
    """Close what the backend has opened: a thread of its Connections has it a moment longer."""
    yield
    close_adapters()


@pytest.fixture(scope="session", name="close_adapters")
def _close_adapters():
    """Give ``close_adapters()``, for clusters that outlive a test."""
    return close_adapters


def close_adapters():
    """Close the adapters that the process shares, and wait for that."""
    for adapter in list(_sharing._shared.values()):
        adapter.close()


def in_loop(coroutine):
    """Run a coroutine in a loop of its own, for as long as a test may take."""
    return asyncio.run(asyncio.wait_for(coroutine, 3 * LIMIT))


@pytest.fixture(name="in_loop")
def _in_loop():
    return in_loop


@contextlib.asynccontextmanager
async def pair(address, *, serving=None, **options):
    """Connect two comms: the one that has connected, and the one that was accepted."""
    accepted = asyncio.get_running_loop().create_future()

    async def handle(comm):
        accepted.set_result(comm)

    async with listen(address, handle, **options) as listener:
        active = await connect(listener.contact_address, **options)
        passive = await accepted
    try:
        yield active, passive
    finally:
        active.abort()
        passive.abort()


@pytest.fixture
def with_pair(protocol):
    """Give ``with_pair(body, **options)``: ``await body(active, passive)`` in a loop."""

    def run(body, protocol=protocol, **options):
        async def whole():
            async with pair(f"{protocol}://127.0.0.1", **options) as ends:
                return await body(*ends)

        return in_loop(whole())

    return run
