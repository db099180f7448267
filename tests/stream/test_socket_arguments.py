# SPDX-License-Identifier: Apache-2.0
"""What sockets take: families and scopes of addresses, buffers of any type, numbers of any kind."""

import contextlib
import errno
import socket

import numpy as np
import pytest

import ndverbs as nd
from ndverbs import _address, socket_options, wsk
from stream.arrays import ARRAYS, OBJECTS
from stream.sockets import LIMIT, Background, read_exactly


def both(monkeypatch):
    """Let every name mean ::1 and 127.0.0.1, as "localhost" does on many machines."""

    def look_up(_, port, family=0, *__, **___):
        found = [(socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port))]
        return [(kind, 1, 6, "", name) for kind, name in found if family in (0, kind)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def has_v6():
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


needs_v6 = pytest.mark.skipif(not has_v6(), reason="this machine has no IPv6 loopback")


# ---- addresses --------------------------------------------------------------------------------


@needs_v6
def test_a_name_is_resolved_within_the_family_of_the_socket(monkeypatch):
    both(monkeypatch)
    with nd.create_server(("localhost", 0), family=socket.AF_INET6, adapter="soft") as server:
        host, port, *_ = server.getsockname()
        assert host == "::1"
        with nd.Socket(socket.AF_INET6, adapter="soft") as near:
            near.bind(("localhost", 0))
            near.connect(("localhost", port))
            assert near.getsockname()[0] == near.getpeername()[0] == "::1"
    with nd.Socket(adapter="soft") as sock:
        sock.bind(("localhost", 0))
        assert sock.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET6, "127.0.0.1"), (socket.AF_INET, "::1")]
)
def test_an_address_of_another_family_is_refused(family, host):
    with nd.Socket(family, adapter="soft") as sock:
        for call in (sock.bind, sock.connect):
            with pytest.raises(nd.RdmaError, match="is not an address of AF_INET") as caught:
                call((host, 1))
            assert caught.value.errno == errno.EAFNOSUPPORT


@needs_v6
def test_the_scope_of_an_address_is_a_name_a_number_or_the_fourth_item_of_its_tuple():
    index = socket.if_nametoindex("lo")
    for given in (("::1%lo", 0), (f"::1%{index}", 0), ("::1", 0, 0, index)):
        with nd.Socket(socket.AF_INET6, adapter="soft") as sock:
            sock.bind(given)
            assert sock.getsockname()[0].partition("%")[0] == "::1"
    with (
        nd.Socket(socket.AF_INET6, adapter="soft") as sock,
        pytest.raises(nd.RdmaError, match='no network interface "4000000000"'),
    ):
        sock.bind(("::1", 0, 0, 4_000_000_000))


@pytest.mark.parametrize("scope", ["lo", str(socket.if_nametoindex("lo"))])
def test_an_address_of_ipv6_is_given_with_its_scope(scope):
    host = f"fe80::1%{scope}"
    expected = (host, 5, 0, socket.if_nametoindex("lo"))

    assert _address.socket_address((host, 5), socket.AF_INET6) == expected
    assert _address.socket_address(("::1", 5), socket.AF_INET6) == ("::1", 5, 0, 0)
    assert _address.socket_address(("127.0.0.1", 5), socket.AF_INET) == ("127.0.0.1", 5)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("fe80::1", 5, 0, 3), ("fe80::1%3", 5)),
        (("fe80::1%eth0", 5, 0, 3), ("fe80::1%eth0", 5)),
        (("fe80::1", np.int64(5), 0, np.uint32(3)), ("fe80::1%3", 5)),
        (("host", 5, 0, 0), ("host", 5)),
    ],
)
def test_a_tuple_with_a_scope_splits_into_host_and_port(given, expected):
    host, port = _address.split(given)
    assert (host, port) == expected
    assert type(port) is int


@pytest.mark.parametrize("scope", [-1, 1 << 32])
def test_a_scope_that_is_no_interface_is_refused(scope):
    with pytest.raises(ValueError, match="is no number of an interface"):
        _address.split(("fe80::1", 5, 0, scope))


@pytest.mark.parametrize("host", ["a\0b", "127.0.0.1\0", "::1%\0"])
def test_a_host_with_a_null_character_is_refused(host):
    with nd.Socket(adapter="soft") as sock:
        for call in (sock.bind, sock.connect, nd.create_connection, nd.create_server):
            with pytest.raises(nd.RdmaError, match="null character") as caught:
                call((host, 1))
            assert caught.value.status == nd.Status.INVALID_ADDRESS


# ---- buffers ----------------------------------------------------------------------------------


