# SPDX-License-Identifier: Apache-2.0
"""A program for a process of its own: each allocation of the runtime's threads fails once.

It runs one exchange again and again and lets another allocation fail each time, until there are
no more. It prints what took its whole time, as if a waiting thread had been forgotten, and "swept".
"""

import contextlib
import ctypes
import faulthandler
import sys
import threading

import numpy as np

import ndverbs as nd

LIMIT_S = 5
STUCK_S = 30
ERRORS = (nd.RdmaError, OSError, MemoryError)


@contextlib.contextmanager
def other_end(serve, listener, forgotten):
    """Run the passive end; when the active one has failed, no request comes any more."""
    thread = threading.Thread(target=guarded, args=(serve, "passive", forgotten))
    thread.start()
    try:
        yield
    finally:
        listener.close()
        thread.join()


def guarded(exchange, name, forgotten):
    try:
        exchange()
    except TimeoutError as error:
        forgotten.append(f"{name}: {error}")
    except ERRORS:
        pass


def requests(adapter, forgotten):
    pd, cq, far_cq = adapter.create_pd(), adapter.create_cq(256), adapter.create_cq(256)
    region = pd.register(
        np.zeros(1 << 16, np.uint8), nd.Access.REMOTE_WRITE | nd.Access.REMOTE_READ
    )
    qp, far = pd.create_qp(cq, cq), pd.create_qp(far_cq, far_cq)
    listener = adapter.create_listener()
    listener.listen("127.0.0.1:0")
    ended = threading.Event()
    posted = []

    def accept():
        connector = listener.get_connector(LIMIT_S)
        far.receive(region.segment(0, 64))
        connector.accept(far, timeout=LIMIT_S, on_disconnect=ended.set)
        if not ended.wait(LIMIT_S):
            forgotten.append("on_disconnect was not called")

    def connect():
        connector = adapter.create_connector()
        connector.connect(qp, None, listener.local_address, timeout=LIMIT_S)
        connector.complete_connect()
        for request in (
            lambda: qp.write(region.segment(0, 40000), region.remote()),
            lambda: qp.read(region.segment(0, 40000), region.remote()),
            lambda: qp.send(region.segment(0, 16)),
        ):
            request()
            posted.append(request)
        connector.disconnect(timeout=LIMIT_S)

    with other_end(accept, listener, forgotten):
        guarded(connect, "active", forgotten)
        qp.flush()
        far.flush()
    if (ends := len(cq.poll())) != len(posted):
        forgotten.append(f"{ends} of {len(posted)} requests ended")


def stream(adapter, forgotten):
    listener = nd.Socket(adapter=adapter)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    listener.settimeout(LIMIT_S)
    data = bytes(100_000)

    def serve():
        accepted, _ = listener.accept()
        with accepted:
            accepted.settimeout(LIMIT_S)
            while received := accepted.recv(65536):
                accepted.sendall(received)

    def connect():
        with nd.Socket(adapter=adapter) as sock:
            sock.settimeout(LIMIT_S)
            sock.connect(listener.getsockname())
            sock.sendall(data)
            left = len(data)
            while left and (received := sock.recv(65536)):
                left -= len(received)

    with other_end(serve, listener, forgotten):
        guarded(connect, "active", forgotten)


def main():
    exchange = {"requests": requests, "stream": stream}[sys.argv[1]]
    allocator = ctypes.CDLL(None)
    allocator.fail_allocation.argtypes = [ctypes.c_long]
    allocator.allocations_left.restype = ctypes.c_long
    which, left = 0, 0
    while left == 0:
        which += 1
        forgotten = []
        faulthandler.dump_traceback_later(STUCK_S, exit=True)
        with nd.Adapter.open("soft") as adapter:
            allocator.fail_allocation(which)
            exchange(adapter, forgotten)
            left = allocator.allocations_left()
            allocator.fail_allocation(0)
        for one in forgotten:
            print(f"allocation {which}: {one}")
    print("swept", which)


main()
