# SPDX-License-Identifier: Apache-2.0
"""What the fixture `rdma_process` gives: a second process, which calls functions of the tests."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

# How long a call may take before it counts as failed.
LIMIT = 60
# Those that a test may have of its own.
VARIABLES = ("NDVERBS_ADAPTER", "NDVERBS_CAPTURE")

P = ParamSpec("P")
R = TypeVar("R")


class ProcessEndedError(RuntimeError):
    """The peer process has ended, killed or by itself, while it was to call a function."""


class RdmaProcess:
    """A peer process: one call at a time, in the order in which they were started.

    Functions are those of modules, the test's own among them, which the process loads from its
    file; arguments and results are pickled (a RemoteBuffer can be). What a function raises is
    raised here. Adapters that it opens without a name are those of ``--rdma-adapter``. What it
    leaves open stays open for the next call.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "pytest_ndverbs.peer", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        self._pipe = Connection(ours.detach())
        self._thread = ThreadPoolExecutor(1)
        self._calls: list[Future[Any]] = []

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._child.pid

    def start(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Call a function there; the Future has what it returns or raises."""
        name = function.__qualname__
        if "<" in name:
            raise ValueError(f"{name} is no function of a module, which another process can load")
        file = sys.modules[function.__module__].__file__
        self._calls = [call for call in self._calls if not call.done()]
        question = (file, function.__module__, name, pickle.dumps((args, kwargs)))
        call: Future[R] = self._thread.submit(self._ask, question)
        self._calls.append(call)
        return call

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function there, and wait for what it returns: a minute at most."""
        return self.start(function, *args, **kwargs).result(LIMIT)

    def kill(self) -> None:
        """Kill the process: nothing is closed in order. The next test has another one."""
        self._child.send_signal(signal.SIGKILL)
        self._child.wait()

    def _ask(self, question: tuple[Any, ...]) -> Any:
        try:
            self._pipe.send(question)
            error, trace, result = self._pipe.recv()
        except (EOFError, OSError) as ended:
            code = self._child.wait()
            raise ProcessEndedError(f"the peer process has ended: exit code {code}") from ended
        if error is not None:
            error.add_note(f"raised in the peer process:\n{trace}")
            raise error
        return result

    def _is_idle(self) -> bool:
        return self._child.poll() is None and all(call.done() for call in self._calls)

    def _end(self) -> None:
        if not self._is_idle():
            self.kill()
        self._thread.shutdown()
        self._pipe.close()  # its end of file ends the process
        self._child.wait()


class ProcessKeeper:
    """Has the process between tests."""

    def __init__(self) -> None:
        self._kept: RdmaProcess | None = None

    def get(self) -> RdmaProcess:
        """Return a process that waits for calls, with the variables of this one."""
        process, self._kept = self._kept or RdmaProcess(), None
        environment = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        process._thread.submit(process._ask, (environment,)).result(LIMIT)
        return process

    def put_back(self, process: RdmaProcess) -> None:
        """Keep it for the next test, unless it was killed or has a call under way."""
        if process._is_idle():
            self._kept = process
        else:
            process._end()

    def close(self) -> None:
        """End the process."""
        if self._kept is not None:
            self._kept._end()
