# SPDX-License-Identifier: Apache-2.0
"""What the mailbox does not do: these fail, and their reports say why."""

import mailbox_of_rdma as mailbox


def test_a_corrupted_letter_is_sent_again(rdma_faults, rdma_pair):
    rdma_faults.corrupt(every=2)
    active = rdma_pair.active
    for letter in (b"first", b"second"):
        mailbox.deliver(active.pd, active.qp, active.cq, letter, rdma_pair.passive.remote)
