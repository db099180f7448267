# SPDX-License-Identifier: Apache-2.0
"""Jobs that go wrong: an mpiexec of another MPI, and a rank that is killed."""

import json
import subprocess
import sys

import pytest

from mpi.jobs import found, run

pytestmark = pytest.mark.timeout(300)  # a job may have to share its processors

ALONE = """
import warnings
warnings.simplefilter("ignore")  # mpi4py has one of its own, which names no remedy
from mpi4py import MPI
import ndverbs, ndverbs.mpi
try:
    ndverbs.mpi.connect_all(MPI.COMM_WORLD)
except ndverbs.RdmaError as failure:
    print(failure.status.name, failure.what, flush=True)
"""


@pytest.mark.parametrize(("starts", "uses"), [("openmpi", "mpich"), ("mpich", "openmpi")])
def test_an_mpiexec_of_another_mpi_is_named_in_a_sentence(launchers, starts, uses):
    pytest.importorskip("mpi4py")
    starter, user = found(launchers[starts]), found(launchers[uses])
    output, _ = run(starter, 2, "-c", ALONE, environment=user.environment)
    said = [line for line in output.splitlines() if line.startswith("NOT_SUPPORTED")]
    assert len(said) == 2, output
    library = {"openmpi": "Open MPI v", "mpich": "MPICH Version:"}[uses]
    for line in said:
        assert line.startswith(
            "NOT_SUPPORTED connect_all: mpiexec has started 2 ranks and each is alone, because "
            f"mpi4py uses another MPI than mpiexec ({library}"
        )


KILLED = """
import json, os, signal, sys
import mpi4py
mpi4py.rc.finalize = False  # which waits for all ranks
from mpi4py import MPI
import numpy as np
import ndverbs as nd, ndverbs.mpi

comm, folder = MPI.COMM_WORLD, sys.argv[1]
rank = comm.rank
peers = ndverbs.mpi.connect_all(comm, timeout=30)
window = peers.window(np.zeros(4, np.int64))
if rank == 1:
    for other in (0, 2):
        peers.accepted(other, 30).receive(30)
    os.kill(os.getpid(), signal.SIGKILL)

def name(call):
    try:
        return repr(call())
    except nd.RdmaError as failure:
        return type(failure).__name__

def until_it_fails():
    while True:
        window[1].set_item(0, 5)
        window[1].get_item(0)

said = {}
window[2 - rank].fetch_add(0, 1)
peers[1].send(b"now")
said["receive"] = name(lambda: peers[1].receive(30))
said["words"] = name(until_it_fails)
said["get"] = name(window[1].get)
said["fence"] = name(window[1].fence)
said["closed"] = peers[1].closed
said["dial"] = name(lambda: nd.connect(peers._addresses[1], timeout=10))
# The survivors go on with each other.
peers[2 - rank].send(b"still here")
said["other"] = name(lambda: peers.accepted(2 - rank, 30).receive(30))
said["word"] = name(lambda: window[2 - rank].fetch_add(1, 1))
peers[2 - rank].send(b"bye")
peers.accepted(2 - rank).receive(30)
peers.abort()
with open(os.path.join(folder, str(rank)), "w") as file:
    json.dump(said, file)
os._exit(0)
"""


def test_a_rank_that_is_killed_is_an_error_for_the_others(launcher, tmp_path):
    output, _ = run(launcher, 3, "-c", KILLED, str(tmp_path), survives=True)
    ended = "RdmaConnectionResetError"
    for rank in (0, 2):
        assert (tmp_path / str(rank)).exists(), output
        said = json.loads((tmp_path / str(rank)).read_text())
        # While the system still takes the process apart its port may be there.
        assert said.pop("dial") in ("RdmaConnectionRefusedError", ended)
        assert said == {
            "receive": ended,
            "words": ended,
            "get": ended,
            "fence": ended,
            "closed": True,
            "other": "b'still here'",
            "word": "0",
        }


def test_importing_ndverbs_imports_no_mpi():
    program = (
        "import ndverbs, sys; sys.exit('mpi4py' in sys.modules or 'ndverbs.mpi' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
