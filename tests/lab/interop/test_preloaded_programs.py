# SPDX-License-Identifier: Apache-2.0
"""Ordinary programs whose sockets librspreload moves to RDMA, against our sockets.

They are programs that ask for plain SOCK_STREAM, fcntl and accept: of SOCK_CLOEXEC, accept4 and
fcntl64 the library of Debian 12 knows nothing, and the program stays with TCP (Python does).
"""

import http.server

import pytest

from lab.interop.streams import accepted, connected_to
from lab.interop.tools import LIMIT
from stream.sockets import listening
from stream.test_ecosystem import Pages, over_rdma, served


@pytest.fixture
def preloaded(tool):
    """Give the factory ``preloaded(shell command) -> Tool``."""
    # The tool's own shell finds it, which may be another machine's.
    library = "$(echo /usr/lib/*/rsocket/librspreload.so)"
    return lambda command: tool("sh", "-c", f"LD_PRELOAD={library} exec {command}")


def test_netcat_sends_a_file_to_our_server_and_prints_the_answer(ours, preloaded, file):
    adapter, place = ours
    path, content = file
    with listening(adapter, place.listen_on) as server:
        client = preloaded(
            f"nc.traditional -q 1 {place.seen_as} {server.getsockname()[1]} < {path}"
        )
        with accepted(server) as sock:
            received = bytearray()
            while len(received) < len(content):
                received += sock.recv(1 << 20)
            assert received == content
            sock.sendall(b"the answer")
            sock.shutdown(1)
            assert "the answer" in client.finish()


def test_netcat_that_listens_receives_a_file_from_our_client(ours, preloaded, file, folder):
    place = ours[1]
    port = place.tool_port()
    copy = folder / "copy"
    server = preloaded(f"nc.traditional -l -p {port} > {copy}")
    with connected_to(server, port, ours) as sock:
        sock.sendall(file[1])
        sock.shutdown(1)
        server.finish()
    assert copy.read_bytes() == file[1]


def test_curl_posts_a_file_twice_to_the_standard_librarys_server(ours, preloaded, file, folder):
    adapter, place = ours
    path, content = file
    server = over_rdma(http.server.ThreadingHTTPServer, adapter)((place.listen_on, 0), Pages)
    with served(server) as (_, port):
        url = f"http://{place.seen_as}:{port}/"
        client = preloaded(
            f"curl --silent --show-error --max-time {LIMIT} --header Expect: --data-binary @{path}"
            f" --output {folder / 'one'} {url} --output {folder / 'two'} {url}"
        )
        client.finish()
    for name in ("one", "two"):
        assert (folder / name).read_bytes() == content[::-1]
