# SPDX-License-Identifier: Apache-2.0
"""The standard library over RDMA sockets: http, socketserver, xmlrpc and TLS, unmodified."""

import asyncio
import contextlib
import http.client
import http.server
import random
import socket
import socketserver
import ssl
import subprocess
import threading

import pytest

import ndverbs as nd
from stream.sockets import LIMIT, Background, connected


def over_rdma(server_class, adapter):
    """Make a socketserver class whose socket is an RDMA one."""

    class Server(server_class):
        def __init__(self, address, handler):
            super().__init__(address, handler, bind_and_activate=False)
            self.socket.close()
            self.socket = nd.Socket(self.address_family, adapter=adapter)
            try:
                self.server_bind()
                self.server_activate()
            except BaseException:
                self.server_close()
                raise

    return Server


@contextlib.contextmanager
def served(server):
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.socket.getsockname()
    finally:
        server.shutdown()
        thread.join(LIMIT)
        server.server_close()


class Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._answer(b"page " + self.path.encode())

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers["Content-Length"]))[::-1])

    def _answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def http_connection(address, adapter):
    connection = http.client.HTTPConnection(*address, timeout=LIMIT)
    connection._create_connection = lambda *args: nd.create_connection(*args, adapter=adapter)
    with contextlib.closing(connection):
        yield connection


@pytest.mark.parametrize("server_class", [http.server.HTTPServer, http.server.ThreadingHTTPServer])
def test_http_server_and_client_talk_over_one_kept_connection(adapter, host, server_class):
    server = over_rdma(server_class, adapter)((host, 0), Pages)
    body = random.Random(1).randbytes(2_000_000)
    with served(server) as address, http_connection(address, adapter) as connection:
        for path in ("/one", "/two"):
            connection.request("GET", path)
            assert connection.getresponse().read() == b"page " + path.encode()
        connection.request("POST", "/", body)
        assert connection.getresponse().read() == body[::-1]


def test_http_server_serves_files(adapter, host, tmp_path):
    (tmp_path / "file.bin").write_bytes(bytes(range(256)) * 4000)

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tmp_path)

        def log_message(self, *_):
            pass

    server = over_rdma(http.server.HTTPServer, adapter)((host, 0), Files)
    with served(server) as address, http_connection(address, adapter) as connection:
        connection.request("GET", "/file.bin")
        assert connection.getresponse().read() == bytes(range(256)) * 4000


class Upper(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line.upper())


@pytest.mark.parametrize("server_class", [socketserver.TCPServer, socketserver.ThreadingTCPServer])
def test_socketserver_handles_requests(adapter, host, server_class):
    server = over_rdma(server_class, adapter)((host, 0), Upper)
    with (
        served(server) as address,
        nd.create_connection(address, LIMIT, adapter=adapter) as sock,
    ):
        sock.sendall(b"some\nlines\n")
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile("rb") as file:
            assert file.read() == b"SOME\nLINES\n"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """Make a certificate of this machine's for the test, and the contexts of both sides."""
    folder = tmp_path_factory.mktemp("tls")
    subject = "/CN=localhost"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", subject, "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    client = ssl.create_default_context(cafile=folder / "cert.pem")
    return server, client


class Tls:
    """A TLS session over a blocking socket, through ssl.MemoryBIO."""

    def __init__(self, sock, context, **options):
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, **options)

    def _do(self, call, *args):
        while True:
            try:
                answer = call(*args)
            except ssl.SSLWantReadError:
                self._flush()
                data = self._sock.recv(65536)
                self._incoming.write(data) if data else self._incoming.write_eof()
                continue
            self._flush()
            return answer

    def _flush(self):
        if data := self._outgoing.read():
            self._sock.sendall(data)

    def handshake(self):
        self._do(self._session.do_handshake)

    def send(self, data):
        self._do(self._session.write, data)

    def receive(self, count):
        data = b""
        while len(data) < count:
            data += self._do(self._session.read, count - len(data))
        return data


def test_a_tls_session_runs_through_memory_bios(adapter, host, certificate):
    data = random.Random(2).randbytes(500_000)
    with connected(adapter, host) as (near, far):

        def serve():
            tls = Tls(far, certificate[0], server_side=True)
            tls.handshake()
            tls.send(tls.receive(len(data))[::-1])

        serving = Background(serve)
        tls = Tls(near, certificate[1], server_hostname="localhost")
        tls.handshake()
        tls.send(data)
        assert tls.receive(len(data)) == data[::-1]
        serving.result()


def test_asyncio_streams_carry_tls(adapter, host, certificate):
    async def serve(reader, writer):
        writer.write((await reader.readexactly(5)).upper())
        await writer.drain()
        await reader.read()
        writer.close()

    async def main():
        async with asyncio.timeout(LIMIT):
            server = await nd.start_server(serve, host, 0, adapter=adapter, ssl=certificate[0])
            address = server.sockets[0].getsockname()
            reader, writer = await nd.open_connection(
                *address, adapter=adapter, ssl=certificate[1], server_hostname="localhost"
            )
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"HELLO"
            writer.close()
            await writer.wait_closed()
            server.close()
            await server.wait_closed()

    asyncio.run(main())
