# SPDX-License-Identifier: Apache-2.0
"""The lab's command line: a virtual machine with real kernel RDMA devices, siw and rxe."""

import argparse
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from lab import host, image, packages, parts, recipe, siw
from lab.machine import Machine
from lab.results import Report
from lab.runner import Runner, Session

SUITES = ["conformance", "streams", "interop", "across"]
EFFORT = 0.1  # an emulated processor repeats less
JOBS = 2


def build(arguments):
    release = arguments.release
    image.base(release)
    siw.modules(release)
    packages.others(release)
    return 0


def stage(arguments):
    print(
        f"lab: {packages.ours(arguments.release)} is the guest's /stage/ours, and on its PYTHONPATH"
    )
    return 0


def up(arguments):
    machine = Machine(arguments.name)
    if machine.is_running():
        print(f"lab: {machine.name} is running already")
        return 0
    machine.up(
        arguments.release,
        siw_variant=arguments.siw,
        memory=arguments.memory,
        processors=arguments.smp,
    )
    state = machine.state
    print(f"lab: {machine.name} is up after {state['boot_s']} s ({state['accel']})")
    for guest, port in state["ports"].items():
        print(f"lab: 127.0.0.1:{port} of the host is port {guest} of the guest")
    print(f"lab: {machine.share} is the guest's /share")
    return 0


def down(arguments):
    Machine(arguments.name).down()
    return 0


def sh(arguments):
    environment = dict(word.split("=", 1) for word in arguments.env)
    machine = Machine(arguments.name)
    with machine.command(
        arguments.command, timeout=arguments.timeout, env=environment, cwd=arguments.cwd
    ) as command:
        while data := command.take():
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    if command.ended.status is None:
        print(f"lab: the command was ended: {command.ended.reason}", file=sys.stderr)
        return 124
    return command.ended.status if command.ended.status >= 0 else 128 - command.ended.status


def console(arguments):
    sys.stdout.write(Machine(arguments.name).read_console())
    return 0


def test(arguments):
    folder = arguments.report or image.cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    report = Report()
    ours = {release: packages.ours(release) for release in arguments.release}
    # A list's iterator hands each session to one of the threads that ask.
    chosen = [s for r in arguments.release for s in _sessions(arguments, r, ours[r])]
    if not (arguments.all or arguments.suites or arguments.pytest_arguments):
        chosen = list(_core(chosen, report))
    sessions = iter(chosen)
    runners = [
        Runner(Machine(f"{arguments.name}-{number}"), report, say=_say)
        for number in range(1, arguments.jobs + 1)
    ]

    def work(runner):
        for session in sessions:
            _say(f"== {session.name}")
            runner.run(session)
        runner.close()

    started = time.monotonic()
    try:
        with ThreadPoolExecutor(len(runners)) as pool:
            working = [pool.submit(work, runner) for runner in runners]
            try:
                for one in as_completed(working):
                    one.result()
            finally:
                for runner in runners:
                    runner.stop()
    finally:
        _write(report, folder)
    took = f"{', '.join(o.name for o in ours.values())}, {time.monotonic() - started:.0f} s"
    print(f"\nlab: {took}; every test is in {folder / 'report.txt'}\n")
    print(report.text(all_tests=False), end="")
    return 0 if report.is_good else 1


def _core(sessions, report):
    """Leave out what parts.py says, and have the report say so."""
    for session in sessions:
        left = parts.left_of(session.name.partition(": ")[2])
        for one in left:
            report.left.append((session.name, one.tests, one.reason))
        if all(one.tests for one in left):
            words = [f"--deselect={one.tests}" for one in left]
            yield session._replace(arguments=[*session.arguments, *words])


def _write(report, folder):
    (folder / "report.txt").write_text(report.text())
    (folder / "junit.xml").write_text(report.junit())


