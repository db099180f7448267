# SPDX-License-Identifier: Apache-2.0
"""README.md: its example and its commands work as pasted, and its tables tell the truth."""

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from docs.markdown_examples import (
    ROOT,
    assert_prints,
    blocks,
    clean_environment,
    copy,
    ndverbs,
    programs,
    run,
    served,
)

README = ROOT / "README.md"
LIMIT_S = 60
SIDES = ("server.py", "client.py")


def commands(first_words):
    """Return the README's shell commands that begin with the words, without their comments."""
    lines = [
        line.partition("  #")[0].strip()
        for block in blocks(README)
        if block.language == "sh"
        for line in block.code.splitlines()
    ]
    return [line for line in lines if first_words in line]


def test_examples_run_as_pasted_in_two_processes(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
    server, client = (program.replace("7471", port) for program in map(programs(README).get, SIDES))
    # The client asks once: the server says when it listens.
    says = server.replace(" as server, ", " as server, print_address(server), ")
    said = "import contextlib\ndef print_address(server):\n    print('listening', flush=True)\n"
    said += "    return contextlib.nullcontext()\n"
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", said + says],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "listening\n"
        run(tmp_path, client)
        assert_prints(server, process.communicate(timeout=LIMIT_S)[0])
        assert process.returncode == 0


def test_examples_are_eleven_lines_at_most():
    lines = [line for side in SIDES for line in programs(README)[side].splitlines()]
    assert len([each for each in lines if each and not each.startswith(("import", "print"))]) <= 11


def test_own_data_goes_from_one_terminal_to_the_other(tmp_path):
    (serve,) = commands("ndverbs serve")
    (line,) = commands("ndverbs cp")
    make_folder, _, serve = serve.partition(" && ")
    assert shlex.split(make_folder)[:2] == ["mkdir", "-p"]
    received = tmp_path / shlex.split(make_folder)[2]
    received.mkdir()
    source, target = shlex.split(line)[2:4]
    array = np.arange(100_000.0)
    np.save(tmp_path / source, array)

    # The one change to what a reader pastes: the port is any free one.
    assert "127.0.0.1:7471" in serve
    assert "127.0.0.1:7471" in target
    with served(tmp_path, shlex.split(serve)[1:]) as port:
        copy(tmp_path, ["cp", source, target], port)
    assert np.array_equal(np.load(received / target.rpartition(":")[2]), array)


@pytest.mark.parametrize(
    "command", [command for command in commands("ndverbs bench") if "--help" not in command]
)
def test_bench_commands_measure(command, tmp_path):
    # Short, for a test.
    arguments = [*shlex.split(command)[1:], "--runs", "1", "--iterations", "20", "--json", "-"]
    done = subprocess.run(
        ndverbs(*arguments),
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sizes = shlex.split(command)[-1].split(",")
    rows = json.loads(done.stdout)["rows"]
    assert len(rows) >= len(sizes)
    assert all(row["value"] > 0 for row in rows)


def test_make_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = re.findall(r"`?\bmake ([a-z]+)\b", README.read_text())
    assert {"demo", "test"} <= set(named)
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE) or target in ("git",), target


def test_prerequisites_are_one_apt_line():
    (line,) = commands("apt-get install")
    assert line == "sudo apt-get install g++ make git python3-dev python3-venv"


def test_room_table_names_folders_that_exist():
    rooms = README.read_text().partition("## Rooms")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in rooms.splitlines() if line.startswith("| `")]
    folders = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert {name for name in folders if not (ROOT / name).is_dir()} == set()
    present = {f"src/{path.name}" for path in Path(ROOT / "src").iterdir() if path.is_dir()}
    present |= {f"src/providers/{path.name}" for path in (ROOT / "src/providers").iterdir()}
    assert present - {"src/providers"} - folders == set()


def test_a_build_without_devices_lists_soft_alone():
    import ndverbs as nd

    assert {info.provider for info in nd.adapters()} == {"soft"}


def test_commands_are_on_the_path_after_an_install():
    assert shutil.which("ndverbs") or Path(sys.executable).with_name("ndverbs").exists()
