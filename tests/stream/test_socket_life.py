# SPDX-License-Identifier: Apache-2.0
"""How sockets connect, end, wait and fail."""

import contextlib
import errno
import pickle
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading

import pytest

import ndverbs as nd
from stream.sockets import LIMIT, Background, connected, fill, listening, read_to_end


def test_both_ends_know_both_addresses(ends):
    near, far = ends
    assert near.getsockname() == far.getpeername()
    assert near.getpeername() == far.getsockname()


def test_a_connect_ends_before_anybody_accepts(server, adapter):
    with nd.Socket(adapter=adapter) as near:
        near.connect(server.getsockname())
        near.sendall(b"early")
        far, peer = server.accept()
        with far:
            assert peer == near.getsockname()
            assert far.recv(10) == b"early"


def test_a_port_that_is_bound_is_the_one_that_listens(adapter, host):
    with nd.Socket(adapter=adapter) as sock:
        sock.bind((host, 0))
        bound = sock.getsockname()

        sock.listen()

        assert sock.getsockname() == bound
        assert bound[1] != 0


def test_a_bound_socket_connects_from_its_address(server, adapter, host):
    with nd.Socket(adapter=adapter) as near:
        near.bind((host, 0))
        bound = near.getsockname()
        near.connect(server.getsockname())
        far, peer = server.accept()
        far.close()
        if "create_shared_endpoint" in adapter.info.features:
            assert peer == bound


def test_a_listening_socket_closes_while_clients_are_connecting(adapter, host, scaled):
    for delay in range(scaled(300)):
        with listening(adapter, host) as server, nd.Socket(adapter=adapter) as near:
            near.setblocking(False)
            assert near.connect_ex(server.getsockname()) == errno.EINPROGRESS
            select.select([near], [], [], delay % 100 * 1e-5)  # at each step of the connection


def test_connecting_to_nobody_is_refused(adapter, server):
    address = server.getsockname()
    server.close()
    with nd.Socket(adapter=adapter) as near:
        with pytest.raises(ConnectionRefusedError):
            near.connect(address)
        assert near.connect_ex(address) == errno.ECONNREFUSED


def test_connecting_to_what_is_no_stream_fails(adapter, host):
    with adapter.create_listener() as listener:
        listener.listen((host, 0))
        answer = Background(_accept_plainly, adapter, listener)

        with nd.Socket(adapter=adapter) as near, pytest.raises(ConnectionAbortedError):
            near.connect(listener.local_address)

        answer.result()


def _accept_plainly(adapter, listener):
    with listener.get_connector(LIMIT) as connector, adapter.create_cq(256) as cq:
        qp = adapter.create_pd().create_qp(cq, cq)
        with contextlib.suppress(nd.RdmaError):  # the socket may have gone already
            connector.accept(qp, private_data=b"no stream", timeout=LIMIT)


def test_a_peer_that_is_no_stream_is_rejected(adapter, server):
    with adapter.create_connector() as connector, adapter.create_cq(256) as cq:
        qp = adapter.create_pd().create_qp(cq, cq)
        with pytest.raises(nd.RdmaError):
            connector.connect(qp, None, server.getsockname(), private_data=b"hello")


def test_a_second_connect_is_refused(ends):
    assert ends[0].connect_ex(ends[0].getpeername()) == errno.EISCONN


def test_data_calls_before_the_connection_are_refused(adapter):
    with nd.Socket(adapter=adapter) as sock:
        for call in (lambda: sock.send(b"x"), lambda: sock.recv(1), sock.getpeername):
            with pytest.raises(OSError, match=r"not connected") as caught:
                call()
            assert caught.value.errno == errno.ENOTCONN


def test_the_end_of_the_stream_is_an_empty_receive(ends):
    near, far = ends
    near.sendall(b"last")

    near.close()

    assert read_to_end(far) == b"last"
    assert far.recv(10) == b""


def test_a_large_rest_arrives_after_close(ends):
    near, far = ends
    near.sendall(bytes(250_000))

    near.close()

    assert len(read_to_end(far)) == 250_000


def test_half_closed_streams_carry_the_other_direction(ends):
    near, far = ends
    near.sendall(b"question")

    near.shutdown(socket.SHUT_WR)
    assert read_to_end(far) == b"question"

    far.sendall(b"answer")
    far.close()
    assert read_to_end(near) == b"answer"


def test_sending_after_shutdown_is_a_broken_pipe(ends):
    ends[0].shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError):
        ends[0].send(b"x")


def test_receiving_after_shutdown_of_reading_is_the_end(ends):
    near, far = ends
    far.sendall(b"unread")

    near.shutdown(socket.SHUT_RD)

    assert near.recv(10) == b""


def test_sending_to_a_peer_that_has_closed_fails(ends):
    near, far = ends

    far.close()

    assert near.recv(10) == b""
    with pytest.raises(ConnectionError):
        near.sendall(b"x")


