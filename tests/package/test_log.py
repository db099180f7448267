# SPDX-License-Identifier: Apache-2.0
"""The lines of the log: silent by default, one logger per room, by program or by environment."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest

import ndverbs as nd
from programs import ENDS, run

CONNECTED = (
    ENDS
    + """
near, far = ends()
join(near, far)
near.connector.disconnect()
near.adapter.close()
"""
)


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
