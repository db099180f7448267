# SPDX-License-Identifier: Apache-2.0
"""Copies between processes that are killed, interrupted, limited or large."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.copying import Process, ServeProcess, content, copy, ndverbs
from ndverbs import crc32c
from ndverbs.cli.filecopy.names import PARTIAL_PREFIX
from ndverbs.cli.filecopy.protocol import CopyError, Reason
from ndverbs.cli.filecopy.receiving import WINDOW, WINDOWS
from ndverbs.cli.filecopy.sending import CHUNK

# A client that stops at a given place, so that it can be killed there.
_CLIENT = """
import sys
from ndverbs import Access, Adapter, crc32c
from ndverbs.cli.filecopy.channel import Channel
from ndverbs.cli.filecopy.protocol import Commit, Store, Wrote
from ndverbs.cli.filecopy.receiving import WINDOW

host, port, phase, target = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
channel = Channel(Adapter.open("soft"), write_depth=4)
channel.connect((host, port), 30)
size = 2 * WINDOW
if phase > 0:
    channel.send(Store(target.encode(), size), 30)
    window = channel.receive(30, "")
if phase > 1:
    region = channel.register(bytearray(b"x" * WINDOW), Access.LOCAL_READ)
    channel.write(region.segment(), window.address, window.token, 0)
if phase > 2:
    channel.pump(float("inf"), "")
    channel.send(Wrote(0, WINDOW, crc32c(b"x" * WINDOW)), 30)
if phase > 3:
    window = channel.receive(30, "")
    channel.write(region.segment(), window.address, window.token, 0)
    channel.send(Wrote(WINDOW, WINDOW, crc32c(b"x" * size)), 30)
