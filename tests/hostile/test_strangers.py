# SPDX-License-Identifier: Apache-2.0
"""Strangers at the listener: what is no MPA request gets no answer, and costs little."""

import socket

import pytest

import ndverbs as nd
from hostile.raw_peer import REQUEST_KEY, C, M, R, RawPeer, S, mpa, reply, request
from wire import reference
from wire.reference import WRITE

pytestmark = pytest.mark.tsan

HTTP = b"GET / HTTP/1.1\r\nHost: example.net\r\nAccept: */*\r\n\r\n"
TLS = bytes.fromhex("16030100f8010000f40303") + bytes(range(200))
NO_ANSWER = {
    "garbage": bytes(range(256)) * 4,
    "zeros": bytes(1024),
    "an_http_probe": HTTP,
    "an_http_probe_shorter_than_a_request": b"GET / HTTP/1.0\r\n\r\n",
    "a_tls_greeting": TLS,
    "one_wrong_byte": b"X",
    "the_key_of_a_reply": reply(),
    "a_key_with_one_wrong_letter": b"MPA ID Req frame" + request()[16:],
    "revision_3": request(revision=3),
    "revision_255": request(revision=255),
    "513_bytes_of_private_data": request(0, 1, bytes(513)),
    "509_bytes_behind_the_enhanced_ones": request(private_data=bytes(509)),
    "private_data_of_65535_bytes": request(length=0xFFFF, private_data=bytes(2000)),
    "enhanced_data_of_no_byte": mpa(REQUEST_KEY, S, words=b""),
    "enhanced_data_of_three_bytes": mpa(REQUEST_KEY, S, words=b"\0\0\0"),
}


@pytest.mark.parametrize("name", NO_ANSWER)
def test_what_is_no_request_gets_no_answer(victim, name):
    with RawPeer.connect(victim.address) as peer:
        peer.send(NO_ANSWER[name])
        assert peer.receive_all() == b""
    with pytest.raises(nd.RdmaTimeoutError):
        victim.listener.get_connector(timeout=0)
    assert victim.adapter.stats()["connect_failure"] == 1


@pytest.mark.parametrize("size", range(27))
def test_a_request_cut_at_any_length_gets_no_answer(victim, size):
    whole = request(private_data=b"abc")
    assert len(whole) == 27
    with RawPeer.connect(victim.address) as peer:
        peer.send(whole[:size])
        peer.finish()
        assert peer.receive_all() == b""
    with pytest.raises(nd.RdmaTimeoutError):
        victim.listener.get_connector(timeout=0)


def test_strangers_who_reset_are_forgotten(victim):
    for size in range(27):
        peer = RawPeer.connect(victim.address)
        peer.send(request(private_data=b"abc")[:size])
        peer.reset()


def test_a_request_in_single_bytes_is_one_request(victim):
    stream = victim.stream()
    peer = RawPeer.connect(victim.address)
    whole = request(private_data=b"drip")
    for at in range(len(whole) - 1):
        peer.send(whole[at : at + 1])

    stream.accept(peer, start=lambda: whole[-1:])

    assert stream.connector.connection_data.private_data == b"drip"


@pytest.mark.parametrize(
    ("flags", "revision", "answer"),
    [
        (M | S, 2, reply(R | S, 2, words=bytes(4))),
        (M | C | S, 2, reply(R | S, 2, words=bytes(4))),
        (M, 1, reply(R, 1)),
        (M, 0, reply(R, 0)),
    ],
)
def test_markers_are_refused_in_the_words_of_mpa(victim, flags, revision, answer):
    with RawPeer.connect(victim.address) as peer:
        peer.send(request(flags, revision))
        assert peer.receive_all() == answer


def owing_a_first_message():
    """A request for peer-to-peer mode: the responder waits for the first message."""
    return request(words=bytes.fromhex("80108010"))


def test_bytes_behind_the_request_make_it_void(victim):
    stream = victim.stream()
    peer = RawPeer.connect(victim.address)
    early = reference.tagged(WRITE, *victim.remote("window"), b"early", crc=False)
    peer.send(request() + early)
    connector = victim.listener.get_connector(timeout=20)

    with pytest.raises(nd.RdmaConnectionAbortedError):
        connector.accept(stream.qp)
    assert peer.receive_all() == b""
    assert stream.qp.state == "idle"
    assert victim.untouched()

    connector.close()
    peer.sock.close()


