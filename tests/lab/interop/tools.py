# SPDX-License-Identifier: Apache-2.0
"""Programs of rdma-core and perftest, run beside the test, and the guest's kernel log."""

import os
import re
import select
import socket
import subprocess
import tempfile
import time

LIMIT = 120  # seconds until a tool counts as hung; only means failure


class Tool:
    """A program that runs; its output is read when it has ended.

    A user of siw that was killed at the wrong moment may stay in the kernel for good, so a tool is
    waited for, and killed only when the test has failed.
    """

    def __init__(self, *command):
        self.command = [str(word) for word in command]
        self._output = tempfile.TemporaryFile()  # noqa: SIM115, lives as long as the tool
        self._process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._output
        )
        self._ended = os.pidfd_open(self._process.pid)

    def output(self):
        """Return what it has said so far."""
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def ends_within(self, seconds):
        """Wait; say whether it has ended."""
        poll = select.poll()
        poll.register(self._ended, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def wait(self):
        """Wait for its end and return its status."""
        assert self.ends_within(LIMIT), f"{self} does not end\n{self.output()}"
        return self._process.wait()

    def finish(self):
        """Wait for its end, which must be a success; return its output."""
        status = self.wait()
        assert status == 0, f"{self} ended with status {status}\n{self.output()}"
        return self.output()

    def close(self):
        """Kill it if it still runs."""
        self._process.kill()
        self._process.wait(LIMIT)
        os.close(self._ended)
        self._output.close()

    def __str__(self):
        return " ".join(self.command)


def free_port(host):
    """Find a port of an address that is free at this moment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as server:
        return server.getsockname()[1]


class KernelLog:
    """What the kernel says from now on."""

    def __init__(self):
        self._log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self._log, 0, os.SEEK_END)
        self._seen = []

    def wait_for(self, pattern):
        """Wait for a message that matches, and return the match."""
        poll = select.poll()
        poll.register(self._log, select.POLLIN)
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                message = os.read(self._log, 8192).decode(errors="replace").partition(";")[2]
            except BlockingIOError:
                left = deadline - time.monotonic()
                assert left > 0, f"the kernel did not say {pattern!r}, but {self._seen}"
                poll.poll(left * 1000)
                continue
            self._seen.append(message.splitlines()[0])
            if found := re.search(pattern, message):
                return found

    def close(self):
        os.close(self._log)
