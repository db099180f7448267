# SPDX-License-Identifier: Apache-2.0
"""The test's side of confined_far.py: processes where less is allowed than usual."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from conformance.far import FarProcess, PeerProcess

PROGRAM = str(Path(__file__).with_name("confined_far.py"))


class Confined(PeerProcess):
    """A process in some of the conditions of confined_far.py."""

    def __init__(self, *conditions):
        super().__init__(PROGRAM, *conditions)
        refused = self._pipe.recv()
        if refused is not None:
            self.kill()
            pytest.skip(f"the kernel does not let a process be so: {refused}")


@contextmanager
def confined(*conditions, **options):
    """Give an end in a process of its own."""
    with Confined(*conditions) as process:
        far = FarProcess(process, is_direct=True, **options)
        yield far
        far.close()
