# SPDX-License-Identifier: Apache-2.0
"""How tests start jobs."""

import subprocess
import sys

import pytest

LIMIT = 280  # seconds; only means failure


def found(launcher):
    if isinstance(launcher, str):
        pytest.skip(launcher)
    return launcher


def run(launcher, ranks, *arguments, environment=None, survives=False):
    """Run Python on that many ranks; returns what they wrote, and whether mpiexec was content."""
    done = subprocess.run(
        [*launcher.command(ranks, survives=survives), sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env=environment or launcher.environment,
        check=False,
    )
    return done.stdout + done.stderr, done.returncode == 0
