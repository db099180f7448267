# SPDX-License-Identifier: Apache-2.0
"""One virtual machine: started, waited for, spoken to, ended.

Its state is a folder of the cache, ``run/<name>``, so a later command finds a machine that an
earlier one started: qemu's number, the ports, the serial console, the shared folders.
"""

import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from lab import accel, host, image, packages, recipe, siw
from lab.agent_client import Command

IN_GUEST = Path(__file__).resolve().parent / "in_guest"
BOOT_LIMIT = 300  # seconds; only means failure
_ATTEMPTS = 5  # a port that was free may be taken before QEMU binds it


class Machine:
    """A machine by its name; it may or may not run."""

    def __init__(self, name="default"):
        self.name = name
        self.folder = image.cache_folder() / "run" / name
        self.console = self.folder / "console.log"
        self.share = self.folder / "share"  # the guest's /share, writable

    # ---- state ------------------------------------------------------------------------------

    @property
    def state(self):
        """What `up` wrote: qemu's number, ports, boot time, options; {} before the first."""
        try:
            return json.loads((self.folder / "state.json").read_text())
        except FileNotFoundError:
            return {}

    def pidfd(self):
        """Return a descriptor of the running QEMU, or None when it does not run."""
        pid = self.state.get("pid")
        if pid is None:
            return None
        try:
            descriptor = os.pidfd_open(pid)
            # The number may be another process's by now: ours names its folder.
            if str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return descriptor
        except (ProcessLookupError, FileNotFoundError):
            return None
        os.close(descriptor)
        return None

    def is_running(self):
        descriptor = self.pidfd()
        if descriptor is None:
            return False
        with os.fdopen(descriptor) as ended:
            return not select.select([ended], [], [], 0)[0]

    def host_port(self, guest_port):
        """Say which port of the host's loopback reaches a port of the guest."""
        return self.state["ports"][str(guest_port)]

    # ---- starting and ending ----------------------------------------------------------------

    def up(self, release, *, siw_variant="stock", memory=2048, processors=2):
        """Boot a release and wait for the agent; nothing happens when it runs already."""
        host.check("qemu-system-x86_64", "mke2fs")
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.is_running():
                return
            base, site = image.base(release), packages.others(release) / "site.img"
            self.share.mkdir(exist_ok=True)
            self._make_own_disk(siw.modules(release))
            processor = accel.choose(base / "vmlinuz")
            started = time.monotonic()
            for attempt in range(_ATTEMPTS):
                if self._start(release, base, site, processor, siw_variant, memory, processors):
                    break
                if attempt + 1 == _ATTEMPTS:
                    raise host.LabError(f"QEMU does not start:\n{self._said()}")
            self._update(boot_s=round(time.monotonic() - started, 1), accel=" ".join(processor))

    def _make_own_disk(self, modules):
        """Make the small disk with the lab's files; the guest sees it as /lab."""
        content = self.folder / "own"
        shutil.rmtree(content, ignore_errors=True)
        shutil.copytree(IN_GUEST, content, ignore=shutil.ignore_patterns("__pycache__"))
        for module in modules.glob("*.ko"):
            shutil.copy(module, content)
        rows = [
            f"{d.name} {d.kind} {d.interface} {d.ipv4}/24 {d.ipv6}/64 {d.other_ipv4}/24\n"
            for d in recipe.DEVICES.values()
        ]
        (content / "devices").write_text("".join(rows))
        disk = self.folder / "own.img"
        disk.unlink(missing_ok=True)
        host.run(["mke2fs", "-q", "-t", "ext4", "-d", str(content), str(disk), "48M"])

    def _start(self, release, base, site, processor, siw_variant, memory, processors):
        """Start QEMU and wait for the guest; return False when a port was taken meanwhile."""
        with socket.create_server(("127.0.0.1", 0)) as ready:
            ports = dict(
                zip(
                    [recipe.AGENT_PORT, *recipe.FORWARDED_PORTS],
                    _free_ports(1 + len(recipe.FORWARDED_PORTS)),
                    strict=True,
                )
            )
            kernel_options = [
                *("root=/dev/vda", "rw", "init=/sbin/lab-init", "console=ttyS0", "net.ifnames=0"),
                *("oops=panic", "panic=-1", "mitigations=off", "fsck.mode=skip"),
                # Emulated processors share one counter, but Linux cannot know: it would ask an
                # emulated timer for the time, which costs more than a message.
                "tsc=reliable",
                "printk.devkmsg=on",  # the names of tests go to the console, in order
                *(f"lab.agent={recipe.AGENT_PORT}", f"lab.host={recipe.HOST_SEEN_BY_GUEST}"),
                *(f"lab.ready={ready.getsockname()[1]}", f"lab.siw={siw_variant}"),
            ]
            stage = image.cache_folder(release)  # the guest's /stage
            command = self._command(base, site, stage, processor, ports, memory, processors)
            with open(self.folder / "qemu.log", "w") as log:
                process = subprocess.Popen(
                    [*command, "-append", " ".join(kernel_options)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env={**host.environment(), "TMPDIR": str(self.folder)},
                )
            state = {"pid": process.pid, "ports": ports, "siw": siw_variant}
            state["release"] = release.suite
            (self.folder / "state.json").write_text(json.dumps(state))
            return self._wait_until_ready(process, ready)

    def _wait_until_ready(self, process, ready):
        with os.fdopen(os.pidfd_open(process.pid)) as ended:
            seen = select.select([ready, ended], [], [], BOOT_LIMIT)[0]
        if ready in seen:
            with ready.accept()[0] as caller:
                caller.settimeout(BOOT_LIMIT)
                self._update(uptime_s=float(caller.recv(100).split()[0]))
            return True
        if not seen:
            process.kill()
        status = process.wait()
        if "hostfwd" in self._said() or "host forwarding" in self._said():
            return False
        why = f"QEMU ended with status {status}" if seen else f"no answer within {BOOT_LIMIT} s"
        raise host.LabError(
            f"the guest did not boot: {why}\n{self._said()}\nThe end of its console:\n"
            + "\n".join(self.read_console().splitlines()[-25:])
        )

    def _command(self, base, site, stage, processor, ports, memory, processors):
        command = [
            *("qemu-system-x86_64", "-name", f"ndverbs-lab-{self.name}", *processor),
            *("-machine", "q35", "-smp", str(processors), "-m", str(memory)),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-serial", f"file:{self.console}", "-device", "virtio-rng-pci"),
            *("-kernel", str(base / "vmlinuz"), "-initrd", str(base / "initrd.img")),
            *("-drive", f"file={base}/disk.img,format=raw,if=virtio,snapshot=on"),
            *("-drive", f"file={self.folder}/own.img,format=raw,if=virtio,readonly=on"),
            *("-drive", f"file={site},format=raw,if=virtio,readonly=on"),
        ]
        for tag, path, more in (("stage", stage, ",readonly=on"), ("share", self.share, "")):
            command += [
                "-virtfs",
                f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{more}",
            ]
        for number, device in enumerate(recipe.DEVICES.values()):
            net = f"user,id=net{number},net={device.ipv4_network},ipv6-net={device.ipv6_network}"
            if number == 0:
                net += "".join(f",hostfwd=tcp:127.0.0.1:{h}-:{g}" for g, h in ports.items())
            command += ["-netdev", net, "-device", f"virtio-net-pci,netdev=net{number},romfile="]
        return command

    def down(self):
        """End the machine; its disk forgets, the shared folder stays."""
        descriptor = self.pidfd()
        if descriptor is None:
            return
        with os.fdopen(descriptor) as ended:
            signal.pidfd_send_signal(ended.fileno(), signal.SIGTERM)
            if not select.select([ended], [], [], 10)[0]:
                signal.pidfd_send_signal(ended.fileno(), signal.SIGKILL)
                select.select([ended], [], [], 10)

    def _update(self, **facts):
        (self.folder / "state.json").write_text(json.dumps({**self.state, **facts}))

    # ---- speaking to it ---------------------------------------------------------------------

    def command(self, command, **options):
        """Start a shell command in the guest; options of Command."""
        if not self.is_running():
            raise host.LabError(
                f"no machine {self.name!r} is running; start it with `python -m lab up`"
            )
        return Command(self.host_port(recipe.AGENT_PORT), command, **options)

    def run(self, command, **options):
        """Run a shell command in the guest; return its status and output."""
        output = b""
        with self.command(command, **options) as running:
            while data := running.take():
                output += data
            status = running.ended.status
        return status, output.decode(errors="replace")

    def read_console(self):
        """Return what the serial console printed since the boot."""
        return self.read_console_from(0)[0].replace("\r", "")

    def read_console_from(self, start):
        """Return what the console printed from a position on, and the next position."""
        try:
            with open(self.console, "rb") as file:
                file.seek(start)
                data = file.read()
        except FileNotFoundError:
            return "", start
        # A kernel's text is ASCII; bytes of programs that are not must not move the position.
        return data.decode("ascii", errors="replace"), start + len(data)

    def _said(self):
        return (self.folder / "qemu.log").read_text(errors="replace").strip()


def _free_ports(count):
    """Ports that are free at this moment, all different."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports
