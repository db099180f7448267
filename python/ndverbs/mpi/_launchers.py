# SPDX-License-Identifier: Apache-2.0
"""The mpiexec programs of this machine, and what mpi4py needs to use the library of each.

The wheels of mpi4py 4 choose the library when they are imported: MPI4PY_MPIABI says which of the
two binary interfaces they use, and the loader finds the library by its name, which is
``libmpi.so.40`` of Open MPI and ``libmpi.so.12`` of MPICH. Debian calls the latter
``libmpich.so.12``: a link of the other name is made for it.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path

NAMES = ("openmpi", "mpich")
_SIGNS = {"openmpi": "Open", "mpich": "HYDRA"}  # as `mpiexec --version` says
_PACKAGES = {"openmpi": "openmpi-bin", "mpich": "mpich"}
_MPICH, _MPICH_OF_DEBIAN = "libmpi.so.12", "libmpich.so.12"
_ANSWER_S = 30.0


@dataclasses.dataclass(frozen=True)
class Launcher:
    """An mpiexec, with the environment in which mpi4py uses its library."""

    name: str
    program: str
    environment: dict[str, str]

    def command(self, ranks: int, *, survives: bool = False) -> list[str]:
        """Return the beginning of a command that starts ranks on this host.

        Parameters
        ----------
        ranks : int
            How many, whatever number of processors there is.
        survives : bool
            The job goes on when one of them is killed.
        """
        options = ["-n", str(ranks)]
        if self.name == "openmpi":
            options += ["--oversubscribe"]
            options += ["--allow-run-as-root"] if os.geteuid() == 0 else []
            options += ["--enable-recovery"] if survives else []
        elif survives:
            options += ["-disable-auto-cleanup"]
        return [self.program, *options]


def launcher(name: str, folder: Path) -> Launcher | str:
    """Find the mpiexec of an MPI, or say why there is none.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    folder : Path
        Where a link to a library may be made, for as long as it is used.
    """
    program = _program(name)
    if program is None:
        return f"there is no mpiexec of {name} (on Debian: apt-get install {_PACKAGES[name]})"
    environment = {**os.environ, "MPI4PY_MPIABI": name}
    if name == "mpich" and _path_of(_MPICH) is None:
        found = _path_of(_MPICH_OF_DEBIAN)
        if found is None:
            return f"the loader finds neither {_MPICH} nor {_MPICH_OF_DEBIAN}"
        (folder / _MPICH).symlink_to(found)
        others = os.environ.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(
            [str(folder), *([others] if others else [])]
        )
    return Launcher(name, program, environment)


def _program(name: str) -> str | None:
    own = shutil.which(f"mpiexec.{name}")
    if own is not None:
        return own
    plain = shutil.which("mpiexec")
    if plain is None:
        return None
    said = subprocess.run(
        [plain, "--version"], capture_output=True, text=True, timeout=_ANSWER_S, check=False
    )
    return plain if _SIGNS[name] in said.stdout else None


def _path_of(library: str) -> str | None:
    """Return where the loader's cache has a library; None: nowhere."""
    ldconfig = shutil.which("ldconfig", path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
    if ldconfig is None:
        return None
    said = subprocess.run(
        [ldconfig, "-p"], capture_output=True, text=True, timeout=_ANSWER_S, check=False
    )
    for line in said.stdout.splitlines():
        name, arrow, path = line.strip().partition(" => ")
        if arrow and name.startswith(f"{library} "):
            return path
    return None
