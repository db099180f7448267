# SPDX-License-Identifier: Apache-2.0
"""docs/wsk.md: every row of the table says where the name went, and links a test that exists."""

import re

import pytest

from docs.markdown_examples import ROOT
from ndverbs import wsk

PAGE = ROOT / "docs" / "wsk.md"
ROWS = [
    line
    for line in PAGE.read_text().partition("## WSK, name by name")[2].splitlines()
    if line.startswith("| ") and not line.startswith(("| WSK |", "| ---"))
]
LINK = re.compile(r"\[`(\w+)`\]\(\.\./(tests/\S+)\)")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:40])
def test_a_row_has_no_empty_cell_and_links_its_test(row):
    assert all(cell.strip() for cell in row.strip("|").split("|"))
    links = LINK.findall(row)
    assert links
    for name, path in links:
        assert f"def {name}(" in (ROOT / path).read_text()


def test_every_control_code_has_a_row():
    names = {name for row in ROWS for name in re.findall(r"\bS[IO]O?_\w+", row.split("|")[1])}
    assert {code.name for code in (*wsk.Option, *wsk.Ioctl)} == names
