# SPDX-License-Identifier: Apache-2.0
"""What one side says when the other breaks a rule, and whether it is understood.

rping is siw's side: as a server it uses the memory that we advertise, as a client it advertises
its own. Messages that are known to crash a kernel are not here (docs: siw and peer-to-peer mode).
"""

import pytest

import ndverbs as nd
from lab.interop.rping import Client, Server

SIZE = 256


@pytest.fixture
def our_client(make_end, tool, place):
    """Connect to an rping server."""
    port = place.tool_port()
    server = tool("rping", "-s", "-a", place.tools_listen_on, "-p", port, "-S", SIZE)
    end = make_end()
    client = Client(end, SIZE)
    place.connect(end, server, port)
    return client


@pytest.fixture
def our_server(make_end, tool, place):
    """Accept an rping client."""
    end = make_end()
    server = Server(end, SIZE)
    port = end.listen(place.listen_on)[1]
    tool("rping", "-c", "-a", place.seen_as, "-p", port, "-S", SIZE, "-C", 1)
    end.accept()
    end.memory("big", 2 * SIZE)
    return server


def details(end):
    """Wait for the end of the connection; return what its requests say about it."""
    first = end.received()
    assert first.status == nd.Status.CANCELLED
    assert end.state() == "error"
    return " / ".join(
        done.detail or "" for done in (first, *end.waiting("receive"), *end.waiting())
    )


# ---- siw's word, understood by us ---------------------------------------------------------------


def test_siw_refuses_a_write_with_a_token_it_never_gave(our_client):
    our_client.end.write((our_client.source.address, 0x12345600), "source")

    assert "invalid STag" in details(our_client.end)


def test_siw_refuses_a_write_behind_the_end_of_its_region(our_server):
    address, token, _ = our_server.take()

    our_server.end.write((address + 1, token), ("big", 0, SIZE))

    assert "base or bounds violation" in details(our_server.end)


def test_siw_refuses_a_write_beginning_before_its_region(our_server):
    address, token, _ = our_server.take()

    our_server.end.write((address - 1, token), ("big", 0, SIZE))

    assert "base or bounds violation" in details(our_server.end)


def test_siw_refuses_a_read_with_a_token_it_never_gave(our_server):
    address, token, _ = our_server.take()

    our_server.end.read((address, token ^ 0x100), ("big", 0, SIZE))

    done = our_server.end.completion()
    assert (done.type, done.status) == (nd.OperationType.READ, nd.Status.REMOTE_RESOURCES)
    assert "invalid STag" in done.detail


def test_siw_refuses_a_read_behind_the_end_of_its_region(our_server):
    address, token, _ = our_server.take()

    our_server.end.read((address + 1, token), ("big", 0, SIZE))

    done = our_server.end.completion()
    assert (done.type, done.status) == (nd.OperationType.READ, nd.Status.REMOTE_RESOURCES)
    assert "base or bounds violation" in done.detail


def test_siw_refuses_a_message_longer_than_the_receive(our_client):
    our_client.end.send("source")  # rping's receives have 16 bytes

    # siw has one code for this and for a receive that is not there.
    assert "no receive was posted for the message" in details(our_client.end)


def test_siw_refuses_to_invalidate_a_token_it_never_gave(our_client):
    our_client.end.memory("note", 16)
    our_client.end.send_and_invalidate(0x12345600, "note")

    assert "peer terminated the stream" in details(our_client.end)


# ---- our word, understood by siw ----------------------------------------------------------------

# Siw takes the first byte of the control word the other way round (as it sends it): what it calls
# layer is the RFC's type, and the other way. Its users hear nothing, so its log is the place.


def test_siw_learns_that_its_read_named_a_wrong_token(our_client, kernel_log):
    our_client.advertise(our_client.source, token=our_client.source.token ^ 1)

    # RDMAP (0), remote protection error (1), invalid STag (0)
    kernel_log.wait_for("got TERMINATE. layer 1, type 0, code 0")


def test_siw_learns_that_its_read_went_out_of_bounds(our_client, kernel_log):
    our_client.advertise(our_client.source, address=our_client.source.address + 1)

    kernel_log.wait_for("got TERMINATE. layer 1, type 0, code 1")


def test_siw_learns_that_its_write_named_a_wrong_token(our_client, kernel_log):
    our_client.end.store("source", b"x" * (SIZE - 1) + b"\0")
    our_client.advertise(our_client.source)
    our_client.take()
    our_client.advertise(our_client.sink, token=our_client.sink.token ^ 1)

    # DDP (1), tagged buffer error (1), invalid STag (0)
    kernel_log.wait_for("got TERMINATE. layer 1, type 1, code 0")


def test_siw_learns_that_its_write_went_out_of_bounds(our_client, kernel_log):
    our_client.end.store("source", b"x" * (SIZE - 1) + b"\0")
    our_client.advertise(our_client.source)
    our_client.take()
    our_client.advertise(our_client.sink, address=our_client.sink.address + 1)

    kernel_log.wait_for("got TERMINATE. layer 1, type 1, code 1")
