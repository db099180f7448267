# SPDX-License-Identifier: Apache-2.0
"""connect_all, Connections and windows, as the ranks of real jobs see them.

A job costs a second or two, so that its ranks run many cases, one after the other: see
every_rank.py, where each has a sentence for a name.
"""

import json
import re
from pathlib import Path

import pytest

from mpi.jobs import run

pytestmark = pytest.mark.timeout(300)  # a job may have to share its processors

PROGRAM = Path(__file__).with_name("every_rank.py")
CASES = [
    name.replace("_", " ")
    for name in re.findall(r"^@case\ndef (\w+)\(", PROGRAM.read_text(), re.MULTILINE)
]
# Of eight ranks on two processors those that all ranks do at once.
OF_MANY = ["ranks may dial in any order", "every rank sends to every rank"]
HOWTO = PROGRAM.parents[2] / "docs" / "howto.md"


@pytest.mark.parametrize(("ranks", "cases"), [(2, CASES), (4, CASES), (8, OF_MANY)], ids="248")
def test_every_case_holds_on_every_rank(launcher, ranks, cases, tmp_path):
    path = tmp_path / "said.json"
    output, _ = run(launcher, ranks, str(PROGRAM), str(path), *cases)
    assert path.exists(), output
    assert json.loads(path.read_text()) == {case: [None] * ranks for case in cases}


def test_the_program_of_the_how_to_runs(launcher, tmp_path):
    (program,) = re.findall(r"```python\n(# mpiexec.*?)```", HOWTO.read_text(), re.DOTALL)
    path = tmp_path / "ranks.py"
    path.write_text(program)
    output, is_content = run(launcher, 4, str(path))
    assert is_content, output
