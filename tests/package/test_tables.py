# SPDX-License-Identifier: Apache-2.0
"""What notebooks show of objects and results, and `nd.table` in a terminal."""

from __future__ import annotations

import contextlib
import html
import pickle
import re
from typing import Any

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT
from ndverbs import _shown, _tables
from programs import run

RIGHTS = nd.Access.REMOTE_READ | nd.Access.REMOTE_WRITE
RIGHTS_TEXT = "LOCAL_WRITE|REMOTE_READ|REMOTE_WRITE"


def rows_of(text: str) -> list[list[str]]:
    """Return the texts of an HTML table, its head first."""
    rows = re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    return [[html.unescape(c) for c in re.findall(r"<t[hd].*?>(.*?)</t", row)] for row in rows]


def shown(thing: Any) -> tuple[str, dict[str, str]]:
    """Return the heading and the fields of one object in a notebook."""
    (heading, _), *fields = rows_of(thing._repr_html_())
    return heading, dict(fields)


def results_of(queue: Any, count: int) -> list[nd.Result]:
    found: list[nd.Result] = []
    while len(found) < count:
        queue.wait(LIMIT)
        found += queue.poll()
    return found


def test_every_class_with_fields_has_a_table_in_notebooks():
    assert set(_shown._HAVE_TABLES) == set(_tables._FIELDS)


def test_an_adapter_shows_what_it_is_and_counts(pair: Any):
    heading, fields = shown(pair.adapter)

    assert heading == "Adapter"
    assert fields["provider"] == "soft"
    assert "127.0.0.1" in fields["addresses"].split(", ")
    assert "atomics" in fields["extensions"].split(", ")
    assert {"connect 1", "accept 1"} <= set(fields["stats"].split(", "))


def test_the_info_of_an_adapter_shows_all_of_its_fields():
    info = nd.adapters()[0]

    heading, fields = shown(info)

    assert heading == "AdapterInfo"
    assert fields["max_cq_depth"] == str(info.max_cq_depth)
    # Only what is empty is left out.
    assert all(getattr(info, name) for name in _tables._FIELDS[nd.AdapterInfo].keys() - fields)


def test_queue_pairs_and_queues_show_state_and_depths(pair: Any):
    depths = re.search("(initiator depth .*)>", repr(pair.near.qp))
    assert depths

    assert shown(pair.near.qp) == ("QueuePair", {"state": "connected", "depths": depths[1]})
    assert shown(pair.near.initiator_cq) == ("CompletionQueue", {"depth": "1024"})
    with pair.near.pd.create_srq(10, max_sge=2) as queue:
        assert shown(queue) == ("SharedReceiveQueue", {"depth": "10", "max_sge": "2"})
    assert shown(pair.near.pd) == ("ProtectionDomain of adapter soft", {})


def test_the_ends_of_a_connection_show_where_they_are(pair: Any):
    near, far = shown(pair.near.connector), shown(pair.far.connector)

    assert near[0] == "Connector"
    assert near[1]["state"] == "connected"
    assert near[1]["local_address"] == far[1]["peer_address"]
    assert re.fullmatch(r"127\.0\.0\.1:\d+", near[1]["peer_address"])
    assert shown(pair.near.connector.connection_data)[1]["private_data"] == "0 bytes"
    with pair.adapter.create_connector() as idle:
        assert shown(idle) == ("Connector", {"state": "idle"})


def test_listeners_and_shared_endpoints_show_their_address():
    with nd.Adapter.open("soft") as adapter:
        listener = adapter.create_listener()
        assert shown(listener) == ("Listener not listening", {})
        with contextlib.suppress(nd.RdmaError):
            listener.listen("[::1]:0")  # where there is IPv6
            address = f"[::1]:{listener.local_address[1]}"
            assert shown(listener) == ("Listener", {"local_address": address})
        endpoint = adapter.create_shared_endpoint("127.0.0.1:0")
        address = f"127.0.0.1:{endpoint.local_address[1]}"
        assert shown(endpoint) == ("SharedEndpoint", {"local_address": address})


def test_memory_shows_where_it_is_and_no_token(pair: Any):
    near = pair.near
    array = np.zeros((4, 100))
    memory = {"address": hex(array.ctypes.data), "nbytes": "3200"}
    region = near.pd.register(array, RIGHTS)
    remote = region.remote()

    assert shown(region) == (
        "MemoryRegion",
        memory | {"access": RIGHTS_TEXT, "array": "ndarray float64 (4, 100)"},
    )
    assert shown(remote) == (
        "RemoteBuffer",
        memory | {"dtype": "float64", "shape": "(4, 100)", "access": RIGHTS_TEXT},
    )
    assert shown(region.segment(8, 16)) == (
        "Segment",
        {"address": hex(array.ctypes.data + 8), "length": "16"},
    )
    for name, fields in _tables._FIELDS.items():
        assert not [field for field in fields if "token" in field and name is not nd.Result]
    region.deregister()
    assert shown(region) == ("MemoryRegion not registered", {})


def test_windows_and_fast_registered_memory_show_what_they_name(pair: Any):
    near = pair.near
    array = np.zeros(100, np.uint8)
    region = near.pd.register(array, nd.Access.LOCAL_WRITE)
    window = near.pd.create_mw()
    fast = near.pd.create_fast_register_mr(4, remote_access=True)
    mapping = pair.adapter.build_lam(array)
    assert shown(window) == ("MemoryWindow that names no memory yet", {})
    assert shown(fast) == ("FastRegisterMemoryRegion", {"max_pages": "4"})

    near.qp.bind(window, region, region.address, 10, flags=nd.Flag.ALLOW_REMOTE_WRITE)

    assert shown(window) == ("MemoryWindow", {"address": hex(region.address), "nbytes": "10"})
    heading, fields = shown(mapping)
    assert (heading, fields["array"]) == ("LogicalAddressMapping", "ndarray uint8 (100,)")
    assert int(fields["pages"]) == len(mapping.pages)
    results_of(near.initiator_cq, 1)
    near.qp.invalidate(window)
    results_of(near.initiator_cq, 1)


