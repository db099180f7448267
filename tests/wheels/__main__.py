# SPDX-License-Identifier: Apache-2.0
"""Builds dist/: the source distribution, and from it a wheel for each CPython.

The host's compiler builds against the C library and C++ library of an old Debian. One build folder
serves all versions of Python, one after the other: what does not include Python is compiled once.
"""

import shutil
import sys
import tarfile
import tomllib
from pathlib import Path

from lab import host, image
from wheels import roots

PLATFORM = f"manylinux_{roots.C_LIBRARY.replace('.', '_')}_x86_64"
DIST = image.CHECKOUT / "dist"
BUILD = image.CHECKOUT / "build" / "wheel"


def main():
    shutil.rmtree(DIST, ignore_errors=True)
    shutil.rmtree(BUILD / "debug", ignore_errors=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    source = unpacked(source_distribution())
    found, missing = roots.interpreters()
    for interpreter in found:
        wheel = finished(raw_wheel(source, interpreter))
        print(f"wheel: {wheel.relative_to(image.CHECKOUT)}, {wheel.stat().st_size / 1e6:.2f} MB")
    for version in missing:
        print(
            f"wheel: none for CPython {version}: Debian has no such release, and there is no "
            f"python{version} here that runs"
        )


def source_distribution():
    script = f"from scikit_build_core.build import build_sdist; build_sdist({str(DIST)!r})"
    run([sys.executable, "-c", script], log="sdist.log", cwd=image.CHECKOUT)
    (archive,) = DIST.glob("*.tar.gz")
    return archive


def unpacked(archive):
    """Unpack the source distribution, with new times for the files that changed.

    The archive has one time for all, by which a build folder would miss changes.
    """
    new, source = BUILD / "unpacked", BUILD / "source"
    shutil.rmtree(new, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(new, filter="data")
    (new,) = new.iterdir()
    for file in source.rglob("*"):
        if file.is_file() and not (new / file.relative_to(source)).is_file():
            file.unlink()
    for file in new.rglob("*"):
        there = source / file.relative_to(new)
        if not file.is_file() or (there.is_file() and there.read_bytes() == file.read_bytes()):
            continue
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, there)
    return source


def raw_wheel(source, interpreter):
    python = environment_of(interpreter)
    place = BUILD / f"raw-{interpreter.version}"
    shutil.rmtree(place, ignore_errors=True)
    command = [*pip(python), "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", place]
    command += [f"--config-settings=build-dir={BUILD / 'cmake'}", source]
    run(command, log=f"build-{interpreter.version}.log", env=compiler_flags(source))
    (wheel,) = place.glob("*.whl")
    return wheel


def environment_of(interpreter):
    """Return the interpreter of a virtual environment that has what the build needs."""
    place = BUILD / f"venv-{interpreter.version}"
    shutil.rmtree(place, ignore_errors=True)
    run([interpreter.python, "-m", "venv", "--without-pip", place], log="venv.log")
    with open(image.CHECKOUT / "pyproject.toml", "rb") as file:
        needed = tomllib.load(file)["build-system"]["requires"]
    run([*pip(place / "bin" / "python"), "install", *needed], log="venv.log")
    return place / "bin" / "python"


def pip(python):
    return [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]


def compiler_flags(source):
    """Give an environment that makes the host's compiler one for the old C library.

    The C++ library is in the extension: users need none, and its symbols meet no other copy.
    """
    root = roots.sysroot()
    multiarch, compiler = roots.MULTIARCH, root / "usr" / "lib" / "gcc" / roots.MULTIARCH / "10"
    headers = root / "usr" / "include"
    compile_flags = [
        f"--sysroot={root}",
        "-nostdinc++",
        f"-isystem {headers}/c++/10",
        f"-isystem {headers}/{multiarch}/c++/10",
        f"-ffile-prefix-map={source}=ndverbs",
    ]
    link_flags = [
        *(f"-B{place} -L{place}" for place in (compiler, root / "usr" / "lib" / multiarch)),
        "-static-libstdc++ -static-libgcc",
        f"-Wl,--version-script={Path(__file__).with_name('exports.map')}",
    ]
    return {"CXXFLAGS": " ".join(compile_flags), "LDFLAGS": " ".join(link_flags)}


def finished(wheel):
    """Strip the extension, check the wheel against its platform, and put it into dist/."""
    place = BUILD / "tree"
    shutil.rmtree(place, ignore_errors=True)
    run([sys.executable, "-m", "wheel", "unpack", "--dest", place, wheel], log="pack.log")
    (tree,) = place.iterdir()
    debug = BUILD / "debug"
    debug.mkdir(exist_ok=True)
    for library in tree.rglob("*.so"):
        symbols = debug / f"{library.name}.debug"
        run(["objcopy", "--only-keep-debug", library, symbols], log="strip.log")
        run(["strip", "--strip-unneeded", library], log="strip.log")
        run(["objcopy", f"--add-gnu-debuglink={symbols}", library], log="strip.log")
    stripped = BUILD / "stripped"
    shutil.rmtree(stripped, ignore_errors=True)
    stripped.mkdir()
    run([sys.executable, "-m", "wheel", "pack", "--dest-dir", stripped, tree], log="pack.log")
    (wheel,) = stripped.iterdir()
    before = set(DIST.glob("*.whl"))
    run(
        [
            *(sys.executable, "-m", "auditwheel", "repair", "--only-plat"),
            *("--plat", PLATFORM, "--wheel-dir", DIST, wheel),
        ],
        log="auditwheel.log",
    )
    (repaired,) = set(DIST.glob("*.whl")) - before
    return repaired


def run(command, *, log, **options):
    return host.run([str(word) for word in command], log=BUILD / log, **options)


if __name__ == "__main__":
    try:
        main()
    except host.LabError as error:
        sys.exit(f"wheel: {error}")
