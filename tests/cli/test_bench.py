# SPDX-License-Identifier: Apache-2.0
"""`ndverbs bench`: tiny runs of every kind. Nothing here says how fast anything is."""

import json
import os
import signal
import threading
from types import SimpleNamespace

import pytest

import ndverbs as nd
from cli.benching import SCHEMA, TINY, no_process_is_left, parsed, rows_of
from ndverbs import _native
from ndverbs.cli.bench import command as bench
from ndverbs.cli.bench import ends as bench_ends
from ndverbs.cli.bench import loops as bench_loops
from ndverbs.cli.bench import report
from ndverbs.cli.bench import rivals as bench_rivals
from ndverbs.cli.bench.rows import Row, own_row, rival_row
from ndverbs.cli.bench.runs import Run

__all__ = ["no_process_is_left"]  # a fixture of every test here


@pytest.mark.parametrize("loops", [[], ["--python"]], ids=["c++", "python"])
@pytest.mark.parametrize("operation", ["write", "read", "send"])
def test_every_operation_has_latency_bandwidth_and_rate(capsys, operation, loops):
    rows = rows_of(capsys, operation, "--sizes", "8,70000", *loops, *TINY)
    suffix = " Python" * bool(loops)
    names = {row["name"] for row in rows}
    for size in (8, 70000):
        assert f"{operation} bandwidth {size} B{suffix}" in names
        assert f"{operation} bandwidth {size} B{suffix} CPU of both ends" in names
        assert f"{operation} rate {size} B{suffix}" in names
        for label in ("median", "p99", "p99.9", "min", "mean"):
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
    row, cpu = rows_of(capsys, "write", "--bw", "--sizes", "4K", "--seconds", "0.05", "--runs", "1")
    assert row["name"] == "write bandwidth 4096 B"
    assert row["unit"] == "GB/s"
    assert row["spread"] is None
    assert cpu["name"] == "write bandwidth 4096 B CPU of both ends"
    assert cpu["unit"] == "s/GB"
    assert cpu["value"] > 0


@pytest.mark.parametrize("loops", [[], ["--python"]], ids=["c++", "python"])
def test_fetch_add_has_latency_and_rate(capsys, loops):
    rows = rows_of(capsys, "fetch_add", *loops, *TINY)
    names = [row["name"] for row in rows]
    suffix = " Python" * bool(loops)
    assert f"fetch_add latency 8 B{suffix} p99.9" in names
    assert f"fetch_add rate 8 B{suffix}" in names


@pytest.mark.parametrize("wrong", [["--sizes", "16"], ["--bw"]])
def test_fetch_add_of_other_than_a_word_is_refused(capsys, wrong):
    assert bench.run(parsed("fetch_add", *wrong, *TINY)) == 1
    assert "fetch_add works on 8 bytes" in capsys.readouterr().err


@pytest.mark.parametrize("operation", ["write", "read", "send", "fetch_add"])
def test_several_queue_pairs_share_the_requests(capsys, operation):
    arguments = ["--queue-pairs", "3", "--depth", "5", "--iterations", "50", "--runs", "1"]

    rows = rows_of(capsys, operation, *arguments)

    assert {row["name"] for row in rows} >= {
        f"{operation} latency 8 B 3 queue pairs median",
        f"{operation} rate 8 B 3 queue pairs",
    }
    assert all("--queue-pairs 3" in row["command"] for row in rows)


def test_several_queue_pairs_sleep_over_one_completion_queue(capsys):
    assert rows_of(capsys, "send", "--bw", "--lat", "--wait", "--queue-pairs", "2", *TINY)


@pytest.mark.parametrize("arguments", [["write", "--python"], ["connect"], ["register"]])
def test_several_queue_pairs_are_for_native_loops(capsys, arguments):
    assert bench.run(parsed(*arguments, "--queue-pairs", "2", *TINY)) == 1
    assert "--queue-pairs 2 is for" in capsys.readouterr().err


def test_more_queue_pairs_than_a_completion_queue_takes_are_refused(capsys):
    assert bench.run(parsed("write", "--queue-pairs", "1000000", *TINY)) == 1
    assert "--queue-pairs 1000000 needs a completion queue of" in capsys.readouterr().err


