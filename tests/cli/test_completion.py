# SPDX-License-Identifier: Apache-2.0
"""`ndverbs completion`: what the shells complete."""

import os
import shutil
import subprocess

import pytest

from ndverbs import cli
from ndverbs.cli._main import parser


def printed(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_and_operations(capsys):
    asks = [("ndverbs", "d"), ("ndverbs", "doctor", "--e"), ("ndverbs", "bench", "re")]
    asks += [("ndverbs", "ping", "host:1", "--li"), ("ndverbs", "cp", "fi")]
    script = printed("bash", capsys)
    for words in asks:
        script += f"\nCOMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1}"
        script += '; _ndverbs; echo "${COMPREPLY[@]}"'

    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, timeout=60, cwd=os.sep
    )

    assert done.stderr == ""
    # The last one is a file name, which bash completes itself.
    assert done.stdout.splitlines() == [
        "doctor demo decode",
        "--explain",
        "read register",
        "--listen",
        "",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_command_is_in_the_script_and_nothing_hidden(shell, capsys):
    script = printed(shell, capsys)

    (commands,) = [action for action in parser()._actions if action.dest == "command"]
    assert all(f"{name}" in script for name in commands.choices)
    assert "until-eof" not in script
    assert "explain" in script


def test_zsh_has_the_script_of_bash(capsys):
    bash, zsh = printed("bash", capsys), printed("zsh", capsys)

    assert zsh == "autoload -U +X bashcompinit && bashcompinit\n" + bash


def test_fish_knows_which_options_take_a_value(capsys):
    lines = printed("fish", capsys).splitlines()

    line = "complete -c ndverbs -n '__fish_seen_subcommand_from doctor'"
    assert f"{line} -l json -d 'print JSON: a list, of CODE an object'" in lines
    assert any(text.startswith(f"{line} -l explain -r -d 'say what") for text in lines)
