# SPDX-License-Identifier: Apache-2.0
"""The conformance suite's ends, one of them on soft and the other on the kernel's siw."""

from functools import partial

import pytest

from conformance import conftest as suite
from conformance.addresses import addresses_of
from conformance.deviations import mark
from lab.interop.pairs.deviations import DEVIATIONS, SIW, SOFT


def pytest_collection_modifyitems(items):
    for item in items:
        near = getattr(item, "callspec", None) and item.callspec.params.get("near_provider")
        if near is not None:
            module = item.function.__module__.rpartition(".")[2]
            mark(item, DEVIATIONS, f"{module}.py::{item.originalname}", near)


class Ends(suite.Ends):
    """Never asks for peer-to-peer mode.

    A siw that granted it dies of a first batch of frames in which anything is wrong, also behind
    the frame that it waits for.
    """

    def connect(self, *, active_options=None, **options):
        return super().connect(active_options={**_PLAIN, **(active_options or {})}, **options)

    def connect_back(self, *, active_options=None, **options):
        return super().connect_back(active_options={**_PLAIN, **(active_options or {})}, **options)


_PLAIN = {"peer_to_peer": False}


@pytest.fixture(params=[SOFT, SIW])
def near_provider(request):
    """Say which end is near, and active in most tests; the far end is the other one."""
    return request.param


@pytest.fixture
def make_ends(near_provider):
    """Give the factory ``make_ends(near={}, far={}, **both) -> Ends``, not connected."""
    far_provider = SIW if near_provider == SOFT else SOFT
    kind = partial(Ends, host=addresses_of(SIW).v4)
    yield from suite.factory_of_ends(near_provider, far_provider, kind=kind)


idle_ends, ends = suite.idle_ends, suite.ends
