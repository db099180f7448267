# SPDX-License-Identifier: Apache-2.0
"""What `ndverbs doctor` prints: what each provider needs, what was found, and what to do."""

from __future__ import annotations

import argparse
import json
from typing import NamedTuple

from ndverbs import _native
from ndverbs.cli._arguments import Commands

# What a provider needs that a build was made without: nobody in it can look.
_ABSENT = {
    "verbs": "this build has no verbs provider: install rdma-core's headers (on Debian: "
    "apt-get install libibverbs-dev librdmacm-dev) and build again"
}


def add(commands: Commands) -> None:
    """Declare the command."""
    doctor = commands.add_parser(
        "doctor",
        help="check what each provider needs, with remedies",
        description="Check what each provider needs. The exit code is 1 when something is wrong "
        "that PROVIDER needs; without PROVIDER, that the soft provider needs.",
        allow_abbrev=False,
    )
    doctor.add_argument("provider", nargs="?", metavar="PROVIDER", choices=("soft", "verbs"))
    doctor.add_argument("--json", action="store_true", help="print a JSON list")
    doctor.set_defaults(run=run, is_report=True)


class Finding(NamedTuple):
    """One thing that was looked at."""

    provider: str
    check: str
    is_good: bool
    what: str
    remedy: str


def findings() -> list[Finding]:
    """Look at what every provider needs; nothing is changed."""
    found = [Finding(*row) for row in _native._diagnose()]
    present = {finding.provider for finding in found}
    for provider, remedy in _ABSENT.items():
        if provider not in present:
            found.append(Finding(provider, "this build", False, "without the provider", remedy))
    return found


def run(given: argparse.Namespace) -> int:
    """Print the findings of one provider, or of all.

    Returns
    -------
    int
        1 when something is wrong that the asked-for provider needs; without one, when the soft
        provider, which works on every machine, has a problem. Else 0.
    """
    found = [finding for finding in findings() if given.provider in (None, finding.provider)]
    if given.json:
        print(json.dumps([finding._asdict() for finding in found], indent=2))
    else:
        for finding in found:
            mark = "ok" if finding.is_good else "--"
            print(f"{mark}  {finding.provider}: {finding.check}: {finding.what}")
            if finding.remedy:
                print(f"      {finding.remedy}")
    needed = given.provider or "soft"
    return int(any(not f.is_good for f in found if f.provider == needed))
