# SPDX-License-Identifier: Apache-2.0
"""What became of each test: read from the guest's records and the console, told in two reports.

Nothing here needs a machine.
"""

import json
from typing import NamedTuple
from xml.etree import ElementTree

DEVIATION = "deviation"  # fails as tests/conformance/deviations.py says


class Result(NamedTuple):
    """How a test ended: passed, failed, skipped or deviation; and why."""

    outcome: str
    reason: str = ""
    seconds: float = 0.0


class Records:
    """Takes the lines of one pytest run's record file in pieces of any size."""

    def __init__(self):
        self.tests = []
        self.results = {}
        self.running = None
        self.status = None  # pytest's own, when it came to its end
        self.lines = 0
        self._rest = ""
        self._phases = []

    def feed(self, text):
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self.lines += 1
            record = json.loads(line)
            getattr(self, f"_{record.pop('event')}")(**record)

    def _collected(self, tests):
        self.tests = tests

    def _uncollected(self, test, text):
        self.results[test] = Result("failed", f"could not be collected:\n{text}")

    def _start(self, test):
        self.running, self._phases = test, []

    def _phase(self, test, **facts):
        self._phases.append(facts)

    def _end(self, test):
        self.results[test] = _sum_up(self._phases)
        self.running = None

    def _over(self, status):
        self.status = status

    def test_of(self, mark):
        """Return the test that a mark of the console means."""
        number = int(mark.split(".")[1])
        return self.tests[number - 1] if 0 < number <= len(self.tests) else None


def _sum_up(phases):
    seconds = sum(phase["seconds"] for phase in phases)
    failed = [phase for phase in phases if phase["outcome"] == "failed"]
    if failed:
        text = "\n".join(f"in {phase['when']}: {phase['text']}" for phase in failed)
        return Result("failed", text, seconds)
    for phase in phases:
        if phase["outcome"] == "skipped":
            if "deviation" in phase:
                return Result(DEVIATION, phase["deviation"], seconds)
            return Result("skipped", phase["text"].removeprefix("Skipped: "), seconds)
    if not any(phase["when"] == "call" for phase in phases):
        return Result("failed", "it was never called", seconds)
    return Result("passed", "", seconds)


class Report:
    """The results of all sessions, by session and test; sessions may run side by side.

    It is told when they are over.
    """

    def __init__(self):
        self.sessions = {}

    def put(self, session, test, result):
        """Note a result; a failure stays, and the kernel's word is added to it."""
        results = self.sessions.setdefault(session, {})
        before = results.get(test)
        if before is not None and before.outcome == "failed":
            if result.outcome != "failed" or result.reason in before.reason:
                return
            result = before._replace(reason=f"{before.reason}\n{result.reason}")
        results[test] = result

    def count(self, *outcomes):
        return sum(
            result.outcome in outcomes
            for results in self.sessions.values()
            for result in results.values()
        )

    @property
    def is_good(self):
        return self.count("passed") > 0 and not self.count("failed")

    def text(self, *, all_tests=True):
        """Give the readable report, ending with the closing line.

        Every test is in it by name, or those that did not simply pass.
        """
        lines = []
        for session, results in self.sessions.items():
            shown = {t: r for t, r in results.items() if all_tests or r.outcome != "passed"}
            if not shown:
                continue
            lines.append(f"== {session}")
            for test, result in sorted(shown.items()):
                lines.append(f"{result.outcome:<9} {result.seconds:7.1f} s  {test}")
                bar = "    | " if result.outcome == "failed" else "    "
                lines += [bar + line for line in result.reason.splitlines()]
            lines.append("")
        return "\n".join([*lines, *self.closing_lines()]) + "\n"

    def closing_lines(self):
        """Sum up; a deviation counts as skipped, because it did not pass."""
        lines = []
        for session, results in self.sessions.items():
            outcomes = [result.outcome for result in results.values()]
            parts = [f"{outcomes.count(o)} {o}" for o in ("passed", "failed", "skipped", DEVIATION)]
            lines.append(f"{session}: {', '.join(parts)}")
        skipped = self.count("skipped", DEVIATION)
        lines.append(
            f"{self.count('passed')} passed, {self.count('failed')} failed, {skipped} skipped"
        )
        return lines

    def junit(self):
        """Give the same as JUnit XML."""
        root = ElementTree.Element("testsuites")
        for session, results in self.sessions.items():
            outcomes = [result.outcome for result in results.values()]
            suite = ElementTree.SubElement(
                root,
                "testsuite",
                name=session,
                tests=str(len(outcomes)),
                failures=str(outcomes.count("failed")),
                skipped=str(outcomes.count("skipped") + outcomes.count(DEVIATION)),
            )
            for test, result in sorted(results.items()):
                path, _, name = test.partition("::")
                case = ElementTree.SubElement(
                    suite, "testcase", classname=path, name=name, time=f"{result.seconds:.3f}"
                )
                if result.outcome != "passed":
                    kind = "failure" if result.outcome == "failed" else "skipped"
                    reason = "".join(c for c in result.reason if c.isprintable() or c in "\n\t")
                    first = reason.split("\n", 1)[0]
                    ElementTree.SubElement(case, kind, message=first[:300]).text = reason
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
