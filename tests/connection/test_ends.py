# SPDX-License-Identifier: Apache-2.0
"""How Connections end: in order, at once, by the peer, and by being dropped."""

import gc
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT


def test_what_arrived_before_an_orderly_end_is_delivered(ends):
    near, far = ends
    for i in range(5):
        near.send(bytes([i]) * 1000)
    near.close()
    assert [far.receive(LIMIT) for _ in range(5)] == [bytes([i]) * 1000 for i in range(5)]
    with pytest.raises(nd.RdmaBrokenPipeError, match="the peer has closed the Connection"):
        far.receive(LIMIT)
    with pytest.raises(nd.RdmaBrokenPipeError):
        far.send(b"too late")
    assert far.closed


def test_close_waits_for_what_is_lent(ends):
    near, far = ends
    near.send(np.full(1 << 20, 4, np.uint8))
    closing = threading.Thread(target=near.close)
    closing.start()
    assert far.receive(LIMIT)[0] == 4
    closing.join(LIMIT)
    assert near.closed


def test_close_gives_up_on_a_peer_that_takes_nothing(ends):
    near, _ = ends
    request = near.send(np.zeros(1 << 20, np.uint8))
    near.close(timeout=0.1)
    with pytest.raises(BrokenPipeError, match="closed by this side"):
        request.result(LIMIT)


def test_calls_after_ones_own_close_say_so(ends):
    near, _ = ends
    near.close()
    near.close()
    near.abort()
    for call in (lambda: near.send(b""), near.receive, lambda: near.write(b"", None)):
        with pytest.raises((BrokenPipeError, TypeError)):
            call()
    assert near.closed
    assert near.transport == "closed"
    assert "closed" in repr(near)


def test_an_abort_is_a_reset_for_the_peer_behind_what_arrived(ends):
    near, far = ends
    near.send(b"first").result(LIMIT)
    far.send(b"").result(LIMIT)
    near.receive(LIMIT)
    near.abort()
    assert far.receive(LIMIT) == b"first"
    with pytest.raises(nd.RdmaConnectionResetError):
        far.receive(LIMIT)
    with pytest.raises(nd.RdmaConnectionResetError):
        far.send(b"")


def test_an_exception_in_a_with_block_aborts(adapter, server):
    near = nd.connect(server.address, adapter=adapter)
    far = server.accept(LIMIT)
    near.send(np.zeros(1 << 20, np.uint8))

    def leave():
        with near, far:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        leave()
    assert near.closed
    assert far.closed


def test_the_end_is_told_once_to_each_who_asked(ends):
    near, far = ends
    told = []
    ended = threading.Event()
    far.on_closed(told.append)
    far.on_closed(lambda _: ended.set())
    near.close()
    assert ended.wait(LIMIT)
    assert told == [far]
    far.on_closed(told.append)
    assert told == [far, far]
    told.clear()


def test_closed_is_true_without_a_call_that_reads(ends):
    near, far = ends
    ended = threading.Event()
    far.on_closed(lambda _: ended.set())
    near.abort()
    assert ended.wait(LIMIT)
    assert far.closed


def test_a_thread_that_receives_hears_of_the_end(ends):
    near, far = ends
    failures = []

    def receive():
        with pytest.raises(ConnectionError) as failure:
            far.receive(LIMIT)
        failures.append(failure.value)

    thread = threading.Thread(target=receive)
    thread.start()
    near.close()
    thread.join(LIMIT)
    assert isinstance(failures[0], BrokenPipeError)


def test_an_end_that_is_raised_twice_is_two_exceptions(ends):
    near, far = ends
    near.close()
    found = []
    for _ in range(2):
        with pytest.raises(BrokenPipeError) as failure:
            far.receive(LIMIT)
        found.append(failure.value)
    assert found[0] is not found[1]


def test_a_dropped_connection_warns_and_ends(adapter, server):
    near = nd.connect(server.address, adapter=adapter)
    with server.accept(LIMIT) as far:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del near
            gc.collect()
        assert "unclosed <Connection" in str(caught[0].message)
        with pytest.raises(ConnectionError):
            far.receive(LIMIT)


def test_a_connection_whose_peer_has_gone_is_dropped_in_silence(ends, adapter, server):
    near = nd.connect(server.address, adapter=adapter)
    far = server.accept(LIMIT)
    near.close()
    with pytest.raises(BrokenPipeError):
        far.receive(LIMIT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del near, far
        gc.collect()


def test_closing_the_adapter_ends_its_connections(adapter, host):
    with nd.Adapter.open(adapter.info.name) as other:
        server = nd.listen((host, 0), adapter=other)
        near = nd.connect(server.address, adapter=adapter)
        far = server.accept(LIMIT)
        request = far.send(np.zeros(1 << 20, np.uint8))
    with pytest.raises((ConnectionError, nd.ClosedError)):
        far.receive(LIMIT)
    with pytest.raises((ConnectionError, nd.ClosedError)):
        request.result(LIMIT)
    with pytest.raises(ConnectionError):
        near.receive(LIMIT)
    with pytest.raises(nd.ClosedError):
        server.accept(LIMIT)


def test_many_connections_one_after_the_other_use_the_same_memory(adapter, server, scaled):
    for _ in range(scaled(40)):  # more than one chunk of receives has room for
        with nd.connect(server.address, adapter=adapter) as near, server.accept(LIMIT) as far:
            near.send(b"x" * 5000)
            far.receive(LIMIT)
    hub = near._hub
    assert len(hub._links) <= 2
    assert len(hub.receives._free) >= 14


def test_nothing_is_delivered_behind_a_part_that_was_lost(ends):
    near, far = ends
    near.send(b"before")
    near.send(np.zeros(1 << 20, np.uint8))
    near.send(b"behind")
    near.abort()
    assert far.receive(LIMIT) == b"before"
    for _ in range(2):
        with pytest.raises(ConnectionError):
            far.receive(LIMIT)


LEFT_OPEN = """
import sys
import numpy as np, ndverbs as nd
s = nd.listen((sys.argv[2], 0), adapter=sys.argv[1])
n = nd.connect(s.address, adapter=sys.argv[1])
f = s.accept(5)
n.send(np.zeros(10**6))
f.receive(5)
n.send(np.zeros(10**6))
kept = nd.share(np.zeros(3), "z", (sys.argv[2], 0), adapter=sys.argv[1])
other = nd.attach(kept.address, adapter=sys.argv[1])
print("ends", flush=True)
"""


def test_a_program_that_closes_nothing_ends(provider, host, scaled):
    for _ in range(scaled(4)):
        done = subprocess.run(
            [sys.executable, "-c", LEFT_OPEN, provider, host],
            stdout=subprocess.PIPE,
            timeout=LIMIT,
            check=True,
        )
        assert done.stdout == b"ends\n"
