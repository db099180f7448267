# SPDX-License-Identifier: Apache-2.0
"""The interpreter ends in any state: exit code 0, nothing on stderr, the last message arrives."""

import subprocess
import sys
import textwrap
import time

import pytest

from programs import ENDS, LIMIT, run

PROLOGUE = (
    ENDS
    + """
def linger(listener):
    "A peer that does not close when it is rejected: the adapter waits for it for up to 5 s."
    import socket
    peer = socket.create_connection(listener.local_address)
    peer.sendall(b"MPA ID Req Frame\\x10\\x02\\0\\x04\\0\\x01\\0\\x01")
    listener.get_connector(30).reject()
    return peer

class Silent:
    def __init__(self):
        import socket
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = self.server.getsockname()
"""
)

STATES = {
    "imported": "",
    "adapter": "adapter = nd.Adapter.open('soft')",
    "objects": "end = End()",
    "objects in a cycle": "end = End(); end.itself = end",
    "objects in a module": "import types; sys.modules['kept'] = types.ModuleType('kept'); "
    "sys.modules['kept'].end = End()",
    "objects in a builtin": "import builtins; builtins.kept = End()",
    "connected": "near, far = ends(); join(near, far)",
    "connected with a handler": "near, far = ends(); join(near, far, lambda: None)",
    "two adapters": "near, far = End(), End(); join(near, far)",
    "two adapters, the far one first": "far, near = End(), End(); join(near, far)",
    "requests pending": """
        near, far = ends()
        join(near, far)
        for i in range(8):
            near.qp.receive(near.region, context=object())
            near.qp.read(near.region, far.region.remote(), context=object())
            near.qp.send(near.region, context=[near])
    """,
    "completions unpolled": """
        near, far = ends()
        join(near, far)
        far.qp.receive(context=object())
        near.qp.send(context=object())
        near.cq.wait(30)
        far.cq.wait(30)
    """,
    "silent requests": """
        near, far = ends()
        join(near, far)
        for i in range(20):
            near.qp.write(near.region, far.region.remote(), context=object(),
                          flags=nd.Flag.SILENT_SUCCESS)
    """,
    "connect under way": """
        end, silent = End(), Silent()
        connector = end.adapter.create_connector()
        operation = connector._start_connect(end.qp, None, silent.address)
    """,
    "connect under way with a callback": """
        end, silent = End(), Silent()
        connector = end.adapter.create_connector()
        operation = connector._start_connect(end.qp, None, silent.address)
        operation.add_done_callback(lambda operation: None)
    """,
    "request waiting at a listener": """
        end, visitor = ends()
        connector = visitor.adapter.create_connector()
        operation = connector._start_connect(visitor.qp, None, end.listener.local_address)
        incoming = end.listener.get_connector(30)
    """,
    "accept under way": """
        end, visitor = ends()
        connector = visitor.adapter.create_connector()
        operation = connector._start_connect(visitor.qp, None, end.listener.local_address,
                                             peer_to_peer=True)
        incoming = end.listener.get_connector(30)
        accepting = incoming._start_accept(end.qp)
    """,
    "disconnect under way": """
        near, far = ends()
        join(near, far, lambda: None)
        operation = near.connector._start_disconnect(5)
    """,
    "daemon thread in cq.wait": """
        end = End()
        threading.Thread(target=end.cq.wait, daemon=True).start()
    """,
    "daemon thread in get_connector": """
        end = End()
        threading.Thread(target=end.listener.get_connector, daemon=True).start()
    """,
    "daemon thread in connect": """
        end, silent = End(), Silent()
        connector = end.adapter.create_connector()
        threading.Thread(target=connector.connect, args=(end.qp, None, silent.address),
                         daemon=True).start()
        accepted = silent.server.accept()  # kept: its end would end the connect first
    """,
    "daemon thread that polls": """
        near, far = ends()
        join(near, far)
        def poll():
            try:
                while True:
                    near.cq.poll()
            except nd.ClosedError:  # the interpreter's end closes adapters
                pass
        threading.Thread(target=poll, daemon=True).start()
    """,
    "daemon thread that sends": """
        near, far = ends()
        join(near, far)
        def send():
            try:
                while True:
                    try:
                        near.qp.write(near.region, far.region.remote(), flags=1)
                    except nd.ClosedError:
                        raise
                    except nd.RdmaError:
                        near.cq.poll()
            except nd.ClosedError:  # the interpreter's end closes adapters
                pass
        threading.Thread(target=send, daemon=True).start()
    """,
    "daemon thread that closes an adapter whose socket lingers": """
        near, far = ends()
        keep = far.connector = linger(far.listener)
        closing = threading.Thread(target=near.adapter.close, daemon=True)
        closing.start()
        while not near.adapter.closed:
            pass
    """,
    "daemon thread that drops an adapter whose socket lingers": """
        begun = threading.Event()
        def drop():
            end = End()
            kept.append(linger(end.listener))
            begun.set()
        kept = []
        threading.Thread(target=drop, daemon=True).start()
        begun.wait(30)
    """,
    "daemon threads that open and drop adapters": """
        opened = threading.Semaphore(0)
        def work():
            try:
                while True:
                    nd.Adapter.open("soft").create_cq(16)
                    opened.release()
            except nd.RdmaError:  # the interpreter's end closes adapters
                pass
        for _ in range(2):
            threading.Thread(target=work, daemon=True).start()
        for _ in range(20):
            opened.acquire()
    """,
    "daemon threads that deregister": """
        end, registered = End(), threading.Semaphore(0)
        def work():
            try:
                while True:
                    end.pd.register(bytearray(64))
                    registered.release()
            except nd.RdmaError:  # the interpreter's end closes adapters
                pass
        for _ in range(4):
            threading.Thread(target=work, daemon=True).start()
        for _ in range(50):
            registered.acquire()
    """,
    "adapter dropped inside its own callback": """
        dropped = threading.Event()
        def on_notify(status):
            ends.clear()
            dropped.set()
        ends = [End()]
        def arm(end):
            cq = end.adapter.create_cq(256, on_notify=on_notify)
            cq.arm()
            end.other = end.pd.create_qp(cq, cq)
            end.other.receive(context=cq)
            end.other.flush()
        arm(ends[0])
        dropped.wait(30)
    """,
    "descriptors closed by the program": """
        import os
        near, far = ends()
        join(near, far)
        os.closerange(3, 4096)
        near.adapter.close()
    """,
    "callback under way": """
        entered = threading.Event()
        def on_connect(connector):
            entered.set()
            try:
                connector.reject()
            except nd.RdmaError:  # the interpreter's end may have closed the connector by now
                pass
        end = End()
        listener = end.adapter.create_listener(on_connect)
        listener.listen("127.0.0.1:0")
        connector = end.adapter.create_connector()
        operation = connector._start_connect(end.qp, None, listener.local_address)
        entered.wait(30)
    """,
    "handler that closes things at the end": """
        near, far = ends()
        join(near, far, lambda: (near.qp.close(), far.qp.close()))
        far.connector.close()
    """,
    "loop that still waits": """
        import asyncio
        end = End()
        loop = asyncio.new_event_loop()
        task = loop.create_task(end.cq.wait_async())
        loop.run_until_complete(asyncio.sleep(0))
        task.cancel()
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        loop.close()
    """,
    "adapter closed": "near, far = ends(); join(near, far); near.adapter.close()",
    "exit handler of the program uses objects": """
        import atexit
        near, far = ends()
        join(near, far)
        @atexit.register
        def last():
            far.qp.receive(context=1)
            near.qp.send()
            far.cq.wait(30)
            assert far.cq.poll()[0].request_context == 1
    """,
    "destructors use objects": """
        class Owner:
            def __init__(self):
                self.near, self.far = ends()
                join(self.near, self.far)
            def __del__(self):
                try:
                    self.near.qp.send()
                except OSError as error:  # RdmaError; the name nd may be gone
                    assert "closed" in str(error)
                self.near.cq.close()
                self.near.adapter.close()
        owner = Owner()
    """,
}


