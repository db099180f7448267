# SPDX-License-Identifier: Apache-2.0
"""`ndverbs ping`: rounds and their summary, its responder, and peers that are none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

import ndverbs as nd
from cli.copying import LIMIT, ndverbs
from ndverbs import cli
from ndverbs.cli.failure import CommandError
from ndverbs.cli.ping import ends

Captured = pytest.CaptureFixture[str]


@contextlib.contextmanager
def responder() -> Iterator[str]:
    """Answer on a thread of this process; gives the address."""
    said: Future[str] = Future()
    stop: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def answer() -> None:
        stop.set_result((asyncio.get_running_loop(), event := asyncio.Event()))
        with nd.Adapter.open("soft") as adapter:
            task = asyncio.create_task(ends.respond(adapter, ("127.0.0.1", 0), said.set_result))
            await event.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    thread = threading.Thread(target=lambda: asyncio.run(answer()))
    thread.start()
    try:
        yield said.result(LIMIT).rpartition(" ")[2]
    finally:
        loop, event = stop.result(LIMIT)
        loop.call_soon_threadsafe(event.set)
        thread.join(LIMIT)


def test_each_round_is_a_line_and_the_end_a_summary(capsys: Captured):
    with responder() as where:
        assert cli.main(["ping", where, "-c", "3", "-i", "0"]) == 0

    *lines, summary, times = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["64 bytes"] * 3
    assert f"64 bytes, {where}: round 3, " in lines[2]
    assert summary == f"{where} over direct: rounds with an answer: 3"
    assert times.startswith("round trip in us: median ")


@pytest.mark.parametrize("size", [0, ends.MAX_SIZE])
def test_json_is_one_object_and_no_lines(size: int, capsys: Captured):
    with responder() as where:
        assert cli.main(["ping", where, "-c", "2", "-i", "0", "-s", str(size), "--json"]) == 0

    said = json.loads(capsys.readouterr().out)
    assert (said["address"], said["rounds"], said["size"]) == (where, 2, size)
    assert 0 < said["minimum_s"] <= said["median_s"] <= said["p99_s"]


def test_connections_to_any_listener_are_timed(capsys: Captured):
    with (
        nd.Adapter.open("soft") as adapter,
        adapter.create_listener() as listener,
        ThreadPoolExecutor(1) as thread,
    ):
        listener.listen("127.0.0.1:0")
        rejected = thread.submit(lambda: listener.get_connector(timeout=LIMIT).reject())
        where = "{}:{}".format(*listener.local_address)

        assert cli.main(["ping", "--connect", where, "-c", "1"]) == 0

        rejected.result(LIMIT)
    assert f"{where}: rounds with an answer: 1" in capsys.readouterr().out


def test_connections_to_a_responder_are_accepted_or_rejected_for_good(capsys: Captured):
    with responder() as where:
        assert cli.main(["ping", "--connect", where, "-c", "3", "-i", "0", "-q"]) == 0
        # It goes on.
        assert cli.main(["ping", where, "-c", "1", "-q"]) == 0

    assert capsys.readouterr().out.count("rounds with an answer") == 2


@pytest.mark.parametrize("mode", [[], ["--connect"]], ids=["messages", "connections"])
def test_an_address_without_a_listener_is_one_sentence_with_1(mode: list[str], capsys: Captured):
    assert cli.main(["ping", *mode, "127.0.0.1:1", "-c", "1"]) == 1

    err = capsys.readouterr().err
    assert "connect to 127.0.0.1:1 failed" in err
    assert err.count("\n") == 1


def test_a_listener_that_answers_no_messages_is_told_apart(capsys: Captured):
    with (
        nd.Adapter.open("soft") as adapter,
        adapter.create_listener() as listener,
        ThreadPoolExecutor(1) as thread,
    ):
        listener.listen("127.0.0.1:0")
        where = "{}:{}".format(*listener.local_address)

        def accept() -> None:
            cq = adapter.create_cq(4)
            qp = adapter.create_pd().create_qp(
                cq, cq, receive_queue_depth=1, initiator_queue_depth=1
            )
            with contextlib.suppress(nd.RdmaError):
                listener.get_connector(timeout=LIMIT).accept(qp)

        accepted = thread.submit(accept)
        assert cli.main(["ping", where, "-c", "1"]) == 1
        accepted.result(LIMIT)

    err = capsys.readouterr().err
    assert f"{where} answers no messages; run `ndverbs ping --listen` there" in err
    assert err.count("\n") == 1


def test_a_responder_that_does_not_answer_is_one_sentence():
    with (
        nd.Adapter.open("soft") as adapter,
        adapter.create_listener() as listener,
        ends._End(adapter) as silent,
        ThreadPoolExecutor(1) as thread,
    ):
        listener.listen("127.0.0.1:0")

        def accept() -> nd.Connector:
            connector = listener.get_connector(timeout=LIMIT)
            connector.accept(silent.qp, private_data=ends.MARK)
            return connector

        accepted = thread.submit(accept)
        with ends.Messages(adapter, listener.local_address, 8, LIMIT) as client:
            kept = accepted.result(LIMIT)
            client._timeout = 0.01
            with pytest.raises(CommandError, match=r"^no answer in 0\.01 s$"):
                client.round()
            kept.close()


def test_a_message_that_is_too_long_ends_its_own_connection_only(capsys: Captured):
    with responder() as where, nd.Adapter.open("soft") as adapter:
        cq = adapter.create_cq(4)
        pd = adapter.create_pd()
        qp = pd.create_qp(cq, cq, receive_queue_depth=1, initiator_queue_depth=1)
        message = np.zeros(ends.MAX_SIZE + 1, np.uint8)
        region = pd.register(message)
        connector = adapter.create_connector()
        connector.connect(qp, None, where, private_data=ends.MARK)
        ended = threading.Event()
        connector.complete_connect(ended.set)
        qp.send(region)
        assert ended.wait(LIMIT)
        connector.close()

        assert cli.main(["ping", where, "-c", "1"]) == 0

    assert "rounds with an answer: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["ping"],
        ["ping", "127.0.0.1:1", "-c", "0"],
        ["ping", "127.0.0.1:1", "-s", "65537"],
        ["ping", "127.0.0.1:1", "-i", "31"],
        ["ping", "127.0.0.1:1", "-i", "-1"],
        ["ping", "127.0.0.1:1", "--listen", "--connect"],
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_wrong_usage_is_told_with_2(arguments: list[str], capsys: Captured):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)

    assert caught.value.code == 2
    assert "usage: ndverbs ping" in capsys.readouterr().err


def test_ctrl_c_prints_the_summary_and_ends_a_responder():
    with ndverbs("ping", "--listen", "127.0.0.1:0") as server:
        where = server.read_line().rpartition(" ")[2]
        with ndverbs("ping", where, "-i", "30") as client:
            assert ": round 1, " in client.read_line()
            client.send_signal(signal.SIGINT)
            code, out, err = client.end()
        server.send_signal(signal.SIGINT)

        assert (code, err) == (0, "")
        assert f"{where} over " in out
        assert "rounds with an answer: 1\n" in out
        assert server.end() == (130, "", "stopped\n")
