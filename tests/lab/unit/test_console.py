# SPDX-License-Identifier: Apache-2.0
"""How the lab reads its guest: complaints of the kernel and results of tests, without a machine."""

import json
from xml.etree import ElementTree

import pytest

from lab.console import Console
from lab.results import DEVIATION, Records, Report, Result

BUG = """\
[   50.000001] ------------[ cut here ]------------
[   50.000002] kernel BUG at drivers/infiniband/core/iwcm.c:969!
[   50.000003] invalid opcode: 0000 [#1] PREEMPT SMP NOPTI
[   50.000004] Call Trace:
[   50.000005] ---[ end trace 0000000000000000 ]---
"""


def started(test):
    return f"[   40.000000] lab-test: start {test} tests/a.py::test_{test}\n"


def ended(test):
    return f"[   60.000000] lab-test: end {test} tests/a.py::test_{test}\n"


def read(text, *, piece=None):
    console = Console()
    for begin in range(0, len(text), piece or len(text)):
        console.feed(text[begin : begin + (piece or len(text))])
    console.finish()
    return console


# ---- the console --------------------------------------------------------------------------------


def test_a_healthy_boot_has_no_incident():
    said = """\
Begin: Running /scripts/init-bottom ... done.
Warning: fsck not present, so skipping root file system
[    0.000000] Linux version 6.1.0-56-amd64 (debian-kernel@lists.debian.org)
[    0.021000] mce: Using 10 MCE banks
[   16.441585] siw: loading out-of-tree module taints kernel.
[   17.700000] eth1 speed is unknown, defaulting to 1000
[   20.100000] siw: got TERMINATE. layer 1, type 0, code 0
[   22.200000] traps: ib_write_bw[2696] general protection fault ip:7f3b in librdmacm.so
"""
    assert read(said).incidents == []


@pytest.mark.parametrize("piece", [None, 1, 7, 64])
def test_an_incident_belongs_to_the_test_that_runs(piece):
    console = read(
        started("r1.1") + ended("r1.1") + started("r1.2") + BUG + ended("r1.2") + started("r1.3"),
        piece=piece,
    )

    (incident,) = console.incidents
    assert (incident.kind, incident.test, incident.after) == ("BUG", "r1.2", False)
    assert incident.text.splitlines()[0] == "kernel BUG at drivers/infiniband/core/iwcm.c:969!"
    assert incident.text.endswith("---[ end trace 0000000000000000 ]---")
    assert console.test == "r1.3"


def test_an_incident_between_two_tests_belongs_to_the_first():
    (incident,) = read(started("r1.1") + ended("r1.1") + BUG + started("r1.2")).incidents

    assert (incident.test, incident.after) == ("r1.1", True)


def test_an_incident_before_the_first_test_belongs_to_none():
    (incident,) = read(BUG + started("r1.1")).incidents

    assert (incident.test, incident.after) == (None, True)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("BUG: kernel NULL pointer dereference, address: 0000000000000040", "BUG"),
        ("BUG: unable to handle page fault for address: ffff", "BUG"),
        ("kernel BUG at mm/slub.c:419!", "BUG"),
        ("Oops: 0002 [#1] PREEMPT SMP NOPTI", "Oops"),
        ("WARNING: CPU: 1 PID: 345 at drivers/infiniband/sw/siw/siw_cm.c:117", "WARNING"),
        (
            "general protection fault, probably for non-canonical address",
            "general protection fault",
        ),
        ("Unable to handle kernel paging request", "bad pointer"),
        ("INFO: task rping:345 blocked for more than 90 seconds.", "hung task"),
        ("watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [python3:222]", "BUG"),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", "lockup"),
        ("Kernel panic - not syncing: Fatal exception", "panic"),
    ],
)
def test_every_kind_of_complaint_is_seen(line, kind):
    (incident,) = read(started("r1.1") + f"[  99.123456] {line}\n[  99.2] Call Trace:\n").incidents

    assert (incident.kind, incident.test) == (kind, "r1.1")
    assert incident.text.startswith(line)


def test_a_console_that_breaks_off_within_a_line_keeps_the_incident():
    console = read(started("r1.1") + "[   50.000001] Oops: 0002 [#1] PREEMPT")

    assert [incident.kind for incident in console.incidents] == ["Oops"]


def test_an_incident_without_an_end_ends_with_the_next_test():
    said = started("r1.1") + "[  9.0] INFO: task a:1 blocked for more than 90 seconds.\n"
    console = read(said + "[  9.1] Call Trace:\n" + ended("r1.1") + started("r1.2") + BUG)

    assert [incident.test for incident in console.incidents] == ["r1.1", "r1.2"]


def test_a_test_whose_name_is_a_complaint_is_none():
    assert read("[  1.0] lab-test: start r1.1 tests/a.py::test_Oops[BUG: x]\n").incidents == []


# ---- the records --------------------------------------------------------------------------------


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def phase(test, when, outcome, **more):
    return {
        "event": "phase",
        "test": test,
        "when": when,
        "outcome": outcome,
        "seconds": 0.5,
        **more,
    }


