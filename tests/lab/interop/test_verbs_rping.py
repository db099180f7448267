# SPDX-License-Identifier: Apache-2.0
"""rping over kernel siw and rxe, both roles, against our verbs side on the same device."""

import pytest

from conformance.addresses import addresses_of
from conformance.end import End
from lab.interop.place import Place
from lab.interop.test_rping import ping, serve

ROUNDS = [(64, 200), (4097, 50), (65535, 100)]


@pytest.fixture(params=["verbs:siw0", "verbs:rxe0"])
def device(request):
    return request.param


@pytest.fixture
def device_place(device):
    return Place(addresses_of(device).v4)


@pytest.fixture
def make_device_end(device):
    """Give the factory ``make_device_end() -> End`` of the device."""
    made = []

    def make():
        made.append(End(device))
        return made[-1]

    yield make
    for end in made:
        end.close()


@pytest.mark.parametrize(("size", "rounds"), ROUNDS)
def test_rping_client_verifies_what_the_verbs_server_echoes(
    make_device_end, tool, device_place, size, rounds
):
    serve(make_device_end, tool, device_place, size, rounds)


@pytest.mark.parametrize(("size", "rounds"), ROUNDS)
def test_verbs_client_verifies_what_the_rping_server_echoes(
    make_device_end, tool, device_place, size, rounds
):
    ping(make_device_end, tool, device_place, size, rounds)
