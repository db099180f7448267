# SPDX-License-Identifier: Apache-2.0
"""`ndverbs doctor`: what is looked at, what it says of a machine that lacks something."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ndverbs as nd
from ndverbs import cli
from ndverbs.cli import doctor
from soft import private_network


def test_soft_provider_is_fine_on_this_machine(capsys):
    assert cli.main(["doctor", "soft"]) == 0

    out = capsys.readouterr().out
    assert "soft: TCP on the loopback address: works" in out
    assert "verbs" not in out


def test_every_bad_finding_has_a_remedy():
    findings = doctor.findings()

    assert {finding.provider for finding in findings} == {"soft", "verbs"}
    assert all(finding.is_good or finding.remedy for finding in findings)
    assert all(finding.check and finding.what for finding in findings)


def test_json_holds_every_finding(capsys):
    assert cli.main(["doctor", "--json"]) == 0

    rows = json.loads(capsys.readouterr().out)
    assert {row["check"] for row in rows} == {finding.check for finding in doctor.findings()}
    assert set(rows[0]) == {"provider", "check", "is_good", "what", "remedy"}


def test_unknown_provider_is_wrong_usage(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor", "nonsense"])

    assert caught.value.code == 2
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.parametrize(
    "code",
    [
        "IO_TIMEOUT",
        "io_timeout",
        "STATUS_IO_TIMEOUT",
        "nd.Status.IO_TIMEOUT",
        "0xC00000B5",
        "c00000b5",
        "3221225653",
        "-1073741643",
    ],
)
def test_a_status_is_explained_by_any_name_or_number_of_it(code, capsys):
    # argparse takes what looks like a negative number for a value.
    assert cli.main(["doctor", "--explain", code]) == 0

    assert capsys.readouterr().out == (
        "IO_TIMEOUT (0xc00000b5): timed out\n"
        "  RdmaTimeoutError: The time was over; posted requests go on, an attempt to connect is "
        "abandoned.\n"
    )


def test_every_status_is_explained(capsys):
    for status in nd.Status:
        assert cli.main(["doctor", "--json", "--explain", str(int(status))]) == 0
        said = json.loads(capsys.readouterr().out)
        assert said["status"] == status.name
        assert said["meaning"]
        assert ("exception" in said) == (status >= 0x80000000)


@pytest.mark.parametrize("code", ["1/2/02", "1/2/2", "1/2/0x02"])
def test_the_code_of_a_terminate_is_explained(code, capsys):
    assert cli.main(["doctor", "--explain", code]) == 0

    assert capsys.readouterr().out == (
        "Terminate 1/2/02: DDP untagged buffer error: no receive was posted for the message\n"
    )


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("1/2/0a", "'1/2/0a' is no layer/type/code"),
        ("1/300/02", "'1/300/02' is no layer/type/code"),
        ("TIMEOUT", "'TIMEOUT' is neither a status nor"),
        ("IO_TIMEOT", "similar names: IO_TIMEOUT"),
        ("0xC00000B6B5", "'0xC00000B6B5' is neither a status"),
        ("", "'' is neither a status"),
    ],
)
def test_an_unknown_code_is_one_sentence_with_1(code, why, capsys):
    assert cli.main(["doctor", "--explain", code]) == 1

    err = capsys.readouterr().err
    assert why in err
    assert err.count("\n") == 1


def test_explain_takes_no_provider(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["doctor", "soft", "--explain", "SUCCESS"])

    assert caught.value.code == 2


@pytest.fixture
def without_libraries(tmp_path):
    """Give an environment in which rdma-core's libraries cannot be loaded."""
    for name in ("libibverbs.so.1", "librdmacm.so.1"):
        (tmp_path / name).write_bytes(b"")  # found first, and no library
    return {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}


def test_libraries_that_cannot_be_loaded_are_named_with_the_package(without_libraries):
    done = subprocess.run(
        [sys.executable, "-m", "ndverbs", "doctor", "verbs"],
        env=without_libraries,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert "libibverbs.so.1" in done.stdout
    assert "apt-get install libibverbs1 ibverbs-providers librdmacm1" in done.stdout


def test_without_the_libraries_the_package_imports_and_soft_works(without_libraries):
    script = """
import ndverbs as nd
with nd.Adapter.open("soft"), nd.Adapter.open("auto") as automatic:
    assert automatic.info.name == "soft"
try:
    nd.Adapter.open("verbs")
except nd.RdmaError as error:
    assert error.status == nd.Status.DEVICE_NOT_READY, error
    print(error)
"""

    done = subprocess.run(
        [sys.executable, "-c", script],
        env=without_libraries,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stderr == ""
    assert "apt-get install" in done.stdout


def test_device_that_is_not_there_is_named():
    with pytest.raises(nd.RdmaError) as caught:
        nd.Adapter.open("verbs:nonsense9")

    assert caught.value.status in (nd.Status.INVALID_PARAMETER, nd.Status.DEVICE_NOT_READY)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["auto", "auto:127.0.0.1"])
def test_auto_opens_an_adapter_on_every_machine(name):
    with nd.Adapter.open(name) as adapter:
        assert adapter.info.provider in ("soft", "verbs")


def test_auto_refuses_what_is_no_address():
    with pytest.raises(ValueError, match="nonsense"):
        nd.Adapter.open("auto:nonsense")


# What doctor and the soft provider say in a network of their own; see private_network.py.
_IN_A_NETWORK = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import private_network
try:
    private_network.enter_namespaces()
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
except OSError as error:
    print(error, file=sys.stderr)
    sys.exit(private_network.NOT_LET)
import ndverbs as nd
from ndverbs.cli import doctor
print(json.dumps([doctor.findings(), nd.adapters()[0].addresses]))
"""


@pytest.fixture(scope="module")
def bare_network():
    folder = Path(private_network.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_NETWORK, folder], capture_output=True, text=True, timeout=60
    )
    if done.returncode == private_network.NOT_LET:
        pytest.skip(f"the kernel does not give us a network namespace: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_loopback_interface_that_is_down_is_told(bare_network):
    rows = [doctor.Finding(*row) for row in bare_network[0]]

    (loopback,) = [row for row in rows if row.check == "TCP on the loopback address"]
    assert not loopback.is_good
    assert "ip link set lo up" in loopback.remedy


def test_an_address_that_cannot_be_bound_is_not_listed(bare_network):
    assert bare_network[1] == ["127.0.0.1"]
