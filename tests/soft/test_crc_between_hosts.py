# SPDX-License-Identifier: Apache-2.0
"""Which ends ask for CRC: both between hosts, neither on one host, unless the program chooses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT

PROGRAM = Path(__file__).parent / "mirror_network.py"
NOT_LET = 77


@pytest.fixture(scope="module")
def asked():
    """Give which of request and reply asked for CRC, in a network of its own."""
    done = subprocess.run(
        [sys.executable, PROGRAM], capture_output=True, text=True, timeout=2 * LIMIT, check=False
    )
    if done.returncode == NOT_LET:
        pytest.skip(f"the kernel does not give us a network device: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_both_ends_ask_another_host_for_it(asked):
    assert asked["another host"] == [True, True]


@pytest.mark.parametrize("host", ["this host", "an address of this host"])
def test_nobody_asks_on_one_host(asked, host):
    assert asked[host] == [False, False]


def test_an_adapter_may_never_ask_for_it(asked):
    assert asked["another host, never"] == [False, False]


def test_an_adapter_may_always_ask_for_it(asked):
    assert asked["this host, always"] == [True, True]


def test_a_connection_may_do_without_it(asked):
    assert asked["another host, not this connection"] == [False, False]


def test_an_acceptor_asks_although_the_request_did_not(asked):
    assert asked["another host, the passive end alone"] == [False, True]


@pytest.mark.parametrize("choice", ["off", "", None, b"auto", 1, 0, 2.5, 1j])
def test_a_choice_that_is_none_is_refused(choice):
    with pytest.raises(nd.RdmaError, match="crc is ") as caught:
        nd.Adapter.open("soft", crc=choice)
    assert isinstance(caught.value, ValueError)
    assert "auto" in caught.value.hint


def test_a_truth_of_numpy_is_one():
    nd.Adapter.open("soft", crc=np.bool_(True)).close()
