# SPDX-License-Identifier: Apache-2.0
"""The Python that runs in the guest: others' wheels on a disk, ours and the tests in a folder.

Both are layers of the cache. The guest mounts the disk as /opt/site, and sees the cache as /stage.
"""

import hashlib
import re
import shutil
import sys

from lab import debian, host, image

_TOOLS = ("pytest", "pytest-timeout", "hypothesis")
# What the wheel and the tests are made of; a copy of it is built, so that edits meanwhile do not
# mix two states.
_PARTS = [
    *("CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE"),
    *("src", "python", "tests"),
]
_IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", "*.so", "*.egg-info")
# Tests that need the checkout around them are run on the host.
_TESTS = ["conftest.py", "conformance", "double", "stream", "lab"]


def others(release):
    """Return the folder with site/ and site.img: NumPy, pytest and what they need."""
    project = image.pyproject()["project"]
    wanted = [
        *project["dependencies"],
        *(
            requirement
            for requirement in project["optional-dependencies"]["test"]
            if re.match(r"[\w-]+", requirement)[0] in _TOOLS
        ),
    ]
    facts = {"requirements": wanted, "layout": 3}
    return image.layer(
        release, "site", facts, lambda folder: _build_others(folder, release, wanted)
    )


def _install(release, folder, wanted):
    """Install requirements into a folder, compiled for the release's Python."""
    command = ["python3", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--root-user-action=ignore", "--only-binary=:all:", "--target", folder / "site"]
    debian.run(image.build_root(release), [*command, *wanted], shown=[folder])


def _build_others(folder, release, wanted):
    _install(release, folder, wanted)
    site = folder / "site"
    host.run(["mke2fs", "-q", "-t", "ext4", "-d", str(site), str(folder / "site.img"), "300M"])


def ours(release):
    """Return the folder with site/ (our package), tests/ and pyproject.toml."""
    source = image.cache_folder(release) / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir()
    for part in _PARTS:
        # Times of files stay, so that the build does again only what has changed.
        if (image.CHECKOUT / part).is_dir():
            shutil.copytree(image.CHECKOUT / part, source / part, ignore=_IGNORED)
        else:
            shutil.copy2(image.CHECKOUT / part, source / part)
    facts = {part: _digest(source / part) for part in _PARTS}
    folder = image.layer(
        release, "ours", facts, lambda folder: _build_ours(folder, release, source), keep=3
    )
    # For sessions by hand: /stage/ours is the newest.
    link = image.cache_folder(release) / "ours"
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


def _build_ours(folder, release, source):
    wheel = _wheel(release, source)
    host.run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(folder / "site")])
    shutil.copy2(source / "pyproject.toml", folder)
    (folder / "tests").mkdir()
    for name in _TESTS:
        original, copy = source / "tests" / name, folder / "tests" / name
        (shutil.copytree if original.is_dir() else shutil.copy2)(original, copy)


def _wheel(release, source):
    native = [
        source / "CMakeLists.txt",
        source / "pyproject.toml",
        source / "src",
        source / "python",
    ]
    native += [source / "README.md", source / "LICENSE", source / "tests" / "native"]
    facts = {path.name: _digest(path) for path in native}
    place = image.layer(
        release, "wheel", facts, lambda folder: _build_wheel(folder, release, source), keep=3
    )
    (wheel,) = place.glob("*.whl")
    return wheel


def _build_wheel(folder, release, source):
    wanted = [*image.pyproject()["build-system"]["requires"], "cmake>=3.24", "ninja"]
    tools = image.layer(
        release, "tools", {"wanted": wanted}, lambda folder: _install(release, folder, wanted)
    )
    build = image.cache_folder(release) / "cmake"
    build.mkdir(exist_ok=True)
    command = ["python3", "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-build-isolation", f"--config-settings=build-dir={build}"]
    command += [
        f"--config-settings=cmake.define.{name}=ON"
        for name in ("NDVERBS_TESTING", "NDVERBS_WERROR")
    ]
    debian.run(
        image.build_root(release),
        [*command, "--wheel-dir", folder, source],
        shown=[folder, source, build, tools],
        env={"PYTHONPATH": str(tools / "site")},
        log=folder / "pip.log",
    )
