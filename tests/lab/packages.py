# SPDX-License-Identifier: Apache-2.0
"""The Python that runs in the guest: others' wheels on a disk, ours and the tests in a folder.

Both are layers of the cache. The guest mounts the disk as /opt/site, and sees the cache as /stage.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tomllib

from lab import host, image, recipe

_TOOLS = ("pytest", "pytest-timeout", "hypothesis")
# What the wheel and the tests are made of; a copy of it is built, so that edits meanwhile do not
# mix two states.
_PARTS = [
    *("CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE"),
    *("src", "python", "tests"),
]
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.so", "*.egg-info")
# Tests that need the checkout around them are run on the host.
_TESTS = ["conftest.py", "conformance", "stream", "lab"]


def others():
    """Return the folder with site/ and site.img: NumPy, pytest and what they need."""
    with open(image.CHECKOUT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    wanted = [
        *project["dependencies"],
        *(
            requirement
            for requirement in project["optional-dependencies"]["test"]
            if re.match(r"[\w-]+", requirement)[0] in _TOOLS
        ),
    ]
    facts = {"requirements": wanted, "python": recipe.PYTHON, "layout": 2}
    return image.layer("site", facts, lambda folder: _build_others(folder, wanted))


def _build_others(folder, wanted):
    site = folder / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--target", str(site), "--only-binary=:all:", "--python-version", recipe.PYTHON]
    host.run([*command, "--root-user-action=ignore", "--implementation=cp", *wanted])
    if not sys.version.startswith(recipe.PYTHON + "."):
        for compiled in site.rglob("__pycache__"):
            shutil.rmtree(compiled)
    host.run(["mke2fs", "-q", "-t", "ext4", "-d", str(site), str(folder / "site.img"), "300M"])


def ours():
    """Return the folder with site/ (our package), tests/ and pyproject.toml."""
    source = image.cache_folder() / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    for part in _PARTS:
        # Times of files stay, so that the build does again only what has changed.
        if (image.CHECKOUT / part).is_dir():
            shutil.copytree(image.CHECKOUT / part, source / part, ignore=_IGNORED)
        else:
            shutil.copy2(image.CHECKOUT / part, source / part)
    facts = {part: _digest(source / part) for part in _PARTS}
    folder = image.layer("ours", facts, lambda folder: _build_ours(folder, source), keep=3)
    # For sessions by hand: /stage/ours is the newest.
    link = image.cache_folder() / "ours"
    link.unlink(missing_ok=True)
    link.symlink_to(folder.name)
    return folder


def _digest(path):
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            data = file.read_bytes()
            digest.update(f"{file.relative_to(path)} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def _build_ours(folder, source):
    wheel = _wheel(folder, source)
    host.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(folder / "site")])
    shutil.copy2(source / "pyproject.toml", folder)
    (folder / "tests").mkdir()
    for name in _TESTS:
        original, copy = source / "tests" / name, folder / "tests" / name
        (shutil.copytree if original.is_dir() else shutil.copy2)(original, copy)


def _wheel(folder, source):
    native = [
        source / "CMakeLists.txt",
        source / "pyproject.toml",
        source / "src",
        source / "python",
    ]
    native += [source / "README.md", source / "LICENSE", source / "tests" / "native"]
    facts = {path.name: _digest(path) for path in native}
    place = image.layer("wheel", facts, lambda folder: _build_wheel(folder, source), keep=3)
    (wheel,) = place.glob("*.whl")
    return wheel


def _build_wheel(folder, source):
    python = interpreter()
    tools = subprocess.run(
        [python, "-c", "import scikit_build_core, pybind11"], capture_output=True
    )
    command = [python, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-build-isolation"] if tools.returncode == 0 else []
    command += [f"--config-settings=build-dir={image.cache_folder() / 'cmake'}"]
    command += [
        f"--config-settings=cmake.define.{name}=ON"
        for name in ("NDVERBS_TESTING", "NDVERBS_WERROR")
    ]
    command += ["--wheel-dir", str(folder), str(source)]
    host.run(command, log=folder / "pip.log")


def interpreter():
    """Find an interpreter of the guest's version: a wheel is for one version only."""
    if sys.version.startswith(recipe.PYTHON + "."):
        return sys.executable
    found = shutil.which(f"python{recipe.PYTHON}")
    if found is None:
        raise host.LabError(
            f"the guest has Python {recipe.PYTHON}, and a wheel for it is built by python"
            f"{recipe.PYTHON}, which is not here: apt-get install python3 python3-dev python3-venv"
        )
    return found
