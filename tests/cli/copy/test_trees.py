# SPDX-License-Identifier: Apache-2.0
"""`ndverbs cp` with directories, several sources and both directions: what goes where."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from cli.copying import ServeProcess, Serving, content, ndverbs, serving
from ndverbs import cli
from ndverbs.cli.filecopy.target import PARTIAL_PREFIX

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def tree(here: Path) -> Path:
    root = here / "tree"
    (root / "deep" / "deeper").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "a.bin").write_bytes(content(100_000))
    (root / "nothing").touch()
    (root / "deep" / "caf\udce9 \n x").write_bytes(b"a name that is no UTF-8")
    (root / "deep" / "deeper" / "b").write_bytes(content(5))
    return root


def at(server: Serving, name: str) -> str:
    host, port = server.address
    return f"{host}:{port}:{name}"


def cp(*arguments: str | Path) -> int:
    return cli.main(["cp", *map(str, arguments)])


def files(root: Path) -> dict[str, bytes | None]:
    """Every name below a directory, with its content; None of directories."""
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
        for path in root.rglob("*")
    }


def test_a_directory_goes_there_and_comes_back(server: Serving, tree: Path, here: Path):
    assert cp("-r", tree, at(server, "copy")) == 0
    assert cp("-r", at(server, "copy"), here / "back") == 0

    assert files(server.directory / "copy") == files(tree)
    assert files(here / "back") == files(tree)
    assert files(tree)["empty"] is None


def test_what_was_copied_is_said_once_for_a_directory(
    server: Serving, tree: Path, capsys: Captured
):
    cp("-r", tree, at(server, "copy"))

    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"'{tree}' to {at(server, 'copy')}: 4 files, 100,028 bytes in ")
    assert line.endswith("crc32c of each on both ends")


def test_the_name_of_the_copy_does_not_depend_on_what_is_there(server: Serving, tree: Path):
    """So that the same command can be called again."""
    cp("-r", tree, at(server, "copy"))

    assert cp("-r", "--force", tree, at(server, "copy")) == 0

    assert files(server.directory / "copy") == files(tree)


@pytest.mark.parametrize("target", ["folder/", "."])
def test_a_target_that_is_a_directory_holds_the_copy_under_its_own_name(
    server: Serving, tree: Path, here: Path, target: str
):
    (server.directory / "folder").mkdir()
    cp(tree / "a.bin", at(server, target))
    cp("-r", tree, at(server, target))

    base = server.directory / target
    assert (base / "a.bin").read_bytes() == content(100_000)
    assert files(base / "tree") == files(tree)

    (here / "folder").mkdir()
    cp(at(server, f"{target.rstrip('/')}/a.bin".removeprefix("./")), target)
    assert (here / target / "a.bin").read_bytes() == content(100_000)


def test_several_sources_go_into_one_directory(
    server: Serving, tree: Path, here: Path, capsys: Captured
):
    (here / "x").write_bytes(b"x")
    np.save(here / "y.npy", np.zeros(3))
    assert cp("-r", here / "x", here / "y.npy", tree, at(server, "all")) == 0
    out = capsys.readouterr().out.splitlines()
    assert cp("-r", *(at(server, f"all/{name}") for name in ("x", "y.npy", "tree")), "back") == 0

    assert len(out) == 3
    assert "(array of float64, shape (3,), C order)" in out[1]
    assert files(here / "back") == files(server.directory / "all")
    assert files(here / "back" / "tree") == files(tree)


def test_several_sources_need_a_directory_that_exists(server: Serving, here: Path):
    for name in ("x", "y"):
        (here / name).write_bytes(b"x")
        (server.directory / name).write_bytes(b"x")

    assert cp("x", "y", at(server, "missing")) == 1
    assert cp(at(server, "x"), at(server, "y"), "missing") == 1

    assert server.names() == ["x", "y"]
    assert sorted(os.listdir(here)) == ["x", "y"]


def test_a_file_goes_into_a_directory_that_exists_here(server: Serving, here: Path):
    (server.directory / "x").write_bytes(b"x")
    (here / "folder").mkdir()

    assert cp(at(server, "x"), "folder") == 0

    assert (here / "folder" / "x").read_bytes() == b"x"


def test_the_whole_served_directory_can_be_fetched(server: Serving, tree: Path, here: Path):
    cp("-r", tree, at(server, "."))
    (server.directory / (PARTIAL_PREFIX + "x")).write_bytes(b"not finished")

    assert cp("-r", at(server, "."), "back") == 0

    assert files(here / "back" / "tree") == files(tree)
    assert os.listdir(here / "back") == ["tree"]


def test_a_directory_may_be_copied_into_itself(server: Serving, tree: Path, tmp_path: Path):
    cp("-r", tree, at(server, "tree"))
    here, there = server.directory / "tree" / "x", server.directory / "tree" / "y"

    assert cp("-r", at(server, "tree"), here) == 0
    assert files(here) == files(tree)
    assert cp("-r", server.directory / "tree", at(server, "tree/y")) == 0
    assert {name.partition("/")[0] for name in files(there)} == {*os.listdir(tree), "x"}


def test_links_and_devices_are_named_and_left_out(
    server: Serving, tree: Path, here: Path, capsys: Captured
):
    (tree / "link").symlink_to("a.bin")
    (tree / "deep" / "loop").symlink_to("..")
    os.mkfifo(tree / "pipe")

    assert cp("-r", tree, at(server, "copy")) == 1

    err = capsys.readouterr().err
    for name in ("link", "deep/loop", "pipe"):
        assert f"ndverbs: '{tree}/{name}' is neither a file nor a directory" in err
    assert "ndverbs: 3 of 7 were not copied" in err
    for name in ("link", "deep/loop", "pipe"):
        (tree / name).unlink()
    assert files(server.directory / "copy") == files(tree)

    (server.directory / "copy" / "link").symlink_to("/etc/passwd")
    assert cp("-r", at(server, "copy"), "back") == 1
    assert "ndverbs: 'copy/link' is neither a file nor a directory" in capsys.readouterr().err
    assert files(here / "back") == files(tree)


def test_a_source_that_is_a_link_itself_is_followed_here(server: Serving, tree: Path, here: Path):
    (here / "link").symlink_to("tree")

    assert cp("-r", "link", at(server, "copy")) == 0

    assert files(server.directory / "copy") == files(tree)


def test_a_link_in_the_target_is_not_followed(
    server: Serving, tree: Path, here: Path, tmp_path: Path, capsys: Captured
):
    outside = tmp_path / "outside"
    outside.mkdir()
    for base in (server.directory / "copy", here / "back"):
        base.mkdir()
        (base / "deep").symlink_to(outside)

    assert cp("-r", tree, at(server, "copy")) == 1
    assert "'deep' is a symbolic link, which is not followed" in capsys.readouterr().err
    cp("-r", tree, at(server, "good"))
    assert cp("-r", at(server, "good"), "back") == 1
    assert "'deep' is a symbolic link, which is not followed" in capsys.readouterr().err
    assert os.listdir(outside) == []


def test_a_file_that_fails_does_not_stop_the_others(
    server: Serving, tree: Path, here: Path, capsys: Captured
):
    (server.directory / "copy").mkdir()
    (server.directory / "copy" / "a.bin").write_bytes(b"old")
    (tree / "broken.npy").write_bytes(b"no array")

    assert cp("-r", tree, at(server, "copy")) == 1

    err = capsys.readouterr().err.splitlines()
    assert "'a.bin' exists already; choose another name, or replace it with --force" in err[0]
    assert "is not a sound .npy file" in err[1]
    assert err[2] == "ndverbs: 2 of 5 were not copied; the lines above say why"
    assert (server.directory / "copy" / "a.bin").read_bytes() == b"old"
    assert (server.directory / "copy" / "deep" / "deeper" / "b").read_bytes() == content(5)

    (here / "back" / "deep").mkdir(parents=True)
    (here / "back" / "deep" / "deeper").write_bytes(b"a file")
    assert cp("-r", at(server, "copy"), "back") == 1
    assert "'deeper' is not a directory" in capsys.readouterr().err
    assert (here / "back" / "a.bin").read_bytes() == b"old"


def test_a_server_that_is_gone_ends_the_command(tree: Path, tmp_path: Path, capsys: Captured):
    with serving(tmp_path / "served") as server:
        target = at(server, "copy")

    assert cp("-r", tree, tree, target) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert "no connection to the server" in line


def test_resuming_a_directory_copies_what_is_missing(server: Serving, tree: Path):
    cp("-r", tree, at(server, "copy"))
    kept = server.directory / "copy" / "a.bin"
    inode = kept.stat().st_ino
    (server.directory / "copy" / "deep" / "deeper" / "b").unlink()

    assert cp("-r", tree, at(server, "copy")) == 1  # they exist
    (server.directory / "copy" / "deep" / "deeper" / "b").unlink()
    assert cp("-r", "--resume", tree, at(server, "copy")) == 0

    assert files(server.directory / "copy") == files(tree)
    assert kept.stat().st_ino == inode


def test_a_directory_without_r_is_refused_with_the_remedy(
    server: Serving, tree: Path, capsys: Captured
):
    assert cp(tree, at(server, "copy")) == 1
    assert "is a directory; check the source file and copy again, a directory with -r" in (
        capsys.readouterr().err
    )
    (server.directory / "folder").mkdir()
    assert cp(at(server, "folder"), "back") == 1
    assert "'folder' is a directory; check the source file and copy again, a directory with -r" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("h:1:a", "h:2:b"), "source and target are both on a server"),
        (("h:1:a", "b", "c"), "some sources are on a server and some are not"),
        (("h:1:a", "h:2:b", "c"), "the sources are on several servers"),
        (("h:1:a", ""), "the target has no name"),
        (("a:1:b", "c:1:d"), "a local name that looks like HOST:PORT:NAME is written ./HOST"),
        (("h:70000:a", "b"), "the port 70000 is not in 0 to 65535"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_sources_and_targets_that_do_not_fit_are_told(
    arguments: tuple[str, ...], why: str, here: Path, capsys: Captured
):
    assert cp(*arguments) == 1

    err = capsys.readouterr().err
    assert why in err
    assert err.count("\n") == 1


def test_a_local_name_may_look_like_one_of_a_server(server: Serving, here: Path):
    (here / "h:1:x").write_bytes(b"x")

    assert cp("./h:1:x", at(server, "x")) == 0
    assert cp(at(server, "x"), "./h:1:y") == 0

    assert (here / "h:1:y").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("option", "arguments", "why"),
    [
        ("--read-only", ("x", "{}:y"), "the server takes no files (--read-only)"),
        ("--write-only", ("{}:x", "y"), "the server gives no files out (--write-only)"),
    ],
    ids=["read", "write"],
)
def test_a_server_says_which_direction_is_off(
    tmp_path: Path, here: Path, option: str, arguments: tuple[str, str], why: str
):
    (here / "x").write_bytes(b"x")
    with ServeProcess(tmp_path / "served", option) as server:
        (tmp_path / "served" / "x").write_bytes(b"x")
        with ndverbs("cp", *(text.format(server.text) for text in arguments)) as client:
            code, _, err = client.end()

    assert code == 1
    assert f"{why}; start the server without that option" in err
    assert not (here / "y").exists()
    assert os.listdir(tmp_path / "served") == ["x"]
