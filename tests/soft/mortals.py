# SPDX-License-Identifier: Apache-2.0
"""Processes that share memory with a test and come to an end there: killed, stopped, or caught.

``python mortals.py DESCRIPTOR`` forks one for each descriptor that comes by its own, so that many
of them cost little. Each serves as conformance.far does; its ends know FUNCTIONS, too.

A trap is a page that is missing: the thread that touches it stays there, at that very instruction,
until the test lets it go.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import ndverbs as nd
from conformance import far
from conformance.end import ALL, LIMIT, End, pattern
from conformance.pair import join

PAGE = mmap.PAGESIZE
NUMBERS = {"x86_64": 323, "aarch64": 282}  # of userfaultfd
PIDFD_GETFD = 438
UFFD_FEATURE_THREAD_ID = 1 << 8
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_ZEROPAGE = 0xC018AA3F, 0xC020AA00, 0xC020AA04

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result < 0:
        raise OSError(ctypes.get_errno(), what)
    return result


# ---- the test's side ----------------------------------------------------------------------------


class Mortal:
    """A forked process; FarProcess takes it for a PeerProcess."""

    def __init__(self, pipe, pid):
        self._pipe = pipe
        self.pid = pid
        self._life = os.pidfd_open(pid)
        self._trap = self._caught = None

    def begin(self, name, *args, **options):
        self._pipe.send((name, args, options))

    def end(self):
        """Return what came of what was begun last."""
        error, trace, result = self._pipe.recv()
        if error is not None:
            error.add_note(f"raised in the process:\n{trace}")
            raise error
        return result

    def call(self, name, *args, **options):
        self.begin(name, *args, **options)
        return self.end()

    def stop(self):
        """Return when none of its threads runs; the one that is caught may wait in the kernel."""
        signal.pidfd_send_signal(self._life, signal.SIGSTOP)
        self.wait_until_stopped(but=self._caught)

    def wait_until_stopped(self, but=None):
        tasks = [int(task) for task in os.listdir(f"/proc/{self.pid}/task")]
        while any(task != but and self._state(task) not in "Tt" for task in tasks):
            os.sched_yield()

    def _state(self, task):
        return Path(f"/proc/{self.pid}/task/{task}/stat").read_text().rpartition(")")[2].split()[0]

    def resume(self):
        signal.pidfd_send_signal(self._life, signal.SIGCONT)

    def send_kill(self):
        """Return at once."""
        signal.pidfd_send_signal(self._life, signal.SIGKILL)

    def wait_for_end(self):
        assert select.select([self._life], [], [], LIMIT)[0]

    def is_there(self):
        return not select.select([self._life], [], [], 0)[0]

    # ---- its trap ---------------------------------------------------------------------------

    def set_trap(self, name, nbytes, at, *, seed=0):
        """Make memory with a trap in the page of its byte `at`; `seed`: and a pattern around."""
        theirs = self.call("set_trap", name, nbytes, at, seed=seed)
        self._trap = check(libc.syscall(PIDFD_GETFD, self._life, theirs, 0), "pidfd_getfd")

    def wait_until_caught(self):
        assert select.select([self._trap], [], [], LIMIT)[0]
        # struct uffd_msg: a page fault's address and thread.
        address, self._caught = struct.unpack("16xQI4x", os.read(self._trap, 32))
        self._page = address // PAGE * PAGE

    def let_go(self):
        """Give the page that is missing, of zeroes."""
        fcntl.ioctl(self._trap, UFFDIO_ZEROPAGE, struct.pack("QQQq", self._page, PAGE, 0, 0))

    def close(self):
        """End it, if it is still there."""
        if self.is_there():
            self.send_kill()
            self.wait_for_end()
        self._pipe.close()
        os.close(self._life)
        if self._trap is not None:
            os.close(self._trap)


class Mother:
    """The process that forks them."""

    def __init__(self):
        self._ours, theirs = socket.socketpair()
        with theirs:
            path = os.pathsep.join(
                [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
            )
            self._child = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
            )

    def bear(self):
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._ours, [b"!"], [theirs.fileno()])
            (pid,) = struct.unpack("i", self._ours.recv(4))
        return Mortal(Connection(ours.detach()), pid)

    def close(self):
        self._ours.close()
        self._child.wait(LIMIT)


class Survivor(End):
    """An end of the test's own, and a mortal with its end, of which it is connected with one."""

    def __init__(self, mother, adapter, *, is_active=False, far=None, **options):
        super().__init__(adapter=adapter, is_direct=True, **options)
        self.mortal = mother.bear()
        self.mortal.call("open", is_direct=True, **(far or options))
        if is_active:
            address = self.mortal.call("listen", "127.0.0.1")
            self.mortal.begin("accept")
            self.connect(address)
            self.mortal.end()
        else:
            address = self.listen("127.0.0.1")
            self.mortal.begin("connect", address)
            self.accept()
            self.mortal.end()

    def close(self):
        mortal = self.mortal
        self.end_connection()
        super().close()
        mortal.close()


