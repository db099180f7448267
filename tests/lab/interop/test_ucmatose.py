# SPDX-License-Identifier: Apache-2.0
"""ucmatose on kernel siw, both roles: several connections at once, messages both ways.

The server sends all its messages first; then the client sends as many, out of the one buffer that
it has received into. Then the server disconnects.
"""

import pytest

import ndverbs as nd
from conformance.end import pattern

SHAPES = [(1, 10, 100), (8, 10, 100), (1, 100, 65536)]  # connections, messages, size


def post_receives(end, count, size):
    end.memory("inbox", count * size, nd.Access.LOCAL_WRITE)
    for number in range(count):
        end.receive(("inbox", number * size, size), context=number)


def take_messages(end, count, size):
    """Take messages, which must come in order; return their contents."""
    for number in range(count):
        done = end.received()
        assert (done.status, done.bytes_transferred) == (nd.Status.SUCCESS, size)
        assert done.request_context == number
    return [end.content("inbox", number * size, size) for number in range(count)]


def send_messages(end, count, size):
    """Send messages with different contents; return the last one."""
    end.memory("outbox", size, nd.Access.LOCAL_READ)
    for number in range(count):
        end.store("outbox", pattern(size, number))
        end.send("outbox")
        assert end.completion().status == nd.Status.SUCCESS
    return pattern(size, count - 1)


@pytest.mark.parametrize(("connections", "count", "size"), SHAPES)
def test_ucmatose_client_sends_back_what_the_soft_server_sent_last(
    make_end, tool, place, connections, count, size
):
    first = make_end()
    port = first.listen(place.listen_on)[1]
    client = tool(
        *("ucmatose", "-s", place.seen_as, "-p", port, "-c", connections, "-C", count, "-S", size),
    )
    ends = [first, *(make_end(adapter=first.adapter) for _ in range(connections - 1))]
    for end in ends:
        post_receives(end, count, size)
        end.incoming = first.listener.get_connector(60)
        end.answer()
    last = [send_messages(end, count, size) for end in ends]
    for end, message in zip(ends, last, strict=True):
        assert take_messages(end, count, size) == [message] * count
    for end in ends:
        end.disconnect()
    assert "return status 0" in client.finish()


@pytest.mark.parametrize(("connections", "count", "size"), SHAPES)
def test_ucmatose_server_sends_every_message_and_takes_ours(
    make_end, tool, place, connections, count, size
):
    port = place.tool_port()
    server = tool(
        *(
            "ucmatose",
            "-b",
            place.tools_listen_on,
            "-p",
            port,
            "-c",
            connections,
            "-C",
            count,
            "-S",
            size,
        ),
    )
    ends = [make_end() for _ in range(connections)]
    for end in ends:
        post_receives(end, count, size)
        place.connect(end, server, port)
    for end in ends:
        # Its buffer has no content that is known, but it is the same for all messages.
        assert len(set(take_messages(end, count, size))) == 1
    for end in ends:
        send_messages(end, count, size)
    for end in ends:
        end.wait_for_disconnect()
        end.disconnect()
    assert "return status 0" in server.finish()
