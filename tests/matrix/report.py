# SPDX-License-Identifier: Apache-2.0
"""What became of each step on each release, as text. Nothing here needs a root."""

from typing import NamedTuple
from xml.etree import ElementTree

KINDS = {"failure": "failed", "error": "failed", "skipped": "skipped"}


class Row(NamedTuple):
    """A release by name, and the packages that are the oldest allowed there."""

    name: str
    oldest: tuple[str, ...] = ()


class Outcome(NamedTuple):
    """How a step ended; ``tests`` has the outcome and reason of each test by its name."""

    step: str
    status: int
    seconds: float
    tests: dict[str, tuple[str, str]]
    tail: str  # the last lines of its output


def read_junit(text):
    """Return outcome and reason of each test of pytest's XML by name."""
    tests = {}
    for case in ElementTree.fromstring(text).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        outcome, reason = tests.get(name, ("passed", ""))
        for part in case:
            # A test that fails in its body and in its end has two elements, or is there twice.
            if part.tag in KINDS and outcome != "failed":
                outcome, reason = KINDS[part.tag], part.get("message") or ""
        tests[name] = (outcome, reason)
    return tests


class Report:
    """The outcomes of all rows; the versions of what was used are put in when they are known."""

    def __init__(self, rows):
        self._rows = {row.name: row for row in rows}
        self._outcomes = {row.name: [] for row in rows}
        self.versions = {}

    def put(self, name, outcome):
        self._outcomes[name].append(outcome)

    @property
    def is_good(self):
        """Whether each row ran, and nothing failed."""
        return all(
            outcomes and not any(outcome.status for outcome in outcomes)
            for outcomes in self._outcomes.values()
        )

    def text(self):
        lines = []
        for name, outcomes in self._outcomes.items():
            versions = ", ".join(f"{k} {v}" for k, v in self.versions.get(name, {}).items())
            oldest = "".join(f", the oldest {what}" for what in self._rows[name].oldest)
            lines += [f"== {name}: {versions}{oldest}"]
            for outcome in outcomes:
                lines += _told(outcome)
            lines.append("")
        return "\n".join([*lines, self._closing_line()]) + "\n"

    def _closing_line(self):
        """Sum up; a step that fails without a test to blame counts as one."""
        counts = {"passed": 0, "failed": 0, "skipped": 0}
        for outcomes in self._outcomes.values():
            for outcome in outcomes:
                for kind, number in _count(outcome.tests).items():
                    counts[kind] += number
                if outcome.status and not _count(outcome.tests)["failed"]:
                    counts["failed"] += 1
        return ", ".join(f"{number} {kind}" for kind, number in counts.items())


def _count(tests):
    kinds = [outcome for outcome, _ in tests.values()]
    return {kind: kinds.count(kind) for kind in ("passed", "failed", "skipped")}


def _told(outcome):
    how = "failed" if outcome.status else "good"
    counts = ", ".join(f"{n} {kind}" for kind, n in _count(outcome.tests).items())
    lines = [
        f"{outcome.step:<6} {how:<6} {outcome.seconds:6.0f} s  {counts if outcome.tests else ''}"
    ]
    failed = [(t, reason) for t, (kind, reason) in outcome.tests.items() if kind == "failed"]
    for test, reason in failed:
        lines += [f"    {test}", *(f"    | {line}" for line in reason.splitlines()[:5])]
    if outcome.status and not failed:
        lines += [f"    | {line}" for line in outcome.tail.splitlines()]
    return [line.rstrip() for line in lines]