def _sessions(arguments, release, ours):
    """What `test` runs on a release, in order."""
    more = arguments.pytest_arguments
    suites = arguments.suites or SUITES

    def session(name, words, **options):
        return Session(f"{release.suite}: {name}", words, release, ours, **options)

    chosen = any(word.startswith("tests/") for word in more)  # files instead of folders
    for suite, folder in (("conformance", "tests/conformance"), ("streams", "tests/stream")):
        if suite not in suites:
            continue
        for device in arguments.devices:
            provider = f"verbs:{device}" if device in recipe.DEVICES else device
            yield session(
                f"{suite} {provider}",
                [
                    *([] if chosen else [folder]),
                    *("--providers", provider, f"--effort={EFFORT}", *more),
                ],
            )
    for variant in recipe.SIW_VARIANTS:
        if "interop" in suites:
            yield session(
                f"interop siw-{variant}",
                [*([] if chosen else ["tests/lab/interop"]), *more],
                siw=variant,
            )
        if "across" in suites:
            yield session(
                f"across siw-{variant}",
                [*([] if chosen else ["tests/lab/across"]), *more],
                siw=variant,
                on_host=True,
            )


def _say(text):
    print(f"lab: {text}", flush=True)


def parser():
    top = argparse.ArgumentParser(prog="python -m lab", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def one_release(sub):
        sub.add_argument(
            "--release",
            type=_release,
            default="bookworm",
            help=f"one of {', '.join(recipe.RELEASES)}",
        )

    def add(call, text, name="default"):
        sub = commands.add_parser(call.__name__, help=text, description=text)
        sub.set_defaults(call=call)
        sub.add_argument("--name", default=name, help="which machine (%(default)s)")
        return sub

    one_release(add(build, "Build what the guest is made of, and cache it"))
    one_release(add(stage, "Build the checkout's package and show it and the tests to the guests"))
    sub = add(up, "Boot a guest and return when it answers")
    one_release(sub)
    sub.add_argument("--siw", choices=list(recipe.SIW_VARIANTS), default="stock")
    sub.add_argument("--memory", type=int, default=2048, metavar="MB")
    sub.add_argument("--smp", type=int, default=2, metavar="PROCESSORS")
    add(down, "End the guest")
    sub = add(sh, "Run a shell command in the guest; its status is ours")
    sub.add_argument("--timeout", type=float, metavar="SECONDS")
    sub.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    sub.add_argument("--cwd", default="/root")
    sub.add_argument("command")
    sub = add(
        test,
        "Run the conformance and interoperability tests in guests of their own; arguments that are "
        "not named here go to pytest",
        name="test",
    )
    sub.add_argument(
        "--release",
        type=lambda text: [_release(word) for word in _words(text)],
        default="bookworm",
        metavar="NAME,…",
        help=f"of {', '.join(recipe.RELEASES)} (%(default)s)",
    )
    sub.add_argument("--devices", type=_words, default=list(recipe.DEVICES), metavar="NAME,…")
    sub.add_argument(
        "--suites",
        type=_words,
        metavar="NAME,…",
        help=f"of {', '.join(SUITES)}; default: all of them, without what parts.py leaves out",
    )
    sub.add_argument("--all", action="store_true", help="leave nothing out")
    sub.add_argument(
        "--jobs", type=int, default=JOBS, metavar="N", help="machines side by side (%(default)s)"
    )
    sub.add_argument(
        "--report", type=Path, metavar="FOLDER", help="where report.txt and junit.xml go"
    )
    add(console, "Print what the guest's serial console said")
    return top


def _words(text):
    return text.split(",")


def _release(text):
    try:
        return recipe.RELEASES[text]
    except KeyError:
        known = ", ".join(recipe.RELEASES)
        raise argparse.ArgumentTypeError(f"{text!r} is none of {known}") from None


def main():
    arguments, more = parser().parse_known_args()
    if more and arguments.call is not test:
        parser().error(f"unrecognized arguments: {' '.join(more)}")
    arguments.pytest_arguments = more
    # Ended or interrupted, also as a shell's background job: machines end, reports are written.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        return arguments.call(arguments)
    except host.LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; the interpreter must not try to flush at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
