# SPDX-License-Identifier: Apache-2.0
"""The program that compares windows with those of MPI."""

import json
import subprocess
import sys

import pytest

from mpi.jobs import LIMIT

pytestmark = pytest.mark.timeout(300)  # a job may have to share its processors


def test_it_has_a_figure_for_every_row_of_an_mpi(launcher):
    command = [sys.executable, "-m", "ndverbs.mpi.bench", "--rounds=1", "--windows=1", "--json"]
    done = subprocess.run(
        [*command, "--mpi", launcher.name],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    rows = {(row["operation"], row["memory"], row["against"]) for row in said["rows"]}
    operations = ["get 8 B", "put 8 B", "fetch_add", "get 1 MiB", "put 1 MiB"]
    assert rows == {
        (operation, memory, f"{launcher.name} {window}")
        for operation in [*operations, "get 1 MiB, it sleeps"]
        for memory, window in (("mapped", "Win.Allocate"), ("ordinary", "Win.Create"))
    }
    assert all(row["ratio"] > 0 for row in said["rows"])
