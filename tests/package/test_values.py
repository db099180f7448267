# SPDX-License-Identifier: Apache-2.0
"""Values and objects: equality, copies, and what they show."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import ndverbs as nd

VALUES = [nd.Segment(4096, 8, 1), nd.adapters()[0]]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_equals_its_copies(value: Any):
    for same in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert same == value
        assert hash(same) == hash(value)
        assert repr(same) == repr(value)
    assert value != "another thing"


def test_a_row_of_results_has_what_a_result_has_but_the_sentence():
    assert nd.Result.__match_args__ == (
        "status",
        "bytes_transferred",
        "qp_context",
        "request_context",
        "type",
        "invalidated_token",
        "immediate",
        "detail",
    )
    assert set(nd.result_dtype.names) == {*nd.Result.__match_args__, "flags"} - {"detail"}
    assert nd.result_dtype == np.dtype(
        [
            ("status", "u4"),
            ("type", "u4"),
            ("bytes_transferred", "u8"),
            ("qp_context", "u8"),
            ("request_context", "u8"),
            ("immediate", "u8"),
            ("invalidated_token", "u4"),
            ("flags", "u4"),
        ]
    )


def test_segments_differ_by_any_field():
    assert len({nd.Segment(1, 2, 3), nd.Segment(1, 2, 3), nd.Segment(2, 2, 3)}) == 2
    assert nd.Segment(1, 2, 3) != nd.Segment(1, 3, 3)
    assert nd.Segment(1, 2, 3) != nd.Segment(1, 2, 4)


def test_connection_data_equals_its_copies(connect_pair: Any):
    pair = connect_pair(passive={"private_data": b"hello"})
    data = pair.near.connector.connection_data

    again = pickle.loads(pickle.dumps(data))

    assert again == data
    assert hash(again) == hash(data)
    assert again.private_data == data.private_data == b"hello"
    assert data != pair.far.connector.connection_data


def test_objects_show_what_tells_them_apart(connect_pair: Any):
    pair = connect_pair()
    pd = pair.near.pd
    region = pd.register(np.zeros(4), nd.Access.REMOTE_READ | nd.Access.LOCAL_WRITE)
    host, port = pair.near.connector.peer_address

    assert repr(pd) == f"<ProtectionDomain of adapter {pair.adapter.info.name}>"
    assert repr(region).startswith("<MemoryRegion of 32 bytes, ")
    assert "REMOTE_READ" in repr(region)
    assert "LOCAL_WRITE" in repr(region)
    assert "connected, initiator depth" in repr(pair.near.qp)
    assert "depth" in repr(pair.near.initiator_cq)
    assert f"peer {host}:{port}" in repr(pair.near.connector)
