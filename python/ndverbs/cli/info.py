# SPDX-License-Identifier: Apache-2.0
"""What `ndverbs info` prints: this build, its adapters, and why a device of the machine is none."""

from __future__ import annotations

import argparse
import json
import platform
from typing import TypedDict

import numpy as np

import ndverbs
from ndverbs.cli import doctor
from ndverbs.cli._arguments import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    info = commands.add_parser(
        "info", help="show adapters, their limits, and what is missing", allow_abbrev=False
    )
    info.add_argument("--json", action="store_true", help="print one JSON object")
    info.set_defaults(run=run, is_report=True)


def run(given: argparse.Namespace) -> int:
    """Print it; returns the exit code."""
    if given.json:
        print(as_json())
        return 0
    from ndverbs.cli.terminal import show

    for line in as_text().splitlines():
        show((line, "bold" if line.startswith("adapter ") else ""))
    return 0


class Facts(TypedDict):
    """What the command shows, as values that JSON can hold."""

    ndverbs: str
    python: str
    numpy: str
    system: str
    adapters: list[dict[str, object]]
    missing: list[str]


def collect() -> Facts:
    """Look at all of it."""
    adapters = ndverbs.adapters()
    return {
        "ndverbs": ndverbs.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "adapters": [_fields(adapter) for adapter in adapters],
        "missing": _missing({adapter.provider for adapter in adapters}),
    }


def as_json() -> str:
    """Return one JSON object."""
    return json.dumps(collect(), indent=2)


def as_text() -> str:
    """Return it for reading."""
    facts = collect()
    lines = [
        f"ndverbs {facts['ndverbs']}, Python {facts['python']}, NumPy {facts['numpy']}, "
        f"{facts['system']}"
    ]
    for adapter in facts["adapters"]:
        lines += ["", f"adapter {adapter.pop('name')}"]
        width = max(len(key) for key in adapter)
        adapter["adapter_flags"] = f"{adapter['adapter_flags']:#x}"
        lines += [f"  {key:{width}}  {_text(value)}" for key, value in adapter.items()]
    lines += ["", *facts["missing"]] if facts["missing"] else []
    return "\n".join(lines)


def _fields(adapter: ndverbs.AdapterInfo) -> dict[str, object]:
    fields: dict[str, object] = {}
    names = [name for name in dir(adapter) if not name.startswith("_")]
    # The order in which people look for them: what it is, then its limits.
    first = [name for name in ("name", "provider", "rdma_technology", "version") if name in names]
    for name in first + [name for name in names if name not in first]:
        value = getattr(adapter, name)
        if name == "version":
            value = ".".join(str(part) for part in value)
        fields[name] = sorted(value) if isinstance(value, frozenset) else value
    return fields


def _missing(providers: set[str]) -> list[str]:
    """Return one sentence for each thing that keeps a provider from having an adapter."""
    return [
        f"{finding.provider}: {finding.check}: {finding.what}; {finding.remedy}"
        for finding in doctor.findings()
        if not finding.is_good and finding.provider not in providers
    ]


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "none"
    return f"{value:,}" if isinstance(value, int) and value >= 10000 else str(value)
