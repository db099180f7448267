# SPDX-License-Identifier: Apache-2.0
"""Processes that end in a test, and what a host allows between processes."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mother():
    """Start the process that forks others."""
    from soft.mortals import Mother

    made = Mother()
    yield made
    made.close()


@pytest.fixture
def kernel_copies():
    """Skip a test of the kernel's copies where Yama keeps them to parents and debuggers."""
    yama = Path("/proc/sys/kernel/yama/ptrace_scope")
    scope = int(yama.read_text()) if yama.exists() else 0
    if scope > (2 if os.geteuid() == 0 else 0):
        pytest.skip(f"the kernel does not copy between processes: ptrace_scope is {scope}")
