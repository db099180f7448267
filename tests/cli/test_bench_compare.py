# SPDX-License-Identifier: Apache-2.0
"""`ndverbs bench compare`: its table, its rivals and its baseline, by tiny runs of each."""

import sys

import pytest

import ndverbs as nd
from cli.benching import TINY, no_process_is_left, parsed, rows_of
from ndverbs import _native
from ndverbs.cli.bench import baseline, compare, footprint
from ndverbs.cli.bench import command as bench
from ndverbs.cli.bench import rivals as bench_rivals
from ndverbs.cli.bench.channel import BenchError
from ndverbs.cli.bench.rows import ratios

__all__ = ["no_process_is_left"]  # a fixture of every test here


def compared(capsys, name: str, *arguments: str, lacks: str = "") -> dict[str, dict]:
    rows = rows_of(capsys, "compare", "--only", name, *TINY, *arguments, lacks=lacks)
    return {row["name"]: row for row in rows}


def test_a_figure_stands_beside_its_rivals(capsys):
    rows = compared(capsys, "Write 8 B latency", lacks="ucx")
    assert rows["Write 8 B latency"]["ratio"] is None
    assert rows["Write 8 B latency / raw store"]["ratio"] > 0
    assert rows["Write 8 B latency / raw store"]["spread"] is not None
    if not bench_rivals.missing("ucx"):
        assert rows["Write 8 B latency / UCX ucp_put_lat"]["target"] == 0.9


def test_plain_memory_stands_beside_the_kernels_copy(capsys):
    rows = compared(capsys, "Write 1 MiB into a NumPy array", lacks="process_vm_writev")
    (own,) = [row for name, row in rows.items() if "/" not in name]
    assert "--plain" in own["command"]
    assert own["unit"] == "GB/s"


def test_a_sleeping_receiver_stands_beside_our_own_tcp(capsys):
    rows = compared(capsys, "asleep")
    assert rows["Send 8 B latency, both ends asleep / our TCP"]["target"] == 1.5
    command = rows["Send 8 B latency, both ends asleep / our TCP"]["command"]
    assert command.startswith("NDVERBS_DIRECT=off ndverbs bench send --lat")


@pytest.mark.parametrize("kind", ["round trip 64 B", "stream 64 KiB"])
def test_sockets_stand_beside_what_python_has(capsys, kind):
    rows = compared(capsys, kind, lacks="mpi4py")
    for rival in ("multiprocessing.Pipe", "AF_UNIX socket"):
        assert rows[f"Python: nd.Socket, {kind} / {rival}"]["target"] == 1.5
    if not bench_rivals.missing("pyzmq"):
        assert rows[f"Python: nd.Socket, {kind} / pyzmq"]["ratio"] > 0


def test_one_python_write_has_a_target_of_its_own(capsys):
    rows = compared(capsys, "one write and poll")
    assert rows["Python: one write and poll"]["target"] == 0.40
    assert rows["Python: one write and poll"]["unit"] == "us"


def test_the_demo_stands_beside_its_tcp_copy(capsys):
    rows = compared(capsys, "demo", "--runs", "1")
    assert rows["demo, copy of a file / TCP with the same ends"]["target"] == 1.3


def test_an_idle_connection_has_a_bound_for_its_memory(capsys):
    (row,) = compared(capsys, "idle", "--runs", "1").values()
    assert (row["unit"], row["target"]) == ("KiB", 8.0)


def test_idle_connections_are_a_command(capsys):
    (row,) = rows_of(capsys, "idle", "--iterations", "3", "--runs", "1")
    assert row["name"] == "idle connection, memory of an end"
    assert footprint.resident_kib() > 1000


def test_tcp_stands_beside_an_older_version(capsys, monkeypatch):
    monkeypatch.setattr(baseline, "_OPERATIONS", ("write", "stream"))

    rows = compared(capsys, "direct off", "--baseline", sys.executable, "--runs", "1")
    names = [name.partition(" / baseline (95 %: ")[0] for name in rows]
    assert names == [
        f"TCP, direct off: {figure}"
        for figure in (
            "write latency 8 B",
            "write bandwidth 1048576 B",
            "write rate 8 B",
            "stream bandwidth 65536 B",
            "stream round trip 64 B",
        )
    ]
    assert {row["target"] for row in rows.values()} == {0.97}


def test_a_baseline_that_cannot_be_run_is_a_sentence(capsys):
    arguments = ["compare", "--only", "direct off", "--baseline", "/nowhere/python", *TINY]
    assert bench.run(parsed(*arguments)) == 1
    assert "--baseline /nowhere/python cannot be run: No such file" in capsys.readouterr().err


