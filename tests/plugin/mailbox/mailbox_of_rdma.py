# SPDX-License-Identifier: Apache-2.0
"""Letters into the memory of another host: a program that is no part of ndverbs and uses it."""

import numpy as np

import ndverbs as nd


class LostLetterError(Exception):
    """A letter may not have arrived, and why."""


def deliver(pd, qp, cq, letter, box, timeout=10.0):
    """Write a letter into a box of the peer's, and return when it is there."""
    written, last = np.frombuffer(letter, np.uint8), np.zeros(1, np.uint8)
    try:
        with pd.register(written, nd.Access.LOCAL_READ), pd.register(last):
            qp.write(written, box[: written.nbytes])
            qp.read(last, box[written.nbytes - 1 : written.nbytes])  # behind it on the wire
            results = []
            while len(results) < 2:
                cq.wait(timeout)
                results += cq.poll()
    except nd.RdmaError as error:
        raise LostLetterError(str(error)) from error
    for result in results:
        if result.status != nd.Status.SUCCESS:
            raise LostLetterError(result.detail)


def post(address, letter):
    """Connect to the owner of a box, who names it in the private data, and deliver a letter."""
    with nd.Adapter.open() as adapter:
        pd, cq = adapter.create_pd(), adapter.create_cq(512)
        qp, connector = pd.create_qp(cq, cq), adapter.create_connector()
        connector.connect(qp, None, address)
        box = nd.RemoteBuffer.from_bytes(connector.connection_data.private_data)
        connector.complete_connect()
        deliver(pd, qp, cq, letter, box)
        connector.disconnect()
