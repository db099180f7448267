# SPDX-License-Identifier: Apache-2.0
"""The command `ndverbs bench`."""

from __future__ import annotations

import argparse
import sys

from ndverbs.cli._arguments import Commands, add_adapter, positive, seconds
from ndverbs.errors import RdmaError

RIVALS = ("iperf3", "ucx", "fi_pingpong", "socket", "perftest", "unix", "pipe", "pyzmq", "mpi4py")
_STREAM_RIVALS = ("iperf3", "socket", "unix", "pipe", "pyzmq", "mpi4py")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_OPERATIONS = (
    "write",
    "read",
    "send",
    "fetch_add",
    "stream",
    "connect",
    "register",
    "idle",
    "compare",
)
_EPILOG = """\
Sizes take K, M and G (powers of 1024); GB/s is 10^9 bytes per second, s/GB the processor time that
both ends took for 10^9 bytes. Latency of write and send is half of a round trip, of read and
fetch_add the whole. Figures are medians over --runs; "spread" is (highest - lowest) / median.
"over" is what carried the bytes (connector.transport). A row of --against is the tool's figure; its
ratio says how many times as fast we are, so above 1 is good, and the spread is the ratio's. Of
latencies means are compared, because means are what tools print. Bandwidth ends when the peer has
answered a Send behind the last byte.

stream: sockets over the adapter, --bw and --lat (whole round trips), against iperf3, socket (TCP),
unix (AF_UNIX), pipe (multiprocessing), pyzmq and mpi4py. connect: connections made and ended, one
after the other. register: registration and revocation of memory, with the fast calls on a queue
pair where the adapter has them for so many pages. idle: memory of --iterations connections (100).

compare: what the project promises, beside all rivals that are installed, with targets. A latency
there is the median of single operations, on both sides. "raw store" is a ping-pong of two threads
by one store each, which nothing beats. docs/performance.md says more.
"""


def parse_size(text: str) -> int:
    """Return the bytes of "8", "64K" or "1M"; argparse shows the error."""
    digits = text.strip().upper().removesuffix("IB").rstrip("KMG")
    unit = text.strip().upper().removesuffix("IB")[len(digits) :]
    if not digits.isdecimal() or unit not in _UNITS or int(digits) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size of at least 1, such as 8 or 1M")
    return int(digits) * _UNITS[unit]


def _parse_sizes(text: str) -> list[int]:
    return [parse_size(part) for part in text.split(",")]


def _parse_rivals(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in RIVALS:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(RIVALS)}")
    return names


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "bench",
        help="time writes, reads, sends, streams, connections and registrations",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, is_report=False, usage=parser.error)
    argument = parser.add_argument
    argument("operation", choices=_OPERATIONS, help="what to time")
    argument("--lat", action="store_true", help="latency: percentiles, lowest, mean")
    argument("--bw", action="store_true", help="bandwidth in GB/s, and processor time")
    argument("--rate", action="store_true", help="requests per second; without a choice, all three")
    argument(
        "--sizes",
        type=_parse_sizes,
        metavar="BYTES,...",
        help="default: 8 for latency and rate, 1M for bandwidth",
    )
    argument("--depth", type=positive, help="requests in flight (bandwidth 16, rate 64)")
    argument(
        "--queue-pairs",
        type=positive,
        metavar="N",
        default=1,
        help="that many connections at once, each with --depth requests in flight (1)",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--iterations", type=positive, metavar="N", help="operations a run")
    length.add_argument(
        "--seconds", type=seconds, metavar="S", default=1.0, help="length of a run (1)"
    )
    argument(
        "--runs",
        type=positive,
        metavar="N",
        help="runs of each kind (3; of compare 5, and 15 pairs with --baseline)",
    )
    argument(
        "--crc",
        action=argparse.BooleanOptionalAction,
        help="CRC32C on every frame, or none (default: between hosts)",
    )
    argument("--wait", action="store_true", help="sleep for completions instead of polling")
    argument(
        "--visible",
        action="store_true",
        help="with --rate or --lat: every request has a completion, not one of some",
    )
    argument(
        "--plain",
        action="store_true",
        help="aim at an ordinary array, not at one that adapter.alloc_array made",
    )
    argument(
        "--python", action="store_true", help="loops in Python; --rate also shows CPU per request"
    )
    argument(
        "--many",
        action="store_true",
        help="with --rate --python: post_many and poll_into in place of a call per request",
    )
    argument(
        "--against",
        type=_parse_rivals,
        default=[],
        metavar="TOOL,...",
        help=f"compare, run by run, with: {', '.join(RIVALS)}",
    )
    argument(
        "--baseline",
        metavar="PYTHON",
        help="with compare: also our TCP beside the older ndverbs of this interpreter",
    )
    argument(
        "--only",
        type=lambda text: text.split(","),
        metavar="TEXT,...",
        help="with compare: the figures whose names contain one of these",
    )
    add_adapter(parser)
    argument(
        "--plot",
        metavar="FILE.png",
        help="draw the rows there, with lines over --sizes (needs matplotlib)",
    )
    argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write the rows there; without FILE, or with -, to standard output, and no table",
    )


def run(given: argparse.Namespace) -> int:
    """Run the command; the exit code says whether every figure was taken."""
    if given.operation != "compare" and (given.baseline or given.only):
        given.usage("--baseline and --only are for compare")
    if given.operation == "stream" and not set(given.against) <= set(_STREAM_RIVALS):
        given.usage(f"stream --against takes {', '.join(_STREAM_RIVALS)}")
    from subprocess import SubprocessError

    from ndverbs.cli.bench import report
    from ndverbs.cli.bench.channel import BenchError

    try:
        return report.run(given)
    except (BenchError, RdmaError, OSError, SubprocessError) as failure:
        print(f"ndverbs bench: {failure}", file=sys.stderr)
        return 1
