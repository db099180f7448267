# SPDX-License-Identifier: Apache-2.0
"""The lines of the log: silent by default, one logger per room, by program or by environment."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest

import ndverbs as nd
from package.test_shown import run

CONNECTED = """
import threading
import ndverbs as nd
with nd.Adapter.open("soft") as adapter, adapter.create_listener() as listener:
    pd, cq = adapter.create_pd(), adapter.create_cq(512)
    mine, theirs = pd.create_qp(cq, cq, receive_queue_depth=8), pd.create_qp(cq, cq)
    listener.listen("127.0.0.1:0")
    kept = []
    def accept():
        kept.append(listener.get_connector(10))
        kept[0].accept(theirs)
    thread = threading.Thread(target=accept)
    thread.start()
    connector = adapter.create_connector()
    connector.connect(mine, None, listener.local_address)
    connector.complete_connect()
    thread.join()
    connector.disconnect()
"""


def test_the_environment_turns_the_log_on():
    out, err = run(CONNECTED, NDVERBS_LOG="debug")

    assert out == ""
    for word in ("connected: 127.0.0.1:", "accepted: 127.0.0.1:", "disconnected: 127.0.0.1:"):
        assert f"ndverbs.connection DEBUG: {word}" in err


def test_the_environment_adds_nothing_to_a_program_s_own_logging():
    program = "import logging, ndverbs\nlogging.basicConfig(level=logging.DEBUG)\n" + CONNECTED

    _, err = run(program, NDVERBS_LOG="debug")

    assert (
        err.count("disconnected: 127.0.0.1:") == err.count("DEBUG:ndverbs.connection:disconn") == 2
    )


def test_the_log_is_silent_by_default():
    assert run(CONNECTED) == ("", "")


def test_a_program_s_own_logging_gets_the_lines(
    caplog: pytest.LogCaptureFixture, connect_pair: Any
):
    with caplog.at_level(logging.DEBUG, "ndverbs"):
        pair = connect_pair()
        pair.near.initiator_cq.poll()

    assert {record.name for record in caplog.records} == {"ndverbs.connection"}
    assert any("connected: " in record.getMessage() for record in caplog.records)
    with nd.Adapter.open("soft"):  # asks again
        pass


def test_handler_that_fails_loses_no_other_line(connect_pair: Any, caplog: Any, monkeypatch: Any):
    failed, seen = [], []

    class Failing(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            seen.append(record.getMessage().split(":")[0])
            raise RuntimeError("on purpose")

    with caplog.at_level(logging.DEBUG, "ndverbs"):
        pair = connect_pair()
        pair.near.initiator_cq.poll()
        monkeypatch.setattr(sys, "unraisablehook", lambda args: failed.append(args.exc_type))
        monkeypatch.setattr(logging.getLogger("ndverbs"), "handlers", [Failing()])
        # Both ends end while it has given the GIL up.
        pair.adapter.close()

    assert seen == ["disconnected", "disconnected"]
    assert failed == [RuntimeError, RuntimeError]
    with nd.Adapter.open("soft"):  # asks again
        pass