def shared_mappings():
    """Count what this process maps of other processes' memory, and of its own that they may map."""
    return Path("/proc/self/maps").read_text().count("memfd:ndverbs")


def others_go_on(adapter, rounds=20):
    """Send messages over another connection of an adapter, both ways."""
    first, second = End(adapter=adapter, is_direct=True), End(adapter=adapter, is_direct=True)
    with ThreadPoolExecutor(1) as thread:
        join(first, lambda _, **options: thread.submit(second.accept, **options), second.listen())
    for end in (first, second):
        end.memory("note", 100)
    for _ in range(rounds):
        for one, other in ((first, second), (second, first)):
            other.receive("note")
            one.send("note")
            assert one.completion().status == nd.Status.SUCCESS
            assert other.received().status == nd.Status.SUCCESS
    for end in (first, second):
        end.end_connection()
    for end in (first, second):
        end.close()


# ---- the other side -----------------------------------------------------------------------------


def set_trap(end, name, nbytes, at, *, seed):
    memory = mmap.mmap(-1, nbytes)
    array = np.frombuffer(memory, np.uint8)
    start, page = array.ctypes.data, at // PAGE * PAGE
    for first, last in ((0, page), (page + PAGE, nbytes)):
        if seed and first < last:
            array[first:last] = np.frombuffer(pattern(nbytes, seed), np.uint8)[first:last]
    number = NUMBERS[os.uname().machine]
    trap = check(libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK), "userfaultfd")
    fcntl.ioctl(trap, UFFDIO_API, struct.pack("QQQ", 0xAA, UFFD_FEATURE_THREAD_ID, 0))
    fcntl.ioctl(trap, UFFDIO_REGISTER, struct.pack("QQQQ", start + page, PAGE, 1, 0))
    end.regions[name] = end.pd.register(array, ALL)
    return trap


def aside(end, name, *args):
    """Do something in a thread of its own."""
    threading.Thread(target=getattr(end, name), args=args, daemon=True).start()


def become_another_program(_end):
    os.execv(sys.executable, [sys.executable, "-c", "import signal; signal.pause()"])


def die_in(end, name, turns, *args):
    """Do something, and be killed by a thread that counts so far, wherever the others are then."""

    def count():
        for _ in range(turns):
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=count, daemon=True).start()
    getattr(end, name)(*args)
    signal.pause()


def hammer(end, what, remote, size, say_at=None):
    """Use a peer's memory without a pause, each time with other bytes, until the connection ends.

    Send a message without bytes behind number `say_at`. Return how often.
    """
    end.memory("source", size, ALL)
    array = end.regions["source"].array
    times = 0
    while True:
        array += 1
        try:
            if times == say_at:
                end.send(flags=nd.Flag.SILENT_SUCCESS)
            if what == "send":
                end.send("source")
            else:
                getattr(end, what)(remote, "source")
        except nd.RdmaError:
            # Over TCP a Write that was refused has completed: the post behind it finds the end.
            assert end.state() == "error"
            return times
        for done in end.initiator_cq.poll(1) or [end.completion()]:
            if done.status != 0:
                return times
        times += 1


def hammer_round_by_round(end, address, rounds):
    """Connect, hammer what the peer's answer names until it is refused, and begin again."""
    for _ in range(rounds):
        end.waiting()  # what the last connection has left
        end.qp = end.create_qp()
        end.connect(address)
        at, token, size, say_at = struct.unpack("QIII", end.data()[0][:20])
        hammer(end, "write", (at, token), size, say_at)
        end.close_connector()
        end.qp.close()


FUNCTIONS = {
    "die_in": die_in,
    "hammer": hammer,
    "hammer_round_by_round": hammer_round_by_round,
    "set_trap": set_trap,
    "aside": aside,
    "become_another_program": become_another_program,
}


def main(descriptor):
    far.FUNCTIONS.update(FUNCTIONS)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=descriptor) as calls:
        while True:
            _, given, *_ = socket.recv_fds(calls, 1, 1)
            if not given:
                break
            pid = os.fork()
            if pid == 0:
                calls.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                with contextlib.suppress(Exception):
                    far.serve(Connection(given[0]))
                os._exit(0)
            os.close(given[0])
            calls.send(struct.pack("i", pid))


if __name__ == "__main__":
    main(int(sys.argv[1]))