@pytest.mark.parametrize("leave", [RawPeer.finish, RawPeer.reset])
@pytest.mark.parametrize("answer", ["accept", "reject"])
def test_a_request_whose_peer_has_gone_cannot_be_answered(victim, leave, answer):
    stream = victim.stream()
    peer = RawPeer.connect(victim.address)
    peer.send(request())
    connector = victim.listener.get_connector(timeout=20)
    leave(peer)

    with pytest.raises(nd.RdmaConnectionAbortedError):
        connector.accept(stream.qp) if answer == "accept" else connector.reject(b"no")
    assert stream.qp.state == "idle"

    connector.close()
    peer.sock.close()


@pytest.mark.parametrize("leave", [RawPeer.finish, RawPeer.reset])
def test_a_peer_that_leaves_after_the_reply_ends_the_accept(victim, leave):
    stream = victim.stream()
    stream.post_receives(1)
    peer = RawPeer.connect(victim.address)
    accepting = stream.accept(peer, opened=False, start=owing_a_first_message)

    leave(stream.peer)

    with pytest.raises(nd.RdmaConnectionAbortedError):
        accepting.wait(20)
    assert stream.wait_for(1)[0].status == nd.Status.CANCELLED
    assert stream.qp.state == "error"


def test_a_peer_that_owes_its_first_message_has_the_time_of_the_accept(victim):
    stream = victim.stream()
    peer = RawPeer.connect(victim.address)

    accepting = stream.accept(peer, opened=False, start=owing_a_first_message, timeout=0.05)

    with pytest.raises(nd.RdmaTimeoutError):
        accepting.wait(20)
    assert peer.receive_all() == b""
    assert not stream.disconnected.is_set()
    assert stream.qp.state == "error"
    assert victim.adapter.stats()["connect_failure"] == 1


@pytest.mark.parametrize("waits", [False, True])
def test_a_peer_that_need_not_speak_was_connected_when_it_leaves_in_order(victim, waits):
    stream = victim.stream()
    stream.post_receives(1)
    accepting = stream.accept(RawPeer.connect(victim.address), opened=False)
    if waits:
        accepting.wait(20)
    stream.peer.finish()
    accepting.wait(20)

    stream.wait_for_disconnect()
    assert stream.connector.state == "connected"
    assert stream.no_more_completions()

    stream.connector.disconnect()
    assert stream.wait_for(1)[0].status == nd.Status.CANCELLED
    assert victim.adapter.stats()["accept"] == 1
    assert victim.adapter.stats()["connect_failure"] == 0


def test_a_peer_that_need_not_speak_and_resets_ends_the_accept(victim):
    stream = victim.stream()
    accepting = stream.accept(RawPeer.connect(victim.address), opened=False)

    stream.peer.reset()

    with pytest.raises(nd.RdmaConnectionAbortedError):
        accepting.wait(20)
    assert not stream.disconnected.is_set()
    assert victim.adapter.stats()["connect_failure"] == 1


def test_a_listener_that_closes_rejects_what_nobody_took(victim):
    listener = victim.adapter.create_listener()
    listener.listen(("127.0.0.1", 0))
    with (
        RawPeer.connect(listener.local_address) as first,
        RawPeer.connect(listener.local_address) as second,
    ):
        first.send(request())

        listener.get_connector(timeout=20).close()
        assert first.receive_all() == reply(R | S, 2, words=bytes(4))

        second.send(request())
        listener.close()
        assert second.receive_all() in (b"", reply(R | S, 2, words=bytes(4)))


@pytest.mark.slow
def test_a_silent_stranger_has_ten_seconds(victim):
    """All the kinds of silence at once, because the product has no shorter limit to set."""
    silences = [b"", REQUEST_KEY[:1], request()[:19], request()[:20], request()[:23]]
    silences += [request(private_data=b"abc")[:26]]
    peers = [RawPeer.connect(victim.address) for _ in silences]
    for peer, data in zip(peers, silences, strict=True):
        peer.send(data)

    for peer in peers:
        assert peer.receive_all() == b""
        peer.sock.close()

    assert victim.adapter.stats()["connect_failure"] == len(peers)


def test_a_stranger_costs_nothing_when_the_listener_closes(victim):
    listener = victim.adapter.create_listener()
    listener.listen(("127.0.0.1", 0))
    strangers = [socket.create_connection(listener.local_address) for _ in range(20)]
    listener.close()
    for stranger in strangers:
        assert RawPeer(stranger).receive_all() == b""
        stranger.close()
