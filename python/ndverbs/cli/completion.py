# SPDX-License-Identifier: Apache-2.0
"""What `ndverbs completion` prints: a shell's script that knows all commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ndverbs.cli._arguments import Commands

_BASH = """\
_ndverbs() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} words
    case $COMP_CWORD:${{COMP_WORDS[1]}}:$current in
    1:*) words='{commands} --help --version' ;;
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o bashdefault -o default -F _ndverbs ndverbs
"""


def add(commands: Commands) -> None:
    """Declare the command."""
    completion = commands.add_parser(
        "completion",
        help="print a script that completes commands and options in a shell",
        description='Print a script for SHELL. bash: eval "$(ndverbs completion bash)" in '
        "~/.bashrc; zsh: the same in ~/.zshrc, behind compinit; fish: ndverbs completion fish "
        "> ~/.config/fish/completions/ndverbs.fish",
        allow_abbrev=False,
    )
    completion.add_argument("shell", metavar="SHELL", choices=["bash", "zsh", "fish"])
    completion.set_defaults(run=run, is_report=True, commands=commands)


def run(given: argparse.Namespace) -> int:
    """Print the script; returns the exit code."""
    commands: Commands = given.commands
    if given.shell == "fish":
        print("\n".join(_fish(commands)))
        return 0
    if given.shell == "zsh":
        print("autoload -U +X bashcompinit && bashcompinit")
    cases = []
    for name, parser in commands.choices.items():
        options = [option for action in _shown(parser) for option in action.option_strings]
        cases.append(f"    *:{name}:-*) words='{' '.join(options)}' ;;")
        if words := _words(parser):
            cases.append(f"    2:{name}:*) words='{' '.join(words)}' ;;")
    print(_BASH.format(commands=" ".join(commands.choices), cases="\n".join(cases)), end="")
    return 0


def _shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.help is not argparse.SUPPRESS]


def _words(parser: argparse.ArgumentParser) -> list[str]:
    """Return what the first argument may be, where the parser knows."""
    first = next((action for action in parser._actions if not action.option_strings), None)
    return [str(choice) for choice in first.choices or ()] if first else []


def _fish(commands: Commands) -> Iterator[str]:
    start = "complete -c ndverbs -n __fish_use_subcommand -f"
    yield f"{start} -l help"
    yield f"{start} -l version"
    for pseudo in commands._choices_actions:
        yield f"{start} -a {pseudo.dest} -d {_quoted(pseudo.help)}"
    for name, parser in commands.choices.items():
        line = f"complete -c ndverbs -n '__fish_seen_subcommand_from {name}'"
        if words := _words(parser):
            yield f"{line} -f -a '{' '.join(words)}'"
        for action in _shown(parser):
            names = [
                f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}"
                for option in action.option_strings
            ]
            if names:
                value = " -r" if action.nargs != 0 else ""
                yield f"{line} {' '.join(names)}{value} -d {_quoted(action.help)}"


def _quoted(text: str | None) -> str:
    escaped = (text or "").replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
