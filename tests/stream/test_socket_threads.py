# SPDX-License-Identifier: Apache-2.0
"""Where no thread is to be had: calls that rely on one say so at once, and work later."""

import contextlib
import ctypes

import pytest

import ndverbs as nd
from ndverbs import _testing
from stream.sockets import LIMIT

TOO_LARGE = 1 << 56  # a stack that no address space has room for


@contextlib.contextmanager
def no_threads():
    """Let every start of a thread fail, as it does at a limit on processes."""
    libc = ctypes.CDLL(None)
    attributes = ctypes.create_string_buffer(256)
    usual = ctypes.c_size_t()
    libc.pthread_getattr_default_np(attributes)
    libc.pthread_attr_getstacksize(attributes, ctypes.byref(usual))
    try:
        libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(TOO_LARGE))
        assert libc.pthread_setattr_default_np(attributes) == 0
        yield
    finally:
        libc.pthread_attr_setstacksize(attributes, usual)
        assert libc.pthread_setattr_default_np(attributes) == 0


def test_a_connect_fails_and_succeeds_once_there_is_a_thread(provider, server):
    with nd.Adapter.open(provider) as adapter, nd.Socket(adapter=adapter) as near:
        near.settimeout(LIMIT)
        with no_threads(), pytest.raises(nd.RdmaError, match=r"thread .* did not start") as caught:
            near.connect(server.getsockname())
        assert caught.value.status == nd.Status.INSUFFICIENT_RESOURCES
        assert "ulimit -u" in str(caught.value)

        near.connect(server.getsockname())
        server.accept()[0].close()


def test_a_listen_fails_and_succeeds_once_there_is_a_thread(provider, host):
    with nd.Adapter.open(provider) as adapter, nd.Socket(adapter=adapter) as listening:
        with no_threads(), pytest.raises(nd.RdmaError, match=r"thread .* did not start"):
            listening.listen()
        listening.listen()


def test_callbacks_are_refused_without_a_thread_to_call_them(provider):
    with nd.Adapter.open(provider) as adapter:
        with no_threads(), pytest.raises(nd.RdmaError, match="callbacks did not start"):
            adapter.create_cq(16, on_notify=lambda: None)
        adapter.create_cq(16, on_notify=lambda: None)


def test_a_task_that_finds_no_memory_is_run_again():
    assert _testing.runs_of_task_without_memory(3) == 4
