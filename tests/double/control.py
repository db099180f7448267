# SPDX-License-Identifier: Apache-2.0
"""The device double, as tests see it: loading it, faults, and what it counts.

A process that has loaded the double's two libraries finds them in place of rdma-core's: the dynamic
linker takes a library that is loaded and has the name. So the product knows nothing of the double.
Load it before anything that lists devices, and only in a process that is for it.
"""

import ctypes
import importlib.util
from pathlib import Path

_PREFIX = "verbs:double_"
_SIZE = 4096
_libraries = []

PROFILES = ("ib", "irdma", "cxgb4", "roce")  # those that connections can be made with


def is_double(provider):
    return provider.startswith(_PREFIX)


def is_loaded():
    return bool(_libraries)


def _folder():
    return Path(importlib.util.find_spec("ndverbs._testing").origin).parent / "double"


def is_built():
    return _folder().is_dir()


def load():
    """Put the double's devices in the place of this machine's."""
    if _libraries:
        return
    folder = _folder()
    for name in ("libibverbs.so.1", "librdmacm.so.1"):
        _libraries.append(ctypes.CDLL(str(folder / name)))


def _device(provider):
    return provider.partition(":")[2].encode()


def _shown(call, *args):
    out = ctypes.create_string_buffer(_SIZE)
    call(*args, out, ctypes.c_size_t(_SIZE))
    return out.value.decode().split()


def _counts(call):
    words = _shown(call)
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def addresses(provider):
    """Return an IPv4 address, an IPv6 address and another IPv4 address of a device."""
    load()
    return _shown(_libraries[0].double_show_addresses, _device(provider))


def live():
    """Return how many handles exist that programs have not destroyed, by kind."""
    return _counts(_libraries[0].double_show_live)


def calls():
    """Return how often each call was made since the last reset."""
    return _counts(_libraries[0].double_show_calls)


def fail(call, os_error, *, skip=0, count=1):
    """Have a call fail, after `skip` that do not; `count` -1: always."""
    _libraries[0].double_add_fault(call.encode(), os_error, skip, count, 0)


def delay(call, milliseconds, *, count=-1):
    """Have a call take its time."""
    _libraries[0].double_add_fault(call.encode(), 0, 0, count, milliseconds)


def reset():
    """End all faults, delays, removals and claims."""
    _libraries[0].double_reset()


def remove(provider):
    """Take the device away, as when its driver is unbound."""
    assert _libraries[0].double_remove(_device(provider))


def claim_host_addresses(provider):
    """Have rdma_cm bind this host's own addresses to the device."""
    assert _libraries[0].double_claim_host_addresses(_device(provider))


def set_late(provider, *, initiator=0, receive=0):
    """Have completions of a kind of queue come so many microseconds late."""
    assert _libraries[0].double_set_late(_device(provider), initiator, receive)


def hold(provider, is_holding=True):
    """Keep completions back, or let them go."""
    assert _libraries[0].double_hold(_device(provider), int(is_holding))


def report(provider, event, *, about_queue_pairs=False):
    """Have the device report an asynchronous event, by its number."""
    assert _libraries[0].double_report(_device(provider), event, int(about_queue_pairs))
