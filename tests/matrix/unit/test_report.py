# SPDX-License-Identifier: Apache-2.0
"""What the matrix says of its rows."""

from matrix.report import Outcome, Report, Row, read_junit

JUNIT = """<testsuites><testsuite name="pytest" tests="5">
<testcase classname="tests.a" name="test_good" />
<testcase classname="tests.a" name="test_bad">
<failure message="assert 1 == 2">!</failure></testcase>
<testcase classname="tests.a" name="test_left_out"><skipped message="no tshark" /></testcase>
<testcase classname="tests.a" name="test_ends_badly" />
<testcase classname="tests.a" name="test_ends_badly"><error message="unclosed" /></testcase>
</testsuite></testsuites>
"""


def report(*outcomes, versions=None):
    made = Report([Row("trixie"), Row("bookworm", ("numpy",))])
    for name in ("trixie", "bookworm"):
        made.versions[name] = versions or {"Python": "3.13.5"}
        for outcome in outcomes:
            made.put(name, outcome)
    return made


def test_an_outcome_is_read_with_its_reason():
    assert read_junit(JUNIT) == {
        "tests.a::test_good": ("passed", ""),
        "tests.a::test_bad": ("failed", "assert 1 == 2"),
        "tests.a::test_left_out": ("skipped", "no tshark"),
        "tests.a::test_ends_badly": ("failed", "unclosed"),
    }


def test_rows_whose_steps_all_end_well_are_good():
    good = report(
        Outcome("g++", 0, 61.2, {}, "built"),
        Outcome("tests", 0, 600.4, {"a::b": ("passed", ""), "a::c": ("skipped", "why")}, ""),
    )

    assert good.is_good
    assert good.text() == (
        "== trixie: Python 3.13.5\n"
        "g++    good       61 s\n"
        "tests  good      600 s  1 passed, 0 failed, 1 skipped\n"
        "\n"
        "== bookworm: Python 3.13.5, the oldest numpy\n"
        "g++    good       61 s\n"
        "tests  good      600 s  1 passed, 0 failed, 1 skipped\n"
        "\n"
        "2 passed, 0 failed, 2 skipped\n"
    )


def test_a_failed_test_is_named_with_the_first_lines_of_its_reason():
    reason = "\n".join("abcdefg")
    text = report(Outcome("tests", 1, 2.0, {"a::b": ("failed", reason)}, "the tail")).text()

    assert "    a::b\n    | a\n    | b\n    | c\n    | d\n    | e\n\n" in text
    assert "the tail" not in text
    assert text.endswith("0 passed, 2 failed, 0 skipped\n")


def test_a_step_that_fails_without_a_test_shows_its_last_lines_and_counts_as_one():
    failed = report(Outcome("clang", 2, 5.0, {}, "error: no\nninja: stopped"))

    assert not failed.is_good
    assert "clang  failed      5 s\n    | error: no\n    | ninja: stopped\n" in failed.text()
    assert failed.text().endswith("0 passed, 2 failed, 0 skipped\n")


def test_a_row_that_did_not_run_is_not_good():
    assert not Report([Row("trixie")]).is_good
