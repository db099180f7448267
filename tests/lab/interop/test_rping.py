# SPDX-License-Identifier: Apache-2.0
"""rping on kernel siw, both roles, against our soft side: Sends, Reads, Writes and their data."""

import pytest

from lab.interop.rping import Client, Server

# 65535 is rping's largest; the others are around the size of a frame and of a page.
ROUNDS = [(64, 1000), (1432, 100), (4097, 100), (16384, 100), (65535, 1000)]


def serve(make_end, tool, place, size, rounds, **options):
    """Let rping be the client of a soft server."""
    end = make_end()
    server = Server(end, size)
    port = end.listen(place.listen_on)[1]
    client = tool(
        *("rping", "-c", "-V", "-a", place.seen_as, "-p", port, "-S", size, "-C", rounds),
    )
    end.accept(**options)
    server.serve(rounds)
    end.wait_for_disconnect()
    end.disconnect()
    assert "mismatch" not in client.finish()


def ping(make_end, tool, place, size, rounds, **options):
    """Let rping be the server of a soft client."""
    port = place.tool_port()
    server = tool("rping", "-s", "-a", place.tools_listen_on, "-p", port, "-S", size)
    end = make_end()
    client = Client(end, size)
    place.connect(end, server, port, **options)
    client.ping(rounds)
    end.disconnect()
    server.finish()


@pytest.mark.parametrize(("size", "rounds"), ROUNDS)
def test_rping_client_verifies_what_the_soft_server_echoes(make_end, tool, place, size, rounds):
    serve(make_end, tool, place, size, rounds)


@pytest.mark.parametrize(("size", "rounds"), ROUNDS)
def test_soft_client_verifies_what_the_rping_server_echoes(make_end, tool, place, size, rounds):
    ping(make_end, tool, place, size, rounds)


def test_rping_client_reaches_a_soft_server_by_ipv6(make_end, tool, place_v6):
    serve(make_end, tool, place_v6, 4096, 20)


def test_soft_client_reaches_an_rping_server_by_ipv6(make_end, tool, place_v6):
    ping(make_end, tool, place_v6, 4096, 20)


def test_soft_client_that_asks_for_crc_is_served(make_end, tool, place):
    ping(make_end, tool, place, 65535, 20, crc=True)


def test_soft_server_that_asks_for_crc_is_served_by_the_rping_client(make_end, tool, place):
    serve(make_end, tool, place, 65535, 20, crc=True)


def test_soft_client_that_asks_for_peer_to_peer_mode_is_served(make_end, tool, place):
    ping(make_end, tool, place, 4096, 20, peer_to_peer=True)


def test_one_rping_server_serves_soft_clients_one_after_the_other(make_end, tool, place):
    port = place.tool_port()
    server = tool("rping", "-s", "-P", "-a", place.tools_listen_on, "-p", port, "-S", 1024)
    for _ in range(10):
        end = make_end()
        client = Client(end, 1024)
        place.connect(end, server, port)
        client.ping(3)
        end.disconnect()
        end.end_connection()
    assert not server.ends_within(0)
