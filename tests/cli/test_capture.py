# SPDX-License-Identifier: Apache-2.0
"""`ndverbs capture` and `ndverbs decode`: one file of many adapters, and what its lines say."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import stat
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ndverbs as nd
from conformance.end import End
from conformance.pair import join
from ndverbs import _captures, cli
from ndverbs.cli.capture.merging import merge

Captured = pytest.CaptureFixture[str]
# Two ends in one process, each of an adapter of its own; the exit code is 3.
PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
import ndverbs as nd
with nd.Adapter.open("soft") as near, nd.Adapter.open("soft") as far, ThreadPoolExecutor() as pool:
    listener = far.create_listener()
    listener.listen("127.0.0.1:0")
    cq = near.create_cq(8)
    qp = near.create_pd().create_qp(cq, cq, receive_queue_depth=1, initiator_queue_depth=1)
    connector = near.create_connector()
    asked = pool.submit(connector.connect, qp, None, listener.local_address, private_data=b"hello")
    listener.get_connector(timeout=30).reject(b"not today")
    asked.exception()
sys.exit(3)
"""


def exchange() -> None:
    """Two adapters, one connection: a write, a send, and the end."""
    near, far = End("soft"), End("soft")
    try:
        with ThreadPoolExecutor(1) as thread:
            join(
                near,
                lambda name, **options: thread.submit(getattr(far, name), **options),
                far.listen("127.0.0.1"),
            )
        target = far.memory("there", 100)
        near.memory("here", 100)
        far.receive("there")
        near.write(target, ("here", 0, 100))
        near.send(("here", 0, 5))
        near.completions("initiator", 2)
        far.completions("receive", 1)
        near.end_connection()
        far.end_connection()
    finally:
        near.close()
        far.close()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The captures of both ends of one connection."""
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NDVERBS_CAPTURE", str(folder))
        exchange()
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def merged(parts: list[Path]) -> Path:
    """One capture of them."""
    path = parts[0].parent.parent / "merged.pcapng"
    merge(parts, path)
    return path


def opcodes(path: Path) -> list[object]:
    with open(path, "rb") as file:
        return [frame.fields["opcode"] for frame in _captures.frames(file)]


def decoded(data: bytes) -> int:
    """Read bytes as a capture; returns how many frames there were."""
    return len(list(_captures.frames(io.BytesIO(data))))


# ---- the folder -----------------------------------------------------------------------------


def test_each_adapter_makes_a_file_of_its_own(parts: list[Path]):
    assert [part.name for part in parts] == [f"{os.getpid()}-{n}.pcap" for n in (1, 2)]
    # Each has the whole connection.
    assert sorted(opcodes(parts[0])) == sorted(opcodes(parts[1]))


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_its_owner_can_read_a_capture(parts: list[Path], merged: Path, tmp_path: Path):
    there = tmp_path / "there.pcap"
    there.touch(0o644)

    nd.Adapter.open("soft", capture=there).close()
    nd.Adapter.open("soft", capture=tmp_path / "new.pcap").close()

    assert {rights(path) for path in (*parts, merged, *tmp_path.iterdir())} == {0o600}


def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    there = tmp_path / f"{os.getpid()}-1.pcap"
    there.write_bytes(b"of another process namespace")
    monkeypatch.setenv("NDVERBS_CAPTURE", str(tmp_path))

    nd.Adapter.open("soft").close()

    assert there.read_bytes() == b"of another process namespace"
    assert (tmp_path / f"{os.getpid()}-2.pcap").stat().st_size == 24


def test_the_argument_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("NDVERBS_CAPTURE", str(tmp_path / "folder"))

    nd.Adapter.open("soft", capture=tmp_path / "named.pcap").close()

    assert (tmp_path / "named.pcap").exists()
    assert not any((tmp_path / "folder").iterdir())


def test_a_folder_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NDVERBS_CAPTURE", str(tmp_path / "missing"))

    with pytest.raises(nd.RdmaError, match="capture: cannot write"):
        nd.Adapter.open("soft")


def test_a_folder_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    monkeypatch.setenv("NDVERBS_CAPTURE", str(folder))

    nd.Adapter.open("soft").close()

    assert len(list(folder.iterdir())) == 1


# ---- the merged file ------------------------------------------------------------------------


def test_a_connection_with_both_ends_captured_is_in_the_file_once(parts: list[Path], merged: Path):
    assert sorted(opcodes(merged)) == sorted(opcodes(parts[0]))
    assert {"MPA Request", "MPA Reply", "RDMA Write", "Send"} <= set(opcodes(merged))


def test_ports_that_serve_again_are_connections_of_their_own(parts: list[Path], tmp_path: Path):
    # The same packets an hour later, as another process would have recorded them.
    data = parts[1].read_bytes()
    later, at = bytearray(data[:24]), 24
    while at < len(data):
        seconds, microseconds, size, _ = struct.unpack_from("=IIII", data, at)
        later += struct.pack("=IIII", seconds + 3600, microseconds, size, size)
        later += data[at + 16 : at + 16 + size]
        at += 16 + size
    (tmp_path / "later.pcap").write_bytes(later)

    summary = merge([parts[0], tmp_path / "later.pcap"], tmp_path / "out")

    assert (summary.connections, summary.adapters) == (2, 2)
    assert len(opcodes(tmp_path / "out")) == 2 * len(opcodes(parts[0]))


def test_a_connection_whose_opening_was_lost_begins_with_what_is_there(
    parts: list[Path], tmp_path: Path
):
    data = parts[0].read_bytes()
    (size,) = struct.unpack_from("=I", data, 24 + 8)
    (tmp_path / "late.pcap").write_bytes(data[:24] + data[24 + 16 + size :])

    whole, late = (
        merge([part], tmp_path / part.stem) for part in (parts[0], tmp_path / "late.pcap")
    )

    assert late == whole._replace(packets=whole.packets - 1)


def test_a_part_that_was_cut_off_gives_its_whole_packets(parts: list[Path], tmp_path: Path):
    (tmp_path / "cut.pcap").write_bytes(parts[0].read_bytes()[:-1])

    summary = merge([tmp_path / "cut.pcap"], tmp_path / "out")

    assert summary.packets > 4
    assert opcodes(tmp_path / "out")


# ---- the command ----------------------------------------------------------------------------


def test_a_program_is_captured_and_its_exit_code_kept(tmp_path: Path, capsys: Captured):
    output = tmp_path / "program.pcapng"

    assert cli.main(["capture", "-o", str(output), "--", sys.executable, "-c", PROGRAM]) == 3

    err = capsys.readouterr().err
    assert err.endswith(" packets, connections: 1, adapters: 2\n")
    assert list(tmp_path.iterdir()) == [output]
    assert cli.main(["decode", str(output)]) == 0
    request, reply = capsys.readouterr().out.splitlines()
    assert " MPA Request: revision 2 ird " in request
    assert request.endswith(f"length 5 private_data {b'hello'.hex()}")
    assert " MPA Reply: revision 2 ird " in reply
    assert " flags reject length 9 " in reply


@pytest.mark.parametrize(
    ("program", "code", "why"),
    [("./missing", 127, "No such file or directory"), (os.sep, 126, "Permission denied")],
)
def test_a_program_that_cannot_be_run_is_told_as_shells_do(
    program: str, code: int, why: str, tmp_path: Path, capsys: Captured
):
    assert cli.main(["capture", "-o", str(tmp_path / "x"), program]) == code

    assert capsys.readouterr().err == f"ndverbs: {program} cannot be run: {why}\n"
    assert not any(tmp_path.iterdir())


def test_a_program_that_a_signal_kills_gives_128_and_its_number(tmp_path: Path, capsys: Captured):
    output = tmp_path / "empty.pcapng"

    code = cli.main(["capture", "-o", str(output), "--", "sh", "-c", "kill -TERM $$"])

    assert code == 128 + signal.SIGTERM
    assert "sh opened no adapter that can be captured" in capsys.readouterr().err
    assert cli.main(["decode", str(output)]) == 0
    assert capsys.readouterr().out == ""


def test_ctrl_c_while_it_merges_leaves_nothing(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ndverbs.cli.capture.merging.merge", interrupted)

    assert cli.main(["capture", "-o", str(tmp_path / "x"), "--", "true"]) == 130

    assert capsys.readouterr().err == "interrupted\n"
    assert not any(tmp_path.iterdir())


def test_a_program_that_is_not_named_is_wrong_usage(capsys: Captured):
    with pytest.raises(SystemExit) as caught:
        cli.main(["capture", "-o", "x", "--"])

    assert caught.value.code == 2
    assert "the program is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "why"),
    [("missing/x", "cannot be written: No such file"), (".", "is no regular file")],
)
def test_an_output_that_cannot_be_written_is_told_before_the_program_runs(
    output: str, why: str, tmp_path: Path, capsys: Captured
):
    assert cli.main(["capture", "-o", str(tmp_path / output), "--", "./missing"]) == 1

    assert why in capsys.readouterr().err


# ---- decode ---------------------------------------------------------------------------------


def test_json_has_an_object_in_each_line(merged: Path, capsys: Captured):
    assert cli.main(["decode", "--json", str(merged)]) == 0

    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (write,) = [row for row in rows if row["opcode"] == "RDMA Write" and row["length"] == 100]
    assert write["source"].startswith("127.0.0.1:")
    assert write["last"] == 1
    assert write["stag"]
    (send,) = [row for row in rows if row["opcode"] == "Send"]
    assert (send["msn"], send["mo"], send["length"]) == (1, 0, 5)
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\x89PNG\r\n\x1a\n", "is no capture: neither pcap nor pcapng begins so"),
        (b"\xd4\xc3\xb2\xa1\2\0\4\0", "ends in the middle of a packet"),
        (
            struct.pack("=IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + bytes(16),
            "has packets of link type 1, which ndverbs does not write",
        ),
    ],
    ids=["empty", "foreign", "cut", "ethernet"],
)
def test_what_is_no_capture_of_ours_is_one_sentence(
    content: bytes, why: str, tmp_path: Path, capsys: Captured
):
    path = tmp_path / "file"
    path.write_bytes(content)

    assert cli.main(["decode", str(path)]) == 1

    err = capsys.readouterr().err
    assert err.startswith(f"ndverbs: {path} {why}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("is_merged", [False, True], ids=["pcap", "pcapng"])
def test_a_capture_that_is_cut_anywhere_is_read_as_far_as_it_goes(
    is_merged: bool, parts: list[Path], merged: Path
):
    data = (merged if is_merged else parts[0]).read_bytes()
    whole = decoded(data)

    ended_early = 0
    for size in range(len(data)):
        try:
            assert decoded(data[:size]) <= whole
        except _captures.CaptureError:
            ended_early += 1

    # All but those between two packets.
    assert ended_early > len(data) * 0.9


@given(at=st.integers(0, 1 << 16), value=st.integers(0, 255), is_merged=st.booleans())
def test_a_damaged_capture_is_read_or_refused(
    at: int, value: int, is_merged: bool, parts: list[Path], merged: Path
):
    data = bytearray((merged if is_merged else parts[0]).read_bytes())
    data[at % len(data)] = value

    with contextlib.suppress(_captures.CaptureError):
        decoded(bytes(data))
