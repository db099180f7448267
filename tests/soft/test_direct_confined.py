# SPDX-License-Identifier: Apache-2.0
"""Survivors that hear less of a peer's life: what they promise is what test_direct_ends.py says."""

from contextlib import closing, contextmanager

import pytest

import ndverbs as nd
from conformance.end import ALL, LIMIT
from conformance.far import FarProcess
from soft.confined import Confined, confined
from soft.mortals import PAGE, others_go_on

pytestmark = pytest.mark.usefixtures("kernel_copies")

SIZE = 16 * PAGE
TRAP = 8 * PAGE  # in the middle


@pytest.fixture(scope="module")
def without_pidfds():
    with Confined("pidfds are forbidden") as process:
        yield process


@pytest.fixture
def adapter():
    with nd.Adapter.open("soft") as opened:
        yield opened


@contextmanager
def caught_with(survivor, mother, *, is_active=False):
    """Connect a process's end with a mortal, which is caught in the middle of its memory."""
    with closing(mother.bear()) as mortal:
        mortal.call("open", is_direct=True)
        if is_active:
            address = mortal.call("listen", "127.0.0.1")
            mortal.begin("accept")
            survivor.connect(address)
            mortal.end()
        else:
            mortal.begin("connect", survivor.listen("127.0.0.1"))
            survivor.accept()
            mortal.end()
        assert survivor.transport() == "direct+vm"
        survivor.receive()
        survivor.memory("all", SIZE, nd.Access.LOCAL_WRITE)
        sink = survivor.inner("all", "sink", 0, SIZE, ALL)
        try:
            mortal.set_trap("source", SIZE, TRAP, seed=3)
        except PermissionError as refused:
            pytest.skip(f"the kernel gives no traps: {refused}")
        mortal.call("aside", "write", sink, "source")
        mortal.wait_until_caught()
        yield mortal
        survivor.end_connection()


@pytest.mark.parametrize("is_active", [True, False], ids=["active", "passive"])
@pytest.mark.parametrize("end", ["is killed", "lets go"])
def test_without_a_pidfd_memory_ends_when_its_holder(
    without_pidfds, mother, adapter, is_active, end
):
    with (
        closing(FarProcess(without_pidfds, is_direct=True, has_arena=True)) as survivor,
        caught_with(survivor, mother, is_active=is_active) as mortal,
    ):
        ending = survivor.begin("deregister", "sink")
        others_go_on(adapter)
        assert not ending.done()

        mortal.send_kill() if end == "is killed" else mortal.let_go()

        ending.result(LIMIT)
        left = survivor.content("all")
        if end == "lets go":
            mortal.send_kill()
        mortal.wait_for_end()
        assert survivor.content("all") == left
        # The death is an end in order, which the end's handler hears of.
        survivor.wait_for_disconnect()
        survivor.flush()
        assert survivor.received().status == nd.Status.CANCELLED


def test_a_signal_is_no_death(mother, adapter):
    with confined(has_arena=True) as survivor, caught_with(survivor, mother) as mortal:
        survivor.interrupt_polls()
        ending = survivor.begin("deregister", "sink")
        others_go_on(adapter)
        assert not ending.done()

        mortal.let_go()

        ending.result(LIMIT)


def test_an_adapter_that_has_waited_in_vain_leaves_the_memory_to_its_holder(mother):
    with Confined() as process:
        survivor = FarProcess(process, is_direct=True, has_arena=True)
        with caught_with(survivor, mother) as mortal:
            mortal.stop()

            with pytest.raises(AssertionError, match="'buffer_hold': 1"):
                survivor.begin("close").result(LIMIT)

        survivor.abandon()  # ... whose process ends in order all the same
