# SPDX-License-Identifier: Apache-2.0
"""What a user sees of the package: names, completion, printed enums and results."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest

import ndverbs as nd
from conformance.end import LIMIT
from programs import run


def test_everything_public_is_listed_and_nothing_else():
    names = {name for name in dir(nd) if not name.startswith("__")}

    assert names == set(nd.__all__) - {"__version__"}
    assert {"Socket", "wsk", "open_connection"} <= names
    assert not {"sys", "logging", "annotations"} & names
    assert all(hasattr(nd, name) for name in names)


def test_submodule_for_wsk_is_there_without_an_import_of_its_own():
    out, _ = run("import ndverbs as nd; print(nd.wsk.__name__, nd.wsk is nd.wsk)")

    assert out == "ndverbs.wsk True\n"


ENUMS = [nd.Access, nd.Flag, nd.Notify, nd.OperationType, nd.Status]


@pytest.mark.parametrize("kind", ENUMS, ids=lambda kind: kind.__name__)
def test_members_are_listed_and_printed_by_name(kind: Any):
    assert set(kind.__members__) <= set(dir(kind))
    for name, member in kind.__members__.items():
        assert str(member) == f"{member}" == f"{kind.__name__}.{member.name}"
        assert kind[name] is member
        assert json.loads(json.dumps({"status": member})) == {"status": int(member)}
        assert int(f"{member:d}") == member == int(member)
        assert pickle.loads(pickle.dumps(member)) is member
        assert hash(member) == hash(int(member))


def test_flags_are_printed_together():
    rights = nd.Access.REMOTE_READ | nd.Access.LOCAL_WRITE

    assert str(rights) in ("Access.LOCAL_WRITE|REMOTE_READ", "Access.REMOTE_READ|LOCAL_WRITE")
    assert rights | 4 == 7


@pytest.fixture
def info() -> nd.AdapterInfo:
    return nd.adapters()[0]


def test_a_result_shows_how_what_ended(pair: Any):
    pair.far.qp.receive()
    pair.near.qp.send((), context="mine")
    pair.near.initiator_cq.wait(LIMIT)
    (result,) = pair.near.initiator_cq.poll()

    assert repr(result) == "<Result SEND SUCCESS, request_context='mine'>"
    assert result[0] is nd.Status.SUCCESS


def test_a_result_shows_why_it_was_cancelled(pair: Any):
    pair.far.qp.receive(context=7)
    pair.far.qp.flush()
    pair.far.receive_cq.wait(LIMIT)
    (result,) = pair.far.receive_cq.poll()

    shown = f"<Result RECEIVE CANCELLED, request_context=7, detail={result.detail!r}>"
    assert repr(result) == shown
    assert result.detail


def test_a_level_that_is_none_is_told():
    _, err = run("import ndverbs", NDVERBS_LOG="loud")

    assert "NDVERBS_LOG=loud is no level of logging" in err
