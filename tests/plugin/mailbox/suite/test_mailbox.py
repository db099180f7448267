# SPDX-License-Identifier: Apache-2.0
"""The mailbox's own suite; ndverbs has what it needs for it."""

import threading

import mailbox_of_rdma as mailbox
import numpy as np
import pytest

import ndverbs as nd

LETTER = b"Dear peer, " * 100


def deliver(pair, letter=LETTER):
    active = pair.active
    mailbox.deliver(active.pd, active.qp, active.cq, letter, pair.passive.remote)


def test_a_letter_arrives(rdma_pair):
    deliver(rdma_pair)

    assert bytes(rdma_pair.passive.array[: len(LETTER)]) == LETTER


def test_a_letter_that_is_cut_is_reported(rdma_pair, rdma_faults):
    rdma_faults.cut(after=100)

    with pytest.raises(mailbox.LostLetterError, match="reset"):
        deliver(rdma_pair)


def test_a_letter_that_nobody_may_write_is_reported(rdma_pair, rdma_faults):
    rdma_faults.refuse_next(nd.Access.REMOTE_WRITE)

    with pytest.raises(mailbox.LostLetterError, match="invalid STag"):
        deliver(rdma_pair)


@pytest.mark.rdma_faults(seed=5)
def test_a_letter_that_takes_its_time_arrives(rdma_pair, rdma_faults):
    rdma_faults.delay(0.001, jitter=0.001)

    deliver(rdma_pair)

    assert rdma_faults.seed == 5
    assert bytes(rdma_pair.passive.array[: len(LETTER)]) == LETTER


def test_a_letter_is_a_message_as_well(rdma_connection_pair):
    active, passive = rdma_connection_pair

    active.send(LETTER)

    assert passive.receive(timeout=30) == LETTER


def test_a_letter_of_another_process_arrives(rdma_adapter, rdma_process):
    box = np.zeros(len(LETTER), np.uint8)
    pd, cq = rdma_adapter.create_pd(), rdma_adapter.create_cq(512)
    qp = pd.create_qp(cq, cq)
    has_left = threading.Event()
    listener = rdma_adapter.create_listener()
    listener.listen((rdma_adapter.info.addresses[0], 0))
    with pd.register(box, nd.Access.REMOTE_WRITE | nd.Access.REMOTE_READ) as region:
        posted = rdma_process.start(mailbox.post, listener.local_address, LETTER)
        connector = listener.get_connector(timeout=30)
        connector.accept(qp, private_data=bytes(region.remote()), on_disconnect=has_left.set)
        assert has_left.wait(30)
        connector.disconnect()
        posted.result(30)

    assert bytes(box) == LETTER
