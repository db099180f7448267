# SPDX-License-Identifier: Apache-2.0
"""Memory of Connections: slices for messages, kept registrations, buffers to receive into."""

from __future__ import annotations

import contextlib
import ctypes
import math
import threading
import time
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from ndverbs._native import Access, MemoryRegion, ProtectionDomain, Status
from ndverbs.errors import RdmaBufferError, RdmaError, error
from ndverbs.remote import RemoteBuffer

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Of what reads fill: some devices place a response through a right of its own.
SINK = Access.LOCAL_WRITE | Access.RDMA_READ_SINK
_CHUNK = 1 << 20
_ALIGNMENT = 64


class Slab:
    """Registered memory in slices of one size, from chunks that are made when they are needed."""

    def __init__(self, pd: ProtectionDomain, size: int, chunk: int = _CHUNK) -> None:
        self.size = size
        self._pd = pd
        self._chunk = chunk
        self._free: list[Slice] = []

    def take(self) -> Slice:
        """Return a slice; with the hub's lock."""
        if not self._free:
            # Pages are touched when a message comes, not before.
            array = np.empty(self._chunk, np.uint8)
            region = self._pd.register(array, Access.LOCAL_WRITE)
            view = array.data
            self._free = [
                Slice(region, view[at : at + self.size], at)
                for at in range(self._chunk - self.size, -1, -self.size)
            ]
        return self._free.pop()

    def give(self, used: Slice) -> None:
        """Take a slice back, which no request names any more; with the hub's lock."""
        self._free.append(used)


class Slice:
    """A part of a registered chunk."""

    __slots__ = ("at", "region", "segment", "view")

    def __init__(self, region: MemoryRegion, view: memoryview, at: int) -> None:
        self.region = region
        self.view = view
        self.at = at
        self.segment = region.segment(at, len(view))


class Registrations:
    """Regions of the program's arrays that requests have needed, kept for the next one.

    A region does not hold its array: it ends when the array dies, before the memory is given back.
    Only this side's own requests use such a region, so that no peer has a token that may outlive
    what the program meant by it. Arrays that nothing can watch (of ``bytes`` and the like) are
    registered for one request.
    """

    MOST = 256
    MOST_BYTES = 1 << 30

    def __init__(self, pd: ProtectionDomain) -> None:
        self._pd = pd
        self._lock = threading.RLock()  # an array may die at any time, also in here
        self._kept: OrderedDict[tuple[int, int, int], _Kept] = OrderedDict()
        self._counts = {"registered": 0, "evicted": 0, "ended_with_array": 0, "for_one_request": 0}
        self._bytes = 0

    def stats(self) -> dict[str, int]:
        """Return how many registrations there are, of how many bytes, and what became of others."""
        with self._lock:
            return {"kept": len(self._kept), "kept_bytes": self._bytes, **self._counts}

    def add(self, memory: Any, access: Access) -> MemoryRegion | None:
        """Register an array for requests of this side.

        Returns
        -------
        MemoryRegion or None
            One that the caller closes when his request has ended; None: it is kept here.
        """
        owner = _owner(memory)
        if owner is None:
            self._counts["for_one_request"] += 1
            return self._pd.register(memory, access)
        address, nbytes = memory.__array_interface__["data"][0], memory.nbytes
        raw = (ctypes.c_char * nbytes).from_address(address)
        region = self._pd.register(raw, access)
        key = (address, nbytes, int(access))
        with self._lock:
            self._end(key, "evicted")
            self._kept[key] = _Kept(region, weakref.ref(owner, lambda _: self._died(key)), nbytes)
            self._bytes += nbytes
            self._counts["registered"] += 1
            while len(self._kept) > self.MOST or (
                self._bytes > self.MOST_BYTES and len(self._kept) > 1
            ):
                self._end(next(iter(self._kept)), "evicted")
        return None

    def _died(self, key: tuple[int, int, int]) -> None:
        with self._lock:
            self._end(key, "ended_with_array")

    def _end(self, key: tuple[int, int, int], why: str) -> None:
        kept = self._kept.pop(key, None)
        if kept is None:
            return
        self._bytes -= kept.nbytes
        self._counts[why] += 1
        # Requests that are posted keep their array, so that of a dead one has none.
        with contextlib.suppress(RdmaError):
            kept.region.close()


class _Kept:
    __slots__ = ("nbytes", "owner", "region")

    def __init__(self, region: MemoryRegion, owner: weakref.ref[Any], nbytes: int) -> None:
        self.region = region
        self.owner = owner
        self.nbytes = nbytes


def _owner(memory: object) -> NDArray[Any] | None:
    """Return the array whose death is the first at which its memory can go; None: it has none."""
    if not isinstance(memory, np.ndarray):
        return None
    owner: Any = memory
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return owner  # type: ignore[no-any-return]


