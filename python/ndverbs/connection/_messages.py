# SPDX-License-Identifier: Apache-2.0
"""Messages of a link: sending, lending, receiving, and reading what the peer has lent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from ndverbs._native import Access, MemoryRegion, Status
from ndverbs.connection import _frames, _wire
from ndverbs.connection._link import Link
from ndverbs.connection._memory import SINK, check_sizes
from ndverbs.connection._parts import Outgoing, value_of
from ndverbs.connection._request import Request
from ndverbs.connection._transfers import Transfer, post
from ndverbs.connection._wire import Message, WireError
from ndverbs.errors import RdmaConnectionResetError, RdmaError, error

# What may go inline with its heads.
_SHORT = 256


class Lent:
    """Parts of a message that the peer reads: they are lent until it says that it has them."""

    def __init__(self, request: Request[None], regions: list[MemoryRegion], memory: object) -> None:
        self.request = request
        self.regions = regions
        self.memory = memory

    def end(self, failure: RdmaError | None) -> None:
        """Take the memory back: no byte of it is read from here on."""
        for region in self.regions:
            region.close()
        self.request._hub.dropped.append(self.memory)
        self.memory = None
        self.request._finish(None, failure)


def begin_send(link: Link, value: Any) -> Request[None]:
    """Send a message."""
    request: Request[None] = Request(link.hub)
    if type(value) is bytes and len(value) <= _SHORT:
        with link.hub.lock:
            link.check_open()
            began = time.perf_counter()
            if _frames.send_small(link, value, request):
                link.counts["messages_sent"] += 1
                link.notes.add("send", len(value), began, request, is_done=request.done())
                return request
    outgoing = Outgoing(value)
    with link.hub.lock:
        link.check_open()
        link.notes.begin("send", sum(part.nbytes for part in outgoing.parts), request)
        queue(link, outgoing, request)
        push(link)
    link.hub.tell()
    return request


def queue(link: Link, outgoing: Outgoing, request: Request[None]) -> None:
    """Queue a message; with the lock."""
    number = link.next_number()
    regions: list[MemoryRegion] = []
    try:
        for part, memory in outgoing.lent:
            region = link.hub.pd.register(memory, Access.REMOTE_READ)
            regions.append(region)
            part.lent = [
                (region.address + at, region.remote_token, min(step, part.nbytes - at))
                for step in [_wire.MOST_IN_DESCRIPTOR]
                for at in range(0, part.nbytes, step)
            ]
        assert link.channel is not None
        payload = _wire.message(number, outgoing.is_list, outgoing.parts)
        if len(payload) > link.channel.fragmented_size:
            raise error(
                Status.INVALID_PARAMETER,
                f"send: {len(outgoing.parts)} parts need {len(payload)} bytes beside what is "
                f"lent; the peer takes {link.channel.fragmented_size}",
                hint="send fewer parts at once, or join small ones",
            )
    except BaseException:
        for region in regions:
            region.close()
        raise
    link.counts["messages_sent"] += 1
    if regions:
        link.counts["bytes_lent"] += sum(part.nbytes for part, _ in outgoing.lent)
        link.lent[number] = Lent(request, regions, outgoing.lent)
    done = None if regions else request

    link.waiting_bytes += len(payload)

    def attempt() -> bool:
        link.waiting_bytes -= len(payload)
        if link.state == "over":
            request._finish(None, link.failure)
        else:
            assert link.channel is not None
            link.channel.queue(payload, done)
        return True

    link.do(attempt)


def push(link: Link) -> None:
    """Send what can be sent; the attendant does the rest; with the lock."""
    link.pump()
    if link.unsent_bytes or link.lent:
        link.hub.attend()


def next_now(link: Link) -> Message | None:
    """Return the next message, if one is here; raise the end behind the last one."""
    hub = link.hub
    message = None
    try:
        try:
            with hub.lock:
                if not link.inbox and link.state != "over":
                    hub._drain_or_die()
                if link.state == "over":
                    _drop_what_is_lost(link)
                if link.inbox and not link.readers:
                    message = link.inbox[0]
                    del link.inbox[0]  # no call, behind which a signal would lose it
                    if message.is_short:
                        _count_taken(link, message)
                elif link.state == "over":
                    link.raise_end()
        finally:
            if hub.has_news:
                hub.tell()
    except BaseException:
        if message is not None:
            give_back(link, message)
        raise
    return message


def _drop_what_is_lost(link: Link) -> None:
    """Forget a message with parts that were lent, which cannot be read any more, and those behind.

    The program would not know what is missing between them.
    """
    if link.inbox and any(part.lent for part in link.inbox[0].parts):
        link.inbox.clear()


def _ask(link: Link, request: Request[Message]) -> None:
    with link.hub.lock:
        if link.state == "over":
            _drop_what_is_lost(link)
        if link.inbox:
            request._finish(link.inbox.popleft())
        elif link.state == "over":
            link.raise_end()
        else:
            link.readers.append(request)


def next_message(link: Link, timeout: float | None) -> Message:
    """Wait for the next message."""
    request: Request[Message] = Request(link.hub)
    try:
        _ask(link, request)
        return request.result(timeout)
    except BaseException:
        _take_back(link, request)
        if request._exception is not None:
            link.raise_end()
        raise


async def next_message_async(link: Link) -> Message:
    """Wait for the next message in a loop."""
    request: Request[Message] = Request(link.hub)
    try:
        _ask(link, request)
        return await request
    except BaseException:
        _take_back(link, request)
        if request._exception is not None:
            link.raise_end()
        raise


def _take_back(link: Link, request: Request[Message]) -> None:
    """Keep the message of a reader that was interrupted for the next one."""
    with link.hub.lock:
        if not request.done():
            if request in link.readers:
                link.readers.remove(request)
            request._finish(None)
            return
    if request._exception is None:
        give_back(link, request._result)


def give_back(link: Link, message: Message) -> None:
    """Keep a message, whose value the program did not get, for the next call."""
    if message.is_broken:
        return
    with link.hub.lock:
        if link.readers:
            link.readers.popleft()._finish(message)
        else:
            link.inbox.appendleft(message)
    link.hub.tell()


def _count_taken(link: Link, message: Message) -> None:
    """Count a message that the program has or gets now; with the lock."""
    if link.channel is not None and not message.is_taken:
        message.is_taken = True
        link.channel.taken(message)
        if link.channel.is_due:
            link.pump()


def _short_value(link: Link, message: Message) -> Any:
    if not message.is_taken:
        with link.hub.lock:
            _count_taken(link, message)
    carried = message.parts[0].carried
    assert carried is not None
    return carried


def take(
    link: Link,
    message: Message,
    allocate: Callable[[list[int]], Any] | None,
    until: float | None,
) -> Any:
    """Return the value of a message, having read what was lent."""
    if message.is_short and allocate is None:
        return _short_value(link, message)
    taking = _begin_taking(link, message, allocate)
    if taking.request is not None:
        taking.request.result(None if until is None else max(0, until - time.monotonic()))
    return _end_taking(link, taking)


async def take_async(
    link: Link, message: Message, allocate: Callable[[list[int]], Any] | None
) -> Any:
    """Return the value of a message in a loop, having read what was lent."""
    if message.is_short and allocate is None:
        return _short_value(link, message)
    taking = _begin_taking(link, message, allocate)
    if taking.request is not None:
        await taking.request
    return _end_taking(link, taking)


def _begin_taking(
    link: Link, message: Message, allocate: Callable[[list[int]], Any] | None
) -> _Taking:
    """Find memory for a message's lent parts, and begin to read them."""
    parts = message.parts
    given = None
    if allocate is not None:
        given = allocate([part.nbytes for part in parts])
        targets = check_sizes("receive", [part.nbytes for part in parts], given)
        for part, target in zip(parts, targets, strict=True):
            if part.carried is not None:
                target[:] = part.carried
    else:
        targets = [
            memoryview(part.carried) if part.carried is not None else _pooled(link, part.nbytes)
            for part in parts
        ]
    request = None
    if any(part.lent for part in parts):
        request = _read_lent(link, message, targets)
    return _Taking(message, targets, given, allocate is not None, request)