@pytest.mark.parametrize("state", STATES)
def test_interpreter_ends_quietly(state):
    _, errors = run(PROLOGUE + textwrap.dedent(STATES[state]))

    assert errors == ""


def test_exception_ends_the_program_with_its_traceback_only():
    program = PROLOGUE + "near, far = ends()\njoin(near, far)\nraise SystemExit('on purpose')"

    _, errors = run(program, returncode=1)

    assert errors == "on purpose\n"


def test_last_message_of_a_program_arrives(adapter):
    # The program ends when its send has completed: the bytes are the kernel's then, not the peer's.
    size = 1 << 20
    listener = adapter.create_listener()
    listener.listen("127.0.0.1:0")
    pd, cq = adapter.create_pd(), adapter.create_cq(256)
    qp = pd.create_qp(cq, cq)
    buffer = bytearray(size)
    qp.receive(pd.register(buffer))
    program = PROLOGUE + textwrap.dedent(f"""
        end = End()
        end.buffer[:] = b"m" * {size}
        connector = end.adapter.create_connector()
        connector.connect(end.qp, None, ("127.0.0.1", {listener.local_address[1]}),
                          peer_to_peer=True)
        connector.complete_connect()
        end.qp.send(end.region)
        end.cq.wait(30)
    """)
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as child:
        connector = listener.get_connector(LIMIT)
        connector.accept(qp)
        cq.wait(LIMIT)
        assert cq.poll()[0].bytes_transferred == size
        connector.close()
        _, errors = child.communicate(timeout=LIMIT)

    assert buffer == b"m" * size
    assert errors == b""
    assert child.returncode == 0


def test_program_with_a_connection_ends_without_lingering_for_nothing():
    # Both ends are in the program: there is no peer to wait for.
    begun = time.monotonic()
    run(PROLOGUE + "near, far = ends()\njoin(near, far)")
    idle = time.monotonic() - begun
    begun = time.monotonic()
    run(PROLOGUE)

    # A lingering connection waits 5 s for its peer.
    assert idle - (time.monotonic() - begun) < 4
