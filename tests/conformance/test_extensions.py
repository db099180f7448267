# SPDX-License-Identifier: Apache-2.0
"""QueryExtension: what is beyond NDK is listed beforehand, found by name, or refused."""

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import status_of

CALLS = {
    "atomics": ("fetch_add", "compare_swap"),
    "immediate": ("write_with_immediate",),
    "raw_handles": ("raw_handle",),
}
all_extensions = pytest.mark.parametrize("name", CALLS)


@pytest.fixture
def connected(pair):
    """Give a connected end with 8 bytes registered, whose adapter is asked."""
    pair.near.memory("local", 8)
    return pair.near


def call(end, name):
    """Post a request of a call to memory that is not there; return the status of the call."""
    remote = (8, 1)
    arguments = {
        "fetch_add": (remote, 1),
        "compare_swap": (remote, 1, 2),
        "write_with_immediate": (remote, 1),
    }[name]
    return status_of(getattr(end.qp, name), end.regions["local"], *arguments)


def test_the_adapter_lists_known_extensions_only(pair):
    assert set(CALLS) >= pair.adapter.info.extensions


@all_extensions
def test_extension_is_found_exactly_when_it_is_listed(connected, name):
    is_listed = name in connected.adapter.info.extensions
    for query in (connected.adapter.query_extension, connected.qp.query_extension):
        if is_listed:
            assert query(name) == CALLS[name]
        else:
            assert status_of(query, name) == nd.Status.NOT_SUPPORTED


@pytest.mark.parametrize("name", ["atomics", "immediate"])
def test_calls_of_an_extension_are_taken_exactly_when_it_is_listed(connected, name):
    is_listed = name in connected.adapter.info.extensions
    expected = nd.Status.SUCCESS if is_listed else nd.Status.NOT_SUPPORTED
    assert call(connected, CALLS[name][0]) == expected


def test_objects_have_raw_handles_exactly_when_they_are_listed(pair):
    is_listed = "raw_handles" in pair.adapter.info.extensions
    near = pair.near
    region = near.memory("region", 8)
    assert region
    for each in (pair.adapter, near.pd, near.receive_cq, near.qp, near.regions["region"]):
        if is_listed:
            assert each.raw_handle > 0
        else:
            assert status_of(getattr, each, "raw_handle") == nd.Status.NOT_SUPPORTED


def test_closed_object_has_no_raw_handle(pair):
    near = pair.near
    near.qp.close()

    assert status_of(getattr, near.qp, "raw_handle") == nd.Status.FILE_FORCED_CLOSED


def test_registering_for_atomics_is_taken_exactly_when_they_are_listed(pair):
    is_listed = "atomics" in pair.adapter.info.extensions
    array = np.zeros(1, np.uint64)

    status = status_of(pair.near.pd.register, array, nd.Access.REMOTE_ATOMIC)

    assert status == (nd.Status.SUCCESS if is_listed else nd.Status.NOT_SUPPORTED)


@pytest.mark.parametrize("name", ["", "Atomics", "atomics ", "raw handles", "fetch_add"])
def test_unknown_extension_is_not_supported(pair, name):
    for query in (pair.adapter.query_extension, pair.near.qp.query_extension):
        assert status_of(query, name) == nd.Status.NOT_SUPPORTED


def test_query_of_a_closed_object_says_so(pair):
    pair.near.qp.close()
    assert status_of(pair.near.qp.query_extension, "atomics") == nd.Status.FILE_FORCED_CLOSED
    pair.adapter.close()
    assert status_of(pair.adapter.query_extension, "atomics") == nd.Status.FILE_FORCED_CLOSED
