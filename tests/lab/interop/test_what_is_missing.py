# SPDX-License-Identifier: Apache-2.0
"""What a machine can lack, told apart: by the error at the call, and by `ndverbs doctor`.

Each test takes something away from the guest, asks in a process of its own, and puts it back.
"""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = 65534
OPEN = 'nd.Adapter.open("verbs:rxe0")'
REGISTER = f"""
with {OPEN} as adapter, adapter.create_pd() as pd:
    pd.register(np.zeros(1 << 22, np.uint8))
"""


def _run(program, prefix):
    return subprocess.run(
        [*prefix, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    ).stdout


def failure(statement, prefix=()):
    """Run a statement in another process; return its error: builtin, status, text."""
    program = (
        "import json, numpy as np, ndverbs as nd\n"
        f"try:\n    exec({statement!r})\n"
        "except nd.RdmaError as error:\n"
        "    kinds = [kind.__name__ for kind in type(error).__mro__]\n"
        "    print(json.dumps([kinds, error.status.name, str(error)]))\n"
    )
    return json.loads(_run(program, prefix))


def opened(*names, prefix=()):
    """Open adapters in another process, one after the other.

    Returns the name of each, or the error's status and text; the names of adapters(); the log.
    """
    program = (
        "import json, logging, ndverbs as nd\n"
        "lines, found = [], []\n"
        "handler = logging.Handler()\n"
        "handler.emit = lambda record: lines.append(f'{record.name}: {record.getMessage()}')\n"
        "logging.getLogger('ndverbs').addHandler(handler)\n"
        "logging.getLogger('ndverbs').setLevel(logging.INFO)\n"
        f"for name in {names!r}:\n"
        "    try:\n"
        "        with nd.Adapter.open(name) as adapter:\n"
        "            found.append(adapter.info.name)\n"
        "    except nd.RdmaError as error:\n"
        "        found.append(f'{error.status.name}: {error}')\n"
        "listed = [info.name for info in nd.adapters()]\n"
        "print(json.dumps([found, listed, '\\n'.join(lines)]))"
    )
    return json.loads(_run(program, prefix))


def file_of(device):
    names = Path("/sys/class/infiniband_verbs").glob("uverbs*/ibdev")
    (found,) = (name.parent for name in names if name.read_text().strip() == device)
    return Path("/dev/infiniband") / found.name


def bad_findings(prefix=()):
    """Return what the doctor finds wrong with the verbs provider: check to what and remedy."""
    program = (
        "import json; from ndverbs.cli import doctor\n"
        "print(json.dumps([f for f in doctor.findings() if f.provider == 'verbs']))"
    )
    rows = json.loads(_run(program, prefix))
    return {check: f"{what}; {remedy}" for _, check, is_good, what, remedy in rows if not is_good}


@contextlib.contextmanager
def away(path):
    """Take a file or folder away for a while."""
    kept = path.with_name(path.name + ".away")
    path.rename(kept)
    try:
        yield
    finally:
        kept.rename(path)


@contextlib.contextmanager
def mode(paths, bits):
    """Give files other permissions for a while."""
    before = {path: stat.S_IMODE(path.stat().st_mode) for path in paths}
    for path in paths:
        path.chmod(bits)
    try:
        yield
    finally:
        for path, bits_before in before.items():
            path.chmod(bits_before)


@contextlib.contextmanager
def without_addresses(interface):
    """Take an interface's addresses away for a while, and those that a router would give it."""
    from_routers = Path(f"/proc/sys/net/ipv6/conf/{interface}/accept_ra")
    accepted = from_routers.read_text()
    from_routers.write_text("0")
    shown = subprocess.run(
        ["ip", "-json", "address", "show", "dev", interface, "scope", "global"],
        capture_output=True,
        check=True,
    )
    listed = [one for one in json.loads(shown.stdout)[0]["addr_info"] if one]
    before = [f"{one['local']}/{one['prefixlen']}" for one in listed]
    for address in reversed(before):  # a primary one would take its secondary ones along
        subprocess.run(["ip", "address", "del", address, "dev", interface], check=True)
    try:
        yield
    finally:
        for address in before:
            nodad = ["nodad"] if ":" in address else []
            subprocess.run(["ip", "address", "add", address, "dev", interface, *nodad], check=True)
        from_routers.write_text(accepted)


@pytest.fixture
def as_nobody():
    """Give the prefix of a command that runs without privileges."""
    assert shutil.which("setpriv")
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


@pytest.fixture
def device_files():
    return [path for path in Path("/dev/infiniband").iterdir() if path.is_char_device()]


def test_nothing_is_missing_in_the_guest():
    assert bad_findings() == {}


@pytest.mark.parametrize("library", ["libibverbs.so.1", "librdmacm.so.1"])
def test_absent_library_is_named(library):
    with away(Path("/usr/lib/x86_64-linux-gnu") / library):
        _, status, text = failure(OPEN)
        found = bad_findings()

    assert status == "DEVICE_NOT_READY"
    assert library in text
    assert library in found["rdma-core"]
    assert "apt-get install" in found["rdma-core"]


def test_absent_driver_package_is_told_from_an_absent_device():
    with away(Path("/etc/libibverbs.d")):
        _, status, _ = failure(OPEN)
        found = bad_findings()

    assert status == "DEVICE_NOT_READY"
    assert "ibverbs-providers" in found["device rxe0"]


def test_absent_device_is_told_with_those_that_are_there():
    kinds, status, text = failure('nd.Adapter.open("verbs:mlx5_0")')

    assert "ValueError" in kinds
    assert status == "INVALID_PARAMETER"
    assert "siw0" in text
    assert "rxe0" in text


def test_no_permission_on_the_device_files(as_nobody, device_files):
    with mode(device_files, 0o600):
        kinds, status, text = failure(OPEN, as_nobody)
        found = bad_findings(as_nobody)

    assert "PermissionError" in kinds
    assert status == "ACCESS_DENIED"
    assert "/dev/infiniband/uverbs" in text
    assert "allow this user" in found["/dev/infiniband/rdma_cm"]


def test_too_little_lockable_memory_is_told_with_the_limit(as_nobody, device_files):
    limited = ["prlimit", "--memlock=1048576:1048576", *as_nobody]
    with mode(device_files, 0o666):
        kinds, status, text = failure(REGISTER, limited)
        found = bad_findings(limited)

    assert "OSError" in kinds
    assert status == "INSUFFICIENT_RESOURCES"
    assert "1024 KiB" in text
    assert "ulimit -l" in text
    assert "1024 KiB" in found["locked memory"]


@pytest.mark.parametrize(("forbidden", "other"), [("siw0", "rxe0"), ("rxe0", "siw0")])
def test_device_that_may_not_be_opened_hides_no_other(as_nobody, device_files, forbidden, other):
    names = ("verbs", "auto", f"verbs:{other}", f"verbs:{forbidden}")
    with mode(device_files, 0o666), mode([file_of(forbidden)], 0o600):
        found, listed, log = opened(*names, prefix=as_nobody)

    assert found[:3] == [f"verbs:{other}"] * 3
    assert found[3].startswith("ACCESS_DENIED")
    assert listed == ["soft", f"verbs:{other}"]
    assert log.startswith("ndverbs.verbs: ")  # which one is passed over
    assert str(file_of(forbidden)) in log


def test_auto_is_soft_when_no_device_may_be_opened(as_nobody, device_files):
    with mode(device_files, 0o600):
        found, listed, _ = opened("auto", "verbs", prefix=as_nobody)

    assert found[0] == "soft"
    assert found[1].startswith("ACCESS_DENIED")
    assert listed == ["soft"]


def test_forbidden_connection_manager_is_named(as_nobody, device_files):
    manager = Path("/dev/infiniband/rdma_cm")
    with mode(device_files, 0o666), mode([manager], 0o600):
        found, _, _ = opened("auto", "verbs", "verbs:rxe0", prefix=as_nobody)

    assert found[0] == "soft"
    for refused in found[1:]:
        assert refused.startswith("ACCESS_DENIED")
        assert str(manager) in refused


def test_device_without_an_address_is_the_last_choice(as_nobody, device_files):
    with without_addresses("eth1"):
        all_allowed, _, _ = opened("verbs", "auto")
        doctor = bad_findings()
        with mode(device_files, 0o666), mode([file_of("siw0")], 0o600):
            rest, _, _ = opened("auto", "verbs", prefix=as_nobody)

    assert all_allowed == ["verbs:siw0", "verbs:siw0"]
    assert rest == ["soft", "verbs:rxe0"]
    assert "without an address" in doctor["device rxe0"]
