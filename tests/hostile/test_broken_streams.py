# SPDX-License-Identifier: Apache-2.0
"""Streams that are cut, dripped, corrupted or stopped, and how our side comes out of it."""

import socket

import numpy as np
import pytest

import ndverbs as nd
from hostile.raw_peer import C, S, last_ulpdu, reply, request, terminate
from hostile.victim import FILL, REGIONS
from wire import reference
from wire.reference import READ_RESPONSE, SEND, TERMINATE, WRITE

pytestmark = pytest.mark.tsan

WINDOW = REGIONS["window"][0]
CLOSED = "this side terminated the stream: MPA error: TCP connection closed, terminated or lost"
both_crc = pytest.mark.parametrize("crc", [False, True], ids=["plain", "crc"])


def flags(crc):
    return S | (C if crc else 0)


def messages(victim, crc, size=8):
    """One message of each kind that a peer may send unasked."""
    stag, to = victim.remote("window")
    payload = b"\x5a" * size
    return {
        "write": reference.tagged(WRITE, stag, to, payload, crc=crc),
        "send": reference.untagged(SEND, 0, 1, payload=payload, crc=crc),
        "read request": reference.read_request(1, 7, 0, size, stag, to, crc=crc),
        "terminate": reference.untagged(TERMINATE, 2, 1, payload=b"\x20\x01\0\0", crc=crc),
    }


# ---- cut -----------------------------------------------------------------------------------------


@both_crc
@pytest.mark.parametrize("kind", ["write", "send", "read request", "terminate"])
def test_a_stream_that_ends_inside_a_message_is_broken(victim, kind, crc):
    whole = messages(victim, crc)[kind]
    for size in range(1, len(whole)):
        stream = victim.accepted(receives=1, start=lambda: request(flags(crc)))
        stream.peer.send(whole[:size])
        stream.peer.finish()
        (done,) = stream.wait_for(1)
        assert done.status == nd.Status.CANCELLED
        if kind != "terminate" or size < 24:
            assert done.detail == CLOSED + " (2/0/01)"
        stream.wait_for_disconnect()
        assert stream.peer.receive_all() == b""
        assert stream.qp.state == "error"
        stream.close()

    # Bytes placed before the end stay; nothing beside the addressed bytes changes.
    changed = {"write": (WINDOW, 8), "send": (0, 8)}.get(kind, (0, 0))

    assert victim.untouched((0, 0) if crc else changed)


@pytest.mark.parametrize("size", [1, 4, 16, 20])
def test_a_reset_inside_a_message_names_the_system_error(victim, size):
    stream = victim.accepted(receives=2)
    stream.peer.send(messages(victim, crc=False)["write"][:size])
    stream.peer.reset()

    results = stream.wait_for(2)

    assert [r.status for r in results] == [nd.Status.CANCELLED] * 2
    assert results[0].detail == "the system reported: Connection reset by peer (errno 104)"

    stream.wait_for_disconnect()


@pytest.mark.parametrize("crc", [False, True])
def test_silence_inside_a_message_ends_with_our_close(victim, crc):
    stream = victim.accepted(receives=2, start=lambda: request(flags(crc)))
    stream.peer.send(messages(victim, crc)["write"][:20])

    stream.qp.close()

    assert [r.status for r in stream.wait_for(2)] == [nd.Status.CANCELLED] * 2
    assert stream.peer.receive_all() == b""


def test_the_end_between_messages_is_a_disconnect(victim):
    stream = victim.accepted(receives=1)
    stream.peer.finish()

    stream.wait_for_disconnect()

    assert stream.no_more_completions()


def test_a_reset_while_a_send_waits_for_a_receive_is_noticed_at_once(victim):
    stream = victim.accepted()
    stream.qp.read(victim.regions["arena"].segment(0, 4), (1, 0))
    stream.peer.receive_fpdu()
    stream.peer.send(messages(victim, crc=False)["send"])
    stream.peer.reset()

    # Noticed later, at the end of the wait for a receive, it would be a Terminate of our own.
    (done,) = stream.wait_for(1)
    assert done.detail == "the system reported: Connection reset by peer (errno 104)"

    stream.wait_for_disconnect()
    assert victim.untouched()


# ---- dripped -------------------------------------------------------------------------------------


@both_crc
def test_messages_in_single_bytes_are_the_same_messages(victim, crc):
    stream = victim.accepted(receives=1, start=lambda: request(flags(crc)))
    found = messages(victim, crc, size=11)

    for byte in found["write"] + found["send"] + found["read request"]:
        stream.peer.send(bytes([byte]))

    (done,) = stream.wait_for(1)
    assert (done.status, done.bytes_transferred) == (nd.Status.SUCCESS, 11)
    assert stream.peer.receive_fpdu() == last_ulpdu(
        reference.tagged(READ_RESPONSE, 7, 0, b"\x5a" * 11, crc=crc)
    )
    assert bytes(victim.arena[:12]) == b"\x5a" * 11 + bytes([FILL])
    assert victim.untouched((WINDOW, 11), (0, 11))


# ---- corrupted -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["write", "send", "read request", "terminate"])
def test_with_crc_a_flipped_bit_places_nothing(victim, kind):
    whole = messages(victim, crc=True)[kind]
    for at in range(len(whole)):
        bad = bytearray(whole)
        bad[at] ^= 1 << at % 8
        stream = victim.accepted(receives=1, start=lambda: request(flags(True)))
        stream.peer.send(bytes(bad))
        # A longer length makes our side wait for the rest.
        stream.peer.finish()
        answer = stream.peer.receive_all()
        longer = at < 2 and bad[:2] > whole[:2]
        assert answer == (b"" if longer else terminate((2, 0, 2), crc=True))
        (done,) = stream.wait_for(1)
        assert done.status == nd.Status.CANCELLED
        assert done.detail.endswith("(2/0/01)" if longer else "(2/0/02)")
        stream.close()
    assert victim.untouched()