@ARRAYS
def test_messages_take_the_arrays_that_single_calls_take(ends, array):
    near, far = ends

    filler = np.ones(1, np.uint8)
    assert near.sendmsg([array, filler]) == array.nbytes + 1
    assert read_exactly(far, array.nbytes + 1) == array.tobytes() + b"\1"

    target = np.zeros_like(array)
    near.sendall(array)
    near.sendall(filler)
    rest = bytearray(1)
    size = array.nbytes + 1
    assert far.recvmsg_into([target, rest], 0, socket.MSG_WAITALL)[0] == size
    assert (target.tobytes(), rest) == (array.tobytes(), b"\1")


@OBJECTS
def test_arrays_of_python_objects_are_neither_sent_nor_received_into(ends, array):
    near, far = ends
    near.sendall(b"x" * 64)
    calls = [
        lambda: near.send(array),
        lambda: near.sendall(array),
        lambda: near.sendmsg([array, b"x"]),
        lambda: far.recv_into(array),
        lambda: far.recvmsg_into([array]),
    ]

    for call in calls:
        with pytest.raises(BufferError, match="holds Python objects"):
            call()
    assert far.recv(100) == b"x" * 64


def test_memory_that_is_not_contiguous_is_refused_by_messages(ends):
    near, far = ends
    for call in (near.sendmsg, far.recvmsg_into):
        with pytest.raises(BufferError, match="not C-contiguous"):
            call([np.zeros(8)[::2]])
    with pytest.raises(TypeError, match="bytes-like"):
        near.sendmsg(["text"])


def test_a_message_into_read_only_memory_is_refused_before_data_is_taken(ends):
    near, far = ends
    near.sendall(b"abc")

    with pytest.raises(BufferError, match="read-only"):
        far.recvmsg_into([bytearray(1), bytes(2)])
    assert far.recv(10) == b"abc"


# ---- messages over several buffers ------------------------------------------------------------


def test_a_message_that_is_peeked_shows_what_comes_one_behind_the_other(ends):
    near, far = ends
    near.sendall(b"abcdef")
    for flags in (socket.MSG_PEEK, socket.MSG_PEEK, 0):
        first, empty, second = bytearray(3), bytearray(), bytearray(4)
        assert far.recvmsg_into([first, empty, second], 0, flags)[0] == 6
        assert (first, second) == (b"abc", b"def\0")


def test_a_message_for_all_waits_for_all_of_its_buffers(ends):
    near, far = ends
    first, second = bytearray(3), bytearray(3)
    near.sendall(b"abc")
    receiving = Background(far.recvmsg_into, [first, second], 0, socket.MSG_WAITALL)

    near.sendall(b"def")

    assert receiving.result()[0] == 6
    assert (first, second) == (b"abc", b"def")


@pytest.mark.parametrize("timeout", [0, 0.001])
def test_what_came_before_the_time_was_over_is_returned(ends, timeout):
    near, far = ends
    near.sendall(b"abc")
    far._stream.wait_readable(LIMIT)
    far.settimeout(timeout)
    first, second = bytearray(2), bytearray(2)
    assert far.recvmsg_into([first, second], 0, socket.MSG_WAITALL)[0] == 3
    assert (first, second) == (b"ab", b"c\0")

    near.sendall(b"def")
    far._stream.wait_readable(LIMIT)
    assert far.recv(10, socket.MSG_WAITALL) == b"def"


# ---- numbers ----------------------------------------------------------------------------------


def test_numbers_of_numpy_are_taken(adapter, host):
    with (
        nd.create_server((host, np.int64(0)), backlog=np.int32(4), adapter=adapter) as server,
        nd.create_connection((host, np.uint16(server.getsockname()[1])), adapter=adapter) as near,
    ):
        far, _ = server.accept()
        with far:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, np.int64(1))
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, np.int16(100))
            assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 100
            near.sendall(b"abc")
            assert far.recv(np.int64(2), np.int32(0)) == b"ab"
            assert far.recv_into(bytearray(5), np.uint8(1)) == 1
            near.shutdown(np.int64(socket.SHUT_WR))
            assert far.recv(1) == b""


@pytest.mark.parametrize("offset", [-1, 1 << 64, 1.5])
def test_an_offset_of_a_mapping_that_is_out_of_range_is_refused(ends, offset):
    near, _ = ends
    for call in (near.riomap, near.riowrite):
        with pytest.raises((OSError, TypeError), match=r"offset|float"):
            call(bytearray(8), offset)


