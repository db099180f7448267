# SPDX-License-Identifier: Apache-2.0
"""What a build from source says where something is missing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.prefix) / "bin"

pytestmark = pytest.mark.skipif(
    not (TOOLS / "cmake").exists() or not (TOOLS / "ninja").exists(),
    reason="the environment of these tests has no cmake and ninja",
)


def configure(folder, *definitions, **environment):
    """Configure a build into a folder; return how it ended and what it says is wrong."""
    command = [TOOLS / "cmake", "-S", ROOT, "-B", folder, "-G", "Ninja"]
    command += [f"-D{d}" for d in (f"CMAKE_MAKE_PROGRAM={TOOLS / 'ninja'}", *definitions)]
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
    )
    errors = re.findall(r"^CMake Error[^\n]*\n(.*?)\n\n", done.stderr, re.MULTILINE | re.DOTALL)
    return done.returncode, [" ".join(error.split()) for error in errors]


def test_a_missing_compiler_is_one_sentence(tmp_path):
    status, errors = configure(tmp_path, PATH="/nowhere", CXX="", CMAKE_CXX_COMPILER_LAUNCHER="")

    assert status != 0
    assert errors == [
        "ndverbs needs a C++ compiler, g++ 12 or clang 14 or newer; on Debian: apt-get install g++."
    ]


PYTHON = f"Python_EXECUTABLE={sys.executable}"


@pytest.mark.parametrize(
    ("definitions", "sentence"),
    [
        (
            [PYTHON, "Python_INCLUDE_DIR=/nowhere"],
            f"ndverbs needs the headers of {sys.executable}; on Debian: apt-get install "
            "python3-dev.",
        ),
        (
            [PYTHON, "CMAKE_DISABLE_FIND_PACKAGE_pybind11=ON"],
            "ndverbs needs pybind11 3.0 or newer; with pip: pip install pybind11.",
        ),
    ],
    ids=["Python's headers", "pybind11"],
)
def test_what_the_extension_lacks_is_one_sentence(definitions, sentence, tmp_path):
    status, errors = configure(tmp_path, "NDVERBS_PYTHON=ON", *definitions)

    assert status != 0
    assert errors == [sentence]
