# SPDX-License-Identifier: Apache-2.0
"""Connections between the ranks of an MPI program, and windows of a distributed array.

MPI starts the processes and tells them of each other; what they then say and read of each other's
memory goes by ndverbs. It needs mpi4py (``pip install ndverbs[mpi]``), which the program imports.
"""

from __future__ import annotations

from ndverbs.mpi._peers import Peers, connect_all
from ndverbs.mpi._window import Window

__all__ = ["Peers", "Window", "connect_all"]

for _public in (Peers, Window, connect_all):
    _public.__module__ = __name__  # the path that programs import
