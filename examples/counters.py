# SPDX-License-Identifier: Apache-2.0
"""Counters: workers draw numbers from one remote word, and keep a record in another.

No number is drawn twice, no higher record lost. Needs atomics. Run: python examples/counters.py
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

import ndverbs as nd

WORKERS, DRAWS = 4, 200


def accept(listener: nd.Listener, qp: nd.QueuePair, region: nd.MemoryRegion) -> nd.Connector:
    connector = listener.get_connector(timeout=60)
    connector.accept(qp, private_data=bytes(region.remote()))
    return connector  # kept by the future: one that is dropped ends its connection


def work(adapter: nd.Adapter, address: tuple[str, int]) -> list[int]:
    pd, cq = adapter.create_pd(), adapter.create_cq(256)
    qp = pd.create_qp(cq, cq)
    connector = adapter.create_connector()
    connector.connect(qp, None, address)
    words = nd.RemoteBuffer.from_bytes(connector.connection_data.private_data)
    connector.complete_connect()
    old = np.zeros(1, np.uint64)
    region = pd.register(old)

    def before() -> int:
        cq.wait(timeout=10)
        (result,) = cq.poll()
        assert result.status == nd.Status.SUCCESS, result.detail
        return int(old[0])

    drawn, record = list[int](), 0
    for _ in range(DRAWS):
        qp.fetch_add(region, words[0:1], 1)
        drawn.append(before())
        while record < drawn[-1]:
            qp.compare_swap(region, words[1:2], record, drawn[-1])
            record = drawn[-1] if (seen := before()) == record else seen
    return drawn


with nd.Adapter.open() as adapter, adapter.create_listener() as listener:
    pd, cq = adapter.create_pd(), adapter.create_cq(2048)
    words = np.zeros(2, np.uint64)
    region = pd.register(words, nd.Access.REMOTE_ATOMIC)
    listener.listen("127.0.0.1:0")
    with ThreadPoolExecutor(2 * WORKERS) as pool:
        qps = [pd.create_qp(cq, cq) for _ in range(WORKERS)]
        ends = [pool.submit(accept, listener, qp, region) for qp in qps]
        workers = [pool.submit(work, adapter, listener.local_address) for _ in range(WORKERS)]
        drawn = sorted(number for worker in workers for number in worker.result())
        print(f"{len(ends)} workers drew {len(drawn)} numbers, {len(set(drawn))} of them different")
    print("next number and record:", words)
