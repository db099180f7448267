# SPDX-License-Identifier: Apache-2.0
"""The command `ndverbs ping`."""

from __future__ import annotations

import argparse
import time
from collections import deque
from typing import TYPE_CHECKING

from ndverbs.cli._arguments import Commands, add_adapter, positive, seconds
from ndverbs.cli.failure import INTERRUPTED, CommandError, complain

if TYPE_CHECKING:
    from ndverbs import Adapter
    from ndverbs.cli.ping.ends import Messages, SetUps

DEFAULT_ADDRESS = "127.0.0.1:7472"
_MOST_SAMPLES = 1_000_000  # percentiles are those of the last ones


def _size(text: str) -> int:
    from ndverbs.cli.ping.ends import MAX_SIZE

    value = int(text)
    if not 0 <= value <= MAX_SIZE:
        raise argparse.ArgumentTypeError(f"{text} is not in 0 to {MAX_SIZE}")
    return value


def _interval(text: str) -> float:
    return 0.0 if text == "0" else seconds(text)


def add(commands: Commands) -> None:
    """Declare the command."""
    ping = commands.add_parser(
        "ping",
        help="time round trips to another host, or answer them",
        description="Send messages to `ndverbs ping --listen` and time until each is back, or, "
        "with --connect, time connections to a listener of any program. Ctrl-C prints the summary. "
        "The exit code is 0 when every round had its answer.",
        allow_abbrev=False,
    )
    ping.add_argument(
        "address",
        nargs="?",
        metavar="HOST:PORT",
        help=f"or [v6]:PORT; of --listen, port 0: any (default there: {DEFAULT_ADDRESS})",
    )
    what = ping.add_mutually_exclusive_group()
    what.add_argument("--listen", action="store_true", help="answer, until Ctrl-C")
    what.add_argument(
        "--connect", action="store_true", help="time connections; that one is rejected is an answer"
    )
    ping.add_argument("-c", "--count", type=positive, metavar="N", help="stop after N rounds")
    ping.add_argument(
        "-i",
        "--interval",
        type=_interval,
        default=1.0,
        metavar="SECONDS",
        help="between rounds, at most 30; 0: one behind the other (default: 1)",
    )
    ping.add_argument(
        "-s", "--size", type=_size, default=64, metavar="BYTES", help="of a message (default: 64)"
    )
    ping.add_argument("-q", "--quiet", action="store_true", help="print the summary only")
    add_adapter(ping)
    ping.add_argument(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="wait so long for the connection, and for an answer (default: 10)",
    )
    ping.add_argument("--json", action="store_true", help="print the summary as JSON, no rounds")
    ping.set_defaults(run=run, is_report=False, usage=ping.error)


def run(given: argparse.Namespace) -> int:
    """Ping, or answer; returns the exit code."""
    if given.address is None and not given.listen:
        given.usage("HOST:PORT is missing")
    if given.interval > 30:
        given.usage("--interval is at most 30: a responder misses a client after a minute")
    from ndverbs import Adapter, _address
    from ndverbs.cli.ping import ends
    from ndverbs.cli.terminal import waiting

    address = _address.resolve(given.address or DEFAULT_ADDRESS)
    with Adapter.open(given.adapter) as adapter:
        if given.listen:
            return _listen(adapter, address, is_json=given.json)
        where = _address.text(address)
        with waiting(f"connecting to {where}"):
            made: Messages | SetUps = (
                ends.SetUps(adapter, address, given.timeout)
                if given.connect
                else ends.Messages(adapter, address, given.size, given.timeout)
            )
        with made as rounds:
            return _ping(rounds, where, given)


def _listen(adapter: Adapter, address: tuple[str, int], *, is_json: bool) -> int:
    import asyncio
    import json

    from ndverbs.cli.ping.ends import respond

    def say(where: str) -> None:
        said = {"event": "answering", "address": where}
        print(json.dumps(said) if is_json else f"answering at {where}", flush=True)

    try:
        asyncio.run(respond(adapter, address, say))
    except KeyboardInterrupt:
        complain("stopped")
    return INTERRUPTED


def _ping(rounds: Messages | SetUps, where: str, given: argparse.Namespace) -> int:
    """Do the rounds and print the summary, however they end."""
    samples: deque[float] = deque(maxlen=_MOST_SAMPLES)
    done = 0
    is_quiet = given.quiet or given.json
    failure: Exception | None = None
    try:
        while given.count is None or done < given.count:
            if done:
                time.sleep(given.interval)
            taken = rounds.round()
            done += 1
            samples.append(taken)
            if not is_quiet:
                what = "connection" if given.connect else f"{given.size} bytes"
                print(f"{what}, {where}: round {done}, {taken * 1e6:,.1f} us", flush=True)
    except KeyboardInterrupt:
        pass
    except (CommandError, OSError) as error:
        failure = error
    _summarize(samples, done, rounds.transport, where, given)
    if failure is not None:
        raise failure
    return 0


def _summarize(
    samples: deque[float], done: int, transport: str, where: str, given: argparse.Namespace
) -> None:
    from ndverbs.cli.bench.runs import percentiles

    times = percentiles(samples) if samples else {}
    if given.json:
        import json

        kind: dict[str, object] = {
            "size": None if given.connect else given.size,
            "transport": transport or None,
        }
        seconds = {f"{name}_s": value for name, value in times.items()}
        print(json.dumps({"address": where, "rounds": done} | kind | seconds, indent=2))
        return
    over = f" over {transport}" if transport else ""
    print(f"{where}{over}: rounds with an answer: {done:,}")
    if times:
        said = ", ".join(f"{name} {value * 1e6:,.1f}" for name, value in times.items())
        print(f"round trip in us: {said}")