def test_a_baseline_is_reached_by_its_median_or_its_interval():
    def row(theirs: list[float]):
        ours = [{"write rate 8 B": (1.0, "1/s")} for _ in theirs]
        older = [{"write rate 8 B": (value, "1/s")} for value in theirs]
        (found,) = baseline._rows(ours, older, ["python"])
        return found

    assert row([1.0] * 15).is_reached is True
    assert row([1.02] * 15).is_reached is True
    assert row([1.25] * 15).is_reached is False
    assert row([1.0] * 7 + [1.25] * 8).is_reached is True
    assert row([1.25] * 15).ratio == 0.8


def test_the_interval_of_the_same_figures_is_the_same():
    figures = ratios([1.0, 1.1, 0.9, 1.0, 1.2], [1.0] * 5, "1/s")
    assert baseline.interval(figures) == baseline.interval(figures) == (0.9, 1.2)


def test_rivals_that_are_missing_are_named_and_left_out(capsys, monkeypatch):
    monkeypatch.setattr(bench_rivals.shutil, "which", lambda program: None)
    assert bench.run(parsed("compare", "--only", "Write 8 B latency", *TINY)) == 0
    out, err = capsys.readouterr()
    assert "not compared with ucx: ucx_perftest is not installed" in err
    assert "UCX" not in out


def test_a_rival_that_fails_is_named_and_left_out(capsys, monkeypatch):
    def fail(_: compare.Bench) -> None:
        raise BenchError("it fell over")

    monkeypatch.setattr(compare, "_store", fail)
    assert bench.run(parsed("compare", "--only", "Write 8 B latency", *TINY)) == 0
    out, err = capsys.readouterr()
    assert "not compared with raw store (Write 8 B latency): it fell over" in err
    assert "raw store" not in out


def test_the_table_has_the_promised_targets():
    promised = {
        f"{entry.name} / {rival.name}": rival.target
        for entry in compare.entries(has_device=False)
        for rival in entry.rivals
        if rival.target is not None
    }
    assert promised == {
        "Write 8 B latency / UCX ucp_put_lat": 0.9,
        "Write 8 B rate, with completions / UCX ucp_put_bw": 0.5,
        "Write 8 B rate, silent / UCX ucp_put_bw": 1.0,
        "Write 1 MiB into alloc_array / UCX ucp_put_bw": 1.0,
        "Write 1 MiB into alloc_array / memcpy": 0.95,
        "Read 1 MiB from alloc_array / UCX ucp_get": 1.0,
        "Read 1 MiB from alloc_array / memcpy": 0.95,
        "Write 1 MiB into a NumPy array / process_vm_writev": 0.95,
        "Send 8 B latency / UCX tag_lat": 1.5,
        "Send 256 B latency / UCX tag_lat": 1.5,
        "Send 4096 B latency / UCX tag_lat": 1.0,
        "Send 1 MiB / UCX tag_bw": 1.5,
        "Send 8 B latency, both ends asleep / our TCP": 1.5,
        "Python: a write of post_many and poll_into / UCX ucp_put_bw": 0.5,
        "Python: nd.Socket, round trip 64 B / multiprocessing.Pipe": 1.5,
        "Python: nd.Socket, round trip 64 B / AF_UNIX socket": 1.5,
        "Python: nd.Socket, stream 64 KiB / multiprocessing.Pipe": 1.5,
        "Python: nd.Socket, stream 64 KiB / AF_UNIX socket": 1.5,
    }


def test_a_device_is_compared_with_perftest():
    beside = {
        entry.name
        for entry in compare.entries(has_device=True)
        if any(rival.program == "perftest" for rival in entry.rivals)
    }
    assert {"Write 8 B latency", "Send 1 MiB", "Read 1 MiB from alloc_array"} <= beside


@pytest.mark.parametrize("option", [["--baseline", "python"], ["--only", "write"]])
def test_options_of_compare_are_refused_elsewhere(capsys, option):
    with pytest.raises(SystemExit) as ended:
        bench.run(parsed("write", *option))
    assert ended.value.code == 2
    assert "--baseline and --only are for compare" in capsys.readouterr().err


def test_a_stream_is_compared_with_streams(capsys):
    with pytest.raises(SystemExit) as ended:
        bench.run(parsed("stream", "--against", "ucx"))
    assert ended.value.code == 2
    assert "stream --against takes iperf3, socket, unix" in capsys.readouterr().err


def test_a_copy_into_memory_that_is_not_there_is_refused():
    with pytest.raises(nd.RdmaError, match="process_vm_writev of 8 bytes into process"):
        _native._bench_copy_to_process(pid=1, address=0, size=8, seconds=0.01)
