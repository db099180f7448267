# SPDX-License-Identifier: Apache-2.0
"""Data indications: received bytes where they lie."""

from __future__ import annotations

import weakref
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ndverbs import _native


class DataIndication:
    """Received bytes in the registered ring.

    Attributes
    ----------
    array : ndarray of uint8, read-only
        The bytes, not a copy. After `release` the peer may write there again.
    """

    def __init__(self, view: _native.StreamView, owner: object) -> None:
        self._view = view
        self._owner = weakref.ref(owner)
        exporter: Any = view
        array = np.frombuffer(exporter, np.uint8)
        array.flags.writeable = False
        self.array: npt.NDArray[np.uint8] = array

    def __len__(self) -> int:
        """Return how many bytes it shows."""
        return len(self._view)

    def __enter__(self) -> Self:
        """Return it; it is released at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release it."""
        self.release()

    @property
    def is_retained(self) -> bool:
        """Whether its memory is kept from the peer."""
        return self._view.is_taken

    def is_of(self, sock: object) -> bool:
        """Return whether it is this socket that it was received by."""
        return self._owner() is sock

    def retain(self) -> None:
        """Keep the memory until `release`: inside a receive event, as returning PENDING does."""
        self._view.take()

    def release(self) -> None:
        """Give the memory back; in any order, once, or by forgetting the object."""
        self._view.release()
