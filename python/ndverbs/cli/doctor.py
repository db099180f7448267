# SPDX-License-Identifier: Apache-2.0
"""What `ndverbs doctor` prints: what each provider needs, what was found, and what to do."""

from __future__ import annotations

import argparse
import json
from typing import NamedTuple

from ndverbs import _native
from ndverbs._native import _default_adapter
from ndverbs.cli._arguments import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    doctor = commands.add_parser(
        "doctor",
        help="check what each provider needs, with remedies",
        description="Check what each provider needs. The exit code is 1 when something is wrong "
        f"that PROVIDER needs; without PROVIDER, that {_default_adapter} needs.",
        allow_abbrev=False,
    )
    doctor.add_argument("provider", nargs="?", type=_provider, metavar="PROVIDER")
    doctor.add_argument(
        "--explain",
        metavar="CODE",
        help="say what a status means, by its name or number, or the layer/type/code that a "
        "Terminate reports, such as 1/2/02; nothing is checked",
    )
    doctor.add_argument("--json", action="store_true", help="print JSON: a list, of CODE an object")
    doctor.set_defaults(run=run, is_report=True, usage=doctor.error)


class Finding(NamedTuple):
    """One thing that was looked at."""

    provider: str
    check: str
    is_good: bool
    what: str
    remedy: str


def findings() -> list[Finding]:
    """Look at what every provider needs; nothing is changed."""
    return [Finding(*row) for row in _native._diagnose()]


def _provider(text: str) -> str:
    known = list(dict.fromkeys(finding.provider for finding in findings()))
    if text not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(known)}")
    return text


def run(given: argparse.Namespace) -> int:
    """Print the findings of one provider, or of all.

    Returns
    -------
    int
        1 when something is wrong that the asked-for provider needs; without one, that
        the provider needs which works on every machine. Else 0.
    """
    if given.explain is not None:
        if given.provider is not None:
            given.usage("--explain takes no PROVIDER")
        from ndverbs.cli import explain

        said = explain.explain(given.explain)
        print(json.dumps(said, indent=2) if given.json else explain.text(said))
        return 0
    found = [finding for finding in findings() if given.provider in (None, finding.provider)]
    if given.json:
        print(json.dumps([finding._asdict() for finding in found], indent=2))
    else:
        from ndverbs.cli.terminal import show

        for finding in found:
            mark = ("ok", "green") if finding.is_good else ("--", "red")
            show(mark, f"  {finding.provider}: {finding.check}: {finding.what}")
            if finding.remedy:
                show(f"      {finding.remedy}")
    needed = given.provider or _default_adapter
    return int(any(not f.is_good for f in found if f.provider == needed))
