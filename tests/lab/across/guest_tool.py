# SPDX-License-Identifier: Apache-2.0
"""A program in the guest, with the interface of lab.interop.tools.Tool."""

import shlex
import threading

from lab.interop.tools import LIMIT


class GuestTool:
    """Runs through the guest's agent, which kills it when the test lets go of it."""

    def __init__(self, machine, *command):
        self._line = shlex.join(str(word) for word in command)
        self._command = machine.command("exec " + self._line)
        self._output = b""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        try:
            while data := self._command.take():
                self._output += data
        except Exception as error:
            self._output += f"\n{error}".encode()
        self._ended.set()

    def output(self):
        return self._output.decode(errors="replace")

    def ends_within(self, seconds):
        return self._ended.wait(seconds)

    def finish(self):
        """Wait for its end, which must be a success; return its output."""
        assert self.ends_within(LIMIT), f"{self} does not end\n{self.output()}"
        ended = self._command.ended
        assert ended is not None, f"{self}\n{self.output()}"
        assert ended.status == 0, f"{self}: {ended}\n{self.output()}"
        return self.output()

    def close(self):
        self._command.shut_down()
        self._thread.join(LIMIT)
        self._command.close()

    def __str__(self):
        return self._line