def memory_of(call: str, thing: Any, *, is_written: bool) -> Any:
    """Return what the extension can register of an array of any library.

    Parameters
    ----------
    call : str
        Names the call in messages.
    thing
        What has a buffer, ``__array_interface__`` or, in host memory, ``__dlpack__``. Of an array
        in Fortran order the transposed one, whose bytes are the same.
    is_written : bool
        Whether it is to be written to.

    Raises
    ------
    TypeError
        It has no memory.
    RdmaBufferError
        It lies on a device, or is not contiguous, or read-only.
    """
    if isinstance(thing, np.ma.MaskedArray):
        raise _refused(
            call,
            thing,
            "has a mask, which is other memory",
            "give its data and its mask, or what filled() returns",
        )
    if isinstance(thing, np.ndarray):
        array = thing
    elif isinstance(thing, np.generic) and not is_written:
        array = np.asarray(thing)
    else:
        with contextlib.suppress(TypeError, BufferError, ValueError):
            memoryview(thing)
            return thing
        array = _array_of(call, thing)
    if array.dtype.hasobject:
        raise _refused(
            call,
            thing,
            "holds Python objects, whose pointers mean nothing elsewhere",
            "convert it to a numeric dtype first",
        )
    if not array.flags.c_contiguous:
        if not array.flags.f_contiguous:
            raise _refused(call, thing, "is not contiguous", "copy it with np.ascontiguousarray")
        array = array.T
    if is_written and not array.flags.writeable:
        raise _refused(call, thing, "is read-only", "give a writable array")
    return array


def _array_of(call: str, thing: Any) -> NDArray[Any]:
    if hasattr(thing, "__array_interface__"):
        return np.asarray(thing)
    if hasattr(thing, "__dlpack_device__"):
        kind, _ = thing.__dlpack_device__()
        if int(kind) != 1:  # kDLCPU
            raise _refused(
                call,
                thing,
                f"lies in device memory (DLPack device {int(kind)})",
                "copy it to the host first",
            )
        return np.from_dlpack(thing)
    if hasattr(thing, "__cuda_array_interface__"):
        raise _refused(call, thing, "lies in device memory", "copy it to the host first")
    if isinstance(thing, RemoteBuffer):
        remedy = "it names memory of the peer; give an array of this process"
    elif isinstance(thing, MemoryRegion):
        remedy = "give its array, or for the peer what its remote() returns"
    else:
        remedy = "give an array, or what has a buffer, __array_interface__ or __dlpack__"
    raise TypeError(f"{call}: {type(thing).__name__} is no memory; {remedy}")


def _refused(call: str, thing: object, why: str, hint: str) -> RdmaBufferError:
    return RdmaBufferError(
        Status.INVALID_PARAMETER, f"{call}: the {type(thing).__name__} {why}", hint=hint
    )


class Pool:
    """Buffers for what is received, used again: the first touch of fresh memory costs a copy.

    A buffer comes back when the last view of it goes. What lies here longer than `KEPT_S` is given
    back to the system, by the next call or by the hub's attendant.
    """

    MOST_BYTES = 256 << 20
    KEPT_S = 10.0

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a buffer may come back at any time, also in here
        self._free: dict[int, list[tuple[float, NDArray[np.uint8]]]] = {}
        self._bytes = 0
        self._used = 0  # buffers that will come back

    def take(self, nbytes: int) -> NDArray[np.uint8]:
        """Return writable memory that begins at a multiple of 64 bytes."""
        size = _rounded(nbytes)
        now = time.monotonic()
        with self._lock:
            self._trim(now)
            found = self._free.get(size)
            if found:
                base = found.pop()[1]
                self._bytes -= size
            else:
                base = np.empty(size + _ALIGNMENT, np.uint8)
            self._used += 1
        at = -base.ctypes.data % _ALIGNMENT
        # Its base is no array: NumPy lets arrays over it refer to the base of a base of their type,
        # and would forget the view.
        view = np.frombuffer(base.data, np.uint8, nbytes, at)
        weakref.finalize(view, self._give, size, base).atexit = False
        return view

    def _give(self, size: int, base: NDArray[np.uint8]) -> None:
        with self._lock:
            self._used -= 1
            if self._bytes + size <= self.MOST_BYTES:
                self._free.setdefault(size, []).append((time.monotonic(), base))
                self._bytes += size

    def trim(self) -> float:
        """Give back what lies here for long; return after how many seconds there may be more."""
        with self._lock:
            self._trim(time.monotonic())
            return self.KEPT_S if self._used or self._bytes else math.inf

    def _trim(self, now: float) -> None:
        for size, found in list(self._free.items()):
            kept = [each for each in found if now - each[0] < self.KEPT_S]
            self._bytes -= size * (len(found) - len(kept))
            if kept:
                self._free[size] = kept
            else:
                del self._free[size]

    @property
    def nbytes(self) -> int:
        """Bytes that lie here and are not in use."""
        return self._bytes


def _rounded(nbytes: int) -> int:
    """Return a size that wastes an eighth at most, so that there are few of them."""
    size = 1 << max(nbytes - 1, 4095).bit_length()
    for eighths in (5, 6, 7):
        if nbytes <= size // 8 * eighths:
            return size // 8 * eighths
    return size


def check_sizes(call: str, wanted: list[int], given: object) -> list[memoryview]:
    """Return the bytes of buffers that the program gave for parts of a message.

    Raises
    ------
    RdmaError
        A ValueError: another number of buffers, or one of another size.
    RdmaBufferError
        One that cannot be written to.
    """
    buffers = list(given) if isinstance(given, list | tuple) else [given]
    if len(buffers) != len(wanted):
        raise error(
            Status.INVALID_PARAMETER,
            f"{call}: allocate gave {len(buffers)} buffers for {len(wanted)} parts",
        )
    views = []
    for size, buffer in zip(wanted, buffers, strict=True):
        view = memoryview(memory_of(f"{call}: allocate", buffer, is_written=True))
        if view.nbytes != size or view.readonly:
            raise error(
                Status.INVALID_PARAMETER,
                f"{call}: allocate gave {view.nbytes} bytes"
                f"{' that are read-only' if view.readonly else ''} for a part of {size}",
            )
        views.append(view.cast("B") if size else memoryview(bytearray()))
    return views