def test_a_result_shows_what_its_repr_shows(pair: Any):
    pair.far.qp.receive()
    pair.far.qp.flush()
    (cancelled,) = results_of(pair.far.receive_cq, 1)

    heading, fields = shown(cancelled)

    assert heading == "Result"
    assert fields == {"type": "RECEIVE", "status": "CANCELLED", "detail": cancelled.detail}


def test_results_are_a_table_with_a_row_each(pair: Any):
    region = pair.far.pd.register(bytearray(8), RIGHTS)
    pair.far.qp.receive(context=7)
    pair.near.qp.write_with_immediate(b"", region.remote(), 0, context="last")
    results = [*results_of(pair.far.receive_cq, 1), *results_of(pair.near.initiator_cq, 1)]

    table = nd.table(results)

    assert rows_of(table._repr_html_()) == [
        ["type", "status", "request_context", "immediate"],
        ["RECEIVE", "SUCCESS", "7", "0"],
        ["WRITE", "SUCCESS", "'last'", ""],
    ]
    assert repr(table) == (
        "type     status   request_context  immediate\n"
        "RECEIVE  SUCCESS  7                0\n"
        "WRITE    SUCCESS  'last'"
    )
    assert repr(pickle.loads(pickle.dumps(table))) == repr(table)


def test_rows_of_poll_into_are_a_table_with_names():
    rows = np.zeros(3, nd.result_dtype)
    rows["type"] = [nd.OperationType.RECEIVE, nd.OperationType.WRITE, 77]
    rows["status"] = [nd.Status.SUCCESS, nd.Status.CANCELLED, 0]
    rows["request_context"] = [0, 5, 0]
    rows["immediate"] = 9
    rows["flags"] = [2, 0, 4]

    assert repr(nd.table(rows)) == (
        "type     status     request_context  immediate\n"
        "RECEIVE  SUCCESS    0                9\n"
        "WRITE    CANCELLED  5\n"
        "77       SUCCESS"
    )


def test_objects_of_several_classes_are_a_table_with_what_they_are():
    with nd.Adapter.open("soft") as adapter:
        queue, closed = adapter.create_cq(8), adapter.create_cq(9)
        closed.close()

        assert repr(nd.table([queue, closed, nd.Segment(16, 4, 1)])) == (
            "                        depth  address  length\n"
            "CompletionQueue         8\n"
            "CompletionQueue closed\n"
            "Segment                        0x10     4"
        )


def test_a_mapping_is_a_table_with_all_of_its_entries():
    assert repr(nd.table({"connect": 1, "sizes": [8, 0]})) == "connect  1\nsizes    8, 0"


def test_long_lists_end_with_how_many_more_there_are_and_empty_ones_say_so():
    many = nd.table(np.zeros(1000, nd.result_dtype))

    assert len(rows_of(many._repr_html_())) == 1 + 100
    assert many._repr_html_().endswith("<p>and 900 more</p>")
    assert repr(many).splitlines()[-1] == "and 900 more"
    assert repr(nd.table([])) == "no rows"


def test_what_has_no_table_is_refused_with_its_type():
    for value in (5, "text", [5], np.zeros(3)):
        kind = type(value[0] if isinstance(value, list) else value).__name__
        with pytest.raises(TypeError, match=f"table: there is none of {kind}; it takes"):
            nd.table(value)


def test_values_are_escaped_and_contexts_cannot_break_a_table(pair: Any):
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    pair.near.qp.write(b"", (0, 0), context="<script>&'\"" + "x" * 1000)
    pair.near.qp.write(b"", (0, 0), context=Hostile())
    results = results_of(pair.near.initiator_cq, 2)

    text = nd.table(results)._repr_html_()

    assert "<script>" not in text
    assert "&lt;script&gt;&amp;" in text
    assert len(text) < 2000
    assert "<Hostile instance at " in rows_of(text)[2][2]
    assert nd.table({"<b>": "</td><i>"})._repr_html_().count("&lt;") == 3


def test_objects_that_are_closed_say_so(pair: Any):
    things = [pair.near.qp, pair.near.initiator_cq, pair.near.connector, pair.near.pd]
    region = pair.near.pd.register(bytearray(8))
    pair.adapter.close()

    headings = [shown(thing) for thing in [pair.adapter, region, *things]]

    assert headings == [
        (f"{kind} closed", {})
        for kind in (
            "Adapter",
            "MemoryRegion",
            "QueuePair",
            "CompletionQueue",
            "Connector",
            "ProtectionDomain",
        )
    ]


def test_objects_of_another_process_say_so():
    out, _ = run(
        "import os, ndverbs as nd\n"
        "with nd.Adapter.open('soft') as adapter:\n"
        "    if os.fork() == 0:\n"
        "        print(nd.table(adapter), flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )

    assert out == "Adapter of another process\n"


def test_a_table_keeps_no_object_alive():
    with nd.Adapter.open("soft") as adapter:
        queue = adapter.create_cq(8)
        before = nd._native._live_objects()

        table = nd.table([queue])
        del queue

    assert sum(nd._native._live_objects().values()) < sum(before.values())
    assert repr(table).endswith("8")