def result_of(*phases):
    records = Records()
    test = phases[0]["test"]
    records.feed(lines({"event": "start", "test": test}, *phases, {"event": "end", "test": test}))
    return records.results[test]


def test_a_test_that_passes_all_phases_has_passed():
    done = result_of(
        phase("t", "setup", "passed"),
        phase("t", "call", "passed"),
        phase("t", "teardown", "passed"),
    )

    assert done == Result("passed", "", 1.5)


def test_a_failure_of_any_phase_is_a_failure():
    for when in ("setup", "call", "teardown"):
        phases = [
            phase("t", each, "failed" if each == when else "passed", text="why")
            for each in ("setup", "call", "teardown")
        ]
        done = result_of(*phases)
        assert (done.outcome, done.reason) == ("failed", f"in {when}: why")


def test_a_skip_keeps_its_reason():
    done = result_of(
        phase("t", "setup", "skipped", text="Skipped: no such device"),
        phase("t", "teardown", "passed"),
    )

    assert (done.outcome, done.reason) == ("skipped", "no such device")


def test_an_expected_failure_is_a_deviation():
    done = result_of(
        phase("t", "setup", "passed"),
        phase("t", "call", "skipped", deviation="siw does so"),
        phase("t", "teardown", "passed"),
    )

    assert (done.outcome, done.reason) == (DEVIATION, "siw does so")


def test_records_in_pieces_name_the_test_that_runs():
    text = lines(
        {"event": "collected", "tests": ["a", "b"]},
        {"event": "start", "test": "a"},
        phase("a", "setup", "passed"),
        phase("a", "call", "passed"),
        {"event": "end", "test": "a"},
        {"event": "start", "test": "b"},
    )
    records = Records()
    for character in text:
        records.feed(character)

    assert records.running == "b"
    assert list(records.results) == ["a"]
    assert records.test_of("run7.2") == "b"
    assert records.test_of("run7.0") is None


# ---- the report ---------------------------------------------------------------------------------


def test_what_the_kernel_says_turns_a_pass_into_a_failure():
    report = Report()
    report.put("s", "t", Result("passed", "", 1.0))
    report.put("s", "t", Result("failed", "kernel: BUG"))
    report.put("s", "t", Result("passed", "", 1.0))

    assert report.sessions["s"]["t"] == Result("failed", "kernel: BUG")
    assert not report.is_good


def test_two_reasons_of_one_failure_are_both_kept():
    report = Report()
    report.put("s", "t", Result("failed", "first", 2.0))
    report.put("s", "t", Result("failed", "second"))

    assert report.sessions["s"]["t"] == Result("failed", "first\nsecond", 2.0)


def test_closing_line_counts_deviations_as_skipped():
    report = Report()
    report.put("a", "1", Result("passed"))
    report.put("a", "2", Result(DEVIATION, "as known"))
    report.put("b", "1", Result("skipped", "why"))

    assert report.closing_lines()[-1] == "1 passed, 0 failed, 2 skipped"
    assert report.is_good
    text = report.text(all_tests=False)
    assert "as known" in text
    assert "why" in text
    assert text.endswith("\n1 passed, 0 failed, 2 skipped\n")


def test_a_failure_is_tried_again_and_both_attempts_are_told():
    report = Report()
    report.put("s", "a", Result("failed", "too slow"))
    report.put("s", "b", Result("failed", "too slow as well"))
    report.put("s", "c", Result("passed"))

    first = report.take_doubtful("s")
    report.put("s", "a", Result("passed"))
    report.put("s", "b", Result("failed", "wrong"))
    report.keep_first_attempts("s", first)

    assert report.sessions["s"]["a"].outcome == "passed"
    assert "too slow" in report.text(all_tests=False)
    assert report.sessions["s"]["b"] == Result("failed", "wrong")
    assert not report.is_good


def test_a_second_attempt_without_a_result_leaves_the_failure():
    report = Report()
    report.put("s", "a", Result("failed", "too slow"))

    report.keep_first_attempts("s", report.take_doubtful("s"))

    assert report.sessions["s"]["a"] == Result("failed", "too slow")


def test_what_the_kernel_complained_about_is_not_tried_again():
    report = Report()
    report.put("s", "a", Result("failed", "the kernel complained", is_final=True))

    assert report.take_doubtful("s") == {}
    assert not report.is_good


def test_many_failures_are_not_tried_again():
    report = Report()
    for number in range(11):
        report.put("s", str(number), Result("failed", "wrong"))

    assert report.take_doubtful("s") == {}
    assert report.count("failed") == 11


def test_a_run_without_a_pass_is_no_success():
    report = Report()
    report.put("a", "1", Result("skipped", "why"))

    assert not report.is_good


def test_junit_report_has_every_test_and_survives_odd_characters():
    report = Report()
    report.put("a", "x.py::t[1]", Result("failed", "first\x1b[0m\nsecond & <third>"))
    report.put("a", "x.py::u", Result("skipped", "why"))
    report.put("a", "x.py::v", Result("passed", "", 0.25))

    (suite,) = ElementTree.fromstring(report.junit())
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    assert [case.get("name") for case in suite] == ["t[1]", "u", "v"]
    assert suite[0][0].text == "first[0m\nsecond & <third>"
