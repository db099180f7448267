# SPDX-License-Identifier: Apache-2.0
"""Statuses that need a network of their own: no port is free, no route is there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.end import LIMIT

PROGRAM = Path(__file__).parent / "private_network.py"
NOT_LET = 77


@pytest.fixture(scope="module")
def statuses():
    """Give what the calls answered in a namespace of their own."""
    done = subprocess.run(
        [sys.executable, PROGRAM], capture_output=True, text=True, timeout=2 * LIMIT, check=False
    )
    if done.returncode == NOT_LET:
        pytest.skip(f"the kernel does not give us a network namespace: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "call", ["listen", "create_shared_endpoint", "connect", "connect_from_anywhere"]
)
def test_port_0_without_a_free_port_is_too_many_addresses(statuses, call):
    assert statuses[call] == "TOO_MANY_ADDRESSES"


def test_the_error_says_what_to_do(statuses):
    assert statuses["hint"] == "close what holds them, or widen ip_local_port_range"


@pytest.mark.parametrize("call", ["no_route", "no_route_of_an_endpoint"])
def test_a_peer_without_a_route_is_on_an_unreachable_network(statuses, call):
    assert statuses[call] == "NETWORK_UNREACHABLE"


@pytest.mark.parametrize("call", ["unreachable", "unreachable_of_an_endpoint"])
def test_a_peer_behind_a_rejecting_route_is_an_unreachable_host(statuses, call):
    assert statuses[call] == "HOST_UNREACHABLE"


def test_connector_and_queue_pair_connect_after_all_these_failures(statuses):
    assert statuses["state"] == "connected"
