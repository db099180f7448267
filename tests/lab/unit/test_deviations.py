# SPDX-License-Identifier: Apache-2.0
"""Which tests a row of the table of deviations is about."""

from types import SimpleNamespace

import pytest

from conformance.deviations import Deviation, mark

ROW = Deviation(
    "test_a.py::test_b", "verbs", "the reason", parameters=("v6",), kernels=("6.12", "7.2")
)


@pytest.mark.parametrize(
    ("name", "test", "device", "kernel", "is_about_it"),
    [
        ("test_b[v6]", "test_a.py::test_b", "verbs:siw0", "6.12", True),
        ("test_b[v6]", "test_a.py::test_b", "verbs:siw0", "7.2", True),
        ("test_b[v6]", "test_a.py::test_b", "verbs:siw0", "6.1", False),
        ("test_b[v4]", "test_a.py::test_b", "verbs:siw0", "6.12", False),
        ("test_b[v6]", "test_a.py::test_b", "soft", "6.12", False),
        ("test_c[v6]", "test_a.py::test_c", "verbs:siw0", "6.12", False),
    ],
)
def test_a_row_is_about_its_test_provider_parameters_and_kernels(
    name, test, device, kernel, is_about_it
):
    marks = []

    mark(SimpleNamespace(name=name, add_marker=marks.append), [ROW], test, device, kernel)

    assert [one.kwargs["reason"] for one in marks] == ["the reason"] * is_about_it


def test_a_row_without_kernels_is_about_all_of_them():
    marks = []

    item = SimpleNamespace(name="test_b[v6]", add_marker=marks.append)
    mark(item, [ROW._replace(kernels=())], "test_a.py::test_b", "verbs:rxe0", "5.10")

    assert len(marks) == 1
