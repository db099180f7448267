# SPDX-License-Identifier: Apache-2.0
"""Builds the guest's root disk with its kernel, and keeps it in the cache.

A layer of the cache is a folder ``<name>-<key>``, the key being a hash of all that goes into
it. It is built beside and moved into place, so an interrupted build leaves nothing that looks
finished. Needs no root where user namespaces are allowed; mmdebstrap says so otherwise.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path

from lab import host, recipe

CHECKOUT = Path(__file__).resolve().parents[2]


def cache_folder():
    """Say where layers and state are kept: build/lab, or NDVERBS_LAB_CACHE."""
    folder = Path(os.environ.get("NDVERBS_LAB_CACHE") or CHECKOUT / "build" / "lab").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def key_of(facts):
    """Hash plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def layer(name, facts, build, *, keep=1):
    """Return the folder of a layer; call ``build(folder)`` when the cache has none.

    Older layers of the name go, all but the ``keep`` newest.
    """
    cache = cache_folder()
    place = cache / f"{name}-{key_of(facts)}"
    # One build at a time, also of two processes; the lock goes with its descriptor.
    with open(cache / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.is_dir():
            os.utime(place)
            return place
        for unfinished in cache.glob(f".{name}-*.new"):
            shutil.rmtree(unfinished)
        started = time.monotonic()
        print(f"lab: building {place.name}", flush=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{name}-", suffix=".new", dir=cache))
        folder.chmod(0o755)
        build(folder)
        (folder / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
        folder.rename(place)
        print(f"lab: built {place.name} in {time.monotonic() - started:.0f} s", flush=True)
        others = [p for p in cache.glob(f"{name}-*") if len(p.name) == len(place.name)]
        for old in sorted(others, key=lambda p: p.stat().st_mtime, reverse=True)[keep:]:
            shutil.rmtree(old)
    return place


def base():
    """Return the folder with disk.img, vmlinuz and initrd.img; build it when needed."""
    kernel = host.kernel()
    facts = {
        "suite": recipe.SUITE,
        "kernel": kernel,
        "packages": recipe.PACKAGES,
        "left out": recipe.LEFT_OUT,
        "initramfs": [recipe.INITRAMFS_CONF, recipe.INITRAMFS_HOOK],
        "init": recipe.STUB_INIT,
        "disk": recipe.DISK_SIZE,
    }
    return layer("base", facts, lambda folder: _build_base(folder, kernel))


def _build_base(folder, kernel):
    root = folder / "root"
    root.mkdir()
    with _seeds() as seeds:
        _bootstrap(root, seeds, kernel, log=folder / "mmdebstrap.log")
    _drop_other_identities(root)
    stub = root / "sbin" / "lab-init"
    stub.write_text(recipe.STUB_INIT)
    stub.chmod(0o755)
    boot = root / "boot"
    for name, source in (("vmlinuz", "vmlinuz-"), ("initrd.img", "initrd.img-")):
        shutil.copyfile(boot / (source + kernel.release), folder / name)
    host.run(
        [
            *("mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", str(root)),
            *(str(folder / "disk.img"), recipe.DISK_SIZE),
        ]
    )
    shutil.rmtree(root)


@contextlib.contextmanager
def _seeds():
    """Files that mmdebstrap copies in before packages are configured, readable for any user."""
    with tempfile.TemporaryDirectory(prefix="ndverbs-lab-") as name:
        seeds = Path(name)
        seeds.chmod(0o755)
        (seeds / "conf").write_text(recipe.INITRAMFS_CONF)
        (seeds / "hook").write_text(recipe.INITRAMFS_HOOK)
        (seeds / "hook").chmod(0o755)
        yield seeds


def _drop_other_identities(root):
    """Take away set-user-id bits.

    Unpacked without root, all files are the builder's, and a set-user-id `mount` would make the
    guest's root a user without rights. No other user is there, so no program needs the bits.
    """
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                os.chmod(path, stat.S_IMODE(mode) & ~(stat.S_ISUID | stat.S_ISGID))


def _bootstrap(root, seeds, kernel, log):
    """Unpack a minimal Debian with the recipe's packages into a folder."""
    into = '"$1"/etc/initramfs-tools'
    command = [
        *("mmdebstrap", "--variant=minbase", "--format=tar"),
        f"--include={','.join([kernel.image_package, *recipe.PACKAGES])}",
        *(f"--dpkgopt=path-exclude={path}" for path in recipe.LEFT_OUT),
        *(f"--aptopt={option}" for option in host.apt_options()),
        f"--essential-hook=mkdir -p {into}/conf.d {into}/hooks",
        f"--essential-hook=cp {seeds}/conf {into}/conf.d/lab",
        f"--essential-hook=cp -p {seeds}/hook {into}/hooks/lab",
        # The way from this host to its mirror is none from the guest.
        '--customize-hook=rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/apt.conf.d/99mmdebstrap',
        *(recipe.SUITE, "-", *host.debian_sources()),
    ]
    with open(log, "w") as said:
        source = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, env=host.environment()
        )
        unpack = subprocess.run(
            ["tar", "-x", "-p", "-C", str(root), "--exclude=./dev/*"],
            stdin=source.stdout,
            stderr=said,
        )
        source.stdout.close()
        status = source.wait() or unpack.returncode
    if status:
        raise host.LabError(
            f"the guest's file system could not be made. What mmdebstrap said:\n{host.tail(log)}"
            "Without root it needs user namespaces and entries in /etc/subuid and /etc/subgid; "
            f"when {kernel.image_package} is missing, the mirror has a newer kernel: "
            f"apt-get update && apt-get install {recipe.HEADERS_PACKAGE} {recipe.SOURCE_PACKAGE}"
        )
