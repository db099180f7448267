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


def opened(name, prefix=()):
    """Open an adapter in another process; return its name, or the error's status, and the log."""
    program = (
        "import json, logging, ndverbs as nd\n"
        "lines = []\n"
        "handler = logging.Handler()\n"
        "handler.emit = lambda record: lines.append(f'{record.name}: {record.getMessage()}')\n"
        "logging.getLogger('ndverbs').addHandler(handler)\n"
        "logging.getLogger('ndverbs').setLevel(logging.INFO)\n"
        "try:\n"
        f"    with nd.Adapter.open({name!r}) as adapter:\n"
        "        found = adapter.info.name\n"
        "except nd.RdmaError as error:\n"
        "    found = f'{error.status.name}: {error}'\n"
        "print(json.dumps([found, '\\n'.join(lines)]))"
    )
    return json.loads(_run(program, prefix))


def listed(prefix=()):
    """Return the names of the adapters that another process finds."""
    program = "import json, ndverbs as nd; print(json.dumps([i.name for i in nd.adapters()]))"
    return json.loads(_run(program, prefix))


def file_of(device):
    names = Path("/sys/class/infiniband_verbs").glob("uverbs*/ibdev")
    (found,) = (name.parent for name in names if name.read_text().strip() == device)
    return Path("/dev/infiniband") / found.name


def bad_findings(prefix=()):
    """Return what the doctor finds wrong with the verbs provider: check to what and remedy."""
    program = (
        "import json; from ndverbs import doctor\n"
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
    """Take an interface's addresses away for a while."""
    shown = subprocess.run(
        ["ip", "-json", "address", "show", "dev", interface, "scope", "global"],
        capture_output=True,
        check=True,
    )
    before = [f"{a['local']}/{a['prefixlen']}" for a in json.loads(shown.stdout)[0]["addr_info"]]
    for address in before:
        subprocess.run(["ip", "address", "del", address, "dev", interface], check=True)
    try:
        yield
    finally:
        for address in before:
            nodad = ["nodad"] if ":" in address else []
            subprocess.run(["ip", "address", "add", address, "dev", interface, *nodad], check=True)


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
    with mode(device_files, 0o666), mode([file_of(forbidden)], 0o600):
        for name in ("verbs", "auto", f"verbs:{other}"):
            assert opened(name, as_nobody)[0] == f"verbs:{other}"
        found, _ = opened(f"verbs:{forbidden}", as_nobody)
        names = listed(as_nobody)

    assert found.startswith("ACCESS_DENIED")
    assert names == ["soft", f"verbs:{other}"]


def test_device_that_is_passed_over_is_told_to_the_log(as_nobody, device_files):
    file = file_of("siw0")
    with mode(device_files, 0o666), mode([file], 0o600):
        _, log = opened("verbs", as_nobody)

    assert log.startswith("ndverbs.verbs: ")
    assert str(file) in log


def test_auto_is_soft_when_no_device_may_be_opened(as_nobody, device_files):
    with mode(device_files, 0o600):
        found, _ = opened("auto", as_nobody)
        refused, _ = opened("verbs", as_nobody)

    assert found == "soft"
    assert refused.startswith("ACCESS_DENIED")


def test_forbidden_connection_manager_is_named(as_nobody, device_files):
    manager = Path("/dev/infiniband/rdma_cm")
    with mode(device_files, 0o666), mode([manager], 0o600):
        for name in ("verbs", "verbs:rxe0"):
            refused, _ = opened(name, as_nobody)
            assert refused.startswith("ACCESS_DENIED")
            assert str(manager) in refused
        found, _ = opened("auto", as_nobody)

    assert found == "soft"


def test_device_without_an_address_is_the_last_choice(as_nobody, device_files):
    with without_addresses("eth1"):
        assert opened("verbs")[0] == "verbs:siw0"
        assert opened("auto")[0] == "verbs:siw0"
        found = bad_findings()
        with mode(device_files, 0o666), mode([file_of("siw0")], 0o600):
            assert opened("auto", as_nobody)[0] == "soft"
            assert opened("verbs", as_nobody)[0] == "verbs:rxe0"

    assert "without an address" in found["device rxe0"]
