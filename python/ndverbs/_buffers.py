# SPDX-License-Identifier: Apache-2.0
"""The bytes of a caller's memory, whatever its type is."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeAlias

from ndverbs._native import Status
from ndverbs.errors import RdmaBufferError

if TYPE_CHECKING:
    from ndverbs._native import _Memory

Buffer: TypeAlias = "_Memory"  # what has a buffer: bytes, arrays, memoryviews


def bytes_of(call: str, buffer: Buffer) -> memoryview:
    """Return the bytes of C-contiguous memory: what a send of it sends.

    Parameters
    ----------
    call : str
        Names the call in messages.
    buffer
        What has a buffer; also arrays of a dtype that Python's buffers cannot describe.

    Raises
    ------
    TypeError
        It has no buffer.
    RdmaBufferError
        It is not C-contiguous, or it holds Python objects.
    """
    exporter: Any = buffer  # NumPy's stubs say that an array is a Buffer from Python 3.12 on only
    try:
        view = memoryview(exporter)
    except (BufferError, ValueError):
        return _bytes_by_numpy(call, exporter)  # of a type that has no format
    if view.c_contiguous and "O" not in (view.format or ""):
        if view.nbytes == 0:
            return memoryview(bytearray())
        with contextlib.suppress(NotImplementedError, TypeError, ValueError):
            return view.cast("B")  # raises for formats that memoryview does not know
    return _bytes_by_numpy(call, exporter)


def _bytes_by_numpy(call: str, buffer: Any) -> memoryview:
    import numpy as np

    array = np.asanyarray(buffer)
    kind = type(buffer).__name__
    if array.dtype.hasobject:
        raise RdmaBufferError(
            Status.INVALID_PARAMETER,
            f"{call}: the {kind} holds Python objects, whose pointers mean nothing elsewhere",
            hint="convert it to a numeric dtype first",
        )
    if not array.flags.c_contiguous:
        raise RdmaBufferError(
            Status.INVALID_PARAMETER,
            f"{call}: the {kind} is not C-contiguous, so its bytes are not one range of memory",
            hint="copy it with np.ascontiguousarray(array)",
        )
    if array.nbytes == 0:
        return memoryview(bytearray())
    return np.frombuffer(buffer, np.uint8).data
