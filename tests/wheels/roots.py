# SPDX-License-Identifier: Apache-2.0
"""What wheels are built with: an old C library, and interpreters that this machine need not have.

Each is a folder of Debian packages that are unpacked and not installed, kept in the lab's cache.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from lab import host, image, recipe

# The oldest Debian whose users take the wheels, with its compiler's library: one of the host's
# would ask for the host's C library.
C_LIBRARY = "2.31"
SYSROOT_SUITE = "bullseye"
SYSROOT_PACKAGES = ["libc6-dev", "libstdc++-10-dev"]
MULTIARCH = "x86_64-linux-gnu"

VERSIONS = ["3.11", "3.12", "3.13", "3.14"]
# The release of Debian that has an interpreter; of others one has to be at hand.
SUITE_OF = {"3.11": "bookworm", "3.13": "trixie", "3.14": "forky"}

# The interpreter with the C library that it was made for, which need not be the host's.
LAUNCHER = """#!/bin/sh
exec {root}/lib64/ld-linux-x86-64.so.2 --argv0 "$0" \\
    --library-path {root}/usr/lib/{multiarch}:{root}/lib/{multiarch} {real} "$@"
"""


class Interpreter(NamedTuple):
    version: str  # 3.14
    python: Path  # runs on this host
    root: Path | None  # that has nothing else in it; None where the interpreter is the host's


def sysroot():
    """Return the folder that stands for / to the compiler."""
    facts = {"suite": SYSROOT_SUITE, "packages": SYSROOT_PACKAGES, "layout": 1}
    return (
        image.layer("sysroot", facts, lambda it: _unpack(it, SYSROOT_SUITE, SYSROOT_PACKAGES))
        / "root"
    )


def interpreters():
    """Return an Interpreter for each version that can be had, and the versions that cannot."""
    found, missing = [], []
    for version in VERSIONS:
        if version in SUITE_OF:
            root = _python_root(version)
            found.append(Interpreter(version, root / "usr" / "bin" / "run-python", root))
        elif python := _at_hand(version):
            found.append(Interpreter(version, python, None))
        else:
            missing.append(version)
    return found, missing


def _python_root(version):
    packages = [f"python{version}", f"libpython{version}-dev"]
    facts = {"suite": SUITE_OF[version], "packages": packages, "launcher": LAUNCHER, "layout": 1}

    def build(folder):
        _unpack(folder, SUITE_OF[version], packages)
        # python3.14/pyconfig.h includes <x86_64-linux-gnu/python3.14/pyconfig.h>, and the compiler
        # looks for that in a root that has no Python.
        include = folder / "root" / "usr" / "include"
        inner = include / f"python{version}" / MULTIARCH
        inner.mkdir()
        shutil.copytree(include / MULTIARCH / f"python{version}", inner / f"python{version}")

    root = image.layer(f"python{version}", facts, build) / "root"
    # A launcher names the root, which was built elsewhere.
    launcher = root / "usr" / "bin" / "run-python"
    real = root / "usr" / "bin" / f"python{version}"
    launcher.write_text(LAUNCHER.format(root=root, multiarch=MULTIARCH, real=real))
    launcher.chmod(0o755)
    return root


def _at_hand(version):
    """Find an interpreter of the host that runs: a shim of a version manager may not."""
    manager = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = sorted(manager.glob(f"versions/{version}.*/bin/python{version}"))
    if on_path := shutil.which(f"python{version}"):
        candidates.insert(0, Path(on_path))
    for python in candidates:
        done = subprocess.run([python, "-c", "import venv"], capture_output=True)
        if done.returncode == 0:
            return python
    return None


def _unpack(folder, suite, packages):
    """Unpack packages and what they need into folder/root; none of their programs is run."""
    root = folder / "root"
    root.mkdir()
    command = [
        *("mmdebstrap", "--variant=extract", "--format=tar", f"--include={','.join(packages)}"),
        *(f"--dpkgopt=path-exclude={path}" for path in recipe.LEFT_OUT),
        *(f"--aptopt={option}" for option in host.apt_options()),
        # The release file of testing may be past its date.
        '--aptopt=Acquire::Check-Valid-Until "false";',
        *(suite, str(folder / "root.tar"), f"deb {_mirror()} {suite} main"),
    ]
    if not shutil.which("mmdebstrap", path=host.environment()["PATH"]):
        raise host.LabError("make wheel needs mmdebstrap: apt-get install mmdebstrap")
    host.run(command, log=folder / "mmdebstrap.log")
    host.run(["tar", "-x", "-C", str(root), "--exclude=./dev/*", "-f", str(folder / "root.tar")])
    (folder / "root.tar").unlink()
    # A package that is not unpacked makes these where /lib is a part of /usr.
    for name in ("lib", "lib64"):
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    for link in root.rglob("*"):
        if link.is_symlink() and re.match("/", target := os.readlink(link)):
            link.unlink()
            link.symlink_to(os.path.relpath(f"{root}{target}", link.parent))


def _mirror():
    for line in host.debian_sources():
        _, uri, codename, _ = line.split()
        if codename == recipe.SUITE:
            return uri
    raise host.LabError(f"apt on this host knows no mirror of Debian {recipe.SUITE}")
