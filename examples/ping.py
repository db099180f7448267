# SPDX-License-Identifier: Apache-2.0
"""Ping: messages that the peer receives. Run, both ends at once: python examples/ping.py."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import ndverbs as nd

ROUNDS, SEND = 1000, nd.Flag.INLINE | nd.Flag.SILENT_SUCCESS  # copied, and no completion


class End:
    """A queue pair, and memory for the one message that it waits for."""

    def __init__(self, adapter: nd.Adapter) -> None:
        self.pd, self.cq = adapter.create_pd(), adapter.create_cq(256)
        self.qp = self.pd.create_qp(self.cq, self.cq)
        self.inbox = np.zeros(64, np.uint8)
        self.region = self.pd.register(self.inbox)
        self.qp.receive(self.inbox)  # before the peer can send

    def take(self) -> bytes:
        self.cq.wait(timeout=60)
        (result,) = self.cq.poll()
        if result.status != nd.Status.SUCCESS:
            return b""  # the end of the connection cancels the receive
        text = bytes(self.inbox[: result.bytes_transferred])
        self.qp.receive(self.inbox)
        return text


def serve(adapter: nd.Adapter, listener: nd.Listener) -> None:
    end = End(adapter)
    connector = listener.get_connector(timeout=60)
    connector.accept(end.qp)
    while text := end.take():
        end.qp.send(text, flags=SEND)


def ping(adapter: nd.Adapter, address: tuple[str, int]) -> None:
    end, connector = End(adapter), adapter.create_connector()
    connector.connect(end.qp, None, address)
    connector.complete_connect()
    begin = time.perf_counter()
    for number in range(ROUNDS):
        end.qp.send(b"ping %d" % number, flags=SEND)
        assert end.take() == b"ping %d" % number
    each_us = (time.perf_counter() - begin) / ROUNDS * 1e6
    print(f"{ROUNDS} messages came back, each after {each_us:.0f} us")
    connector.disconnect()


with ThreadPoolExecutor() as pool, nd.Adapter.open() as adapter:
    listener = adapter.create_listener()
    listener.listen("127.0.0.1:0")  # port 0: any that is free
    pool.submit(serve, adapter, listener)
    ping(adapter, listener.local_address)
