# SPDX-License-Identifier: Apache-2.0
"""What libibverbs says of the queue pairs that our side made ready."""

import ctypes
from concurrent.futures import ThreadPoolExecutor

import pytest

from conformance.end import LIMIT, End

# struct ibv_qp_attr: two numbers of eight bits behind the structures of addresses.
MAX_RD_ATOMIC = 126
MAX_DEST_RD_ATOMIC = 127
IBV_QP_MAX_QP_RD_ATOMIC = 1 << 13
IBV_QP_MAX_DEST_RD_ATOMIC = 1 << 17


@pytest.fixture
def ends():
    """Make two ends of the device that answers queries."""
    made = [End("verbs:rxe0"), End("verbs:rxe0")]
    yield made
    for end in made:
        end.close()


def read_limits(qp):
    """Ask the device for the read limits of a queue pair: inbound, outbound."""
    attributes, made = ctypes.create_string_buffer(512), ctypes.create_string_buffer(512)
    mask = IBV_QP_MAX_QP_RD_ATOMIC | IBV_QP_MAX_DEST_RD_ATOMIC
    library = ctypes.CDLL("libibverbs.so.1")
    assert library.ibv_query_qp(ctypes.c_void_p(qp.raw_handle), attributes, mask, made) == 0
    return attributes.raw[MAX_DEST_RD_ATOMIC], attributes.raw[MAX_RD_ATOMIC]


def test_read_limits_of_both_queue_pairs_are_those_agreed_on(ends):
    active, passive = ends
    wanted = {"inbound_read_limit": 16, "outbound_read_limit": 16}  # rxe counts in powers of two
    with ThreadPoolExecutor(1) as other:
        connected = other.submit(active.connect, passive.listen(), **wanted)
        passive.accept(inbound_read_limit=4, outbound_read_limit=2)
        connected.result(LIMIT)

    assert read_limits(passive.qp) == (4, 2)
    assert read_limits(active.qp) == (2, 4)
