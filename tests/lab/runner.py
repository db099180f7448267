# SPDX-License-Identifier: Apache-2.0
"""Runs pytest in a guest to its end, whatever the kernel does meanwhile.

A test during which the kernel complains, the guest dies, or nothing goes on any more fails; the
guest is booted again and the tests that are left are run. The machine is the runner's own.
"""

import json
import os
import select
import shlex
import time
from pathlib import Path
from typing import NamedTuple

from lab import host, recipe
from lab.console import Console
from lab.host_command import HostCommand
from lab.results import Records, Result

# Limits in seconds that only mean failure; emulation is 10 to 50 times slower than the host.
TEST_LIMIT = 300  # one test, inside pytest
QUIET_LIMIT = 420  # without a step of any test, seen from outside
MOST_BOOTS = 30


class Session(NamedTuple):
    """One run of pytest, in the guest or on the host beside it."""

    name: str
    arguments: list
    release: recipe.Release
    ours: Path  # the folder of packages.ours()
    siw: str = "stock"
    on_host: bool = False


class Runner:
    """Runs sessions on a machine and puts what they gave into a report."""

    def __init__(self, machine, report, say=print):
        self._machine = machine
        self._report = report
        self._say = say
        self._console = Console()
        self._console_read = 0
        self._told = 0
        self._boots = 0
        self._is_stopped = False
        self._runs = {}  # by the name in marks: session and records

    def run(self, session):
        """Run one session until each of its tests has a result; what failed is tried once more.

        Limits of time are met by chance where a processor is emulated. The report tells of both
        attempts.
        """
        self._report.sessions.setdefault(session.name, {})
        self._log(session).unlink(missing_ok=True)
        self._run_to_the_end(session)
        if first := self._report.take_doubtful(session.name):
            self._say(f"{session.name}: once more {len(first)} of its tests")
            self._run_to_the_end(session)
            self._report.keep_first_attempts(session.name, first)

    def _run_to_the_end(self, session):
        results = self._report.sessions[session.name]
        self.close()  # a machine of its own: what was left in the kernel is gone
        vain = 0
        finished = len(results)
        while self._run_once(session):
            vain = vain + 1 if len(results) == finished else 0
            finished = len(results)
            if vain == 2:
                self._fail(session, "(session)", "it ended twice without finishing a test")
                return

    def _log(self, session):
        """Say where pytest's own output goes."""
        return self._machine.folder / f"{session.name.replace(' ', '-').replace(':', '-')}.log"

    def close(self):
        """Look at the console for the last time, and end the machine."""
        if self._machine.is_running():
            self._machine.run("sync", timeout=60)
        self._end_machine()

    def stop(self):
        """End the machine, from another thread; a session that runs ends unfinished."""
        self._is_stopped = True
        self._machine.down()

    # ---- one run of pytest ------------------------------------------------------------------

    def _run_once(self, session):
        """Run pytest; return whether tests may be left."""
        if not self._boot(session):
            return False
        run = f"run{len(self._runs) + 1}"
        records = Records()
        self._runs[run] = (session, records)
        file = self._machine.share / f"{run}.jsonl"
        file.unlink(missing_ok=True)
        file.touch()
        finished = self._machine.share / "finished.json"
        finished.write_text(json.dumps(list(self._report.sessions[session.name])))
        with (
            open(file) as lines,
            open(self._log(session), "ab") as log,
            self._start(session, run) as command,
        ):
            trouble = self._follow(session, command, records, lines, log)
            self._take_records(session, records, lines)
        if trouble is None:
            return self._judge_end(session, command.ended, records)
        self._settle(session, records, trouble)
        return True

    def _start(self, session, run):
        """Start pytest."""
        words = [
            *("-m", "pytest", "-p", "lab_progress", "-p", "no:cacheprovider", "-q", "--tb=short"),
            *(f"--timeout={TEST_LIMIT}", "-o", f"faulthandler_timeout={TEST_LIMIT + 30}"),
            *session.arguments,
        ]
        share = self._machine.share if session.on_host else Path("/share")
        env = {
            "NDVERBS_LAB_RECORDS": str(share / f"{run}.jsonl"),
            "NDVERBS_LAB_FINISHED": str(share / "finished.json"),
            "NDVERBS_LAB_SESSION": run,
            "NDVERBS_LAB_SIW": session.siw,
            "NDVERBS_TEST_ADDRESSES": recipe.test_addresses(),
        }
        if session.on_host:
            return HostCommand(self._machine, session.release, session.ours, words, env)
        env["PYTHONPATH"] = "/opt/ndverbs/site:/opt/site:/lab"
        command = "cd /opt/ndverbs && exec python3 -X faulthandler " + shlex.join(words)
        return self._machine.command(command, env=env)

    def _follow(self, session, command, records, lines, log):
        """Look on until pytest ends; return why it had to be given up, or None."""
        last_step = time.monotonic()
        descriptor = self._machine.pidfd()
        if descriptor is None:
            return "QEMU has ended"
        with os.fdopen(descriptor) as qemu:
            while command.ended is None:
                ready = select.select([command, qemu], [], [], 1.0)[0]
                if self._take_records(session, records, lines):
                    last_step = time.monotonic()
                fresh = self._take_console()
                if qemu in ready:
                    return "QEMU has ended"
                if fresh:
                    return f"kernel: {fresh[0].kind}"
                if command in ready:
                    try:
                        log.write(command.take())
                    except host.LabError as error:
                        return str(error)
                elif time.monotonic() - last_step > QUIET_LIMIT:
                    return f"nothing went on for {QUIET_LIMIT} s"
        return None

    def _take_records(self, session, records, lines):
        """Read new lines of the record file; say whether there were any."""
        before = records.lines
        done = set(records.results)
        records.feed(lines.read())
        for test in records.results.keys() - done:
            result = records.results[test]
            self._report.put(session.name, test, result)
            if result.outcome == "failed":
                self._say(f"FAILED {session.name} {test}")
        return records.lines > before

    def _judge_end(self, session, ended, records):
        """Pytest ended by itself; return whether to go on with what is left."""
        if records.status in (0, 1, 5):  # passed, failed, nothing to run
            for test in set(records.tests) - set(self._report.sessions[session.name]):
                self._report.put(
                    session.name, test, Result("skipped", "pytest ended before its turn")
                )
            return False
        said = self._tail(session)
        if records.running is not None:
            self._fail(session, records.running, f"the process ended: {ended}\n{said}")
            return True
        self._fail(session, "(session)", f"pytest ended: {ended}\n{said}")
        return False

    def _settle(self, session, records, trouble):
        """Give the blame for what stopped a run, and end the machine."""
        if self._machine.is_running() and trouble.startswith("nothing"):
            # Which tasks are blocked, and where; the answer is on the console.
            try:
                self._machine.run("echo w > /proc/sysrq-trigger; ps axl", timeout=30)
            except host.LabError:
                trouble += ", and the agent does not answer"
        blamed = self._end_machine()
        if records.running is not None and not blamed:
            last = "\n".join(self._machine.read_console().splitlines()[-40:])
            self._fail(session, records.running, f"{trouble}\nThe end of the console:\n{last}")
        elif not blamed:
            self._fail(session, "(session)", f"{trouble} while no test ran\n{self._tail(session)}")

    def _fail(self, session, test, reason):
        self._report.put(session.name, test, Result("failed", reason, is_final=True))
        self._say(f"FAILED {session.name} {test}: {reason.splitlines()[0]}")

    def _tail(self, session):
        return "\n".join(self._log(session).read_text(errors="replace").splitlines()[-30:])

    # ---- the machine and its console --------------------------------------------------------

    def _boot(self, session):
        """Have a machine with the session's siw; return False when there were too many."""
        machine = self._machine
        if self._is_stopped:
            return False
        if machine.is_running():
            return True
        self._boots += 1
        if self._boots > MOST_BOOTS:
            self._fail(session, "(session)", f"given up after {MOST_BOOTS} boots")
            return False
        self._console, self._console_read, self._told = Console(), 0, 0
        machine.up(session.release, siw_variant=session.siw)
        if self._is_stopped:  # meanwhile: stop() may have looked before there was a machine
            machine.down()
            return False
        self._say(f"booted in {machine.state['boot_s']} s ({machine.state['accel']})")
        status, said = machine.run(f"cp -r /stage/{session.ours.name} /opt/ndverbs", timeout=300)
        if status:
            raise host.LabError(f"the guest cannot copy the package:\n{said}")
        return True

    def _end_machine(self):
        """End the machine and take the rest of its console; return whether a test got blame."""
        self._machine.down()
        self._take_console(last=True)
        number = self._boots
        if self._machine.console.exists():
            kept = self._machine.folder / f"console-{number}.log"
            kept.write_text(self._machine.read_console())
        return any(i.test is not None for i in self._console.incidents)

    def _take_console(self, last=False):
        """Read on; note a failure for each new incident, and return these."""
        text, self._console_read = self._machine.read_console_from(self._console_read)
        self._console.feed(text)
        if last:
            self._console.finish()
        fresh = self._console.incidents[self._told :]
        self._told = len(self._console.incidents)
        for incident in fresh:
            self._note(incident)
        return fresh

    def _note(self, incident):
        when = "after" if incident.after else "during"
        if incident.test is None:
            self._report.put("kernel", "(boot)", Result("failed", incident.text, is_final=True))
            self._say(f"FAILED kernel (boot): {incident.kind}")
            return
        session, records = self._runs[incident.test.split(".")[0]]
        test = records.test_of(incident.test) or "(session)"
        reason = f"the kernel complained {when} this test ({incident.kind}):\n{incident.text}"
        self._fail(session, test, reason)
