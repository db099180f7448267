# SPDX-License-Identifier: Apache-2.0
"""The timed loops of src/bench once more, through the Python calls that users make.

The initiator's loop is Python, and for latency the responder's is, too. What goes over the wire is
the same, so a C++ loop may be at the other end: a Send without data ends a burst and is answered,
and the responder of a stream of Sends returns such a Send as a credit for every half window.
"""

from __future__ import annotations

import functools
import resource
import time
from collections.abc import Callable

import numpy as np

from ndverbs._native import (
    CompletionQueue,
    MemoryRegion,
    OperationType,
    QueuePair,
    Segment,
    request_dtype,
    result_dtype,
)
from ndverbs.cli.bench.channel import BenchError
from ndverbs.cli.bench.runs import Run, percentiles

_STALL_LIMIT_S = 10.0
_MOST_SAMPLES = 1_000_000
_FEW_RECEIVES = 16


class Session:
    """One end of a run, made before the connection and run after it."""

    def __init__(
        self,
        qp: QueuePair,
        cq: CompletionQueue,
        source: MemoryRegion,
        target: MemoryRegion,
        remote: tuple[int, int],
        run: Run,
        *,
        is_initiator: bool,
    ) -> None:
        if run.is_latency and run.operation == "write" and run.sleeps:
            raise BenchError(
                "a Write raises no completion at its target, which cannot sleep for it"
            )
        self._qp = qp
        self._cq = cq
        self._source = source.segment()
        self._target = target.segment()
        self._source_view = memoryview(source.array)
        self._target_view = memoryview(target.array)
        self._remote = remote
        self._run = run
        self._is_initiator = is_initiator
        self._posted = self._done = self._received = self._markers = self._replaced = 0
        self._moved_at = time.monotonic()
        takes_data = run.operation == "send" and run.is_latency
        self._receive_segments: tuple[()] | Segment = self._target if takes_data else ()
        for _ in range(_FEW_RECEIVES):
            qp.receive(self._receive_segments)

    def run(self) -> dict[str, float]:
        """Return what was measured, in seconds."""
        run = self._run
        if not self._is_initiator:
            return self._respond_latency()
        if run.is_latency:
            return self._initiate_latency()
        self._burst(run.warm_up, None)
        count = run.iterations or None
        return self._burst(count, None if count else time.perf_counter() + run.seconds)

    # ---- what both ends do ----------------------------------------------------------------

    def _post(self) -> None:
        self._posted += 1
        if self._run.operation == "write":
            self._qp.write(self._source, self._remote)
        elif self._run.operation == "read":
            self._qp.read(self._target, self._remote)
        elif self._run.operation == "fetch_add":
            self._qp.fetch_add(self._target, self._remote, 1)
        else:
            self._qp.send(self._source)

    def _send_marker(self) -> None:
        self._posted += 1
        self._qp.send()

    def _collect(self, may_sleep: bool = True) -> None:
        results = self._cq.poll()
        if not results:
            sleeps = self._run.sleeps and may_sleep
            if not (sleeps and self._cq.wait(_STALL_LIMIT_S)):
                self._check_stall()
            return
        self._moved_at = time.monotonic()
        for result in results:
            if result.status != 0:
                detail = f" ({result.detail})" if result.detail else ""
                raise BenchError(f"a request ended with {result.status.name}{detail}")
            if result.type != OperationType.RECEIVE:
                self._done += 1
            elif result.bytes_transferred:
                self._received += 1
            else:
                self._markers += 1
        while self._replaced < self._received + self._markers:
            self._qp.receive(self._receive_segments)
            self._replaced += 1

    def _check_stall(self) -> None:
        if self._qp.state == "error":
            raise BenchError("the peer ended the connection")
        # The target of Reads sees nothing of them; the other end notices a stall.
        is_target = not self._is_initiator and self._run.is_fetch
        if not is_target and time.monotonic() - self._moved_at > _STALL_LIMIT_S:
            raise BenchError(f"nothing moved for {_STALL_LIMIT_S:.0f} s")

    # ---- bandwidth and rate ---------------------------------------------------------------

    def _burst(self, count: int | None, until: float | None) -> dict[str, float]:
        pairs = self._run.measure == "rate" and self._run.operation != "send"
        markers = self._markers
        before = resource.getrusage(resource.RUSAGE_SELF)
        cpu = time.process_time()
        begin = time.perf_counter()
        if self._run.many:
            sent = self._batches(count, until)
        else:
            sent = self._pairs(count, until) if pairs else self._stream(count, until)
        while self._run.is_fetch and self._done < self._posted:
            self._collect()
        fetches_end = time.perf_counter()
        after = resource.getrusage(resource.RUSAGE_SELF)
        self._send_marker()
        is_send = self._run.operation == "send"
        credits = sent // max(1, self._run.depth // 2) if is_send else 0
        while self._markers < markers + credits + 1:
            self._collect()
        end = fetches_end if self._run.is_fetch else time.perf_counter()
        return {
            "operations": sent,
            "elapsed": end - begin,
            "cpu": time.process_time() - cpu,
            "user": after.ru_utime - before.ru_utime,
            "system": after.ru_stime - before.ru_stime,
        }

    def _stream(self, count: int | None, until: float | None) -> int:
        """Keep the window full."""
        depth = self._run.depth
        batch = max(1, depth // 2)
        is_send = self._run.operation == "send"
        markers = self._markers
        sent = 0
        while sent != count and not (until is not None and time.perf_counter() >= until):
            room = depth - (self._posted - self._done)
            if is_send:
                room = min(room, (self._markers - markers) * batch + 2 * depth - sent)
            if count is not None:
                room = min(room, count - sent)
            for _ in range(room):
                self._post()
            sent += max(0, room)
            self._collect()
        return sent

    def _pairs(self, count: int | None, until: float | None) -> int:
        """Call one posting method and poll, over and over: what an operation costs a user."""
        post: Callable[..., None]
        if self._run.operation == "write":
            post, segment = self._qp.write, self._source
        elif self._run.operation == "read":
            post, segment = self._qp.read, self._target
        else:
            post, segment = functools.partial(self._qp.fetch_add, value=1), self._target
        poll = self._cq.poll
        remote = self._remote
        depth = self._run.depth
        # A failed completion counts here like any other; the next call to post() raises then.
        in_flight = self._posted - self._done
        sent = 0
        while sent != count:
            post(segment, remote)
            sent += 1
            in_flight += 1 - len(poll())
            if in_flight >= depth:
                in_flight = self._drain(in_flight)
            if until is not None and sent % 64 == 0 and time.perf_counter() >= until:
                break
        self._posted += sent
        self._done = self._posted - in_flight
        return sent

    def _batches(self, count: int | None, until: float | None) -> int:
        """Call post_many and poll_into over and over: as many requests as there is room for."""
        depth = self._run.depth
        rows = np.zeros(depth, request_dtype)
        segment = self._target if self._run.operation == "read" else self._source
        rows["type"] = OperationType[self._run.operation.upper()]
        rows["local_address"] = segment.address
        rows["local_length"] = segment.length
        rows["local_token"] = segment.token
        if self._run.operation != "send":
            rows["remote_address"], rows["remote_token"] = self._remote
        results = np.zeros(depth, result_dtype)
        in_flight = self._posted - self._done
        sent = 0
        while sent != count:
            # Half the window at a time: the other half is under way meanwhile.
            room = min(depth - in_flight, max(1, depth // 2))
            if count is not None:
                room = min(room, count - sent)
            posted = self._qp.post_many(rows[:room])
            sent += posted
            taken = self._cq.poll_into(results)
            if results["status"][:taken].any():
                raise BenchError("a request failed")
            in_flight += posted - taken
            if posted or taken:
                self._moved_at = time.monotonic()
            else:
                self._check_stall()
            if until is not None and time.perf_counter() >= until:
                break
        self._posted += sent
        self._done = self._posted - in_flight
        return sent

    def _drain(self, in_flight: int) -> int:
        self._moved_at = time.monotonic()
        idle = 0
        while in_flight >= self._run.depth:
            taken = len(self._cq.poll())
            in_flight -= taken
            idle = 0 if taken else idle + 1
            if idle >= 1000:
                self._check_stall()
        return in_flight

    # ---- latency --------------------------------------------------------------------------

    def _initiate_latency(self) -> dict[str, float]:
        run, warm_up = self._run, self._run.warm_up
        round_trip = getattr(self, f"_{run.operation}_round_trip")
        for i in range(warm_up):
            round_trip(i)
        limit = min(run.iterations or _MOST_SAMPLES, _MOST_SAMPLES)
        seconds = None if run.iterations else run.seconds
        samples = []
        begin = before = time.perf_counter()
        for i in range(limit):
            round_trip(warm_up + i)
            after = time.perf_counter()
            samples.append(after - before)
            before = after
            if seconds is not None and after - begin >= seconds:
                break
        self._send_marker()
        while self._markers == 0:
            self._collect()
        return {"operations": len(samples), "elapsed": before - begin, **percentiles(samples)}

    def _send_round_trip(self, _: int) -> None:
        received = self._received
        self._post()
        while self._received == received:
            self._collect()

    def _read_round_trip(self, _: int) -> None:
        self._post()
        while self._done < self._posted:
            self._collect()

    _fetch_add_round_trip = _read_round_trip

    def _write_round_trip(self, index: int) -> None:
        # The last byte counts 1 to 255, so it differs from what it was before.
        last, tag = self._run.size - 1, 1 + index % 255
        self._source_view[last] = tag
        self._post()
        while self._target_view[last] != tag:
            self._collect(may_sleep=False)
        self._moved_at = time.monotonic()

    def _respond_latency(self) -> dict[str, float]:
        last = self._run.size - 1
        watches = self._run.operation == "write"
        answered = 0
        begin = time.perf_counter()
        while self._markers == 0:
            tag = 1 + answered % 255
            if watches and self._target_view[last] == tag:
                self._source_view[last] = tag
                self._moved_at = time.monotonic()
            elif watches or self._received == answered:
                self._collect(may_sleep=not watches)
                continue
            self._post()
            answered += 1
        self._send_marker()
        return {"operations": answered, "elapsed": time.perf_counter() - begin}
