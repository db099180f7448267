# SPDX-License-Identifier: Apache-2.0
"""One-sided requests of a link: whole ones, split ones, atomics, and many at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ndverbs._native import (
    Access,
    Flag,
    MemoryRegion,
    OperationType,
    Result,
    Segment,
    Status,
    request_dtype,
)
from ndverbs.connection._link import Link
from ndverbs.connection._memory import SINK, Slice, memory_of
from ndverbs.connection._request import _FINISHED, Request
from ndverbs.errors import RdmaError, error
from ndverbs.remote import RemoteBuffer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# A transfer that reports goes in pieces of this size, others in the longest that there are.
_REPORTED_PIECE = 16 << 20
_LONGEST_PIECE = 1 << 30
# Of rows of write_many every so manieth completes, so that the queue never stands still.
_ROWS_A_COMPLETION = 64
_SUCCESS = Status.SUCCESS
_SILENT = int(Flag.SILENT_SUCCESS)
_BYTE_ORDER: Literal["little", "big"] = "little" if np.little_endian else "big"
Progress = Callable[[int], object] | Literal[True] | None


class Transfer:
    """A request of the program's in one or several pieces, each of which completes.

    Its value is given, or the word that it brings.
    """

    __slots__ = (
        "done_bytes",
        "failure",
        "is_signed",
        "left",
        "link",
        "progress",
        "regions",
        "request",
        "value",
        "word",
    )

    def __init__(self, link: Link, request: Request[Any], value: Any, left: int) -> None:
        self.link = link
        self.request = request
        self.value = value
        self.word: Slice | None = None
        self.is_signed = False
        self.left = left
        self.failure: Exception | None = None
        self.regions: list[MemoryRegion] = []
        self.progress: tuple[Callable[[int], object], int] | None = None
        self.done_bytes = 0

    def completed(self, result: Result) -> None:
        """Take the completion of a piece."""
        if result[0] is not _SUCCESS:
            if self.failure is None:
                self.failure = self.link.failure_of(result)
        elif self.progress is not None:
            function, step = self.progress
            self.done_bytes += step
            self.link.hub.later(function, self.done_bytes)
        self.drop(1)

    def drop(self, pieces: int) -> None:
        """Count pieces that are over, or never were; the request ends with the last one."""
        self.left -= pieces
        if self.left:
            return
        if self.word is not None:
            self.value = int.from_bytes(self.word.view, _BYTE_ORDER, signed=self.is_signed)
        self._give_back()
        if self.failure is not None:
            self.request._finish(None, self.failure)
        else:
            self.request._finish(self.value)

    def give_up(self, failure: BaseException) -> None:
        """End it: its call raises, and nothing of it is under way."""
        self._give_back()
        self.request._finish(None, failure)

    def _give_back(self) -> None:
        for region in self.regions:
            region.close()
        self.regions = []
        if self.word is not None:
            self.link.hub.words.give(self.word)
            self.word = None


def begin_at_once(
    link: Link, kind: str, call: Callable[..., bool], memory: Any, remote: RemoteBuffer, value: Any
) -> Request[Any] | None:
    """Begin a write or a read of an array that is registered; None: it takes the ordinary way.

    Where the adapter does it in the call that posts it, nothing has to be waited for.
    """
    hub = link.hub
    request: Request[Any] = Request(hub)
    with hub.lock:
        if link.state != "open" or link._backlog:
            return None
        began = time.perf_counter()
        try:
            is_done: bool | None = bool(link.qp._move_now(kind == "read", memory, remote, None, 0))
            if not is_done:
                transfer = Transfer(link, request, value, 1)
                is_done = link.post_at_once(transfer, call, memory, remote)
        except RdmaError:  # which the ordinary way finds, too, or mends
            return None
        if is_done is None:
            return None
        link.notes.add(kind, memory.nbytes, began, request, is_done=is_done)
        if is_done:
            request._result = value
            request._state = _FINISHED
        else:
            request._keeps = memory
    return request


def do(
    link: Link,
    kind: str,
    segment: Segment,
    where: tuple[int, int],
    *values: int,
    keeps: object,
) -> None:
    """Do a request of one segment and wait for it, without a future where it is done at once."""
    hub = link.hub
    with hub.lock:
        request: Request[None] = Request(hub)
        request._keeps = keeps
        transfer = Transfer(link, request, None, 1)
        if link.state == "open" and not link._backlog:
            is_done = link.post_at_once(transfer, link.at_once[kind], segment, where, *values)
            if is_done:
                return
        else:
            link.check_open()
            is_done = None
        if is_done is None:
            post(link, transfer, getattr(link.qp, kind), segment, where, *values)
    request.result()


def begin(
    link: Link, call: str, memory: Any, remote: RemoteBuffer, progress: Progress
) -> Request[Any]:
    """Begin a write or a read."""
    hub = link.hub
    is_read = call == "read"
    local = memory_of(call, memory, is_written=is_read)
    nbytes = local.nbytes if isinstance(local, np.ndarray) else memoryview(local).nbytes
    request: Request[Any] = Request(hub)
    step = _LONGEST_PIECE if progress is None else _REPORTED_PIECE
    step = min(step, hub.info.max_transfer_length)
    call_native = link.qp.read if is_read else link.qp.write
    with hub.lock:
        if link.state != "open":
            link.check_open()
        request._keeps = local
        link.notes.begin(call, nbytes, request)
        transfer = Transfer(link, request, memory if is_read else nbytes, 1)
        if progress is not None:
            transfer.progress = (_reporter(progress, call, nbytes), step)
        try:
            if nbytes <= step:
                _post_local(link, transfer, call_native, local, remote, is_read)
            else:
                _post_pieces(link, transfer, call_native, local, remote, is_read, step)
        except BaseException as failure:
            transfer.give_up(failure)
            raise
    if hub.has_news:
        hub.tell()
    return request


def _post_local(
    link: Link,
    transfer: Transfer,
    call_native: Callable[..., object],
    local: Any,
    remote: RemoteBuffer,
    is_read: bool,
) -> None:
    """Post a request whose memory may be registered or not; with the lock."""
    if not link._backlog:
        try:
            if link.post(transfer, call_native, local, remote):
                return
        except RdmaError as failure:
            if failure.status is not Status.INVALID_PARAMETER:
                raise

    def call(local: Any, remote: RemoteBuffer, *, context: int) -> None:
        try:
            call_native(local, remote, context=context)
        except RdmaError as failure:
            # Of an array in no region, which is registered now; whatever else is wrong still is.
            if failure.status is not Status.INVALID_PARAMETER:
                raise
            kept = link.hub.registrations.add(local, SINK if is_read else Access.LOCAL_READ)
            if kept is not None:
                transfer.regions.append(kept)
            call_native(local, remote, context=context)

    post(link, transfer, call, local, remote)


def _post_pieces(
    link: Link,
    transfer: Transfer,
    call_native: Callable[..., object],
    local: Any,
    remote: RemoteBuffer,
    is_read: bool,
    step: int,
) -> None:
    """Post a request that is longer than one may be; with the lock."""
    region = _region_of(link, transfer, local, is_read)
    nbytes = region.nbytes
    if nbytes > remote.nbytes:
        raise error(
            Status.INVALID_PARAMETER,
            f"{nbytes} local bytes, the remote buffer has {remote.nbytes}",
        )
    transfer.left = -(-nbytes // step)
    for at in range(0, nbytes, step):
        segment = region.segment(at, min(step, nbytes - at))
        # The first one may be refused; behind it, what is refused ends the connection.
        try:
            post(link, transfer, call_native, segment, (remote.address + at, remote.token))
        except RdmaError as failure:
            if at == 0:
                raise
            link.fail(failure)
            transfer.failure = transfer.failure or failure
            transfer.drop(-(-(nbytes - at) // step))
            return


def _region_of(link: Link, transfer: Transfer, local: Any, is_written: bool) -> MemoryRegion:
    region = link.hub.pd.register(local, SINK if is_written else Access.LOCAL_READ)
    transfer.regions.append(region)
    return region


def post(link: Link, transfer: Transfer, call: Callable[..., object], *arguments: Any) -> None:
    """Post one piece, or have it wait for room; with the lock."""
    if not link._backlog and link.post(transfer, call, *arguments):
        return
    link.hub._drain_or_die()  # what has completed makes room

    def attempt() -> bool:
        try:
            if link.state != "over":
                return link.post(transfer, call, *arguments)
            transfer.failure = transfer.failure or link.failure
        except Exception as failure:  # also of the arguments
            if link.state == "over":
                raise  # a signal handler's, which has ended the link and its transfers
            transfer.failure = transfer.failure or failure
        transfer.drop(1)
        return True

    link.do(attempt)


def begin_atomic(link: Link, call: str, dst: RemoteBuffer, *values: int) -> Request[int]:
    """Begin a request that brings a word of the peer's."""
    hub = link.hub
    request: Request[int] = Request(hub)
    with hub.lock:
        link.check_open()
        began = time.perf_counter()
        word = hub.words.take()
        transfer = Transfer(link, request, None, 1)
        transfer.word = word
        transfer.is_signed = dst.dtype.kind == "i"
        try:
            is_done = None
            if not link._backlog:
                is_done = link.post_at_once(
                    transfer, link.at_once[call], word.segment, dst, *values
                )
            if is_done is None:
                post(link, transfer, getattr(link.qp, call), word.segment, dst, *values)
        except BaseException as failure:
            transfer.give_up(failure)
            raise
        link.notes.add(call, 8, began, request, is_done=bool(is_done))
        if is_done:
            transfer.drop(1)
    if hub.has_news:
        hub.tell()
    return request