def _pooled(link: Link, nbytes: int) -> memoryview:
    try:
        return link.hub.pool.take(nbytes).data
    except (MemoryError, ValueError, OverflowError):
        raise error(
            Status.INSUFFICIENT_RESOURCES,
            f"receive: the message has a part of {nbytes} bytes, and there is no memory for it",
            hint="receive(allocate=...) takes it into memory of yours, or close the Connection",
        ) from None


def _read_lent(link: Link, message: Message, targets: Sequence[memoryview]) -> Request[None]:
    hub = link.hub
    request: Request[None] = Request(hub)
    lent = [(p, t) for p, t in zip(message.parts, targets, strict=True) if p.lent]
    with hub.lock:
        transfer = Transfer(link, request, None, sum(len(part.lent) for part, _ in lent))
        request._keeps = targets
        link.counts["bytes_taken"] += sum(part.nbytes for part, _ in lent)
        link.notes.begin("take", sum(part.nbytes for part, _ in lent), request)
        regions = [hub.pd.register(target, SINK) for _, target in lent]
        transfer.regions = regions
        for (part, _), region in zip(lent, regions, strict=True):
            at = 0
            for address, token, length in part.lent:
                segment = region.segment(at, length)
                post(link, transfer, link.qp.read, segment, (address, token))
                at += length
    hub.tell()
    return request


