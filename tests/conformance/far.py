# SPDX-License-Identifier: Apache-2.0
"""The far end of a test: in a second thread, or in a second process driven over a socket.

Both take ``far.begin("method", ...)``, which returns a future, and ``far.method(...)``, which
waits.
The process is long-lived: ``python -m conformance.far DESCRIPTOR`` with this folder's parent on
its path. Besides the methods of End it does what FUNCTIONS says.
"""

import functools
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

from conformance.end import LIMIT, End


class _Far:
    """One call at a time, on a thread of its own."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(1)

    def _call(self, name, *args, **options):
        raise NotImplementedError

    def begin(self, name, *args, **options):
        return self._thread.submit(self._call, name, *args, **options)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **options: self.begin(name, *args, **options).result(2 * LIMIT)

    def close(self):
        try:
            self.begin("close").result(2 * LIMIT)
        finally:
            self._thread.shutdown()


class FarThread(_Far):
    """An End of this process that is used by one other thread only."""

    def __init__(self, **options):
        super().__init__()
        self._end = self._thread.submit(functools.partial(End, **options)).result(LIMIT)

    def _call(self, name, *args, **options):
        if name in FUNCTIONS:
            return FUNCTIONS[name](self._end, *args, **options)
        return getattr(self._end, name)(*args, **options)


class FarProcess(_Far):
    """An End of the peer process."""

    def __init__(self, process, **options):
        super().__init__()
        self._process = process
        process.call("open", **options)

    @property
    def process(self):
        return self._process

    def _call(self, name, *args, **options):
        return self._process.call(name, *args, **options)

    def abandon(self):
        """Let go without a word: its process was killed, or will end with its pipe."""
        self._thread.shutdown()


class PeerProcess:
    """A process that serves one End after the other.

    Parameters
    ----------
    program : str
        What runs there instead of this module; it gets the options and the descriptor to serve.
    """

    def __init__(self, program=None, *options):
        ours, theirs = socket.socketpair()
        with theirs:
            path = os.pathsep.join(
                [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
            )
            self._child = subprocess.Popen(
                [
                    sys.executable,
                    *([program] if program else ["-m", "conformance.far"]),
                    *options,
                    str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": path},
            )
        self._pipe = Connection(ours.detach())

    @property
    def pid(self):
        return self._child.pid

    def call(self, name, *args, **options):
        self._pipe.send((name, args, options))
        error, trace, result = self._pipe.recv()
        if error is not None:
            error.add_note(f"raised in the peer process:\n{trace}")
            raise error
        return result

    def call_back(self):
        """End what FUNCTIONS calls busy or asleep."""
        self._child.send_signal(signal.SIGUSR1)

    def kill(self):
        """End it as a crash would: nothing is closed in order."""
        self._child.send_signal(signal.SIGKILL)
        self._child.wait(LIMIT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pipe.close()  # its end of file ends the process
        try:
            self._child.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            raise


# ---- what runs at the far end -------------------------------------------------------------------


def _spin(end, name, offset, value, limit=LIMIT):
    """Run Python and nothing of the runtime until a byte of memory has a value."""
    array = end.regions[name].array
    give_up_at = time.monotonic() + limit
    turns = 0
    while array[offset] != value:
        turns += 1
        if turns % 1000 == 0 and time.monotonic() > give_up_at:
            return False
    return True


class _CalledBackError(Exception):
    """Raised by the signal that calls the process back."""


class _Absence:
    """What the main thread of the peer process does instead of serving calls."""

    is_away = False
    is_called_back = False

    @classmethod
    def handle_signal(cls, _signal, _frame):
        cls.is_called_back = True
        if cls.is_away:
            raise _CalledBackError

    @classmethod
    def spend(cls, end, do):
        """Say in the memory "flag" that it begins; return whether it was called back."""
        try:
            cls.is_away = True
            end.store("flag", b"!")
            if not cls.is_called_back:
                do()
        except _CalledBackError:
            pass
        cls.is_away = False
        was_called_back, cls.is_called_back = cls.is_called_back, False
        return was_called_back


def _busy(end, seconds):
    """Run pure Python, with the GIL but for its switches."""
    until = time.monotonic() + seconds

    def spin():
        while time.monotonic() < until:
            sum(range(1000))

    return _Absence.spend(end, spin)


def _asleep(end, seconds):
    return _Absence.spend(end, lambda: time.sleep(seconds))


def _echo(end, count, name):
    """Send every message of up to 64 bytes back, one after the other."""
    for _ in range(count):
        end.receive(name)
        done = end.received()
        end.send((name, 0, done.bytes_transferred))
        end.completion()


FUNCTIONS = {"spin": _spin, "busy": _busy, "asleep": _asleep, "echo": _echo}


def serve(pipe):
    """Do what a PeerProcess asks for, until it closes its end."""
    end = None
    while True:
        try:
            name, args, options = pipe.recv()
        except EOFError:
            break
        try:
            result = None
            if name == "open":
                end = End(*args, **options)
            elif name in ("close", "end_connection") and end is None:
                pass
            elif name in FUNCTIONS:
                result = FUNCTIONS[name](end, *args, **options)
            else:
                result = getattr(end, name)(*args, **options)
            if name == "close":
                end = None
                _check_nothing_is_left()
            answer = (None, "", result)
        except Exception as error:
            answer = (error, traceback.format_exc(), None)
        pipe.send(answer)


def _check_nothing_is_left():
    from conftest import native_objects

    left = native_objects()
    if left:
        raise AssertionError(f"native objects outlive the end in the peer process: {left}")


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _Absence.handle_signal)
    serve(Connection(int(sys.argv[1])))