def test_lingering_for_no_time_resets(ends):
    near, far = ends
    near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    near.close()

    with pytest.raises(ConnectionResetError):
        far.recv(10)


def test_a_killed_peer_is_a_reset_not_an_end(adapter, host, provider):
    with nd.Socket(adapter=adapter) as server:
        server.settimeout(LIMIT)
        server.bind((host, 0))
        server.listen()
        code = (
            "import sys, ndverbs as nd\n"
            f"s = nd.Socket(adapter={provider!r})\n"
            f"s.connect({server.getsockname()!r})\n"
            "s.sendall(b'alive'); print('up', flush=True); sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            far, _ = server.accept()
            with far:
                far.settimeout(LIMIT)
                assert far.recv(10) == b"alive"
                child.kill()
                with pytest.raises(ConnectionResetError):
                    far.recv(10)


def test_closing_ends_a_receive_on_another_thread(ends):
    near, _ = ends
    receiving = Background(near.recv, 10)
    near.close()
    with contextlib.suppress(nd.ClosedError):  # the other thread came too late
        assert receiving.result() == b""


def test_a_receive_that_gets_nothing_times_out(ends):
    ends[0].settimeout(0.05)
    with pytest.raises(TimeoutError):
        ends[0].recv(1)


def test_an_accept_that_gets_nothing_times_out(server):
    server.settimeout(0.05)
    with pytest.raises(TimeoutError):
        server.accept()


def test_a_send_that_finds_no_room_times_out_and_the_stream_goes_on(small_ends):
    near, far = small_ends

    near.settimeout(0.05)
    with pytest.raises(TimeoutError):
        near.sendall(bytes(100_000))

    near.shutdown(socket.SHUT_WR)
    assert 0 < len(read_to_end(far)) < 100_000


def test_a_large_send_that_finds_no_room_times_out_and_the_stream_goes_on(small_ends):
    near, far = small_ends

    near.settimeout(0.05)
    with pytest.raises(TimeoutError):
        near.sendall(bytes(1_000_000))

    near.shutdown(socket.SHUT_WR)
    assert 0 < len(read_to_end(far)) < 1_000_000


def test_a_nonblocking_socket_never_waits(ends, server):
    for end in (*ends, server):
        end.setblocking(False)
    with pytest.raises(BlockingIOError):
        ends[0].recv(1)
    with pytest.raises(BlockingIOError):
        server.accept()
    assert ends[0].getblocking() is False


def test_a_nonblocking_connect_becomes_writable(server, adapter):
    with nd.Socket(adapter=adapter) as near:
        near.setblocking(False)
        assert near.connect_ex(server.getsockname()) == errno.EINPROGRESS
        assert select.select([], [near], [], LIMIT)[1] == [near]
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0

        near.send(b"x")
        server.accept()[0].close()


def test_a_nonblocking_connect_that_fails_says_why(server, adapter):
    address = server.getsockname()
    server.close()
    with nd.Socket(adapter=adapter) as near:
        near.setblocking(False)
        assert near.connect_ex(address) == errno.EINPROGRESS
        assert select.select([], [near], [], LIMIT)[1] == [near]
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED


@pytest.mark.parametrize(
    "kind", [selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector]
)
def test_selectors_see_what_a_socket_can_do(small_ends, kind):
    near, far = small_ends
    near.setblocking(False)
    with kind() as selector:
        selector.register(near, selectors.EVENT_READ | selectors.EVENT_WRITE)
        assert _events(selector) == selectors.EVENT_WRITE

        far.sendall(b"x")
        _wait_for(selector, selectors.EVENT_READ | selectors.EVENT_WRITE)
        assert near.recv(10) == b"x"
        assert _events(selector) == selectors.EVENT_WRITE

        fill(near)
        while _events(selector, 0.2):  # a device makes room when it has sent
            fill(near)
        far.recv(1 << 20)
        _wait_for(selector, selectors.EVENT_WRITE)
        far.close()
        _wait_for(selector, selectors.EVENT_READ | selectors.EVENT_WRITE)


def _events(selector, wait=0):
    return next((events for _, events in selector.select(wait)), 0)


def _wait_for(selector, wanted):
    """Wait on the descriptor until it shows all of it; a limit that only means failure."""
    seen = 0
    for _ in range(10_000):
        seen = next((events for _, events in selector.select(LIMIT)), 0)
        if seen & wanted == wanted:
            return
    assert seen == wanted


def test_a_listening_socket_is_readable_when_a_connection_waits(server, adapter):
    assert select.select([server], [], [], 0)[0] == []
    with nd.create_connection(server.getsockname(), adapter=adapter):
        assert select.select([server], [], [], LIMIT)[0] == [server]
        server.accept()[0].close()
        assert select.select([server], [], [], 0)[0] == []


def test_a_closed_socket_has_no_descriptor(adapter):
    sock = nd.Socket(adapter=adapter)

    sock.close()

    assert sock.fileno() == -1
    with pytest.raises(OSError, match=r"[Bb]ad file"):
        sock.bind(("127.0.0.1", 0))


def test_a_file_keeps_its_socket_open(ends):
    near, far = ends
    with near.makefile("rwb") as file:
        near.close()
        file.write(b"line\nrest")
        file.flush()
        assert far.recv(100) == b"line\nrest"
        far.sendall(b"one\ntwo")
        far.close()
        assert file.readline() == b"one\n"
        assert file.read() == b"two"
    assert near.fileno() == -1


def test_sendfile_sends_a_file(ends, tmp_path):
    near, far = ends
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * 1000)
    with path.open("rb") as file:
        assert near.sendfile(file, 5, 100) == 100

    near.close()

    assert read_to_end(far) == (b"0123456789" * 11)[5:105]


