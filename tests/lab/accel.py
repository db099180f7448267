# SPDX-License-Identifier: Apache-2.0
"""Finds out how QEMU can run a processor here: KVM where it really works, else emulation.

/dev/kvm says little. Nested virtualisation may refuse a register at the first start, or start and
then stand still in the guest's first instructions; both were seen. So each choice boots the
guest's kernel until its first line, without a disk. That KVM fails is remembered until this host
boots again.
"""

import json
import os
import select
import subprocess
import time
from pathlib import Path

from lab import host, image

KVM = [
    ["-accel", "kvm", "-cpu", "host"],
    ["-accel", "kvm", "-cpu", "host,-arch-capabilities"],
]
TCG = ["-accel", "tcg,thread=multi", "-cpu", "max"]

_FIRST_LINE = b"Linux version"
_LIMIT = 10  # seconds for a line that takes one; only means that the choice does not work


def choose(kernel):
    """Return QEMU's options for the processor; NDVERBS_LAB_ACCEL=kvm|tcg decides otherwise."""
    wanted = os.environ.get("NDVERBS_LAB_ACCEL", "")
    if wanted not in ("", "kvm", "tcg"):
        raise host.LabError(f"NDVERBS_LAB_ACCEL is {wanted!r}; it takes kvm or tcg")
    if wanted == "tcg" or (not wanted and not os.access("/dev/kvm", os.R_OK | os.W_OK)):
        return TCG
    memory = image.cache_folder() / "kvm-fails.json"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    if not wanted and memory.exists() and json.loads(memory.read_text())["boot"] == boot:
        return TCG
    reasons = []
    for options in KVM:
        reason = _why_not(options, kernel)
        if reason is None:
            return options
        reasons.append(f"{' '.join(options)}: {reason}")
    if wanted == "kvm":
        raise host.LabError("KVM does not work here: " + "; ".join(reasons))
    memory.write_text(json.dumps({"boot": boot, "reasons": reasons}))
    return TCG


def _why_not(options, kernel):
    """Boot the kernel until it speaks; return what went wrong, or None."""
    with subprocess.Popen(
        [
            *("qemu-system-x86_64", *options, "-machine", "q35", "-smp", "2", "-m", "256"),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-serial", "stdio", "-kernel", str(kernel)),
            *("-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        deadline = time.monotonic() + _LIMIT
        said = b""
        try:
            while _FIRST_LINE not in said:
                left = max(0.0, deadline - time.monotonic())
                if not select.select([process.stdout], [], [], left)[0]:
                    return f"the kernel says nothing within {_LIMIT} s"
                part = os.read(process.stdout.fileno(), 65536)
                if not part:
                    return said.decode(errors="replace").strip().splitlines()[0]
                said += part
        finally:
            process.kill()
    return None
