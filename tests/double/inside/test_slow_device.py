# SPDX-License-Identifier: Apache-2.0
"""Calls that take the device long: other threads of Python go on meanwhile."""

import threading
import time

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT, End
from double import control

SLOW_MS = 300
CQ_RESIZE = 0x100


class Clockwork:
    """A thread that notes the time again and again, which takes the GIL."""

    def __init__(self):
        self.beats = []
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._is_over.wait(0.01):
            self.beats.append(time.monotonic())

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        self._thread.join(LIMIT)


def goes_on_during(slow_call, call):
    """Say whether another thread runs while `call` waits for the device."""
    control.delay(slow_call, SLOW_MS)
    with Clockwork() as clockwork:
        begin = time.monotonic()
        call()
        end = time.monotonic()
    control.reset()
    return end - begin, [beat for beat in clockwork.beats if begin < beat < end]


# By the call of the device: what a program does.
CALLS = {
    "ibv_alloc_pd": lambda end: end.adapter.create_pd(),
    "ibv_create_cq": lambda end: end.adapter.create_cq(16),
    "ibv_create_qp": lambda end: end.create_qp(),
    "ibv_create_srq": lambda end: end.pd.create_srq(16, max_sge=1),
    "ibv_reg_mr": lambda end: end.pd.register(np.zeros(8)),
    "ibv_dereg_mr": lambda end: end.deregister("region"),
    "ibv_modify_qp:6": lambda end: end.flush(),
    "ibv_resize_cq": lambda end: end.receive_cq.resize(4096),
    "ibv_open_device": lambda end: nd.Adapter.open(end.adapter.info.name).close(),
    "ibv_close_device": lambda end: nd.Adapter.open(end.adapter.info.name).close(),
    "rdma_bind_addr": lambda end: end.listen(),
}


@pytest.mark.parametrize("slow_call", CALLS)
def test_other_threads_run_while_a_call_waits_for_the_device(provider, slow_call):
    end = End(provider)
    end.memory("region", 64)
    can_resize = end.adapter.info.adapter_flags & CQ_RESIZE
    if slow_call == "ibv_resize_cq" and not can_resize:
        end.close()
        pytest.skip("the device cannot resize completion queues")

    took, beats = goes_on_during(slow_call, lambda: CALLS[slow_call](end))
    end.close()

    assert took >= 0.9 * SLOW_MS / 1000
    assert len(beats) >= 2


# Made beforehand; what closing it waits for.
CLOSED = {
    "ibv_dealloc_pd": lambda end: end.adapter.create_pd(),
    "ibv_destroy_srq": lambda end: end.pd.create_srq(16, max_sge=1),
    "ibv_destroy_cq": lambda end: end.adapter.create_cq(16),
    "ibv_dereg_mr": lambda end: end.pd.register(np.zeros(8)),
}


@pytest.mark.parametrize("slow_call", CLOSED)
def test_other_threads_run_while_a_close_waits_for_the_device(provider, slow_call):
    end = End(provider)
    made = CLOSED[slow_call](end)

    took, beats = goes_on_during(slow_call, made.close)
    made = None
    end.close()

    assert took < 0.5 * SLOW_MS / 1000 or len(beats) >= 2