def begin_many(
    link: Link, call: str, memory: Any, remote: RemoteBuffer, spans: ArrayLike
) -> Request[int]:
    """Begin many writes or reads."""
    hub = link.hub
    is_read = call == "read_many"
    local = memory_of(call, memory, is_written=is_read)
    nbytes = local.nbytes if isinstance(local, np.ndarray) else memoryview(local).nbytes
    pieces = _checked_spans(call, spans, nbytes, remote)
    request: Request[int] = Request(hub)
    total = int(pieces[:, 2].sum(dtype=np.uint64))
    with hub.lock:
        link.check_open()
        if not len(pieces):
            request._finish(0)
            return request
        link.notes.begin(call, total, request)
        done = 0
        while not link._backlog and done < len(pieces):
            moved = link.qp._move_now(is_read, local, remote, pieces, done)
            if not moved:
                break
            done += moved
        if done == len(pieces):
            request._finish(total)
            return request
        pieces = pieces[done:]
        groups = -(-len(pieces) // _ROWS_A_COMPLETION)
        transfer = Transfer(link, request, total, groups)
        request._keeps = local
        region = _region_of(link, transfer, local, is_read)
        rows = np.zeros(len(pieces), request_dtype)
        rows["type"] = OperationType.READ if is_read else OperationType.WRITE
        rows["flags"] = _SILENT
        rows["flags"][_ROWS_A_COMPLETION - 1 :: _ROWS_A_COMPLETION] = 0
        rows["flags"][-1] = 0
        rows["local_address"] = pieces[:, 0] + np.uint64(region.address)
        rows["remote_address"] = pieces[:, 1] + np.uint64(remote.address)
        rows["local_length"] = pieces[:, 2]
        rows["local_token"] = region.local_token
        rows["remote_token"] = remote.token
        _Rows(link, transfer, rows).begin()
    hub.tell()
    return request


class _Rows:
    """Rows of write_many or read_many, posted as the queue takes them."""

    def __init__(self, link: Link, transfer: Transfer, rows: Any) -> None:
        self._link = link
        self._transfer = transfer
        self._rows = rows
        self._posted = 0
        # Rows up to one that completes share its context: whichever fails first ends the request.
        self._orders = [link.new_order(transfer) for _ in range(transfer.left)]
        rows["context"] = np.repeat(self._orders, _ROWS_A_COMPLETION)[: len(rows)]

    def begin(self) -> None:
        self._link.do(self._attempt)

    def _attempt(self) -> bool:
        link, transfer = self._link, self._transfer
        failure = link.failure
        if link.state != "over":
            try:
                self._posted += link.qp.post_many(self._rows[self._posted :])
            except RdmaError as refused:
                self._posted += refused.posted or 0
                failure = refused
            else:
                return self._posted == len(self._rows)
        transfer.failure = transfer.failure or failure
        # Groups whose last row was not posted complete here, the others by themselves.
        unposted = self._orders[self._posted // _ROWS_A_COMPLETION :]
        for order in unposted:
            link.forget_order(order)
        if link.state != "over" and failure is not None:
            link.fail(failure)  # rows before it may be under way, and none of them completes
        transfer.drop(len(unposted))
        return True


def _checked_spans(
    call: str, spans: ArrayLike, nbytes: int, remote: RemoteBuffer
) -> np.ndarray[Any, np.dtype[np.uint64]]:
    found = np.asarray(spans)
    if found.size == 0:
        return np.empty((0, 3), np.uint64)
    if found.ndim != 2 or found.shape[1] != 3 or found.dtype.kind not in "iu":
        raise error(
            Status.INVALID_PARAMETER,
            f"{call}: spans of shape {found.shape} and dtype {found.dtype}; they are (n, 3) "
            "integers: local offset, remote offset, length",
        )
    if found.dtype.kind == "i" and found.min() < 0:
        raise error(Status.INVALID_PARAMETER, f"{call}: a span has a negative number")
    pieces = np.ascontiguousarray(found, np.uint64)
    longest = pieces[:, 2].max()
    for column, limit, whose in ((0, nbytes, "local"), (1, remote.nbytes, "remote")):
        begin, length = pieces[:, column], pieces[:, 2]
        # No sum overflows where all numbers are below the limit, which is below 2**63.
        if max(longest, begin.max()) <= limit < 1 << 63 and (begin + length).max() <= limit:
            continue
        limits = np.uint64(limit)
        outside = (length > limits) | (begin > limits - np.minimum(length, limits))
        if outside.any():
            row = int(outside.argmax())
            raise error(
                Status.INVALID_PARAMETER,
                f"{call}: span {row} is {pieces[row, 2]} bytes at {pieces[row, column]} of the "
                f"{whose} array, which has {limit}",
            )
    return pieces


def _reporter(progress: Progress, call: str, nbytes: int) -> Callable[[int], object]:
    if callable(progress):
        return lambda done: progress(min(done, nbytes))

    def show(done: int) -> None:
        done = min(done, nbytes)
        end = "\n" if done == nbytes else ""
        print(f"\r{call}: {done >> 20} of {nbytes >> 20} MiB", end=end, flush=True)

    return show
