# SPDX-License-Identifier: Apache-2.0
"""Runs commands that the host sends, any number at once. One connection is one command.

Request: a line of JSON with ``command`` (for sh), and optionally ``timeout`` in seconds, ``env``
and ``cwd``. Answer: frames of a letter, a 32-bit length and bytes: ``o`` is output, ``x`` the end
as JSON with ``status`` (negative: a signal's number) or ``reason``. When the host goes away or
the time is over, everything that the command started is killed. Programs that it left in the
background at a normal end stay.
"""

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
import traceback
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_numbers = itertools.count(1)


def _frame(kind, data):
    return kind + struct.pack("!I", len(data)) + data


def _read_request(client):
    data = b""
    while not data.endswith(b"\n"):
        part = client.recv(65536)
        if not part:
            return None
        data += part
    return json.loads(data)


class _Command:
    """A shell command in a control group of its own, so that nothing of it escapes the kill."""

    def __init__(self, request):
        self._group = _GROUPS / f"command-{next(_numbers)}"
        self._group.mkdir()
        self.output, inner = os.pipe()
        os.set_blocking(self.output, False)
        joined = "echo $$ > " + str(self._group / "cgroup.procs") + ' && exec sh -c "$1"'
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", joined, "sh", request["command"]],
            stdin=subprocess.DEVNULL,
            stdout=inner,
            stderr=inner,
            env={**os.environ, **request.get("env", {})},
            cwd=request.get("cwd", "/root"),
            start_new_session=True,
        )
        os.close(inner)
        self.ended = os.pidfd_open(self.process.pid)

    def kill(self):
        (self._group / "cgroup.kill").write_text("1")

    def close(self):
        os.close(self.output)
        os.close(self.ended)
        with contextlib.suppress(OSError):  # something of it lives on
            self._group.rmdir()


def _serve(client):
    request = _read_request(client)
    if request is None:
        return
    command = _Command(request)
    deadline = time.monotonic() + request["timeout"] if request.get("timeout") else None
    try:
        client.sendall(_frame(b"x", json.dumps(_follow(client, command, deadline)).encode()))
    except OSError:
        command.kill()
    finally:
        command.close()


def _follow(client, command, deadline):
    """Hand on output until the command ends, the time is over, or the host is gone."""
    poll = select.poll()
    poll.register(command.output, select.POLLIN)
    poll.register(command.ended, select.POLLIN)
    poll.register(client, select.POLLIN)
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready = dict(poll.poll(None if left is None else left * 1000))
        ended = command.ended in ready
        if ended:
            _hand_on(client, command.output, all_of_it=True)
            return {"status": command.process.wait()}
        if command.output in ready and not _hand_on(client, command.output):
            poll.unregister(command.output)
        if client.fileno() in ready and not client.recv(1):
            raise ConnectionError("the host is gone")
        if left == 0.0:
            command.kill()
            return {"reason": "timeout"}


def _hand_on(client, descriptor, *, all_of_it=False):
    """Send what the pipe holds; say whether more may come."""
    while True:
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            return True
        if not data:
            return False
        client.sendall(_frame(b"o", data))
        if not all_of_it:
            return True


def _serve_and_close(client):
    with client:
        try:
            _serve(client)
        except Exception:
            traceback.print_exc()  # to the console


def main():
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    options = dict(
        word.split("=", 1) for word in Path("/proc/cmdline").read_text().split() if "=" in word
    )
    server = socket.create_server(("", int(options["lab.agent"])), backlog=64)
    # The host waits for this call instead of asking again and again.
    with socket.create_connection((options["lab.host"], int(options["lab.ready"]))) as ready:
        ready.sendall(Path("/proc/uptime").read_bytes())
    print("lab: ready", flush=True)
    while True:
        client, _ = server.accept()
        threading.Thread(target=_serve_and_close, args=(client,), daemon=True).start()


if __name__ == "__main__":
    main()
