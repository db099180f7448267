# SPDX-License-Identifier: Apache-2.0
"""The mpiexec programs that this machine has; what lacks one is skipped, and says which."""

import pytest

from mpi.jobs import found
from ndverbs.mpi import _launchers


@pytest.fixture(scope="session")
def launchers(tmp_path_factory):
    """Find the mpiexec of each MPI, or the sentence that says why there is none."""
    return {
        name: _launchers.launcher(name, tmp_path_factory.mktemp(name)) for name in _launchers.NAMES
    }


@pytest.fixture(scope="session", params=_launchers.NAMES)
def launcher(request, launchers):
    """Give the mpiexec of an MPI."""
    pytest.importorskip("mpi4py")
    return found(launchers[request.param])