def test_with_crc_no_byte_of_a_large_bad_message_is_placed(victim):
    stag, to = victim.remote("window")
    stream = victim.accepted(start=lambda: request(flags(True)))
    good = reference.tagged(WRITE, stag, to, b"\x11" * 64, last=False, crc=True)
    bad = bytearray(reference.tagged(WRITE, stag, to + 64, b"\x22" * 1900, crc=True))
    bad[1000] ^= 0x10

    stream.peer.send(good + bad)

    assert stream.peer.receive_all() == terminate((2, 0, 2), crc=True)
    assert bytes(victim.arena[WINDOW : WINDOW + 64]) == b"\x11" * 64
    assert victim.untouched((WINDOW, 64))


# ---- stopped -------------------------------------------------------------------------------------


def write_until_full(stream, connect_size=1 << 20):
    """Post Writes that a peer who never reads leaves in the socket; returns their number."""
    array = np.zeros(connect_size, np.uint8)
    region = stream.victim.pd.register(array, nd.Access.LOCAL_WRITE)
    for number in range(16):
        stream.qp.write(region, (1, 0), context=number)
    return region


def stuck(victim, listening):
    """A stream whose peer never reads, so that most of 16 MiB cannot leave."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stream = victim.stream()
    stream.connected(listening, reply())
    stream.post_receives(1)
    return stream, write_until_full(stream)


def test_flush_ends_requests_to_a_peer_that_never_reads(victim, silent_listener):
    stream, region = stuck(victim, silent_listener)
    stream.qp.flush()

    results = stream.wait_for(17)
    assert results[-1].request_context == "receive 0"

    statuses = [r.status for r in results]
    done = statuses.index(nd.Status.CANCELLED)
    assert statuses[:done] == [nd.Status.SUCCESS] * done
    assert statuses[done:] == [nd.Status.CANCELLED] * (17 - done)

    region.close()


def test_a_disconnect_from_a_peer_that_never_reads_runs_into_its_limit(victim, silent_listener):
    stream, region = stuck(victim, silent_listener)
    with pytest.raises(nd.RdmaTimeoutError):
        stream.connector.disconnect(timeout=0.05)
    assert stream.wait_for(17)[-1].status == nd.Status.CANCELLED
    assert stream.qp.state == "error"

    region.close()


@pytest.mark.slow
def test_closing_the_adapter_waits_a_bounded_time_for_a_peer_that_never_reads(silent_listener):
    from hostile.victim import Victim

    adapter = nd.Adapter.open("soft")
    victim = Victim(adapter)
    stream, _ = stuck(victim, silent_listener)
    adapter.close()
    assert stream.qp.closed
    stream.peer.sock.close()


@pytest.mark.slow
def test_a_send_without_a_receive_is_refused_after_a_while(victim):
    """The wait is 5 s and the product has no other; the engine's tests do it in virtual time."""
    stream = victim.accepted()
    sent = messages(victim, crc=False)["send"]

    stream.peer.send(sent)
    assert stream.peer.receive_all() == terminate((1, 2, 2), last_ulpdu(sent))

    stream.wait_for_disconnect()
    assert victim.untouched()


def test_a_send_that_waits_is_received_by_a_late_receive(victim):
    stream = victim.accepted()
    found = messages(victim, crc=False)
    stream.peer.send(found["send"])

    stream.post_receives(1)

    (done,) = stream.wait_for(1)
    assert (done.status, done.bytes_transferred) == (nd.Status.SUCCESS, 8)


def test_two_peers_that_do_not_read_hold_nobody_else_up(victim):
    peers = []

    for _ in range(2):
        stream = victim.accepted()
        region = write_until_full(stream)
        peers.append((stream, region))

    assert victim.serves_others()

    for stream, region in peers:
        stream.qp.flush()
        stream.wait_for(16)
        region.close()
        stream.peer.reset()


def test_a_peer_that_resets_with_our_writes_under_way_fails_the_oldest(victim, silent_listener):
    stream, region = stuck(victim, silent_listener)
    stream.peer.reset()
    results = stream.wait_for(17)
    failed = [r for r in results if r.status != nd.Status.SUCCESS]

    assert failed[0].status == nd.Status.IO_TIMEOUT
    assert {r.status for r in failed[1:]} == {nd.Status.CANCELLED}
    assert failed[0].detail.startswith("the system reported: ")

    stream.wait_for_disconnect()
    region.close()


REFUSED = {
    "write": ((1, 1, 0), lambda qp, region: qp.write(region, (0x1000, 0x5500))),
    "send": ((1, 2, 5), lambda qp, region: qp.send(region)),
    "send_and_invalidate": ((1, 2, 5), lambda qp, region: qp.send_and_invalidate(region, 0x5500)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_is_refused_while_it_is_under_way_fails(victim, silent_listener, name):
    code, post = REFUSED[name]
    stream = victim.stream()
    stream.connected(silent_listener, reply())
    # More unread data than the sockets hold: the request is open when the refusal comes.
    region = victim.pd.register(np.zeros(1 << 26, np.uint8))
    post(stream.qp, region)
    stream.qp.send((), context="behind")
    stream.peer.send(terminate(code))

    first, behind = stream.wait_for(2)

    assert first.status == nd.Status.REMOTE_RESOURCES
    assert first.type == (nd.OperationType.WRITE if name == "write" else nd.OperationType.SEND)
    assert (behind.status, behind.request_context) == (nd.Status.CANCELLED, "behind")

    region.close()
