# SPDX-License-Identifier: Apache-2.0
"""The long campaigns: each repeats its tests, or fuzzes, for its share of the time that is given.

    python tests/soak.py MINUTES [CAMPAIGN ...]

Every round draws anew from the seed in its name. A round that fails leaves its output in
build/soak, and its campaign goes on. One line a campaign ends the run; it fails when one failed.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "soak"
# A round has a limit that only means failure; no test waits longer than its own.
ROUND_S = 3600
FUZZ_TARGETS = sorted(path.stem for path in (ROOT / "tests" / "fuzz").glob("*.cpp"))
# Every profile of the device double (tests/double/README.md).
DOUBLES = "--providers=" + ",".join(
    f"verbs:double_{profile}" for profile in ("ib", "irdma", "cxgb4", "roce")
)
CLOSING = re.compile(r"(\d+) (passed|failed|skipped|xfailed|errors?)\b")


@dataclass
class Campaign:
    """What is repeated, and what part of the time it may have."""

    weight: int
    tests: tuple[str, ...]
    effort: float = 1.0
    options: tuple[str, ...] = ()
    counts: Counter = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    def command(self, seed: int, _seconds: float) -> list[str]:
        """Return the command of one round."""
        draw = (f"--hypothesis-seed={seed}", f"--first-seed={1000 * seed}")
        quiet = ("-q", "-p", "no:cacheprovider", f"--effort={self.effort}")
        return [sys.executable, "-m", "pytest", *quiet, *draw, *self.options, *self.tests]

    def tally(self, output: str) -> None:
        """Add up what pytest's closing line counts."""
        closing = next((line for line in reversed(output.splitlines()) if " in " in line), "")
        self.counts.update({word: int(number) for number, word in CLOSING.findall(closing)})


class Fuzzing(Campaign):
    """All fuzz targets, one after the other; one round takes the whole share."""

    def command(self, _seed: int, seconds: float) -> list[str]:
        """Return the command of the one round."""
        each = max(1, int(seconds / len(FUZZ_TARGETS)))
        return ["make", "--no-print-directory", "fuzz", f"FUZZ_SECONDS={each}"]

    def tally(self, output: str) -> None:
        """Add up the inputs that libFuzzer says it has run."""
        runs = re.findall(r"stat::number_of_executed_units:\s*(\d+)", output)
        self.counts.update({"targets": len(runs), "inputs": sum(map(int, runs))})
        if len(runs) != len(FUZZ_TARGETS):
            self.failed.append(f"{len(runs)} of {len(FUZZ_TARGETS)} targets ended in order")


def campaigns() -> dict[str, Campaign]:
    """Return the campaigns by name, in the order in which they run."""
    return {
        "walks": Campaign(4, ("tests/conformance/test_random_sequences.py",), effort=2),
        "engine": Campaign(2, ("tests/wire", "tests/engine")),
        "streams": Campaign(2, ("tests/stream/test_stream_simulation.py",)),
        "kills": Campaign(2, ("tests/hostile/test_killed_peers.py", "tests/package/test_exit.py")),
        "sharers": Campaign(
            2,
            ("tests/soft/test_direct_kills.py", "tests/soft/test_direct_revocation.py"),
            effort=20,
        ),
        "floods": Campaign(2, ("tests/hostile/test_floods.py", "tests/hostile/test_strangers.py")),
        "closing": Campaign(1, ("tests/conformance/test_close.py",), effort=3),
        "double": Campaign(2, ("tests/conformance",), options=(DOUBLES,)),
        "device": Campaign(1, ("tests/double/test_double.py",)),
        "dask": Campaign(2, ("tests/dask/test_long.py",), effort=50),
        "fuzz": Fuzzing(4, ()),
    }


def complete(command: list[str], limit: float) -> tuple[str, str]:
    """Run a command; return its output, and what went wrong, if anything did."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        why = ""
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            # Processes that it has started hold the output open and go on: make does not end them.
            os.killpg(process.pid, signal.SIGKILL)
            output, why = process.communicate()[0], "it never ended"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        if not why and process.returncode:
            why = f"exit status {process.returncode}"
        return output, why


def run(name: str, campaign: Campaign, seconds: float) -> str:
    """Run rounds until the share is over, at least one; return the campaign's line."""
    begin, rounds = time.monotonic(), 0
    while not rounds or (time.monotonic() - begin < seconds and not isinstance(campaign, Fuzzing)):
        rounds += 1
        seed = int(time.time() * 1000) % 2**31
        output, why = complete(campaign.command(seed, seconds), ROUND_S + seconds)
        campaign.tally(output)
        if why:
            log = LOGS / f"{name}-{seed}.log"
            log.write_text(output)
            campaign.failed.append(f"{why}, {log.relative_to(ROOT)}")
    counts = ", ".join(f"{number} {word}" for word, number in sorted(campaign.counts.items()))
    state = "; ".join(campaign.failed) if campaign.failed else "clean"
    took = time.monotonic() - begin
    return f"{name}: {rounds} rounds, {counts or 'nothing ran'}, {took / 60:.1f} min: {state}"


def main() -> int:
    """Divide the time among the campaigns, run them, and print a line for each."""
    known = campaigns()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("minutes", type=float, help="the time for all campaigns together")
    parser.add_argument("names", nargs="*", metavar="CAMPAIGN", help=", ".join(known))
    given = parser.parse_args()
    unknown = set(given.names) - set(known)
    if unknown:
        parser.error(f"no campaign {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    chosen = {name: known[name] for name in given.names or known}
    weights = sum(campaign.weight for campaign in chosen.values())
    LOGS.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, campaign in chosen.items():
        share = given.minutes * 60 * campaign.weight / weights
        print(f"{name}: about {share / 60:.1f} min", flush=True)
        lines.append(run(name, campaign, share))
    print(*lines, sep="\n")
    return any(campaign.failed for campaign in chosen.values())


if __name__ == "__main__":
    sys.exit(main())