KEEPIDLE = (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (KEEPIDLE, 0),
        (KEEPIDLE, 32768),
        (KEEPIDLE, 10**18),
        (KEEPIDLE, 10**400),
        ((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), -1),
        ((socket.IPPROTO_TCP, socket.TCP_KEEPCNT), 128),
        ((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT), -1),
        ((socket.SOL_SOCKET, socket.SO_REUSEADDR), 1 << 31),
        ((socket.SOL_SOCKET, socket.SO_RCVBUF), b"\1"),
        ((socket_options.SOL_RDMA, socket_options.RDMA_RQSIZE), 1 << 70),
    ],
)
def test_an_option_out_of_range_is_refused(adapter, option, value):
    with nd.Socket(adapter=adapter) as sock:
        before = sock.getsockopt(*option)
        with pytest.raises(OSError, match=r"not in|has 4 bytes") as caught:
            sock.setsockopt(*option, value)
        assert caught.value.errno == errno.EINVAL
        assert sock.getsockopt(*option) == before


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1.5, "1", None])
def test_an_option_that_is_no_integer_is_refused(adapter, value):
    with nd.Socket(adapter=adapter) as sock, pytest.raises(TypeError, match="integer or bytes"):
        sock.setsockopt(*KEEPIDLE, value)


@pytest.mark.parametrize("backlog", [-1, 0, 1 << 31, 1 << 70])
def test_a_backlog_of_any_size_is_taken(adapter, host, backlog):
    with nd.create_server((host, 0), backlog=backlog, adapter=adapter) as server:
        server.listen(backlog)


# ---- errors -----------------------------------------------------------------------------------


def test_an_error_is_told_once_by_its_option(adapter, host, server):
    name = server.getsockname()
    server.close()
    with nd.Socket(adapter=adapter) as near:
        near.setblocking(False)
        for _ in range(2):  # a second attempt has an error of its own
            with pytest.raises(BlockingIOError):
                near.connect(name)
            near._stream.wait_connected(LIMIT)
            errors = [near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for _ in range(2)]
            assert errors == [errno.ECONNREFUSED, 0]


@pytest.mark.parametrize("name", [socket.SO_ERROR, socket.SO_TYPE, socket.SO_RCVBUF])
def test_an_option_is_got_as_bytes_when_a_length_is_given(adapter, name):
    with nd.Socket(adapter=adapter) as sock:
        value = sock.getsockopt(socket.SOL_SOCKET, name)
        assert sock.getsockopt(socket.SOL_SOCKET, name, 4) == value.to_bytes(4, "little")


def test_a_connect_that_the_peer_rejects_has_a_number(adapter, host):
    rejects = wsk.InspectAction.REJECT
    with wsk.listen((host, 0), adapter=adapter, on_inspect=lambda *_: rejects) as listening:
        with nd.Socket(adapter=adapter) as near:
            near.settimeout(LIMIT)
            assert near.connect_ex(listening.local_address) == errno.ECONNREFUSED
        with nd.Socket(adapter=adapter) as near:
            near.setblocking(False)
            assert near.connect_ex(listening.local_address) == errno.EINPROGRESS
            near._stream.wait_connected(LIMIT)
            assert near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
            # Another attempt is allowed: the first one is known to have failed.
            assert near.connect_ex(listening.local_address) == errno.EINPROGRESS


def test_a_connect_to_what_is_no_stream_has_a_number(adapter, host):
    with (
        adapter.create_listener() as listener,
        adapter.create_pd() as pd,
        adapter.create_cq(256) as cq,
        pd.create_qp(cq, cq) as qp,
        nd.Socket(adapter=adapter) as near,
    ):
        listener.listen((host, 0))
        near.settimeout(LIMIT)
        connecting = Background(near.connect_ex, listener.local_address)
        with listener.get_connector(LIMIT) as connector:
            accepting = Background(connector.accept, qp)
            assert connecting.result() == errno.ECONNABORTED
            with contextlib.suppress(OSError):  # the end that refuses the stream may have begun it
                accepting.result()


@pytest.mark.parametrize(
    ("answer", "expected"), [(b"no MPA", errno.ECONNABORTED), (None, errno.ETIMEDOUT)]
)
def test_a_connect_that_gets_no_answer_has_a_number(answer, expected):
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        nd.Adapter.open("soft") as adapter,
        nd.Socket(adapter=adapter) as near,
    ):
        stream = near._made_stream()
        stream._start_connect(None, silent.getsockname(), 0.05 if answer is None else LIMIT)

        with silent.accept()[0] as peer:
            peer.sendall((answer or b"") * 20)
            stream.wait_connected(LIMIT)

        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == expected
