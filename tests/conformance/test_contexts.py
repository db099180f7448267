# SPDX-License-Identifier: Apache-2.0
"""Contexts: whatever was given comes back, the same object, once, and is not kept."""

import gc
import sys
import weakref

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT

pytestmark = pytest.mark.tsan


class Token:
    """A context that weak references can watch."""


def cancelled(pair, context):
    """Return the context of a receive that a flush ended."""
    pair.near.receive(context=context)
    pair.near.flush()
    return pair.near.received().request_context


@pytest.mark.parametrize(
    "context", [0, 1, -1, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 200, -(1 << 63), True, 1.5, "", b""]
)
def test_plain_values_come_back_equal_and_of_their_type(pair, context):
    result = cancelled(pair, context)

    assert result == context
    assert type(result) is type(context)


def test_numpy_integers_travel_as_numbers(pair):
    for context in np.array([7, 2**64 - 1], np.uint64):
        pair.near.receive(context=context)
    pair.near.receive(context=np.int8(9))
    pair.near.flush()
    rows = np.zeros(3, nd.result_dtype)

    assert pair.near.receive_cq.poll_into(rows) == 3

    assert rows["request_context"].tolist() == [7, 2**64 - 1, 9]


def test_a_context_is_asked_nothing_and_comes_back_itself(pair):
    asked = []

    class Curious:
        def __index__(self):
            asked.append("__index__")
            return 1

        @property
        def __class__(self):
            asked.append("__class__")
            return np.int64

    context = Curious()

    assert cancelled(pair, context) is context
    assert asked == []


def test_no_context_comes_back_as_none(pair):
    assert cancelled(pair, None) is None


@pytest.mark.parametrize("make", [Token, list, dict, lambda: len, lambda: nd, lambda: Token])
def test_objects_come_back_themselves(pair, make):
    context = make()

    assert cancelled(pair, context) is context


def test_context_of_the_queue_pair_comes_with_every_result(connect_pair):
    context = Token()
    pair = connect_pair(near={"context": context})
    for i in range(3):
        pair.near.receive(context=i)
    pair.near.flush()

    assert all(done.qp_context is context for done in pair.near.completions("receive", 3))


def test_posted_context_is_referenced_once_and_released_with_its_result(pair):
    context = Token()
    before = sys.getrefcount(context)

    pair.near.receive(context=context)
    assert sys.getrefcount(context) == before + 1
    pair.near.flush()
    results = pair.near.completions("receive", 1)
    assert sys.getrefcount(context) == before + 1

    del results
    assert sys.getrefcount(context) == before


def test_refused_request_keeps_no_context(pair):
    context = Token()
    before = sys.getrefcount(context)

    with pytest.raises(nd.RdmaError):
        pair.near.send(context=context, flags=0x80)
    with pytest.raises(nd.RdmaError):
        pair.near.qp.receive(nd.Segment(1, 1, 1), context=context)

    assert sys.getrefcount(context) == before


def test_poll_into_releases_contexts_that_it_cannot_carry(pair):
    import numpy as np

    context = Token()
    before = sys.getrefcount(context)
    pair.near.receive(context=context)
    pair.near.flush()

    pair.near.receive_cq.wait(LIMIT)  # a device flushes in its own time
    assert pair.near.receive_cq.poll_into(np.zeros(4, nd.result_dtype)) == 1

    assert pair.near.waiting() == []
    assert sys.getrefcount(context) == before


def test_many_contexts_at_once_are_kept_apart(connect_pair):
    pair = connect_pair(receive_queue_depth=1000)
    contexts = [Token() for _ in range(1000)]
    for context in contexts:
        pair.near.receive(context=context)
    pair.near.flush()

    results = pair.near.receive_cq.poll(1000)

    assert len(results) == 1000
    assert all(
        done.request_context is context for done, context in zip(results, contexts, strict=True)
    )


def watched(pair, count=5):
    """Post receives with contexts that are only weakly known here."""
    tokens = [Token() for _ in range(count)]
    for token in tokens:
        pair.near.receive(context=token)
    return [weakref.ref(token) for token in tokens]


def alive(references):
    gc.collect()
    return sum(reference() is not None for reference in references)


def test_contexts_of_unpolled_completions_go_with_the_completion_queue(pair):
    references = watched(pair)
    pair.near.flush()
    assert alive(references) == 5

    pair.near.qp.close()
    assert alive(references) == 5
    pair.near.receive_cq.close()
    pair.near.initiator_cq.close()
    pair.near.close_connector()
    pair.near.qp = pair.near.receive_cq = None

    assert alive(references) == 0


def test_contexts_of_pending_requests_go_with_the_adapter(pair):
    references = watched(pair)

    pair.close()

    assert alive(references) == 0


def test_context_of_the_queue_pair_goes_with_it(adapter):
    context = Token()
    reference = weakref.ref(context)
    queue = adapter.create_cq(256)
    qp = adapter.create_pd().create_qp(queue, queue, context=context)
    del context
    assert alive([reference]) == 1

    qp.close()
    del qp

    assert alive([reference]) == 0


def test_context_of_the_queue_pair_stays_for_its_unpolled_results(adapter):
    context = Token()
    queue = adapter.create_cq(256)
    qp = adapter.create_pd().create_qp(queue, queue, context=context)
    qp.receive(context=1)
    qp.close()
    del qp
    gc.collect()

    (done,) = queue.poll()

    assert done.qp_context is context
    assert done.request_context == 1


def test_context_that_refers_to_its_queue_pair_is_released_when_it_ends(pair):
    class Owner:
        def __init__(self, qp):
            self.qp = qp

    owner = Owner(pair.near.create_qp())
    reference = weakref.ref(owner)
    owner.qp.receive(context=owner)
    owner.qp.close()
    del owner
    pair.near.waiting("receive")

    assert alive([reference]) == 0
