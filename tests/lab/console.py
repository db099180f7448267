# SPDX-License-Identifier: Apache-2.0
"""Reads a serial console: what the kernel complained about, and during which test.

Pytest's plugin in the guest writes the names of tests into the kernel's log, which goes to the
console in order with the kernel's own messages. So even a panic leaves behind which test it was.
Nothing here needs a machine.
"""

import re
from typing import NamedTuple

MARK = "lab-test:"

# What never appears in a healthy run. A line that matches opens an incident; what follows, the
# registers and the call trace, belongs to it.
_COMPLAINTS = {
    "BUG": re.compile(r"\bBUG: |\bkernel BUG at "),
    "Oops": re.compile(r"\bOops\b"),
    "WARNING": re.compile(r"\bWARNING: "),
    # The kernel's own; "traps: PROGRAM[1] general protection fault" is a program's.
    "general protection fault": re.compile(r"(?<!\] )\bgeneral protection\b"),
    "bad pointer": re.compile(r"\b[Uu]nable to handle\b"),
    "hung task": re.compile(r"\bblocked for more than \d+ seconds\b"),
    "lockup": re.compile(r"\bsoft lockup\b|\bhard LOCKUP\b|\bdetected (?:expedited )?stalls?\b"),
    "panic": re.compile(r"\bKernel panic\b"),
}
_END = re.compile(r"---\[ end (?:trace|Kernel panic)")
_TIME = re.compile(r"^\[ *\d+\.\d+\] ?")
_LONGEST = 80  # lines of one incident


class Incident(NamedTuple):
    """A complaint of the kernel."""

    kind: str
    test: str | None  # the mark of the test that ran, or ended last; None: before the first
    text: str
    after: bool  # the test had ended already

    @property
    def is_fatal(self):
        """Whether the machine is of no use any more, although it may still run."""
        return self.kind not in ("WARNING",)


class Console:
    """Takes the console's text in pieces of any size; `incidents` and `test` say what it held."""

    def __init__(self):
        self.incidents = []
        self.test = None
        self.is_running = False
        self._rest = ""
        self._block = None  # lines of the incident that goes on
        self._kind = None

    def feed(self, text):
        """Take the next piece."""
        *lines, self._rest = (self._rest + text).replace("\r", "").split("\n")
        for line in lines:
            self._take(line)

    def finish(self):
        """Say that nothing more comes: an incident that was cut short counts."""
        if self._rest:
            self._take(self._rest)
            self._rest = ""
        self._close()

    def _take(self, line):
        line = _TIME.sub("", line)
        if line.startswith(MARK):
            self._close()
            _, what, self.test, *_ = line.split(" ", 3)
            self.is_running = what == "start"
            return
        kind = next((k for k, pattern in _COMPLAINTS.items() if pattern.search(line)), None)
        if self._block is None:
            if kind is None:
                return
            self._block, self._kind = [], kind
        self._block.append(line)
        if _END.search(line) or len(self._block) == _LONGEST:
            self._close()

    def _close(self):
        if self._block is None:
            return
        text = "\n".join(self._block)
        self.incidents.append(Incident(self._kind, self.test, text, not self.is_running))
        self._block = None


def mark(what, test, name):
    """Make the line that says in the kernel's log that a test starts or ends."""
    # The kernel cuts lines of its log at about 1000 bytes; the name is for people.
    return f"<5>{MARK} {what} {test} {name.encode('ascii', 'replace').decode()[:400]}\n"
