# SPDX-License-Identifier: Apache-2.0
"""--json of the commands that also work: one object, or a line for each thing that happens."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from cli.copying import content, copy, ndverbs, serving
from ndverbs import _address, cli, crc32c
from ndverbs.cli.demo import comparison
from ndverbs.cli.ping import command as ping
from ndverbs.cli.ping import ends

Captured = pytest.CaptureFixture[str]


def test_a_copy_names_what_was_copied_and_what_was_not(tmp_path: Path, capsys: Captured):
    (tmp_path / "good").write_bytes(content(1000))
    (tmp_path / "served" / "folder").mkdir(parents=True)
    sources = [str(tmp_path / name) for name in ("good", "missing")]
    with serving(tmp_path / "served") as server:
        target = f"{_address.text(server.address)}:folder/"

        assert cli.main(["cp", "--json", *sources, target]) == 1

    out, err = capsys.readouterr()
    said = json.loads(out)
    (done,) = said["copies"]
    assert done.pop("seconds") > 0
    assert done == {
        "source": sources[0],
        "target": f"{target}good",
        "bytes": 1000,
        "crc32c": f"{crc32c(content(1000)):08x}",
    }
    (failure,) = said["failures"]
    assert failure.startswith(f"'{sources[1]}'")
    assert err.splitlines() == [
        f"ndverbs: {failure}",
        "ndverbs: 1 of 2 were not copied; the lines above say why",
    ]


def test_a_copy_of_a_directory_counts_its_files(tmp_path: Path, capsys: Captured):
    (tmp_path / "served" / "folder").mkdir(parents=True)
    for name in ("a", "b"):
        (tmp_path / "served" / "folder" / name).write_bytes(content(500))
    with serving(tmp_path / "served") as server:
        source = f"{_address.text(server.address)}:folder"

        assert cli.main(["cp", "-r", "--json", source, str(tmp_path / "copy")]) == 0

    said = json.loads(capsys.readouterr().out)
    (done,) = said["copies"]
    assert (done["source"], done["target"]) == (source, str(tmp_path / "copy"))
    assert (done["files"], done["bytes"], said["failures"]) == (2, 1000, [])


def test_a_copy_that_cannot_begin_is_an_object_all_the_same(tmp_path: Path, capsys: Captured):
    (tmp_path / "source").touch()

    assert cli.main(["cp", "--json", str(tmp_path / "source"), "127.0.0.1:1:x"]) == 1

    out, err = capsys.readouterr()
    said = json.loads(out)
    assert said["copies"] == []
    assert [f"ndverbs: {line}\n" for line in said["failures"]] == [err]


def test_a_server_prints_a_line_for_each_thing_that_happens(tmp_path: Path):
    (tmp_path / "source").write_bytes(content(1000))
    (tmp_path / "served").mkdir()
    arguments = "127.0.0.1:0", str(tmp_path / "served"), "--until-eof", "--json"
    with ndverbs("serve", *arguments) as server:
        began = json.loads(server.read_line())
        copy(tmp_path / "source", _address.split(began["address"]), "target")
        stored = json.loads(server.read_line())
        server.send_signal(signal.SIGTERM)
        code, out, err = server.end()

    assert began["event"] == "serving"
    assert began["directory"] == str(tmp_path / "served")
    assert stored.pop("time") > began["time"]
    assert stored.pop("peer").startswith("127.0.0.1:")
    assert stored.pop("seconds") > 0
    assert stored == {
        "event": "stored",
        "text": "stored 'target', 1000 bytes",
        "name": "target",
        "bytes": 1000,
    }
    assert (code, out) == (0, "")
    assert err.endswith(" stopped\n")


@pytest.mark.parametrize("size", [0, 1000])
def test_the_demo_prints_its_report_as_an_object(tmp_path: Path, capsys: Captured, size: int):
    path = tmp_path / "mine"
    path.write_bytes(content(size))

    assert comparison.run(str(path), rounds=1, size=0, is_json=True) == 0

    said = json.loads(capsys.readouterr().out)
    assert (said["file"], said["bytes"]) == (str(path), size)
    assert len(said["rdma"]["seconds"]) == len(said["tcp"]["seconds"]) == 1
    assert (said["ratio"] is None) == (size == 0)


def test_a_responder_says_where_it_answers(monkeypatch: pytest.MonkeyPatch, capsys: Captured):
    async def respond(adapter, address, say):
        say("192.0.2.1:7472")
        raise KeyboardInterrupt

    monkeypatch.setattr(ends, "respond", respond)

    assert ping._listen(None, ("127.0.0.1", 0), is_json=True) == 130

    said = json.loads(capsys.readouterr().out)
    assert said == {"event": "answering", "address": "192.0.2.1:7472"}
