# SPDX-License-Identifier: Apache-2.0
"""Builds roots of Debian and the guest's disk with its kernel, and keeps them in the cache.

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
import tempfile
import time
import tomllib
from pathlib import Path

from lab import debian, host, recipe

CHECKOUT = Path(__file__).resolve().parents[2]


def cache_folder(release=None):
    """Say where state is kept, or layers of a release: in build/lab, or NDVERBS_LAB_CACHE."""
    folder = Path(os.environ.get("NDVERBS_LAB_CACHE") or CHECKOUT / "build" / "lab").absolute()
    if release is not None:
        folder /= release.suite
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def pyproject():
    """Return what pyproject.toml says."""
    with open(CHECKOUT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)


def key_of(facts):
    """Hash plain values."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def layer(release, name, facts, build, *, keep=1):
    """Return the folder of a layer of a release; call ``build(folder)`` when the cache has none.

    Older layers of the name go, all but the ``keep`` newest.
    """
    cache = cache_folder(release)
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
        print(f"lab: building {release.suite}/{place.name}", flush=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{name}-", suffix=".new", dir=cache))
        folder.chmod(0o755)
        build(folder)
        (folder / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
        folder.rename(place)
        took = time.monotonic() - started
        print(f"lab: built {release.suite}/{place.name} in {took:.0f} s", flush=True)
        others = [p for p in cache.glob(f"{name}-*") if len(p.name) == len(place.name)]
        for old in sorted(others, key=lambda p: p.stat().st_mtime, reverse=True)[keep:]:
            shutil.rmtree(old)
    return place


def root(release, name, packages):
    """Return the folder of a Debian with packages, for programs of this host to enter."""

    def build(folder):
        debian.bootstrap(
            folder / "root",
            release,
            packages,
            folder / "mmdebstrap.log",
            left_out=[path for path in recipe.LEFT_OUT if path.startswith("/usr/share")],
        )

    return layer(release, name, {"packages": packages, "release": release}, build) / "root"


def build_root(release):
    """Return the root in which siw and our wheel are built."""
    return root(release, "build", recipe.BUILD_PACKAGES)


def kernel(release):
    """Say which kernel the guest has, as 6.1.0-56-amd64: that of the build root's headers."""
    (headers,) = (build_root(release) / "usr" / "src").glob("linux-headers-*-amd64")
    return headers.name.removeprefix("linux-headers-")


def base(release):
    """Return the folder with disk.img, vmlinuz and initrd.img; build it when needed."""
    facts = {
        "release": release,
        "kernel": kernel(release),
        "packages": recipe.PACKAGES,
        "left out": recipe.LEFT_OUT,
        "initramfs": [recipe.INITRAMFS_CONF, recipe.INITRAMFS_HOOK],
        "init": recipe.STUB_INIT,
        "disk": recipe.DISK_SIZE,
    }
    return layer(release, "base", facts, lambda folder: _build_base(folder, release))


def _build_base(folder, release):
    root = folder / "root"
    version = kernel(release)
    into = '"$1"/etc/initramfs-tools'
    with _seeds() as seeds:
        try:
            debian.bootstrap(
                root,
                release,
                [f"linux-image-{version}", *recipe.PACKAGES],
                folder / "mmdebstrap.log",
                left_out=recipe.LEFT_OUT,
                options=[
                    f"--essential-hook=mkdir -p {into}/conf.d {into}/hooks",
                    f"--essential-hook=cp {seeds}/conf {into}/conf.d/lab",
                    f"--essential-hook=cp -p {seeds}/hook {into}/hooks/lab",
                ],
            )
        except host.LabError as error:
            raise host.LabError(
                f"{error}\nWhen linux-image-{version} is missing, the mirror has a newer kernel "
                f"than {build_root(release).parent}, which may be removed and is built anew."
            ) from None
    _drop_other_identities(root)
    stub = root / "sbin" / "lab-init"
    stub.write_text(recipe.STUB_INIT)
    stub.chmod(0o755)
    boot = root / "boot"
    for name, source in (("vmlinuz", "vmlinuz-"), ("initrd.img", "initrd.img-")):
        shutil.copyfile(boot / (source + version), folder / name)
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
