# SPDX-License-Identifier: Apache-2.0
"""What became of each test: read from the guest's records and the console, told in two reports.

Nothing here needs a machine.
"""

import json
from collections import Counter
from typing import NamedTuple
from xml.etree import ElementTree

MOST_DOUBTFUL = 10  # more failures of one session are no accident of an emulated processor
DEVIATION = "deviation"  # fails as tests/conformance/deviations.py says


class Result(NamedTuple):
    """How a test ended: passed, failed, skipped or deviation; and why."""

    outcome: str
    reason: str = ""
    seconds: float = 0.0
    is_final: bool = False  # whatever a second attempt would say: the kernel or process complained


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


def _printable(text):
    return "".join(c for c in text if c.isprintable() or c in "\n\t")


class Report:
    """The results of all sessions, by session and test; sessions may run side by side.

    The caller says when they are over.
    """

    def __init__(self):
        self.sessions = {}
        self.left = []  # session, tests of it or "" and the reason: left to `make lab-all`

    def put(self, session, test, result):
        """Note a result; a failure stays, and the kernel's word is added to it."""
        results = self.sessions.setdefault(session, {})
        before = results.get(test)
        if before is not None and before.outcome == "failed":
            if result.outcome != "failed" or result.reason in before.reason:
                return
            result = before._replace(
                reason=f"{before.reason}\n{result.reason}",
                is_final=before.is_final or result.is_final,
            )
        results[test] = result

    def take_doubtful(self, session):
        """Forget, and return, failures that a second attempt may clear: few, and none final."""
        results = self.sessions[session]
        doubtful = {
            test: result
            for test, result in results.items()
            if result.outcome == "failed" and not result.is_final
        }
        if len(doubtful) > MOST_DOUBTFUL:
            return {}
        for test in doubtful:
            del results[test]
        return doubtful

    def keep_first_attempts(self, session, first):
        """Tell with the results of second attempts what the first ones said."""
        results = self.sessions[session]
        for test, result in first.items():
            second = results.get(test, result)
            if second.outcome != "failed":
                reason = f"at the second attempt; the first one failed:\n{result.reason}"
                second = second._replace(reason="\n".join(filter(None, (second.reason, reason))))
            results[test] = second

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
            # A test that passed at the second attempt only has a reason, too.
            shown = {
                t: r for t, r in results.items() if all_tests or r.outcome != "passed" or r.reason
            }
            if not shown:
                continue
            lines.append(f"== {session}")
            for test, result in sorted(shown.items()):
                lines.append(f"{result.outcome:<9} {result.seconds:7.1f} s  {test}")
                bar = "    | " if result.outcome == "failed" else "    "
                lines += [bar + line for line in result.reason.splitlines()]
            lines.append("")
        if all_tests:
            lines += self._times()
        return "\n".join([*lines, *self.closing_lines()]) + "\n"

    def _times(self):
        """Say what each session took in its tests, and which files took most of it."""
        lines = []
        for session, results in self.sessions.items():
            files = Counter()
            for test, result in results.items():
                files[test.partition("::")[0]] += result.seconds
            lines.append(f"== times of {session}: {files.total():.0f} s")
            lines += [f"{seconds:8.1f} s  {file}" for file, seconds in files.most_common(20)]
            lines.append("")
        return lines

    def closing_lines(self):
        """Sum up; a deviation counts as skipped, because it did not pass."""
        lines = [
            f"left to `make lab-all`: {session}{tests and ', ' + tests}: {reason}"
            for session, tests, reason in self.left
        ]
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
                if result.outcome == "passed":
                    if result.reason:
                        ElementTree.SubElement(case, "system-out").text = _printable(result.reason)
                else:
                    kind = "failure" if result.outcome == "failed" else "skipped"
                    reason = _printable(result.reason)
                    first = reason.split("\n", 1)[0]
                    ElementTree.SubElement(case, kind, message=first[:300]).text = reason
        ElementTree.indent(root)
        return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)
