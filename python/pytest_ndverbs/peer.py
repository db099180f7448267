# SPDX-License-Identifier: Apache-2.0
"""What runs in the process of the fixture `rdma_process`."""

from __future__ import annotations

import contextlib
import importlib.util
import operator
import os
import pickle
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

from pytest_ndverbs.process import VARIABLES


def _module(file: str, name: str) -> ModuleType:
    """Return the module of a file; a test's may be importable by no name."""
    found = sys.modules.get(name)
    if found is not None and getattr(found, "__file__", None) == file:
        return found
    with contextlib.suppress(ImportError):
        module = importlib.import_module(name)
        if getattr(module, "__file__", None) == file:
            return module
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no module")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _answer(question: tuple[Any, ...]) -> Any:
    if len(question) == 1:
        for variable in VARIABLES:
            os.environ.pop(variable, None)  # of the test before
        os.environ.update(question[0])
        return None
    file, name, function, pickled = question
    called = operator.attrgetter(function)(_module(file, name))
    args, kwargs = pickle.loads(pickled)  # what they are of may be of that module
    return called(*args, **kwargs)


def serve(pipe: Connection) -> None:
    """Answer what comes, until the other end closes."""
    while True:
        try:
            question = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        answer: tuple[BaseException | None, str, Any]
        try:
            answer = (None, "", _answer(question))
        except BaseException as error:
            answer = (error, traceback.format_exc(), None)
        try:
            pipe.send(answer)
        except Exception as error:  # what cannot be pickled
            pipe.send((TypeError(f"the answer cannot travel: {error}"), answer[1], None))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is pytest's, which ends this process
    serve(Connection(int(sys.argv[1])))
