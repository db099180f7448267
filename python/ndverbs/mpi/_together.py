# SPDX-License-Identifier: Apache-2.0
"""What all ranks do at once, and fail at together, so that none waits for one that has failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ndverbs._native import Status
from ndverbs.errors import error

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")


def together(comm: MPI.Intracomm, call: str, attempt: Callable[[], T]) -> list[T]:
    """Do something on every rank, and return what each has, by rank.

    Raises
    ------
    Exception
        What `attempt` raised on this rank.
    RdmaError
        CANCELLED: it failed on another rank, which the message names.
    """
    mine: T | None = None
    failure: Exception | None = None
    try:
        mine = attempt()
    except Exception as cause:
        failure = cause
    said: list[Any] = comm.allgather((mine, None if failure is None else str(failure)))
    if failure is not None:
        raise failure
    for rank, (_, why) in enumerate(said):
        if why is not None:
            raise error(Status.CANCELLED, f"{call}: rank {rank} has failed: {why}")
    return [value for value, _ in said]
