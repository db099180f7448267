# SPDX-License-Identifier: Apache-2.0
"""Memory that is taken from a process while it writes there without a pause.

tests/native/test_revocation.cpp does it with the parts alone, many times, and fails without their
fence; this does it with all of them, in two processes.
"""

import random
import struct

import pytest

import ndverbs as nd
from conformance.end import End

pytestmark = pytest.mark.usefixtures("kernel_copies")

ROUNDS = 60
SIZES = (8, 64, 3000, 40_000)
OURS = 0xEE


@pytest.fixture
def mortal(mother):
    made = mother.bear()
    yield made
    made.close()


@pytest.mark.parametrize("has_arena", [True, False], ids=["in an arena", "by the kernel"])
def test_no_byte_changes_behind_a_deregister(mortal, scaled, first_seed, has_arena):
    draw = random.Random(f"{first_seed} {has_arena}")
    rounds, shared = scaled(ROUNDS), 0
    with nd.Adapter.open("soft") as adapter:
        end = End(adapter=adapter, is_direct=True, has_arena=has_arena)
        end.memory("all", max(SIZES), nd.Access.LOCAL_WRITE)
        mortal.call("open", is_direct=True)
        mortal.begin("hammer_round_by_round", end.listen("127.0.0.1"), rounds)
        for _ in range(rounds):
            size = draw.choice(SIZES)
            sink = end.inner("all", "sink", 0, size, nd.Access.REMOTE_WRITE)
            array = end.regions["sink"].array
            array[:] = OURS
            end.qp = end.create_qp()
            end.receive()
            say_at = draw.randrange(1, 20)
            end.accept(private_data=struct.pack("QIII", sink.address, sink.token, size, say_at))
            # A peer that is late, on a busy machine, goes on by TCP: the promise is the same.
            shared += end.transport() == "direct+vm"
            # It says when it is at it, so that this wait sleeps: at a low priority one that spins
            # takes the time that the peer needs, and a peer that has failed shows at once.
            assert end.received().status == nd.Status.SUCCESS

            end.deregister("sink")

            array[:] = OURS
            for _ in range(20):
                assert (array == OURS).all()
            # Its next Write is refused, and ends the connection.
            end.receive()
            assert end.received().status == nd.Status.CANCELLED
            assert (array == OURS).all()
            end.close_connector()
            end.qp.close()
        assert shared
        mortal.end()
        mortal.call("close")
        end.end_connection()
        end.close()
