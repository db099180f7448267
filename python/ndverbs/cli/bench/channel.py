# SPDX-License-Identifier: Apache-2.0
"""What the two ends of a benchmark agree by: JSON objects, one a line, over a socket."""

from __future__ import annotations

import json
import socket
from typing import Any


class BenchError(Exception):
    """A benchmark could not be run or did not come to its end."""


class Channel:
    """JSON lines over a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lines = connection.makefile("rb")

    def send(self, **message: object) -> None:
        """Send one message."""
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """Return the next message; None at the end."""
        line = self._lines.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def expect(self, key: str) -> Any:
        """Return `key` of the next message.

        Raises
        ------
        BenchError
            The other end failed and says so.
        EOFError
            The other end is gone.
        """
        message = self.receive()
        if message is None:
            raise EOFError("the control channel has ended")
        if "error" in message:
            raise BenchError(f"the peer failed: {message['error']}")
        return message[key]

    def close(self) -> None:
        """Close; the other end reads the end."""
        self._lines.close()
        self._socket.close()
