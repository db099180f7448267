# SPDX-License-Identifier: Apache-2.0
"""Dask over ndverbs: the communication backend of ``ndverbs://`` addresses.

distributed finds it by its entry point when it meets such an address; a program imports it only for
`comms`. Needs the extra ``ndverbs[dask]``.
"""

from __future__ import annotations

from ndverbs.dask._backend import Backend, NdverbsConnector, NdverbsListener
from ndverbs.dask._comm import NdverbsComm, comms

__all__ = ["Backend", "NdverbsComm", "NdverbsConnector", "NdverbsListener", "comms"]

for _public in (Backend, NdverbsComm, NdverbsConnector, NdverbsListener, comms):
    _public.__module__ = __name__  # the path that programs import
