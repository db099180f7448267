# SPDX-License-Identifier: Apache-2.0
"""What the lab needs from its host: programs, and how they are run.

A part that lacks is a LabError that names the remedy.
"""

import os
import shutil
import subprocess
from pathlib import Path

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "tar": "tar",
    "unshare": "util-linux",
}
SBIN = ["/usr/local/sbin", "/usr/sbin", "/sbin"]


class LabError(Exception):
    """The lab cannot go on; the text says why and what to do."""


def environment():
    """Give an environment whose PATH has the folders of administration programs."""
    folders = os.environ.get("PATH", os.defpath).split(":")
    return {**os.environ, "PATH": ":".join(folders + [f for f in SBIN if f not in folders])}


def run(command, *, log=None, env=None, **options):
    """Run a program to its end; on failure raise with the last lines of what it said."""
    env = {**environment(), **(env or {})}
    if log is not None:
        with open(log, "w") as file:
            status = subprocess.run(
                command, stdout=file, stderr=file, env=env, **options
            ).returncode
        said = tail(log) if status else ""
        where = f", all of it in {log}"
    else:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            text=True,
            **options,
        )
        status, said, where = done.returncode, done.stdout, ""
    if status:
        raise LabError(f"{command[0]} ended with status {status}{where}:\n{said}")
    return said


def tail(path, count=25):
    """Return the last lines of a text file."""
    return "".join(Path(path).read_text(errors="replace").splitlines(keepends=True)[-count:])


def check(*programs):
    """Raise when one of the programs lacks, with the line that installs all of them."""
    path = environment()["PATH"]
    missing = [PROGRAMS[name] for name in programs if not shutil.which(name, path=path)]
    if os.geteuid() != 0 and not shutil.which("newuidmap", path=path):
        missing.append("uidmap")
    if missing:
        raise LabError(
            "the lab lacks programs of this host; install them with\n  apt-get update && "
            f"apt-get install --no-install-recommends {' '.join(missing)}"
        )
