# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin as a program's suite has it: in a process of its own, with another package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.markdown_examples import ROOT, programs

MAILBOX = Path(__file__).parent / "mailbox"
LIMIT = 100


def run(folder, *options):
    """Run pytest in a folder; return its exit code and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--rootdir={folder}", *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def mailbox(tmp_path_factory):
    """Run the suite of another package, with nothing of this project around it."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(MAILBOX, folder, dirs_exist_ok=True)
    return folder, *run(folder, "suite", f"--basetemp={folder / 'temporary'}")


def test_the_suite_of_another_package_runs(mailbox):
    _, code, said = mailbox

    assert code == 1, said
    assert re.search(r"^FAILED suite/test_wishes.py::test_a_corrupted_letter", said, re.MULTILINE)
    assert "1 failed, 6 passed" in said, said


def test_a_failed_test_shows_its_faults_and_frames(mailbox):
    _, _, said = mailbox

    assert re.search(r"- Faults that struck -+\ncorrupt: connection 1, active side, frame 2", said)
    frames = said.partition("- Frames on the wire -")[2].splitlines()
    assert any("MPA Request" in line for line in frames)
    assert any("Terminate" in line and "2/0/02" in line for line in frames), said


def test_a_capture_is_kept_of_the_failed_test_alone(mailbox):
    folder, _, said = mailbox

    (capture,) = re.findall(r"the capture: (.*)$", said, re.MULTILINE)
    kept = {path.name for path in Path(capture).parent.glob("rdma-capture*")}

    assert [str(path) for path in folder.rglob("*.pcapng")] == [capture]
    assert kept == {"rdma-capture", "rdma-capture.pcapng"}
    assert len(list(folder.rglob("rdma-capture"))) == 1


UNUSED = """
import sys

def test_nothing_is_loaded():
    assert "pytest_ndverbs" in sys.modules
    assert [name for name in sys.modules if name.split(".")[0] in ("numpy", "ndverbs")] == []
"""
DIRECT = """
def test_memory_carries_it(rdma_pair):
    assert rdma_pair.active.connector.transport == "direct"
"""
KILLED = """
import os
import pytest
from pytest_ndverbs.process import ProcessEndedError

def number():
    return os.getpid()

def fail():
    raise KeyError("there")

def test_its_errors_come_here(rdma_process):
    assert rdma_process.call(number) == rdma_process.pid != os.getpid()
    with pytest.raises(KeyError, match="there"):
        rdma_process.call(fail)
    rdma_process.kill()
    with pytest.raises(ProcessEndedError, match="-9"):
        rdma_process.call(number)

def test_another_one_takes_its_place(rdma_process):
    assert rdma_process.call(number) == rdma_process.pid
    with pytest.raises(ValueError, match="no function of a module"):
        rdma_process.call(lambda: 1)
"""


def test_a_suite_that_does_not_use_it_loads_nothing(tmp_path):
    (tmp_path / "test_unused.py").write_text(UNUSED)

    code, said = run(tmp_path)

    assert code == 0, said


def test_a_suite_on_a_named_adapter_without_captures_passes(tmp_path):
    letters = programs(ROOT / "docs" / "howto.md")["test_letters.py"]
    for name, text in {"letters": letters, "direct": DIRECT, "killed": KILLED}.items():
        (tmp_path / f"test_{name}.py").write_text(text)

    code, said = run(
        tmp_path, "--rdma-adapter=soft:127.0.0.1", "--rdma-capture=off", "--import-mode=importlib"
    )

    assert code == 0, said
    assert "rdma adapter: soft:127.0.0.1, iWARP by soft" in said


def test_an_adapter_that_is_not_there_ends_the_session_with_one_sentence(tmp_path):
    code, said = run(tmp_path, "--rdma-adapter=nonsense")

    assert code == 4
    assert 'ERROR: --rdma-adapter nonsense: open: there is no provider "nonsense"' in said
