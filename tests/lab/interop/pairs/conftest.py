# SPDX-License-Identifier: Apache-2.0
"""The conformance suite's ends, one of them on soft and the other on the kernel's siw."""

import pytest

from conformance import conftest as suite
from conformance.addresses import addresses_of
from conformance.end import End
from conformance.far import FarThread
from lab.interop.pairs.deviations import DEVIATIONS, SIW, SOFT


def pytest_collection_modifyitems(items):
    for item in items:
        near = getattr(item, "callspec", None) and item.callspec.params.get("near_provider")
        if near is None:
            continue
        module = item.function.__module__.rpartition(".")[2]
        name = f"{module}.py::{item.originalname}"
        for deviation in DEVIATIONS:
            if (deviation.test, deviation.provider) == (name, near) and (
                not deviation.parameters or any(p in item.name for p in deviation.parameters)
            ):
                item.add_marker(
                    pytest.mark.xfail(reason=deviation.reason, strict=True, run=deviation.runs)
                )


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
    made = []

    def make(*, near=None, far=None, **both):
        far_provider = SIW if near_provider == SOFT else SOFT
        near_end = End(near_provider, **both, **(near or {}))
        made.append(near_end)
        far_end = FarThread(provider=far_provider, **both, **(far or {}))
        made.append(far_end)
        return Ends(near_end, far_end, addresses_of(SIW).v4)

    yield make
    for end in made:
        end.end_connection()
    for end in made:
        end.close()


@pytest.fixture
def idle_ends(make_ends):
    """Make two ends that are not connected."""
    return make_ends()


@pytest.fixture
def ends(make_ends):
    """Make two connected ends, the near one being active."""
    return make_ends().connect()