def test_what_makes_no_sense_over_rdma_is_refused(ends):
    for call in (ends[0].detach, ends[0].dup):
        with pytest.raises(OSError, match="stream over RDMA"):
            call()
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(ends[0])


@pytest.mark.parametrize(
    "arguments", [{"family": socket.AF_UNIX}, {"type": socket.SOCK_DGRAM}, {"proto": 17}]
)
def test_a_socket_of_another_kind_is_refused(adapter, arguments):
    with pytest.raises(OSError, match="a stream"):
        nd.Socket(adapter=adapter, **arguments)


def test_options_are_given_back(adapter):
    with nd.Socket(adapter=adapter) as sock:
        for level, name, value in (
            (socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000),
            (socket.SOL_SOCKET, socket.SO_SNDBUF, 50_000),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
        ):
            sock.setsockopt(level, name, value)
            assert sock.getsockopt(level, name) == value
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0


def test_an_unknown_option_is_refused(adapter):
    with nd.Socket(adapter=adapter) as sock, pytest.raises(OSError, match="no option") as caught:
        sock.setsockopt(socket.SOL_SOCKET, 9999, 1)
    assert caught.value.errno == errno.ENOPROTOOPT


def test_keepalives_do_not_disturb_the_stream(adapter, host):
    with connected(adapter, host) as (near, far):
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

        near._stream.set_keepalive(0.001)

        for _ in range(200):
            near.sendall(b"ping")
            assert far.recv(10) == b"ping"
            far.sendall(b"pong")
            assert near.recv(10) == b"pong"


def test_a_forgotten_socket_warns_and_closes(adapter):
    with pytest.warns(ResourceWarning, match="unclosed"):
        nd.Socket(adapter=adapter).__del__()


def test_closing_the_adapter_delivers_what_was_sent(adapter, server, provider):
    with nd.Adapter.open(provider) as other:
        near = nd.create_connection(server.getsockname(), adapter=other)
        near.sendall(bytes(100_000))
        far, _ = server.accept()
    with far:
        assert len(read_to_end(far)) == 100_000
    near.close()


def test_requests_beyond_the_backlog_wait(adapter, host):
    with nd.Socket(adapter=adapter) as server:
        server.settimeout(LIMIT)
        server.bind((host, 0))
        server.listen(2)
        clients = [nd.Socket(adapter=adapter) for _ in range(6)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        for _ in clients:
            server.accept()[0].close()
        for client in clients:
            client.close()


def test_ctrl_c_ends_a_blocking_receive(ends):
    def interrupt():
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    # A shell that starts pytest in the background may have it ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.05, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        ends[0].recv(1)
    timer.join()
    signal.signal(signal.SIGINT, before)


def test_a_hundred_connections_are_served_in_turn(server, adapter):
    pairs = []
    for _ in range(100):
        near = nd.create_connection(server.getsockname(), LIMIT, adapter=adapter)
        pairs.append((near, server.accept()[0]))

    for number, (near, _) in enumerate(pairs):
        near.sendall(b"%d" % number)

    for number, (_, far) in enumerate(pairs):
        assert far.recv(10) == b"%d" % number

    for near, far in pairs:
        near.close()
        far.close()


def test_memory_of_a_connection_is_bounded_by_its_buffers(adapter, host):
    with connected(adapter, host, SO_RCVBUF=65536, SO_SNDBUF=16384) as (near, far):
        near.setblocking(False)
        fill(near)
        assert far._stream.memory_use <= 65536 + 16384


def test_a_socket_whose_descriptor_was_asked_for_is_still_bound_and_set(adapter, host, server):
    with nd.Socket(adapter=adapter) as near:
        near.fileno()
        near.bind((host, 0))
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        bound = near.getsockname()

        near.connect(server.getsockname())
        assert near.getsockname() == bound

        far, _ = server.accept()
        with far:
            assert near._stream.memory_use < far._stream.memory_use
        with pytest.raises(OSError, match="bound already"):
            near.bind((host, 0))
