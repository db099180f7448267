# SPDX-License-Identifier: Apache-2.0
"""What direct connections take of memory, and what a forked child has of it."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ndverbs as nd
from conformance.end import LIMIT, PAGE, End, pattern
from conformance.far import FarProcess
from conformance.pair import join, kept_ends

pytestmark = pytest.mark.usefixtures("kernel_copies")

MOST = 2 * PAGE  # of an idle connection, a side


def touched(name):
    """Return this process's part of the files in memory with a name: of a shared page a half."""
    found = 0
    is_named = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_named = f"/memfd:{name}" in line
        elif is_named and line.startswith("Pss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.fixture
def far(peer_process):
    made = FarProcess(peer_process, is_direct=True)
    yield made
    made.close()


@pytest.mark.parametrize("is_active", [True, False], ids=["active", "passive"])
def test_an_idle_connection_takes_two_pages_a_side(far, is_active):
    with kept_ends() as ends:
        ends.append(End(is_direct=True))
        before = touched("ndverbs-segment")
        if is_active:
            join(ends[0], far.begin, far.listen("127.0.0.1"))
        else:
            connecting = far.begin("connect", ends[0].listen("127.0.0.1"))
            ends[0].accept()
            connecting.result(LIMIT)
        assert ends[0].transport().startswith("direct")

        assert touched("ndverbs-segment") - before <= MOST
        far.end_connection()


def test_a_process_that_is_met_takes_few_pages(far):
    """Its table and arena are of addresses until they are used."""
    with kept_ends() as ends:
        ends.append(End(is_direct=True))
        near = ends[0]
        near.memory("warm", 10)
        with ThreadPoolExecutor(1) as thread:
            other = End(adapter=near.adapter, is_direct=True)
            ends.append(other)
            join(other, lambda _: thread.submit(near.accept), near.listen("127.0.0.1"))
        before = resident()

        third = End(adapter=near.adapter, is_direct=True)
        ends.append(third)
        join(third, far.begin, far.listen("127.0.0.1"))

        assert third.transport().startswith("direct")
        assert resident() - before <= 40 * PAGE
        far.end_connection()


def resident():
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Rss:\s+(\d+)", rollup, re.MULTILINE)[1]) * 1024


# ---- fork ---------------------------------------------------------------------------------------


def in_a_child(do):
    """Fork, and say whether what the child does there came out true."""
    child = os.fork()
    if child == 0:
        is_true = False
        try:
            is_true = do()
        finally:
            os._exit(0 if is_true else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_shares_the_arrays_of_an_arena():
    with nd.Adapter.open("soft") as adapter:
        array = adapter.alloc_array(3 * PAGE, np.uint8)
        array[:PAGE] = 5

        def change():
            was_seen = bool((array[:PAGE] == 5).all())
            array[PAGE:] = 7
            return was_seen

        assert in_a_child(change)

        assert (array[PAGE:] == 7).all()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_that_closes_everything_harms_no_connection(far):
    near = End(is_direct=True, has_arena=True)
    join(near, far.begin, far.listen("127.0.0.1"))
    assert near.transport() == "direct+vm"
    sink = near.memory("sink", 100_000)
    far.memory("source", 100_000, seed=3)

    def close_everything():
        near.end_connection()
        near.close()
        return True

    assert in_a_child(close_everything)

    far.write(sink, "source")
    assert far.completion().status == nd.Status.SUCCESS
    assert near.content("sink") == pattern(100_000, 3)
    near.deregister("sink")
    near.end_connection()
    near.close()
    far.end_connection()
