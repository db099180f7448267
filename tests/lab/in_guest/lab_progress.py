# SPDX-License-Identifier: Apache-2.0
"""Pytest's plugin of the lab: says at once which test runs and how it ended.

A line of JSON per step goes to a file that is on the host, so nothing is lost when the kernel
dies; the names go to the guest kernel's log as well, so that its messages stand between them.
Tests that an earlier run has finished are left out. tests/lab/runner.py reads all this.
"""

import json
import os
import shlex
from pathlib import Path


def _say_here(line):
    """Write to the log of the kernel that pytest runs on: the guest's."""
    with open("/dev/kmsg", "wb", buffering=0) as log:
        log.write(line)


def _say_there(line):
    """Write to the log of the guest's kernel, from the host."""
    from lab.machine import Machine

    machine = Machine(os.environ["NDVERBS_LAB_MACHINE"])
    machine.run(f"printf %s {shlex.quote(line.decode())} > /dev/kmsg", timeout=60)


class Progress:
    """Writes to a descriptor of its own, unbuffered: a line that was written is on the host."""

    def __init__(self, records, session):
        self._records = os.open(records, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._say = _say_there if "NDVERBS_LAB_MACHINE" in os.environ else _say_here
        self._session = session
        self._numbers = {}

    def _record(self, event, **facts):
        os.write(self._records, json.dumps({"event": event, **facts}).encode() + b"\n")

    def _mark(self, what, nodeid):
        from lab.console import mark  # pytest has the path to it by now

        number = f"{self._session}.{self._numbers.get(nodeid, 0)}"
        self._say(mark(what, number, nodeid).encode())

    def pytest_collectreport(self, report):
        if report.failed:
            self._record("uncollected", test=report.nodeid, text=report.longreprtext)

    def pytest_collection_finish(self, session):
        tests = [item.nodeid for item in session.items]
        self._numbers = {test: number for number, test in enumerate(tests, 1)}
        self._record("collected", tests=tests)

    def pytest_runtest_logstart(self, nodeid):
        self._record("start", test=nodeid)
        self._mark("start", nodeid)

    def pytest_runtest_logreport(self, report):
        facts = {"when": report.when, "outcome": report.outcome, "seconds": report.duration}
        if hasattr(report, "wasxfail"):
            facts["deviation"] = report.wasxfail
        if report.skipped and not hasattr(report, "wasxfail"):
            facts["text"] = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        elif not report.passed:
            facts["text"] = report.longreprtext
        self._record("phase", test=report.nodeid, **facts)

    def pytest_runtest_logfinish(self, nodeid):
        self._mark("end", nodeid)
        self._record("end", test=nodeid)

    def pytest_sessionfinish(self, exitstatus):
        self._record("over", status=int(exitstatus))


def pytest_configure(config):
    records = os.environ.get("NDVERBS_LAB_RECORDS")
    # Workers and pytests that a test starts are none of ours.
    if records and not hasattr(config, "workerinput"):
        session = os.environ["NDVERBS_LAB_SESSION"]
        del os.environ["NDVERBS_LAB_RECORDS"]
        config.pluginmanager.register(Progress(records, session), "lab-progress")


def pytest_collection_modifyitems(config, items):
    """Leave out what the file of finished tests names."""
    path = os.environ.get("NDVERBS_LAB_FINISHED")
    finished = set(json.loads(Path(path).read_text())) if path else set()
    out = [item for item in items if item.nodeid in finished]
    if out:
        items[:] = [item for item in items if item.nodeid not in finished]
        config.hook.pytest_deselected(items=out)
