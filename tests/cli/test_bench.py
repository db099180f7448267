# SPDX-License-Identifier: Apache-2.0
"""`ndverbs bench`: tiny runs of every kind. Nothing here says how fast anything is."""

import argparse
import json
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import ndverbs as nd
from ndverbs import _native
from ndverbs.cli import _main
from ndverbs.cli.bench import command as bench
from ndverbs.cli.bench import ends as bench_ends
from ndverbs.cli.bench import loops as bench_loops
from ndverbs.cli.bench import report
from ndverbs.cli.bench import rivals as bench_rivals
from ndverbs.cli.bench.runs import Run

TINY = ["--iterations", "20", "--runs", "2"]
SCHEMA = ["name", "value", "unit", "ratio", "target", "spread", "command"]


def parsed(*arguments: str) -> argparse.Namespace:
    return _main.parser().parse_args(["bench", *arguments])


def rows_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict]:
    """Run the command with --json - and return its rows, checked for what all rows promise."""
    code = bench.run(parsed(*arguments, "--json", "-"))
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    rows = json.loads(out)["rows"]
    for row in rows:
        assert list(row) == SCHEMA
        # The kernel counts user time in ticks: a tiny run may have none.
        assert row["value"] > 0 or "CPU" in row["name"]
        assert row["command"]
    return rows


@pytest.fixture(autouse=True)
def no_process_is_left():
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children")
    before = children.read_text()
    yield
    assert children.read_text() == before


@pytest.mark.parametrize("loops", [[], ["--python"]], ids=["c++", "python"])
@pytest.mark.parametrize("operation", ["write", "read", "send"])
def test_every_operation_has_latency_bandwidth_and_rate(capsys, operation, loops):
    rows = rows_of(capsys, operation, "--sizes", "8,70000", *loops, *TINY)
    suffix = " Python" * bool(loops)
    names = {row["name"] for row in rows}
    for size in (8, 70000):
        assert f"{operation} bandwidth {size} B{suffix}" in names
        assert f"{operation} rate {size} B{suffix}" in names
        for label in ("median", "p99", "min", "mean"):
            assert f"{operation} latency {size} B{suffix} {label}" in names
    assert all(row["spread"] is not None for row in rows if "CPU" not in row["name"])


@pytest.mark.parametrize("loops", [[], ["--python"]], ids=["c++", "python"])
@pytest.mark.parametrize(
    ("operation", "kinds"),
    [("write", ["--bw", "--rate"]), ("read", []), ("send", [])],
    ids=["write", "read", "send"],
)
def test_waiting_and_crc_run_through(capsys, operation, kinds, loops):
    rows = rows_of(capsys, operation, *kinds, "--wait", "--crc", "--depth", "3", *loops, *TINY)
    assert rows
    assert all(" CRC" in row["name"] and " wait" in row["name"] for row in rows)
    assert all("--crc --wait" in row["command"] for row in rows)


def test_a_depth_of_one_runs_through(capsys):
    assert rows_of(capsys, "send", "--bw", "--rate", "--depth", "1", *TINY)


def test_a_run_may_be_limited_by_time(capsys):
    (row,) = rows_of(capsys, "write", "--bw", "--sizes", "4K", "--seconds", "0.05", "--runs", "1")
    assert row["name"] == "write bandwidth 4096 B"
    assert row["unit"] == "GB/s"
    assert row["spread"] is None


@pytest.mark.parametrize("operation", ["write", "read"])
def test_batches_have_a_rate_of_their_own(capsys, operation):
    arguments = ["--rate", "--python", "--many", "--depth", "64", "--iterations", "300"]

    rows = rows_of(capsys, operation, *arguments, "--runs", "1")

    assert rows[0]["name"] == f"{operation} rate 8 B Python many"
    assert "--python --many" in rows[0]["command"]


def test_the_python_rate_shows_the_cpu_time_of_a_request(capsys):
    rows = rows_of(capsys, "write", "--rate", "--python", "--iterations", "300", "--runs", "1")
    assert [(row["name"], row["unit"]) for row in rows] == [
        ("write rate 8 B Python", "1/s"),
        ("write rate 8 B Python user CPU per request and poll", "us"),
        ("write rate 8 B Python system CPU per request and poll", "us"),
    ]


def test_a_socket_is_a_rival_that_is_always_there(capsys):
    rows = rows_of(capsys, "send", "--lat", "--bw", "--sizes", "64", "--against", "socket", *TINY)
    rivals = [row for row in rows if row["ratio"] is not None]
    assert [row["name"] for row in rivals] == [
        "send latency 64 B mean / socket",
        "send bandwidth 64 B / socket",
    ]
    assert all(row["ratio"] > 0 for row in rivals)


@pytest.mark.parametrize("name", ["iperf3", "ucx", "fi_pingpong"])
def test_public_tools_are_rivals_where_they_are_installed(capsys, name):
    if bench_rivals.missing(name):
        pytest.skip(bench_rivals.missing(name))
    kind = "--bw" if name == "iperf3" else "--lat"
    rows = rows_of(
        capsys,
        "send",
        kind,
        "--sizes",
        "64",
        "--against",
        name,
        "--iterations",
        "50",
        "--runs",
        "1",
    )
    (rival,) = [row for row in rows if row["ratio"] is not None]
    assert rival["name"].endswith(f"/ {name}")


