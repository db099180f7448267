# SPDX-License-Identifier: Apache-2.0
"""What `make lab` runs, and how its report says what it left out."""

from pathlib import Path

import pytest

from lab import __main__ as command
from lab import image, parts, recipe
from lab.results import Report, Result


def sessions(*words):
    arguments, more = command.parser().parse_known_args(["test", *words])
    arguments.pytest_arguments = more
    release = recipe.RELEASES["bookworm"]
    return list(command._sessions(arguments, release, Path("ours")))


def core():
    report = Report()
    return {s.name: s for s in command._core(sessions(), report)}, report


def test_the_core_is_conformance_on_both_devices_and_one_build_of_siw():
    chosen, _ = core()

    assert list(chosen) == [
        "bookworm: conformance verbs:siw0",
        "bookworm: conformance verbs:rxe0",
        "bookworm: interop siw-stock",
    ]


def test_tests_that_are_left_out_are_deselected():
    chosen, _ = core()

    words = chosen["bookworm: conformance verbs:rxe0"].arguments
    assert "--deselect=tests/conformance/test_random_sequences.py" in words


def test_the_report_names_what_is_left_out_and_why():
    _, report = core()
    reason = next(left.reason for left in parts.LEFT if left.session == "across")

    assert f"left to `make lab-all`: bookworm: across siw-crc: {reason}" in report.closing_lines()
    assert any("verbs:siw0, tests/conformance/test_random" in x for x in report.closing_lines())


@pytest.mark.parametrize("left", parts.LEFT, ids=lambda left: f"{left.session} {left.tests}")
def test_what_is_left_out_exists(left):
    names = [session.name.partition(": ")[2] for session in sessions()]

    assert any(name.startswith(left.session) for name in names)
    assert not left.tests or (image.CHECKOUT / left.tests.partition("::")[0]).is_file()


def test_the_report_tells_the_times_of_sessions_and_files():
    report = Report()
    for name, seconds in (("a.py::one", 1.25), ("a.py::two", 2.0), ("b.py::one", 5.0)):
        report.put("interop", name, Result("passed", seconds=seconds))

    assert "== times of interop: 8 s\n     5.0 s  b.py\n     3.2 s  a.py\n" in report.text()
