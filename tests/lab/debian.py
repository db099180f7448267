# SPDX-License-Identifier: Apache-2.0
"""Debian of any release in a folder, without privileges: how it is made, and how it is entered.

The mirror, the way to it and pip's settings are those of this host; they are handed over at each
call, and none stays in the folder.
"""

import ast
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from lab import host

_BOUND = ("/dev", "/proc", "/sys", "/etc/resolv.conf", "/etc/hosts")
# Its arguments: the root, pairs of a path of this host and the place in the root that shows it,
# "--", a command. The mounts are in a namespace that ends with the command.
_ENTER = """set -e
root=$1; shift
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$root${2%/*}"; : >> "$root$2"; fi
    mount --rbind "$1" "$root$2"
    shift 2
done
shift
exec chroot "$root" "$@"
"""


def bootstrap(root, release, packages, log, *, left_out=(), options=()):
    """Unpack a minimal Debian with packages into a new folder; ``options`` are mmdebstrap's."""
    host.check("mmdebstrap", "tar", "unshare")
    root.mkdir()
    command = [
        *("mmdebstrap", "--variant=minbase", "--format=tar", f"--include={','.join(packages)}"),
        *(f"--aptopt={option}" for option in [*_apt_options(), *release.apt_options]),
        # Not as --dpkgopt: the filter that mmdebstrap 1.3 takes for it breaks newer archives.
        f"--essential-hook=printf 'path-exclude=%s\\n' {shlex.join(left_out)} "
        '> "$1"/etc/dpkg/dpkg.cfg.d/left-out',
        *options,
        # The way from this host to its mirror is none from elsewhere.
        '--customize-hook=rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/apt.conf.d/99mmdebstrap',
        *(release.suite, "-", *_sources(release.suite)),
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
            f"a root of Debian {release.suite} could not be made. What mmdebstrap said:\n"
            f"{host.tail(log)}"
            "Without root it needs user namespaces and entries in /etc/subuid and /etc/subgid."
        )


def entered(root, words, *, shown=(), cwd="/", env=None):
    """Give the command that runs ``words`` as root of a Debian root, in a user namespace.

    Folders and files of ``shown`` are seen there at their own paths, or at those that a dict
    names; pip is set up as on this host. Nothing else of the environment goes along.
    """
    settings, named = pip_settings()
    places = dict(shown) if isinstance(shown, dict) else {path: path for path in shown}
    pairs = [(path, path) for path in (*_BOUND, *named)] + list(places.items())
    variables = {
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "DEBIAN_FRONTEND": "noninteractive",
        **{name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")},
        **settings,
        **(env or {}),
    }
    return [
        *("unshare", "--map-root-user", "--mount", "sh", "-c", _ENTER, "sh", str(root)),
        *(str(path) for pair in pairs for path in pair),
        *("--", "env", "-i", "-C", str(cwd), *(f"{n}={v}" for n, v in variables.items())),
        *(str(word) for word in words),
    ]


def run(root, words, *, log=None, **options):
    """Run a command in a root to its end; on failure raise with the last lines of what it said."""
    return host.run(entered(root, words, **options), log=log)


# ---- what this host says ------------------------------------------------------------------------


def _sources(suite):
    """Give the lines of sources.list for a release, from where this host gets its own."""
    said = host.run(
        [
            *("apt-get", "indextargets", "--format"),
            "$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)",
            "Created-By: Packages",
        ]
    )
    lines = sources(said, suite)
    if not lines:
        raise host.LabError(
            "apt on this host knows no mirror of Debian: the lab is built on Debian, after "
            "`apt-get update`"
        )
    return lines


def sources(said, suite):
    """Give the lines of sources.list for a release, of rows of address, suite, component, origin.

    Testing has neither updates nor a security archive that matters.
    """
    rows = {tuple(line.split()) for line in said.splitlines()}
    kinds = {
        (uri, codename.partition("-")[2])
        for uri, codename, component, origin in (row for row in rows if len(row) == 4)
        if origin == "Debian" and component == "main"
    }
    return sorted(
        f"deb {uri} {suite}{kind and '-' + kind} main"
        for uri, kind in kinds
        if kind in ("", *(("updates", "security") if suite != "testing" else ()))
    )


def _apt_options():
    """Give the host's way to its mirror (proxies and the like) as apt options."""
    said = host.run(["apt-config", "dump"])
    pattern = re.compile(r'^(Acquire::https?::(?!Pipeline)\S+) "(.+)";$', re.MULTILINE)
    return [f'{name} "{value}";' for name, value in pattern.findall(said)]


def pip_settings(said=None):
    """Give pip's settings of this host as variables, and the paths that they name."""
    if said is None:
        said = host.run([sys.executable, "-m", "pip", "config", "list"])
    settings = {}
    for wanted in ("global", ":env:"):  # the second one wins
        for line in said.splitlines():
            name, _, value = line.partition("=")
            section, _, key = name.rpartition(".")
            if section == wanted and key != "config-file":
                words = " ".join(ast.literal_eval(value).split())
                settings[f"PIP_{key.replace('-', '_').upper()}"] = words
    paths = {
        # A folder of an index links to the files beside it.
        str(Path(word.removeprefix("file://")).parent) if word.startswith("file://") else word
        for words in settings.values()
        for word in shlex.split(words)
        if word.removeprefix("file://").startswith("/")
    }
    return settings, sorted(path for path in paths if os.path.exists(path))
