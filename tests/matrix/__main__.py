# SPDX-License-Identifier: Apache-2.0
"""The whole test suite on several releases of Debian, each in a root of its own."""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from lab import debian, host, image, recipe
from matrix.report import Outcome, Report, Row, read_junit

PLACE = "/ndverbs"  # the checkout, as a root sees it
PACKAGES = [
    *("g++", "clang", "make", "git", "python3-dev", "python3-venv", "ca-certificates"),
    # The ABI of the project's own declarations is checked against these, and the tests decode
    # captured traffic with tshark.
    *("libibverbs-dev", "librdmacm-dev", "tshark"),
]


class Entry(NamedTuple):
    """A release, and which requirements of pyproject.toml are held at their oldest there."""

    release: recipe.Release
    oldest: tuple[str, ...] = ()


# Debian 12 with the newest of everything is what CI runs.
ENTRIES = {
    entry.release.suite: entry
    for entry in (
        Entry(recipe.RELEASES["bookworm"], oldest=("numpy",)),
        Entry(recipe.RELEASES["trixie"]),
        Entry(recipe.RELEASES["testing"]),
    )
}

_CLANG = (
    "cmake -S . -B build/clang -G Ninja --log-level=WARNING -DCMAKE_CXX_COMPILER=clang++ "
    "-DNDVERBS_WERROR=ON -DNDVERBS_PYTHON=ON -DNDVERBS_TESTING=ON -DNDVERBS_NATIVE_TESTS=ON "
    "-DPython_EXECUTABLE=$PWD/.venv/bin/python "
    '-Dpybind11_DIR="$(.venv/bin/python -m pybind11 --cmakedir)"'
    " && cmake --build build/clang && ctest --test-dir build/clang --output-on-failure"
)
# What is run, in order; one that fails does not keep the others from running.
STEPS = {
    "g++": "make native-test build",
    "tests": "make python-test",
    "clang": f"make .venv/.build-tools && export PATH=$PWD/.venv/bin:$PATH && {_CLANG}",
}
_running = set()  # leaders of the process groups of commands that run
_VERSIONS = {
    "Python": "python3 -c 'import platform; print(platform.python_version())'",
    "g++": "g++ -dumpfullversion",
    "clang": "clang -dumpversion",
    "glibc": "getconf GNU_LIBC_VERSION | cut -d' ' -f2",
    "NumPy": ".venv/bin/python -c 'import numpy; print(numpy.__version__)'",
}


class Place:
    """An entry's root and folders: what one run leaves there, the next one builds on."""

    def __init__(self, entry):
        self._root = image.root(entry.release, "tests", PACKAGES)
        self.folder = image.cache_folder(entry.release) / "matrix"
        self._env = {}
        for name in (".venv", "build"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for name in ("checkout", "tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / name).mkdir()
        _copy_checkout(self.folder / "checkout")
        if entry.oldest:
            (self.folder / "tmp" / "oldest").write_text("\n".join(_oldest(entry.oldest)))
            others = debian.pip_settings()[0].get("PIP_CONSTRAINT", "")
            self._env["PIP_CONSTRAINT"] = f"{others} /tmp/oldest".strip()

    def command(self, command):
        """Give the words that run a shell command in the checkout."""
        return debian.entered(
            self._root,
            ["bash", "-c", command],
            shown={
                self.folder / "checkout": PLACE,
                self.folder / ".venv": f"{PLACE}/.venv",
                self.folder / "build": f"{PLACE}/build",
                self.folder / "tmp": "/tmp",
            },
            cwd=PLACE,
            env={"HOME": "/tmp", **self._env},
        )


def _copy_checkout(folder):
    """Copy what git knows, with the times of files, so that a build does again what changed."""
    said = host.run(
        ["git", "-C", str(image.CHECKOUT), "ls-files", "-z", "-co", "--exclude-standard"]
    )
    for name in said.split("\0"):
        if name and (image.CHECKOUT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(image.CHECKOUT / name, folder / name)


def _oldest(names):
    """Give constraints that hold requirements of pyproject.toml at the oldest they allow."""
    wanted = dict(line.split(">=") for line in image.pyproject()["project"]["dependencies"])
    return [f"{name}=={wanted[name]}.*" for name in names]


def run(name, arguments, report):
    """Run all steps of an entry and put what became of them into the report."""
    place = Place(ENTRIES[name])
    pytest = "--color=no --junitxml=build/junit.xml " + " ".join(arguments.pytest_arguments)
    for step in arguments.steps:
        log = place.folder / f"{step}.log"
        print(f"matrix: {name}: {step}, in {log}", flush=True)
        junit = place.folder / "build" / "junit.xml"
        junit.unlink(missing_ok=True)
        started = time.monotonic()
        with open(log, "w") as file:
            status = _run(
                place.command(f"export PYTEST_ARGS={shlex.quote(pytest)}; {STEPS[step]}"), file
            )
        if status == -signal.SIGKILL:  # interrupted
            return
        tests = read_junit(junit.read_text()) if junit.exists() else {}
        report.put(
            name, Outcome(step, status, time.monotonic() - started, tests, host.tail(log, 40))
        )
    said = {
        what: subprocess.run(place.command(how), capture_output=True, text=True).stdout.strip()
        for what, how in _VERSIONS.items()
    }
    report.versions[name] = said


def _run(words, file):
    """Run a command to its end; what it has started does not outlive an interruption."""
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.STDOUT,
        env=host.environment(),
        start_new_session=True,
    ) as process:
        _running.add(process.pid)
        try:
            return process.wait()
        finally:
            _running.discard(process.pid)


def _words(known):
    def parse(text):
        words = text.split(",")
        if unknown := [word for word in words if word not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
        return words

    return parse


def main():
    parser = argparse.ArgumentParser(
        prog="python -m matrix",
        description=f"{__doc__} Arguments that are not named here go to pytest.",
    )
    for option, known in (("--only", ENTRIES), ("--steps", STEPS)):
        parser.add_argument(
            option,
            type=_words(known),
            default=list(known),
            metavar="NAME,…",
            help=f"of {', '.join(known)}",
        )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="roots side by side (%(default)s)"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="install the newest packages, build everything anew"
    )
    arguments, arguments.pytest_arguments = parser.parse_known_args()
    report = Report([Row(name, ENTRIES[name].oldest) for name in arguments.only])
    if arguments.fresh:
        for name in arguments.only:
            folder = image.cache_folder(ENTRIES[name].release) / "matrix"
            shutil.rmtree(folder, ignore_errors=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ThreadPoolExecutor(arguments.jobs) as pool:
            working = [pool.submit(run, name, arguments, report) for name in arguments.only]
            try:
                for done in working:
                    done.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for leader in list(_running):
                    os.killpg(leader, signal.SIGKILL)
                raise
    except KeyboardInterrupt:
        return 130
    except host.LabError as error:
        print(f"matrix: {error}", file=sys.stderr)
        return 1
    path = image.cache_folder() / "matrix.txt"
    path.write_text(report.text())
    print(f"\nmatrix: this is also in {path}\n\n{report.text()}", end="")
    return 0 if report.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
