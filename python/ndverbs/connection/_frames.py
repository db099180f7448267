# SPDX-License-Identifier: Apache-2.0
"""Frames of a link: how one is posted, inline or out of a slice of the hub's."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ndverbs._native import Flag
from ndverbs.connection import _wire
from ndverbs.connection._channel import Frame
from ndverbs.connection._pending import SentFrame
from ndverbs.connection._request import Request
from ndverbs.errors import RdmaError

if TYPE_CHECKING:
    from ndverbs.connection._link import Link

_INLINE = int(Flag.INLINE)
# How many are posted at once: the memory that one connection takes of the hub's.
MOST_FRAMES = 16


def send(link: Link, data: bytes, done: object) -> bool:
    """Post a frame; False: the queue is full."""
    used = None if len(data) <= link._inline_size else link.hub.sends.take()
    frame = SentFrame(link, used, done)
    is_posted = False
    try:
        if used is None:
            is_posted = link.post(frame, partial(link.qp.send, flags=_INLINE), data)
        else:
            used.view[: len(data)] = data
            segment = used.region.segment(used.at, len(data))
            is_posted = link.post(frame, link.qp.send, segment)
    except RdmaError as refused:
        failure = link._as_end(refused)
        if isinstance(done, Request):
            done._finish(None, failure)
        link.fail(failure)
        return True
    finally:
        if used is not None and not is_posted:
            link.hub.sends.give(used)
    link.frames += is_posted
    return is_posted


def send_small(link: Link, data: bytes, request: Request[None]) -> bool:
    """Send a short message at once; False: it has to wait."""
    channel = link.channel
    if link._backlog or link._held or channel is None or link.frames >= MOST_FRAMES:
        return False
    if len(data) + _wire.SMALL.size > link._inline_size:
        return False
    frame = channel.small_frame(link.next_number(), data)
    if frame is None:
        return False
    link.frames += 1
    try:
        is_done = link.post_at_once(SentFrame(link, None, request), link.qp._send_at_once, frame)
    except RdmaError as refused:
        link.frames -= 1
        failure = link._as_end(refused)
        request._finish(None, failure)
        link.fail(failure)
        return True
    if is_done is None:
        link.frames -= 1
        link._held = Frame(frame, request)
    elif is_done:
        link.frames -= 1
        request._finish(None)
    return True
