# SPDX-License-Identifier: Apache-2.0
"""What the lab needs from its host: programs, kernel packages of one version, Debian's mirror.

Everything is looked up when it is needed. A part that lacks is a LabError that names the remedy.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from lab import recipe

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "make": "make",
    "gcc": "gcc",
    "tar": "tar",
    "xz": "xz-utils",
}
SBIN = ["/usr/local/sbin", "/usr/sbin", "/sbin"]


class LabError(Exception):
    """The lab cannot go on; the text says why and what to do."""


class Kernel(NamedTuple):
    """The kernel of the guest: image, headers and source of one version of Linux."""

    release: str  # 6.1.0-56-amd64
    version: str  # 6.1.192-2

    @property
    def image_package(self):
        return f"linux-image-{self.release}"

    @property
    def headers(self):
        return f"/usr/src/linux-headers-{self.release}"

    @property
    def source(self):
        return f"/usr/src/{recipe.SOURCE_PACKAGE}.tar.xz"


def environment():
    """Give an environment whose PATH has the folders of administration programs."""
    folders = os.environ.get("PATH", os.defpath).split(":")
    return {**os.environ, "PATH": ":".join(folders + [f for f in SBIN if f not in folders])}


def run(command, *, log=None, **options):
    """Run a program to its end; on failure raise with the last lines of what it said."""
    if log is not None:
        with open(log, "w") as file:
            status = subprocess.run(
                command, stdout=file, stderr=file, env=environment(), **options
            ).returncode
        said = tail(log) if status else ""
        where = f", all of it in {log}"
    else:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),
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


def _installed(*patterns):
    """Versions of installed packages whose names match."""
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n", *patterns],
        capture_output=True,
        text=True,
    )
    rows = (line.split() for line in done.stdout.splitlines())
    return {row[1]: row[2] for row in rows if row[0] == "installed"}


def check():
    """Raise when a program or package lacks, with the line that installs all of them."""
    path = environment()["PATH"]
    missing = [package for name, package in PROGRAMS.items() if not shutil.which(name, path=path)]
    have = _installed(recipe.HEADERS_PACKAGE, recipe.SOURCE_PACKAGE)
    missing += [p for p in (recipe.HEADERS_PACKAGE, recipe.SOURCE_PACKAGE) if p not in have]
    if os.geteuid() != 0 and not shutil.which("newuidmap", path=path):
        missing.append("uidmap")
    if missing:
        raise LabError(
            "the lab lacks programs of this host; install them with\n  apt-get update && "
            f"apt-get install --no-install-recommends {' '.join(missing)}"
        )


def kernel():
    """Find the version of which headers and source are both installed.

    Debian publishes source before the headers it signs, so its own revision may differ: a module
    fits the kernel whose headers it is built with, and siw is the same in one version of Linux.
    """
    check()
    have = _installed("linux-headers-*-amd64", recipe.SOURCE_PACKAGE)
    source = have.get(recipe.SOURCE_PACKAGE)
    for package, version in have.items():
        match = re.fullmatch(r"linux-headers-(\d+\.\d+\.\d+-\d+-amd64)", package)
        if match and source and _linux(version) == _linux(source):
            return Kernel(match[1], version)
    headers = ", ".join(f"{p} {v}" for p, v in have.items() if p != recipe.SOURCE_PACKAGE)
    raise LabError(
        f"kernel headers ({headers}) and {recipe.SOURCE_PACKAGE} ({source}) are not of one "
        f"version of Linux; install\n  apt-get update && apt-get install {recipe.HEADERS_PACKAGE} "
        f"{recipe.SOURCE_PACKAGE}"
    )


def _linux(version):
    return version.rpartition("-")[0]  # 6.1.192 of 6.1.192-2


def debian_sources():
    """Give the lines of sources.list by which this host gets Debian itself."""
    said = run(
        [
            *("apt-get", "indextargets", "--format"),
            "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)",
            "Created-By: Packages",
        ]
    )
    rows = {tuple(line.split()) for line in said.splitlines()}
    lines = sorted(
        f"deb {uri} {codename} {component}"
        for uri, codename, component, origin in (row for row in rows if len(row) == 4)
        if origin == "Debian" and component == "main" and codename.split("-")[0] == recipe.SUITE
    )
    if not lines:
        raise LabError(
            f"apt on this host knows no mirror of Debian {recipe.SUITE}: the lab is built on "
            "Debian 12, after `apt-get update`"
        )
    return lines


def apt_options():
    """Give the host's way to its mirror (proxies and the like) as apt options."""
    said = run(["apt-config", "dump"])
    pattern = re.compile(r'^(Acquire::https?::(?!Pipeline)\S+) "(.+)";$', re.MULTILINE)
    return [f'{name} "{value}";' for name, value in pattern.findall(said)]