print("ready", flush=True)
sys.stdin.read()
"""


needs_plain_memory = pytest.mark.skipif(
    "NDVERBS_SANITIZED" in os.environ, reason="a sanitizer has its own use of memory and time"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServeProcess]:
    with ServeProcess(tmp_path / "served") as server:
        yield server


@pytest.fixture
def served(tmp_path: Path) -> Path:
    return tmp_path / "served"


def sparse(path: Path, size: int) -> Path:
    path.touch()
    os.truncate(path, size)
    return path


@pytest.mark.parametrize("phase", range(5))
def test_a_client_killed_in_any_phase_leaves_nothing(
    server: ServeProcess, served: Path, tmp_path: Path, phase: int
):
    host, port = server.address
    with Process("-c", _CLIENT, host, str(port), str(phase), "target") as client:
        assert client.read_line() == "ready"
        client.send_signal(signal.SIGKILL)
        line = server.read_log()

    assert re.fullmatch(r"[-\d]{10} [:\d]{8} 127\.0\.0\.1:\d+: the client ended the .*", line)
    assert os.listdir(served) == []
    (tmp_path / "good").write_bytes(b"good")
    copy(tmp_path / "good", server.address, "target")
    assert (served / "target").read_bytes() == b"good"


@pytest.mark.parametrize("after", [0, 1, 16 * WINDOW, 48 * WINDOW])
def test_a_server_killed_during_the_copy_is_noticed(
    server: ServeProcess, served: Path, tmp_path: Path, after: int
):
    path = sparse(tmp_path / "source", 128 * WINDOW)

    def kill(done: int) -> None:
        if done >= after:
            server.send_signal(signal.SIGKILL)

    with pytest.raises(CopyError) as caught:
        copy(path, server.address, "target", progress=kill)

    assert caught.value.reason is Reason.CONNECTION
    # A file without a name goes with the process; one with a name says whose it was.
    assert all(name.startswith(PARTIAL_PREFIX) for name in os.listdir(served))


def test_sigterm_ends_the_server_in_order(server: ServeProcess, served: Path, tmp_path: Path):
    path = sparse(tmp_path / "source", 128 * WINDOW)

    def stop(done: int) -> None:
        if done:
            server.send_signal(signal.SIGTERM)

    with pytest.raises(CopyError) as caught:
        copy(path, server.address, "target", progress=stop)
    code, _, log = server.end()

    assert caught.value.reason is Reason.STOPPING
    assert code == 0
    assert log.endswith(" stopped\n")
    assert "Traceback" not in log
    assert os.listdir(served) == []


def test_ctrl_c_ends_the_server_with_130(server: ServeProcess, tmp_path: Path):
    (tmp_path / "source").write_bytes(b"x")
    copy(tmp_path / "source", server.address, "target")

    server.send_signal(signal.SIGINT)
    code, _, log = server.end()

    assert code == 130
    assert log.endswith(" stopped\n")
    assert "Traceback" not in log


def test_the_server_ends_with_the_program_that_started_it(server: ServeProcess):
    assert server.process.stdin is not None
    server.process.stdin.close()
    server.process.stdin = None

    assert server.end()[0] == 0


def test_ctrl_c_ends_the_client_with_130_and_leaves_nothing(served: Path, tmp_path: Path):
    # The copy cannot end: the source is far larger than what is sent before the signal.
    with ServeProcess(served) as server:
        path = sparse(tmp_path / "source", 6 << 30)
        if os.statvfs(served).f_bavail * os.statvfs(served).f_frsize < 7 << 30:
            pytest.skip("needs 7 GiB of disk")
        with ndverbs("cp", str(path), f"{server.text}:target") as client:
            while bytes_read(client.pid) < 128 << 20:
                assert client.process.poll() is None
            client.send_signal(signal.SIGINT)
            code, _, said = client.end()
        line = server.read_log()

    assert code == 130
    assert said == "interrupted\n"
    assert "ended the connection" in line
    assert os.listdir(served) == []


def bytes_read(pid: int) -> int:
    """Bytes that a process has asked the kernel for; its own start-up needs some 20 MB."""
    with open(f"/proc/{pid}/io") as file:
        return int(file.readline().removeprefix("rchar:"))


def test_a_file_size_limit_of_the_server_is_told(
    server: ServeProcess, served: Path, tmp_path: Path
):
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    path = sparse(tmp_path / "source", 2 << 20)

    with pytest.raises(CopyError, match="beyond the file size limit") as caught:
        copy(path, server.address, "target")

    assert caught.value.reason is Reason.DISK_FULL
    assert os.listdir(served) == []
    assert server.process.poll() is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_told_and_nothing_is_left(small_disk: Path, tmp_path: Path):
    with ServeProcess(small_disk) as server:
        copy(sparse(tmp_path / "fits", 5 << 20), server.address, "fits")
        for _ in range(2):
            with pytest.raises(CopyError, match=r"bytes free, the file has 4194304") as caught:
                copy(sparse(tmp_path / "source", 4 << 20), server.address, "target")
            assert caught.value.reason is Reason.DISK_FULL
        (small_disk / "fits").unlink()
        copy(tmp_path / "source", server.address, "target")

        assert os.listdir(small_disk) == ["target"]


@needs_plain_memory
def test_a_large_file_does_not_grow_the_receiver(server: ServeProcess, tmp_path: Path):
    """Its staging buffers are all that it needs."""
    size = 512 << 20
    (tmp_path / "small").write_bytes(content(CHUNK))
    copy(sparse(tmp_path / "windows", 2 * WINDOW * WINDOWS), server.address, "windows")
    before = peak_memory(server.pid)

    copy(sparse(tmp_path / "source", size), server.address, "target")
    grown = peak_memory(server.pid) - before

    assert grown < 16 << 20
    assert before < 200 << 20


def peak_memory(pid: int) -> int:
    with open(f"/proc/{pid}/status") as file:
        line = next(line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@needs_plain_memory
def test_a_sparse_file_beyond_4_gib_arrives(server: ServeProcess, served: Path, tmp_path: Path):
    size = (4 << 30) + 12345
    space = os.statvfs(served)
    if space.f_bavail * space.f_frsize < size + (1 << 30):
        pytest.skip(f"needs {size + (1 << 30)} bytes of disk")
    path = sparse(tmp_path / "source", size)
    mark = b"behind 4 GiB"
    with path.open("r+b") as file:
        file.seek((1 << 32) + 1)
        file.write(mark)

    copied = copy(path, server.address, "target")

    assert copied.size == (served / "target").stat().st_size == size
    with (served / "target").open("rb") as file:
        file.seek((1 << 32) + 1)
        assert file.read(len(mark)) == mark
        file.seek(-12345 + 100, os.SEEK_END)
        assert file.read() == bytes(12245)
    (served / "target").unlink()


def test_ipv6_works_on_the_command_line(tmp_path: Path, served: Path):
    (tmp_path / "source").write_bytes(content(100))
    with (
        ServeProcess(served, address="[::1]:0") as server,
        ndverbs("cp", str(tmp_path / "source"), f"{server.text}:target") as client,
    ):
        code, said, _ = client.end()

    assert server.text.startswith("[::1]:")
    assert code == 0
    assert f"crc32c {crc32c(content(100)):08x} on both ends" in said
    assert (served / "target").read_bytes() == content(100)


def test_four_processes_copy_at_once(server: ServeProcess, served: Path, tmp_path: Path):
    (tmp_path / "source").write_bytes(content(5 * CHUNK))
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(
                ndverbs("cp", "-q", str(tmp_path / "source"), f"{server.text}:target-{number}")
            )
            for number in range(4)
        ]
        codes = [client.end()[0] for client in clients]

    assert codes == [0, 0, 0, 0]
    assert sorted(os.listdir(served)) == [f"target-{number}" for number in range(4)]
    assert all((served / name).read_bytes() == content(5 * CHUNK) for name in os.listdir(served))
