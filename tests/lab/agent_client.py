# SPDX-License-Identifier: Apache-2.0
"""The host's side of the agent: one connection, one command. in_guest/agent.py has the rules."""

import contextlib
import json
import socket
import struct
from typing import NamedTuple

from lab.host import LabError


class Ended(NamedTuple):
    """How a command ended: an exit status, or the reason why there is none."""

    status: int | None
    reason: str = ""


class Command:
    """A command that runs in the guest; leaving the context kills it there.

    `fileno` is for select: readable when `take` has something.
    """

    def __init__(self, port, command, *, timeout=None, env=None, cwd="/root"):
        request = {"command": command, "timeout": timeout, "env": env or {}, "cwd": cwd}
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        self._socket.settimeout(None)
        self._data = b""
        self.ended = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def shut_down(self):
        """Kill the command from another thread than the one in `take`, which then raises."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self):
        self._socket.close()

    def fileno(self):
        return self._socket.fileno()

    def take(self):
        """Wait for the next output and return it; b"" once `ended` says how it ended."""
        while self.ended is None:
            if len(self._data) >= 5:
                size = struct.unpack("!I", self._data[1:5])[0]
                if len(self._data) >= 5 + size:
                    kind, payload = self._data[:1], self._data[5 : 5 + size]
                    self._data = self._data[5 + size :]
                    if kind == b"o":
                        return payload
                    end = json.loads(payload)
                    self.ended = Ended(end.get("status"), end.get("reason", ""))
                    break
            try:
                part = self._socket.recv(1 << 16)
            except OSError as error:
                raise LabError(f"the guest's agent is gone: {error}") from None
            if not part:
                raise LabError("the guest's agent ended the connection before the command ended")
            self._data += part
        return b""