def test_every_request_may_be_visible(capsys):
    rows = rows_of(capsys, "write", "--lat", "--rate", "--visible", *TINY)
    assert all(" visible" in row["name"] and "--visible" in row["command"] for row in rows)


def test_connections_have_a_rate_and_percentiles(capsys):
    rows = rows_of(capsys, "connect", "--iterations", "3", "--runs", "2")
    units = {row["name"]: row["unit"] for row in rows}
    assert units["connect rate"] == "1/s"
    assert units["connect p99.9"] == "us"
    assert units["connect, disconnect and close median"] == "us"


def test_registrations_and_revocations_have_percentiles(capsys):
    rows = rows_of(capsys, "register", "--sizes", "4K,100000", "--iterations", "3", "--runs", "1")
    calls = ("register", "deregister", "fast register", "invalidate")
    assert {row["name"] for row in rows} == {
        f"{call} {size} B {label}"
        for call in calls
        for size in (4096, 100000)
        for label in ("median", "p99", "p99.9", "min", "mean")
    }


def test_fast_registrations_of_more_pages_than_the_adapter_has_are_left_out(capsys):
    rows = rows_of(capsys, "register", "--sizes", "256M", "--iterations", "1", "--runs", "1")
    assert {row["name"].partition(" ")[0] for row in rows} == {"register", "deregister"}


@pytest.mark.parametrize("loops", [[], ["--python"]], ids=["c++", "python"])
def test_streams_have_percentiles_and_cpu_time(capsys, loops):
    rows = rows_of(capsys, "stream", "--against", "socket", *loops, *TINY)
    suffix = " Python" * bool(loops)
    assert {row["name"]: row["unit"] for row in rows} == {
        f"stream bandwidth 65536 B{suffix}": "GB/s",
        f"stream bandwidth 65536 B{suffix} CPU of both ends": "s/GB",
        f"stream bandwidth 65536 B{suffix} / socket": "GB/s",
        f"stream round trip 64 B{suffix} median": "us",
        f"stream round trip 64 B{suffix} p99": "us",
        f"stream round trip 64 B{suffix} p99.9": "us",
        f"stream round trip 64 B{suffix} median / socket": "us",
    }


@pytest.mark.parametrize("sizes", ["64", "64,4K"], ids=["bars", "lines"])
def test_rows_are_drawn_into_a_picture(capsys, tmp_path, sizes):
    path = tmp_path / "figures.png"
    against = ["--against", "socket", "--plot", str(path)]
    assert bench.run(parsed("send", "--lat", "--bw", "--sizes", sizes, *against, *TINY)) == 0
    assert "send latency 64 B median" in capsys.readouterr().out
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_picture_of_no_known_kind_is_refused(capsys, tmp_path):
    path = tmp_path / "figures.txt"
    assert bench.run(parsed("write", "--bw", "--plot", str(path), *TINY)) == 1
    assert f"--plot {path}: " in capsys.readouterr().err


def test_a_picture_without_matplotlib_is_refused_before_the_first_run(capsys, monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    assert bench.run(parsed("write", "--plot", "figures.png", "--iterations", "1000000000")) == 1
    assert "pip install matplotlib" in capsys.readouterr().err


def test_ratios_say_how_many_times_as_fast_we_are():
    faster = rival_row("latency", [1.0, 2.0, 2.0], [2.0, 4.0, 5.0], "us", "", target=1.5)
    slower = rival_row("rate", [10.0, 10.0], [20.0, 20.0], "1/s", "", target=1.0)

    assert (faster.ratio, faster.value, faster.spread) == (2.0, 4.0, 0.25)
    assert faster.is_reached is True
    assert (slower.ratio, slower.is_reached) == (0.5, False)


def test_a_target_without_a_ratio_bounds_the_value():
    assert own_row("time", [0.3], "us", "", target=0.4).is_reached is True
    assert own_row("memory", [9.0], "KiB", "", target=8.0).is_reached is False
    assert own_row("rate", [9.0], "1/s", "", target=8.0).is_reached is True
    assert Row("none", 1.0, "us").is_reached is None


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
