# SPDX-License-Identifier: Apache-2.0
"""The command `ndverbs serve`: words and signals around the server of `filecopy.server`."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING

from ndverbs.cli._arguments import Commands, add_adapter, positive, seconds
from ndverbs.cli.failure import INTERRUPTED, CommandError, complain

if TYPE_CHECKING:
    from ndverbs.cli.filecopy.events import Event

DEFAULT_ADDRESS = "127.0.0.1:7471"


def add(commands: Commands) -> None:
    """Declare the command."""
    serve = commands.add_parser(
        "serve",
        help="serve a directory: receive files by RDMA, and send them",
        description="Receive files from `ndverbs cp` into a directory and send those that are "
        "there, until Ctrl-C. Nothing outside the directory is written or sent, and no symbolic "
        "link is followed.",
        epilog="There is neither encryption nor authentication: every host that reaches the "
        "address can read every file below the directory that this user can read, write new ones, "
        "and replace files with `cp --force`.",
        allow_abbrev=False,
    )
    serve.add_argument(
        "address",
        nargs="?",
        default=DEFAULT_ADDRESS,
        metavar="ADDRESS",
        help=f"host:port or [v6]:port; port 0: any (default: {DEFAULT_ADDRESS})",
    )
    serve.add_argument(
        "directory", nargs="?", default=".", metavar="DIRECTORY", help="default: the current one"
    )
    add_adapter(serve)
    serve.add_argument(
        "--connections",
        type=positive,
        default=None,
        metavar="N",
        help="serve so many at once; more wait (default: 16)",
    )
    serve.add_argument(
        "--silence",
        type=seconds,
        default=None,
        metavar="SECONDS",
        help="end a connection that sends nothing for so long (default: 60)",
    )
    allowed = serve.add_mutually_exclusive_group()
    allowed.add_argument("--read-only", action="store_true", help="take no files")
    allowed.add_argument("--write-only", action="store_true", help="give no files out")
    serve.add_argument(
        "--json",
        action="store_true",
        help="print an object in each line: where it listens, then what happens",
    )
    # Ends the server with the program that started it, however that one ends, as the demo does.
    serve.add_argument("--until-eof", action="store_true", help=argparse.SUPPRESS)
    serve.set_defaults(run=run, is_report=False)


class _Stopped(BaseException):
    """SIGTERM came."""


class _Log:
    """The server's log: lines with times on standard error, or JSON on standard output."""

    def __init__(self, is_json: bool) -> None:
        self._is_json = is_json
        self._lock = threading.Lock()  # for standard output: a line stays whole

    def began(self, directory: str, address: str) -> None:
        """Say where it listens, on standard output in any case: programs wait for that."""
        if self._is_json:
            self._print({"event": "serving", "directory": directory, "address": address})
        else:
            print(f"serving {directory} at {address}", flush=True)

    def event(self, event: Event) -> None:
        """Log what a client did; for any thread."""
        if self._is_json:
            self._print(event.as_json())
        else:
            self.say(str(event))

    def say(self, line: str) -> None:
        """Log what is about the server itself, for an operator."""
        complain(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")

    def _print(self, said: dict[str, object]) -> None:
        # A reader that is gone does not end the server, as with standard error.
        with self._lock, contextlib.suppress(OSError):
            print(json.dumps({"time": round(time.time(), 6)} | said), flush=True)


def run(given: argparse.Namespace) -> int:
    """Serve a directory until a signal ends it; returns the exit code."""
    import ipaddress

    from ndverbs import RdmaError, _address
    from ndverbs.cli.filecopy.names import shown
    from ndverbs.cli.filecopy.server import MAX_ACTIVE, SILENCE, Server

    host, port = _address.resolve(given.address)
    stop = threading.Event()
    log = _Log(given.json)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        if not stop.is_set():  # never into the clean-up
            stop.set()
            raise _Stopped

    previous = signal.signal(signal.SIGTERM, on_sigterm)
    try:
        with Server(
            given.directory,
            (host, port),
            adapter=given.adapter,
            log=log.event,
            max_active=given.connections or MAX_ACTIVE,
            silence=given.silence or SILENCE,
            may_store=not given.read_only,
            may_fetch=not given.write_only,
        ) as server:
            if not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
                can = "read files here" if given.read_only else "write files here"
                if not (given.read_only or given.write_only):
                    can = "read files here and write new ones"
                log.say(
                    f"warning: {host} is reachable from other machines, and there is neither "
                    f"encryption nor authentication: every host that reaches it can {can}"
                )
            where = _address.text(server.address)
            log.began(os.path.abspath(given.directory), where)
            if given.until_eof:
                threading.Thread(target=_wait_for_eof, daemon=True).start()
            try:
                server.serve_forever()
            finally:
                # One signal is enough; a second one must not leave something behind.
                stop.set()
                signal.signal(signal.SIGINT, signal.SIG_IGN)
    except _Stopped:
        log.say("stopped")
        return 0
    except KeyboardInterrupt:
        log.say("stopped")
        return INTERRUPTED
    except OSError as error:
        if isinstance(error, RdmaError):
            raise
        raise CommandError(
            f"{shown(given.directory)} cannot be served: {error.strerror}; name a directory that "
            "can be read"
        ) from error
    finally:
        signal.signal(signal.SIGTERM, previous)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return 0


def _wait_for_eof() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)
