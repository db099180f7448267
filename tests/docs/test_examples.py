# SPDX-License-Identifier: Apache-2.0
"""examples/: each program is short, runs alone, and prints what it did."""

import re
import subprocess
import sys

import pytest

from docs.markdown_examples import ROOT, RUN_LIMIT_S, clean_environment

EXAMPLES = ROOT / "examples"
MAX_LINES = 60
PRINTS = {
    "counters.py": r"4 workers drew 800 numbers, 800 of them different\n.*\[800 799\]\n",
    "ping.py": r"1000 messages came back, each after \d+ us\n",
    "remote_array.py": r"listening on .*\nREAD SUCCESS (\[0. 4. 4. 0. 0.\])\nthe owner has \1\n",
    "request_response.py": r"\['REQUEST 0', .* 'REQUEST 15'\]\n",
    "send_file.py": r"listening on .*\nthe peer received \d+ bytes, SHA-256 [0-9a-f]{16}\n",
}


def start(name, *arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "error", EXAMPLES / name, *arguments],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )


def outcome(process):
    said, _ = process.communicate(timeout=RUN_LIMIT_S)
    return process.returncode, said


def test_every_example_is_run_and_named_in_the_readme():
    names = {path.name for path in EXAMPLES.glob("*.py")}

    assert names == set(PRINTS)
    assert names <= set(re.findall(r"\(examples/([\w.]+)\)", (ROOT / "README.md").read_text()))


@pytest.mark.parametrize("name", PRINTS)
def test_an_example_is_short_and_says_how_to_run_it(name):
    text = (EXAMPLES / name).read_text()

    assert len(text.splitlines()) < MAX_LINES
    assert f"python examples/{name}" in text.split('"""')[1]


@pytest.mark.parametrize("name", PRINTS)
def test_an_example_runs_alone(name):
    code, said = outcome(start(name))

    assert code == 0
    assert re.fullmatch(PRINTS[name], said), said


def address_of(server):
    """Return where an example listens: what it prints first."""
    host, port = re.search(r"\('([\d.]+)', (\d+)\)", server.stdout.readline()).groups()
    return f"{host}:{port}"


def test_the_array_is_used_from_another_process():
    with start("remote_array.py", "offer", "127.0.0.1:0") as owner:
        used = outcome(start("remote_array.py", "use", address_of(owner)))
        owned = outcome(owner)

    assert used == (0, "READ SUCCESS [0. 4. 4. 0. 0.]\n")
    assert owned == (0, "the owner has [0. 4. 4. 0. 0.]\n")


def test_a_file_is_sent_to_another_process(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 20_000)

    with start("send_file.py", "serve", "127.0.0.1:0") as server:
        code, said = outcome(start("send_file.py", "send", address_of(server), file))
        server.kill()

    assert code == 0
    assert said.startswith("the peer received 5120000 bytes, SHA-256 ")
