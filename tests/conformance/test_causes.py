# SPDX-License-Identifier: Apache-2.0
"""Why a connection ended: completions say it, posting says it, and on_disconnect is called."""

import contextlib

import pytest

import ndverbs as nd
from conformance.initiator_requests import REQUESTS, posting

pytestmark = pytest.mark.tsan

PEER = ("the peer ended the connection", "the connection was lost, or the peer ended it")


def disconnect(near):
    """Disconnect from a peer that does not answer."""
    with contextlib.suppress(TimeoutError):
        near.disconnect(timeout=0.1)


OWN_ENDS = {
    "flush": (lambda near: near.flush(), "this side flushed the queue pair"),
    "close": (lambda near: near.close_connector(), "this side closed the connection"),
    "disconnect": (disconnect, "this side disconnected"),
}


@pytest.mark.parametrize(("end", "text"), OWN_ENDS.values(), ids=OWN_ENDS)
def test_an_end_of_this_sides_own_is_named(pair, end, text):
    pair.near.receive(context=1)

    end(pair.near)

    done = pair.near.received()
    assert (done.status, done.detail) == (nd.Status.CANCELLED, text)
    with pytest.raises(ConnectionAbortedError, match=text) as caught:
        pair.near.send()
    assert caught.value.status == nd.Status.CONNECTION_INVALID


def test_closing_the_queue_pair_is_named(pair):
    pair.near.receive(context=1)

    pair.near.close_qp()

    assert pair.near.received().detail == "this side closed the connection"


def test_the_peers_end_is_named_where_nobody_is_told(connect_pair):
    pair = connect_pair(active={"handler": False})
    pair.near.receive(context=1)

    pair.far.close_connector()

    done = pair.near.received()
    assert done.status == nd.Status.CANCELLED
    assert done.detail in PEER
    with pytest.raises(ConnectionResetError) as caught:
        pair.near.send()
    assert caught.value.status == nd.Status.CONNECTION_INVALID
    assert any(text in str(caught.value) for text in PEER)


@pytest.mark.parametrize("request_name", REQUESTS)
def test_every_kind_of_request_names_the_cause(pair, request_name):
    post = posting(pair, request_name)
    pair.near.receive(context=2)
    pair.near.flush()

    # A flush may be carried out by another thread, which is in a step, and a moment later.
    assert pair.near.received().status == nd.Status.CANCELLED
    with pytest.raises(ConnectionAbortedError, match="this side flushed the queue pair"):
        post(context=1)


def test_a_receive_that_is_posted_after_the_end_is_cancelled_with_the_cause(pair):
    pair.near.flush()

    pair.near.receive(context=1)

    assert pair.near.received().detail == "this side flushed the queue pair"


def test_a_queue_pair_that_was_flushed_before_it_connected_says_so(connect_pair):
    pair = connect_pair(is_connected=False)
    pair.near.receive(context=1)

    pair.near.flush()

    assert pair.near.received().detail == "this side flushed the queue pair"


def test_a_queue_pair_that_was_never_connected_is_not_said_to_have_ended(connect_pair):
    pair = connect_pair(is_connected=False)

    with pytest.raises(nd.RdmaError, match="not connected") as caught:
        pair.near.send()

    assert not isinstance(caught.value, ConnectionError)


@pytest.mark.filterwarnings("ignore::ndverbs.OverrunWarning")
def test_an_overrun_is_told_and_named_and_counted(connect_pair):
    pair = connect_pair(near={"cq_depth": 2})
    for i in range(4):
        pair.near.receive(context=i)

    for _ in range(4):
        pair.far.send()

    assert pair.near.wait_for_disconnect() == 1
    with pytest.raises(ConnectionAbortedError, match="overrun"):
        pair.near.send()
    assert pair.near.connector.state == "disconnected"
    assert pair.near.stats()["connection_error"] == 1


def test_a_flush_is_told_once(pair):
    pair.near.flush()
    assert pair.near.wait_for_disconnect() == 1

    pair.near.flush()
    pair.near.close_connector()

    assert pair.near.connector.closed
    assert pair.near.disconnects == 1
    assert pair.far.wait_for_disconnect() == 1


def test_a_flush_is_no_error_of_the_connection(pair):
    pair.near.flush()

    pair.near.wait_for_disconnect()
    assert pair.near.connector.state == "disconnected"
    pair.far.wait_for_disconnect()
    pair.far.close_connector()
    stats = pair.near.stats()
    assert (stats["active_connection"], stats["connection_error"]) == (0, 0)


@pytest.mark.parametrize("name", ["qp", "connector"])
def test_a_close_is_not_told_to_oneself(pair, name):
    getattr(pair.near, f"close_{name}")()

    pair.far.wait_for_disconnect()
    pair.near.close_connector()
    assert pair.near.disconnects == 0
