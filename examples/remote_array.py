# SPDX-License-Identifier: Apache-2.0
"""A remote array: one end offers a table, the other writes rows of it and reads it whole.

Both ends in one process: python examples/remote_array.py; one in each terminal, with the
arguments: offer 127.0.0.1:7471, and: use 127.0.0.1:7471.
"""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import ndverbs as nd


def offer(adapter: nd.Adapter, listener: nd.Listener) -> None:
    pd, cq = adapter.create_pd(), adapter.create_cq(256)
    qp = pd.create_qp(cq, cq)
    table = np.zeros((5, 4))
    region = pd.register(table, nd.Access.REMOTE_READ | nd.Access.REMOTE_WRITE)
    qp.receive()  # takes no part, and waits for the message that says "complete"
    connector = listener.get_connector(timeout=60)
    ended = threading.Event()
    connector.accept(qp, private_data=bytes(region.remote()), on_disconnect=ended.set)
    cq.wait(timeout=60)
    ended.wait(60)  # the memory stays until the other end has left
    print("the owner has", table.sum(axis=1))


def use(adapter: nd.Adapter, address: str | tuple[str, int]) -> None:
    pd, cq = adapter.create_pd(), adapter.create_cq(256)
    qp = pd.create_qp(cq, cq)
    connector = adapter.create_connector()
    connector.connect(qp, None, address)
    table = nd.RemoteBuffer.from_bytes(connector.connection_data.private_data)
    connector.complete_connect()
    rows, copy = np.ones((2, 4)), np.empty(table.shape, table.dtype)
    with pd.register(rows), pd.register(copy):
        qp.write(rows, table[1:3], flags=nd.Flag.SILENT_SUCCESS)
        qp.read(copy, table)  # sees what was written before it
        cq.wait(timeout=10)
        (result,) = cq.poll()
    print(result.type.name, result.status.name, copy.sum(axis=1))
    qp.send()
    connector.disconnect()


with nd.Adapter.open() as adapter, ThreadPoolExecutor() as pool:
    role, address, *_ = *sys.argv[1:], "both", "127.0.0.1:0"
    if role != "use":
        listener = adapter.create_listener()
        listener.listen(address)
        print("listening on", listener.local_address, flush=True)
        offered = pool.submit(offer, adapter, listener)
    if role != "offer":
        use(adapter, listener.local_address if role == "both" else address)
    if role != "use":
        offered.result()
