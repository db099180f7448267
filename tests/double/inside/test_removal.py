# SPDX-License-Identifier: Apache-2.0
"""The device goes away, in every state of a connection: all that waits ends, and says why."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import ndverbs as nd
from conformance.end import LIMIT, End
from conformance.pair import kept_ends
from double import control


@pytest.fixture
def make_end(provider):
    with kept_ends() as made:

        def make(**options):
            made.append(End(provider, **options))
            return made[-1]

        yield make


@pytest.fixture
def two_ends(make_end):
    return make_end(), make_end()


@pytest.fixture
def connected(two_ends):
    near, far = two_ends
    address = far.listen()
    with ThreadPoolExecutor(1) as thread:
        accepting = thread.submit(far.accept)
        near.connect(address)
        accepting.result(LIMIT)
    return near, far


def begin(call, *args):
    """Start a call on a thread of its own; return its outcome as a future."""
    thread = ThreadPoolExecutor(1)
    future = thread.submit(call, *args)
    thread.shutdown(wait=False)
    return future


def removed(future):
    """Wait until a call fails; return its status."""
    with pytest.raises(nd.RdmaError) as raised:
        future.result(LIMIT)
    return raised.value.status


def test_posted_requests_are_cancelled_and_on_disconnect_is_called(provider, connected):
    near, far = connected
    near.memory("sink", 64)
    for context in range(3):
        near.receive("sink", context=context)

    control.remove(provider)

    done = near.completions("receive", 3)
    assert [one.request_context for one in done] == [0, 1, 2]
    assert {one.status for one in done} == {nd.Status.CANCELLED}
    assert near.wait_for_disconnect() == 1
    assert far.wait_for_disconnect() == 1


def test_requests_under_way_are_cancelled(provider, connected):
    near, far = connected
    remote = far.memory("target", 64)
    near.memory("source", 64)
    control.hold(provider)
    for context in range(3):
        near.write(remote, "source", context=context)

    control.remove(provider)

    done = near.completions("initiator", 3)
    assert [one.request_context for one in done] == [0, 1, 2]
    assert {one.status for one in done} == {nd.Status.CANCELLED}


def test_later_requests_are_refused(provider, connected):
    near, _ = connected

    control.remove(provider)
    near.wait_for_disconnect()

    assert near.state() == "error"
    with pytest.raises(nd.RdmaError):
        near.send()


def test_waiting_thread_is_woken_by_the_end_of_its_requests(provider, connected):
    near, _ = connected
    near.receive(context=7)
    waiting = begin(near.received)

    control.remove(provider)

    assert waiting.result(LIMIT).status == nd.Status.CANCELLED


def test_waiting_for_a_request_ends(provider, make_end):
    end = make_end()
    end.listen()
    waiting = begin(end.listener.get_connector, LIMIT)

    control.remove(provider)

    assert removed(waiting) == nd.Status.DEVICE_REMOVED


def test_connecting_ends(provider, two_ends):
    near, far = two_ends
    address = far.listen()
    connecting = begin(near.connect, address)
    far.take_request()

    control.remove(provider)

    assert removed(connecting) == nd.Status.DEVICE_REMOVED


def test_request_that_was_taken_cannot_be_accepted(provider, two_ends):
    near, far = two_ends
    address = far.listen()
    connecting = begin(near.connect, address)
    far.take_request()

    control.remove(provider)

    with pytest.raises(nd.RdmaError):
        far.answer()
    removed(connecting)


def test_accept_under_way_ends(provider, two_ends):
    near, far = two_ends
    if near.adapter.info.rdma_technology == "iWARP":
        pytest.skip("kernel iWARP has no third message that an accept would wait for")
    near.begin_connect(far.listen())
    far.take_request()
    accepting = far.incoming._start_accept(far.qp, timeout=LIMIT)

    control.remove(provider)

    with pytest.raises(nd.RdmaError) as raised:
        accepting.wait(LIMIT)
    assert raised.value.status == nd.Status.DEVICE_REMOVED


def test_disconnect_under_way_ends(provider, two_ends, connected):
    near, _ = connected
    if near.adapter.info.rdma_technology == "iWARP":
        pytest.skip("kernel iWARP's disconnect does not wait for the peer")
    disconnecting = begin(near.disconnect)
    connected[1].wait_for_disconnect()

    control.remove(provider)

    assert removed(disconnecting) == nd.Status.DEVICE_REMOVED


def test_nothing_can_be_made_of_a_removed_device(provider, make_end):
    end = make_end()

    control.remove(provider)

    makers = [
        end.adapter.create_pd,
        lambda: end.adapter.create_cq(16),
        end.create_qp,
        lambda: end.memory("late", 64),
        lambda: end.pd.create_srq(16, max_sge=1),
    ]
    for make in makers:
        with pytest.raises((nd.RdmaError, OSError)):
            make()


def test_memory_can_be_deregistered(provider, make_end):
    end = make_end()
    end.memory("region", 4096)

    control.remove(provider)

    end.deregister("region")


def test_adapter_closes_at_once(provider, connected):
    near, far = connected
    near.receive(context=1)
    control.remove(provider)

    closing = threading.Thread(target=lambda: [near.close(), far.close()])
    closing.start()
    closing.join(LIMIT)

    assert not closing.is_alive()


def test_threads_sleep_when_the_device_has_gone(provider, make_end):
    """The descriptors of a removed device are readable for ever."""
    import time

    end = make_end()
    end.arm("receive")
    end.arm("initiator")
    control.remove(provider)
    waiting = begin(lambda: end.receive_cq.wait(1))

    before = time.process_time()
    with pytest.raises((TimeoutError, nd.RdmaError)):
        waiting.result(LIMIT)
    spent = time.process_time() - before

    assert spent < 0.5