def _end_taking(link: Link, taking: _Taking) -> Any:
    message = taking.message
    try:
        values: Any
        if taking.is_given:
            values = taking.given
        else:
            values = [
                value_of(part, data)
                for part, data in zip(message.parts, taking.targets, strict=True)
            ]
            if not message.is_list:
                values = values[0]
    except WireError as broken:
        message.is_broken = True
        failure = RdmaConnectionResetError(
            Status.CONNECTION_ABORTED, f"the peer broke the protocol: {broken}"
        )
        with link.hub.lock:
            link.fail(failure)
        raise failure from broken
    with link.hub.lock:
        _taken(link, taking)
    return values


def _taken(link: Link, taking: _Taking) -> None:
    message = taking.message
    for part, data in zip(message.parts, taking.targets, strict=True):
        part.carried, part.lent = data, []  # if an interrupt keeps it from the program
    if link.state == "over" or link.channel is None:
        return
    if taking.request is not None:
        link.channel.queue_urgent(_wire.control(_wire.TAKEN, message.number))
    _count_taken(link, message)
    link.pump()


def take_remote(link: Link, message: Message, kind: int) -> Any:
    """Return what a message of RemoteBuffers holds."""
    part = message.parts[0] if message.parts else None
    if message.is_list or part is None or part.kind != kind:
        wanted = "a RemoteBuffer" if kind == _wire.REMOTE else "RemoteBuffers by name"
        raise error(
            Status.INVALID_DEVICE_REQUEST,
            f"the next message is not {wanted}",
            hint="receive() returns it, whatever it is",
        )
    assert part.carried is not None
    return _end_taking(link, _Taking(message, [memoryview(part.carried)], None, False, None))


class _Taking:
    """A message on its way from the peer to the program."""

    __slots__ = ("given", "is_given", "message", "request", "targets")

    def __init__(
        self,
        message: Message,
        targets: Sequence[memoryview],
        given: Any,
        is_given: bool,
        request: Request[None] | None,
    ) -> None:
        self.message = message
        self.targets = targets
        self.given = given
        self.is_given = is_given
        self.request = request
