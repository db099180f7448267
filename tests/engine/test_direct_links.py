# SPDX-License-Identifier: Apache-2.0
"""The moment in which memory takes the place of a link: the opening is on its way for as long as a
test wants it to be."""

import pytest

from ndverbs import _testing

A, B = 0, 1


@pytest.fixture
def joined():
    """Join two queue pairs, of which the second offers to share memory."""
    pair = _testing.JoinedPair(direct=True)
    yield pair
    pair.close()
    assert _testing.live_links() == 0


def test_an_end_whose_wait_is_over_waits_on_for_an_opening_that_is_on_its_way(joined):
    joined.fill(B, 0, b"from b")
    joined.begin()
    joined.outwait()
    assert joined.is_direct(A)
    assert not joined.is_direct(B)
    assert not joined.has_event(B)

    joined.deliver()

    assert joined.event(B) == "established"
    assert joined.is_direct(B)
    joined.post(A, "receive", 100, 16)
    joined.post(B, "send", 0, 6)
    assert joined.take(A) == ("success", 6)
    assert joined.at(A, 100, 6) == b"from b"


def test_an_end_whose_wait_is_over_takes_its_offer_back(joined):
    joined.fill(A, 0, b"from a")
    joined.outwait()
    assert joined.event(B) == "established"

    joined.begin()
    joined.deliver()
    joined.post(B, "receive", 100, 16)
    joined.post(A, "send", 0, 6)

    assert joined.take(B) == ("success", 6)
    assert joined.at(B, 100, 6) == b"from a"
    assert not joined.is_direct(A)
    assert not joined.is_direct(B)


def test_what_is_written_before_the_peer_has_heard_the_opening_is_there(joined):
    joined.fill(A, 0, b"early")

    joined.begin()
    joined.post(A, "write", 0, 5)

    assert joined.take(A) == ("success", 0)
    assert joined.at(B, 0, 5) == b"early"


def test_an_end_that_is_flushed_before_it_has_heard_the_opening_is_left_alone(joined):
    joined.fill(A, 0, b"late")
    joined.post(B, "receive", 0, 16)
    joined.begin()

    joined.flush(B)
    assert joined.take(B) == ("cancelled", 0)
    joined.post(A, "write", 0, 4)
    joined.deliver()

    # It goes nowhere, as it would over TCP.
    assert joined.take(A) == ("success", 0)
    assert joined.event(A) == "peer_closed"
    assert joined.at(B, 0, 4) == bytes(4)


def test_an_end_that_was_flushed_first_takes_its_offer_back(joined):
    joined.flush(B)

    joined.begin()
    joined.deliver()

    assert joined.event(A) == "peer_closed"
    assert not joined.is_direct(A)


def test_messages_of_an_end_that_is_over_before_the_peer_has_heard_the_opening_arrive(joined):
    joined.fill(A, 0, b"last")
    joined.post(B, "receive", 100, 16)
    joined.begin()
    joined.post(A, "send", 0, 4)
    assert joined.take(A) == ("success", 0)
    joined.flush(A)

    joined.deliver()

    assert joined.take(B) == ("success", 4)
    assert joined.at(B, 100, 4) == b"last"
    assert joined.event(B) == "established"
    assert joined.event(B) == "peer_closed"