def test_a_missing_tool_is_named(capsys, monkeypatch):
    monkeypatch.setattr(bench_rivals.shutil, "which", lambda program: None)
    assert bench.run(parsed("write", "--bw", "--against", "iperf3", *TINY)) == 0
    out, err = capsys.readouterr()
    assert "not compared with iperf3: iperf3 is not installed" in err
    assert "write bandwidth 1048576 B" in out


@pytest.mark.parametrize(
    ("adapter", "device"),
    [("rdma:two", "rdma:two"), ("rdma", "rdma:one"), ("plain", None), (None, None)],
)
def test_perftest_is_a_rival_of_runs_over_a_device(monkeypatch, adapter, device):
    listed = [("plain", "plain"), ("rdma:one", "rdma"), ("rdma:two", "rdma")]
    infos = [SimpleNamespace(name=name, provider=provider) for name, provider in listed]
    monkeypatch.setattr(bench_rivals, "adapters", lambda: infos)
    run = Run(operation="write", measure="bandwidth", size=8, adapter=adapter)

    assert bench_rivals.can_measure("perftest", run) == (device is not None)
    assert getattr(bench_rivals._device_of(run), "name", None) == device


def test_the_promised_ratios_have_a_target():
    def target(name: str, **fields: object) -> float | None:
        return report._target(name, Run(**{"operation": "write", **fields}))

    assert target("iperf3", measure="bandwidth", size=1 << 20) == 1.0
    assert target("iperf3", measure="bandwidth", size=1 << 20, crc=True) is None
    assert target("fi_pingpong", operation="send", measure="latency", size=8) == 1.0
    assert target("socket", measure="bandwidth", size=1 << 20) is None


def test_json_goes_to_a_file_beside_the_table(capsys, tmp_path):
    path = tmp_path / "figures.json"
    assert bench.run(parsed("write", "--bw", "--json", str(path), *TINY)) == 0
    assert "write bandwidth 1048576 B" in capsys.readouterr().out
    report = json.loads(path.read_text())
    assert list(report["rows"][0]) == SCHEMA
    assert report["machine"]["cpus"] >= 1
    assert report["machine"]["kernel"] == os.uname().release


@pytest.mark.parametrize("text", ["0", "-1", "x", "8,", "1.5M", "4T", ""])
def test_a_bad_size_is_refused_with_the_text(capsys, text):
    with pytest.raises(SystemExit) as ended:
        parsed("write", f"--sizes={text}")
    assert ended.value.code == 2
    assert "is not a size of at least 1" in capsys.readouterr().err


def test_sizes_take_binary_units():
    assert parsed("write", "--sizes", "8,4k,1MiB,2G").sizes == [8, 4096, 1 << 20, 2 << 30]


def test_a_size_beyond_the_adapter_is_refused(capsys):
    assert bench.run(parsed("write", "--bw", "--sizes", "8,64G", *TINY)) == 1
    assert "exceeds" in capsys.readouterr().err


def test_a_depth_beyond_the_adapter_is_refused(capsys):
    assert bench.run(parsed("write", "--bw", "--depth", "100000000", *TINY)) == 1
    assert "depth 100000000 is too much" in capsys.readouterr().err


def test_a_write_cannot_be_waited_for_at_its_target(capsys):
    assert bench.run(parsed("write", "--lat", "--wait", *TINY)) == 1
    assert "leave --wait out" in capsys.readouterr().err


def test_an_unknown_adapter_is_a_sentence(capsys):
    assert bench.run(parsed("write", "--bw", "--adapter", "nonsense", *TINY)) == 1
    assert "nonsense" in capsys.readouterr().err


@pytest.mark.parametrize("loops", [[], ["--python"]], ids=["c++", "python"])
@pytest.mark.parametrize("kind", ["--lat", "--bw", "--rate"])
def test_a_dead_peer_ends_the_command_with_a_sentence(capsys, monkeypatch, kind, loops):
    timers = []

    class DoomedPeer(bench_ends.Peer):
        def __init__(self) -> None:
            super().__init__()
            # Whenever it comes: before, while or after the two are connected.
            timers.append(threading.Timer(0.5, os.kill, (self.pid, signal.SIGKILL)))
            timers[0].start()

    monkeypatch.setattr(report, "Peer", DoomedPeer)
    length = ["--iterations", "1000000000", "--runs", "1"]
    code = bench.run(parsed("send", kind, *loops, *length))
    timers[0].join()
    assert code == 1
    assert "the peer process was killed by SIGKILL" in capsys.readouterr().err


def test_python_loops_refuse_what_they_cannot_see():
    run = Run("write", "latency", 8, iterations=1, sleeps=True)
    with pytest.raises(bench_loops.BenchError, match="cannot sleep"):
        bench_loops.Session(None, None, None, None, (0, 0), run, is_initiator=True)


def test_peer_that_ends_the_connection_is_named(connect_pair):
    plan = _native._BenchPlan(
        is_initiator=False,
        is_latency=True,
        operation=nd.OperationType.SEND,
        size=8,
        depth=1,
        seconds=5.0,
    )
    pair = connect_pair(is_connected=False, **plan.limits)
    pair.near.initiator_cq = pair.near.receive_cq
    pair.near.qp = pair.near.create_qp()
    pair.connect(active={"handler": False})
    pair.near.memory("memory", 8)
    region = pair.near.regions["memory"]
    session = _native._BenchSession(pair.near.qp, region, region, remote=(0, 0), plan=plan)

    pair.far.close_connector()

    with pytest.raises(nd.RdmaError, match=r"request ended with .*: the peer ended the connection"):
        session.run()
