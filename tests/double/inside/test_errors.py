# SPDX-License-Identifier: Apache-2.0
"""Any call of the device's fails with any errno: the program gets an error, and nothing is left."""

import errno
import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest

import ndverbs as nd
from conformance.addresses import addresses_of
from conformance.end import LIMIT
from conftest import native_objects
from double import control

# What a device could not destroy stays: that is no leak of ours.
DESTROYING = ("dereg", "destroy", "dealloc", "close", "free")
ERRORS = [errno.ENOMEM, errno.EIO]
REFUSALS = (nd.RdmaError, OSError, MemoryError)
SHORT = 0.3
CQ_RESIZE = 0x100


def passive_end(adapter, listener, made, patience):
    """Accept, send what comes back, and disconnect."""
    with suppress(*REFUSALS):
        connector = listener.get_connector(patience)
        connector.accept(made["far"], on_disconnect=lambda: None, timeout=patience)
        made["far"].send(b"hello", flags=nd.Flag.INLINE)
        made["cq"].wait(patience)
        connector.disconnect(patience)


def exchange(provider, patience=SHORT):
    """Do a little of everything; raises the first error that it gets, or that it has waited."""
    with nd.Adapter.open(provider) as adapter:
        pd = adapter.create_pd()
        made = {"cq": adapter.create_cq(256)}
        cq = adapter.create_cq(1024)
        srq = pd.create_srq(16, max_sge=1)
        near = pd.create_qp(cq, cq)
        made["far"] = pd.create_qp(made["cq"], made["cq"])
        pd.create_qp_with_srq(cq, cq, srq)
        region = pd.register(np.zeros(64, np.uint8), nd.Access.REMOTE_WRITE)
        if adapter.info.adapter_flags & CQ_RESIZE:
            cq.resize(4096)
        near.receive(region)
        listener = adapter.create_listener()
        listener.listen((addresses_of(provider).v4, 0))
        with ThreadPoolExecutor(1) as thread:
            passive = thread.submit(passive_end, adapter, listener, made, patience)
            try:
                connector = adapter.create_connector()
                connector.connect(near, None, listener.local_address, timeout=patience)
                connector.complete_connect(lambda: None)
                cq.wait(patience)
                done = cq.poll(1)[0]
                near.write(region, region.remote())
                cq.wait(patience)
                connector.disconnect(patience)
            finally:
                listener.close()
                passive.result(LIMIT)
        assert done.bytes_transferred == 5 or done.status != nd.Status.SUCCESS


def calls_of_an_exchange(provider):
    exchange(provider, LIMIT)
    made = control.calls()
    control.reset()
    return {
        call: count for call, count in made.items() if not any(word in call for word in DESTROYING)
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("os_error", ERRORS, ids=lambda number: errno.errorcode[number])
def test_a_call_that_fails_leaves_nothing(provider, os_error):
    for call, count in calls_of_an_exchange(provider).items():
        for skip in range(min(count, 2)):
            control.fail(call, os_error, skip=skip)
            with suppress(*REFUSALS):
                exchange(provider)
            control.reset()
            gc.collect()
            assert not control.live(), f"after {call} failed, the {skip + 1}. time"
            assert not native_objects(), f"after {call} failed, the {skip + 1}. time"


# What must reach the program, whichever call it is told by.
STATUSES = {
    ("ibv_create_qp", errno.ENOMEM): nd.Status.INSUFFICIENT_RESOURCES,
    ("ibv_create_cq", errno.ENOMEM): nd.Status.INSUFFICIENT_RESOURCES,
    ("ibv_create_cq", errno.EINVAL): nd.Status.INVALID_PARAMETER,
    ("ibv_alloc_pd", errno.ENOSYS): nd.Status.NOT_SUPPORTED,
    ("ibv_reg_mr", errno.ENOMEM): nd.Status.INSUFFICIENT_RESOURCES,
    ("ibv_open_device", errno.EACCES): nd.Status.ACCESS_DENIED,
}


@pytest.mark.parametrize(("case", "status"), STATUSES.items(), ids=str)
def test_error_of_a_call_has_its_status(provider, case, status):
    call, os_error = case
    control.fail(call, os_error, count=-1)

    with pytest.raises(REFUSALS) as raised:
        exchange(provider)

    assert raised.value.status == status
    assert raised.value.errno == os_error


def test_queue_pair_that_cannot_be_stopped_is_destroyed_before_anything_is_cancelled(
    provider, connect_pair
):
    pair = connect_pair()
    pair.near.memory("sink", 64)
    pair.near.receive("sink", context=1)
    before = control.calls()["ibv_destroy_qp"]
    control.fail("ibv_modify_qp:6", errno.EIO, count=-1)

    pair.near.flush()

    assert pair.near.received().status == nd.Status.CANCELLED
    assert control.calls()["ibv_destroy_qp"] == before + 1
