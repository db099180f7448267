# SPDX-License-Identifier: Apache-2.0
"""Frames of distributed as messages of a Connection.

A message has a prelude, little-endian words of 8 bytes: how many frames there are, and of each its
size, with `_OWN` where objects will live in its memory. Behind it are the frames below 16 KiB. The
longer ones are parts of the message of their own, which the reader takes out of the writer's
memory; more than `_MOST_LARGE` go on in messages behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from distributed.utils import ensure_memoryview

from ndverbs.connection import Connection

# What a Connection lends. Both ends divide frames by it.
_LARGE_FROM = 16 << 10
# Their descriptors fit the message.
_MOST_LARGE = 4096
# A Connection sends bytes up to this size by its shortest way.
_SHORT = 256
_OWN = 1 << 63
_SIZE = _OWN - 1


def send(connection: Connection, frames: Sequence[Any]) -> int:
    """Send the frames of a message; return their bytes."""
    views = [ensure_memoryview(frame) for frame in frames]
    words = [
        view.nbytes if isinstance(view.obj, bytes) or not view.nbytes else view.nbytes | _OWN
        for view in views
    ]
    prelude = struct.pack(f"<Q{len(words)}Q", len(words), *words)
    head = b"".join([prelude, *(view for view in views if view.nbytes < _LARGE_FROM)])
    large = [view for view in views if view.nbytes >= _LARGE_FROM]
    if large:
        connection.send([memoryview(head), *large[:_MOST_LARGE]])
        for at in range(_MOST_LARGE, len(large), _MOST_LARGE):
            connection.send(large[at : at + _MOST_LARGE])
    else:
        connection.send(head if len(head) <= _SHORT else memoryview(head))
    return len(head) + sum(view.nbytes for view in large)


async def receive(connection: Connection) -> list[memoryview]:
    """Wait for a message and return its frames, all of them writable."""
    message = await connection.receive_async()
    if type(message) is list:
        head, *large = message
    else:
        head, large = memoryview(bytearray(message) if type(message) is bytes else message), []
    (count,) = struct.unpack_from("<Q", head)
    words = struct.unpack_from(f"<{count}Q", head, 8)
    expected = sum(word & _SIZE >= _LARGE_FROM for word in words)
    while len(large) < expected:
        large += await connection.receive_async()
    frames = []
    taken = iter(large)
    at = 8 * (1 + count)
    for word in words:
        size = word & _SIZE
        if size >= _LARGE_FROM:
            frames.append(next(taken))
            continue
        frame = head[at : at + size]
        # An object that lives on must not keep the memory of the whole message.
        frames.append(memoryview(bytearray(frame)) if word & _OWN else frame)
        at += size
    return frames
