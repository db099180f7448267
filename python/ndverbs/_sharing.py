# SPDX-License-Identifier: Apache-2.0
"""Adapters that the process shares: those that are opened by name, for as long as one is used."""

from __future__ import annotations

import os
import threading
import weakref

from ndverbs._native import Adapter, _default_adapter

_lock = threading.Lock()
_shared: weakref.WeakValueDictionary[tuple[int, str], Adapter] = weakref.WeakValueDictionary()


def adapter_for(adapter: Adapter | str | None) -> Adapter:
    """Return the adapter that is meant, opened when the process does not use it yet.

    Parameters
    ----------
    adapter : Adapter, str or None
        An adapter is returned as it is. A name is opened once for the whole process. None means
        the environment variable ``NDVERBS_ADAPTER``, else ``"soft"``.
    """
    if isinstance(adapter, Adapter):
        return adapter
    name = adapter or os.environ.get("NDVERBS_ADAPTER") or _default_adapter
    key = (os.getpid(), name)  # a parent's adapter is of no use in its child
    with _lock:
        found = _shared.get(key)
        if found is None or found.closed:
            found = _shared[key] = Adapter.open(name)
            found._allow_drop()
        return found


def _renew_lock() -> None:
    global _lock
    _lock = threading.Lock()  # a thread that only the parent has may hold the old one


os.register_at_fork(after_in_child=_renew_lock)
