# SPDX-License-Identifier: Apache-2.0
"""Faults on demand: each strikes where it was asked for, once, and the same with the same seed."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

import ndverbs as nd
from conformance.end import ALL, LIMIT, End, pattern, status_of
from conformance.far import FarProcess
from conformance.pair import join

SIZE = 1000
HEADER = 16  # of a tagged FPDU: length, control, token, offset
LINK_CALLS = {
    "cut": (0,),
    "delay": (1.0,),
    "stall": (),
    "corrupt": (1,),
    "kill_peer": (),
    "reset": ("connected",),
}


class FaultyPair:
    """Two connected ends of this process; the near one, which is active, has faults."""

    def __init__(self, faults, *, far_faults=None, is_connected=True, **options):
        self.faults = faults
        self.adapters = [
            nd.Adapter.open("soft", faults=faults),
            nd.Adapter.open("soft", faults=far_faults),
        ]
        # Direct where it can be: peer-to-peer mode keeps others from it.
        self.near, self.far = (End(adapter=a, is_direct=True) for a in self.adapters)
        if is_connected:
            self.connect(**options)

    def connect(self, **options):
        with ThreadPoolExecutor(1) as thread:
            join(
                self.near,
                lambda name, **given: thread.submit(getattr(self.far, name), **given),
                self.far.listen(),
                **options,
            )

    def renew(self):
        """Give both ends a queue pair that has had no connection."""
        for end in (self.near, self.far):
            end.qp = end.create_qp()
            end.disconnects = 0

    def close(self):
        for end in (self.near, self.far):
            end.close()
        for adapter in self.adapters:
            adapter.close()


@pytest.fixture
def make():
    """Give the factory ``make(faults, ...) -> FaultyPair``."""
    made = []

    def make(*args, **options):
        made.append(FaultyPair(*args, **options))
        return made[-1]

    yield make
    for pair in made:
        pair.close()


def exchange(near, far, size):
    """Write, read back and send."""
    there = far.memory("there", size)
    near.memory("here", size, seed=1)
    near.memory("back", size)
    far.memory("inbox", size)
    far.receive("inbox")
    near.write(there, "here")
    near.read(there, "back")
    near.send("here")
    assert [r.status for r in near.completions("initiator", 3)] == [nd.Status.SUCCESS] * 3
    assert far.received().bytes_transferred == size
    return {near.content("back"), far.content("inbox"), far.content("there")} == {pattern(size, 1)}


@pytest.mark.parametrize("size", [1, SIZE, 3 << 20])
def test_an_adapter_whose_faults_do_not_strike_works_as_any_other(make, size):
    pair = make(nd.Faults(), far_faults=nd.Faults())

    assert exchange(pair.near, pair.far, size)

    assert pair.faults.struck == []
    pair.near.close_connector()
    assert pair.far.wait_for_disconnect() == 1


def test_connections_stay_with_tcp_and_say_why(make):
    pair = make(nd.Faults())

    assert pair.near.connector.transport == "tcp"
    assert pair.near.connector.transport_reason == "faults strike frames"


def test_direct_faults_leave_connections_to_memory(make):
    pair = make(nd.Faults(direct=True))

    assert pair.near.connector.transport == "direct"
    assert exchange(pair.near, pair.far, SIZE)


@pytest.mark.parametrize("call", LINK_CALLS)
def test_direct_faults_refuse_what_needs_a_link(call):
    with pytest.raises(nd.RdmaError, match=call) as caught:
        getattr(nd.Faults(direct=True), call)(*LINK_CALLS[call])

    assert caught.value.status == nd.Status.NOT_SUPPORTED


def test_a_connection_is_cut_behind_the_byte_that_was_named(make):
    # With CRC what is not whole is not placed.
    pair = make(nd.Faults(), active_options={"crc": False})
    there = pair.far.memory("there", SIZE)
    pair.near.memory("here", SIZE, seed=1)

    pair.faults.cut(after=HEADER + 100)
    pair.near.write(there, "here")

    assert pair.near.wait_for_disconnect() == pair.far.wait_for_disconnect() == 1
    assert pair.far.content("there") == pattern(SIZE, 1)[:100] + bytes(SIZE - 100)
    assert pair.faults.struck == [
        f"cut: connection 1, active side, behind {HEADER + 100} bytes",
    ]
    with pytest.raises(nd.RdmaConnectionResetError):
        pair.near.write(there, "here")


def test_a_cut_strikes_one_connection_and_leaves_the_next(make):
    pair = make(nd.Faults().cut(after=0), is_connected=False)
    with pytest.raises(nd.RdmaConnectionResetError):
        pair.near.connect(pair.far.listen())

    pair.connect()

    assert exchange(pair.near, pair.far, SIZE)
    assert len(pair.faults.struck) == 1


def test_what_is_delayed_arrives_in_its_order(make):
    faults = nd.Faults(seed=3).delay(0.0005, jitter=0.001)
    pair = make(faults, far_faults=faults)
    pair.far.memory("inbox", 8)
    pair.near.memory("here", 8)
    for at in range(8):
        pair.far.receive(("inbox", at, 1), context=at)
    for at in range(8):
        pair.near.store("here", bytes([at]), at)
        pair.near.send(("here", at, 1))

    assert [pair.far.received().request_context for _ in range(8)] == list(range(8))
    assert pair.far.content("inbox") == bytes(range(8))


def test_what_is_on_its_way_for_long_has_not_arrived(make):
    pair = make(nd.Faults())
    there = pair.far.memory("there", SIZE)
    for end in (pair.near, pair.far):
        end.memory("here", SIZE, seed=1)
    pair.near.receive("here")

    pair.faults.delay(3600)
    pair.near.write(there, "here")
    pair.far.send("here")  # its side has no faults

    assert pair.near.received().status == nd.Status.SUCCESS
    assert pair.far.content("there") == bytes(SIZE)
    pair.faults.kill_peer()
    assert pair.near.wait_for_disconnect() == 1


def test_nothing_passes_a_stall_until_it_is_over(make):
    pair = make(nd.Faults())
    for end in (pair.near, pair.far):
        end.memory("here", SIZE, seed=1)
        end.memory("inbox", SIZE)
        end.receive("inbox")
    pair.faults.stall()
    pair.near.send("here")
    pair.far.send("here")
    for end in (pair.near, pair.far):
        with pytest.raises(TimeoutError):
            end.receive_cq.wait(0)

    pair.faults.resume()

    for end in (pair.near, pair.far):
        assert end.received().bytes_transferred == SIZE
        assert end.content("inbox") == pattern(SIZE, 1)


def test_more_than_the_sockets_hold_passes_when_a_stall_is_over(make):
    pair = make(nd.Faults())
    size = 8 << 20
    there = pair.far.memory("there", size)
    pair.near.memory("here", size, seed=1)
    pair.faults.stall()
    pair.near.write(there, "here")
    with pytest.raises(TimeoutError):
        pair.near.initiator_cq.wait(0)

    pair.faults.resume()

    assert pair.near.completion().status == nd.Status.SUCCESS
    pair.near.read(there, ("here", 0, 1))
    assert pair.near.completion().status == nd.Status.SUCCESS
    assert pair.far.content("there") == pattern(size, 1)


def test_an_adapter_that_is_stalled_closes(make):
    pair = make(nd.Faults())

    pair.faults.stall()
    with pytest.raises(TimeoutError):
        pair.near.disconnect(timeout=0)

    pair.adapters[0].close()


def corrupted(make, seed, every=2):
    """Send until a frame is corrupted; return what has struck."""
    pair = make(nd.Faults(seed=seed))
    pair.faults.corrupt(every=every)
    there = pair.far.memory("there", SIZE)
    pair.near.memory("here", SIZE)
    for _ in range(every):
        with contextlib.suppress(nd.RdmaError):
            pair.near.write(there, "here")
    assert pair.far.wait_for_disconnect() == pair.near.wait_for_disconnect() == 1
    with pytest.raises(nd.RdmaConnectionResetError, match="CRC error"):
        pair.near.write(there, "here")
    return pair.faults.struck[0]


def test_the_sum_finds_a_corrupted_frame_and_a_seed_has_its_own_bits(make):
    first, again, other = (corrupted(make, seed) for seed in (7, 7, 8))

    assert first.startswith("corrupt: connection 1, active side, frame 2, bit ")
    assert again == first != other


def test_frames_without_a_sum_are_not_corrupted(make):
    pair = make(nd.Faults().corrupt(every=1), active_options={"crc": False})

    assert exchange(pair.near, pair.far, SIZE)
    assert pair.faults.struck == []


def test_no_frame_is_corrupted_when_none_is_to_be_any_more(make):
    pair = make(nd.Faults().corrupt(every=1))
    pair.faults.corrupt(every=0)

    assert exchange(pair.near, pair.far, SIZE)


def test_killed_peers_end_every_connection_in_a_reset_behind_what_was_sent(make):
    faults = nd.Faults()
    pairs = [make(faults), make(faults)]
    for pair in pairs:
        pair.near.memory("here", SIZE, seed=1)
        pair.near.write(pair.far.memory("there", SIZE), "here")

    faults.kill_peer()

    for pair in pairs:
        assert pair.near.wait_for_disconnect() == pair.far.wait_for_disconnect() == 1
        assert pair.far.content("there") == pattern(SIZE, 1)
    assert faults.struck == ["kill_peer"]


def outcome(call, *args, **options):
    return status_of(call, *args, **options).name


@pytest.mark.parametrize(
    ("state", "active", "passive"),
    [
        ("connecting", ["CONNECTION_RESET"], None),
        ("incoming", ["CONNECTION_RESET"], "CONNECTION_ABORTED"),
        # The reset follows the answer, and may come behind complete_connect.
        ("completing", ["CONNECTION_ABORTED", "SUCCESS"], "CONNECTION_ABORTED"),
        ("accepted", ["CONNECTION_ABORTED"], "CONNECTION_ABORTED"),
    ],
)
def test_a_connection_is_reset_in_the_state_that_was_named(make, state, active, passive):
    faults = nd.Faults().reset(at=state)
    pair = make(faults, far_faults=faults, is_connected=False)
    address = pair.far.listen()
    with ThreadPoolExecutor(1) as thread:
        connected = thread.submit(outcome, pair.near.connect, address)
        if passive:
            assert outcome(pair.far.accept) == passive
        assert connected.result(LIMIT) in active

    assert faults.struck == [f"reset: {state}"]
    pair.renew()
    pair.connect()
    assert exchange(pair.near, pair.far, SIZE)


def test_a_connection_is_reset_once_it_is_connected(make):
    faults = nd.Faults()
    pair = make(faults, is_connected=False)
    faults.reset(at="connected")
    address = pair.far.listen()
    with ThreadPoolExecutor(1) as thread:
        accepted = thread.submit(outcome, pair.far.accept)
        pair.near.connect(address)
        assert accepted.result(LIMIT) == "CONNECTION_ABORTED"

    assert pair.near.wait_for_disconnect() == 1
    assert faults.struck == ["reset: connected"]


def test_a_disconnect_is_reset(make):
    pair = make(nd.Faults().reset(at="disconnecting"))

    assert outcome(pair.near.disconnect) == "CONNECTION_RESET"
    assert pair.far.wait_for_disconnect() == 1


@pytest.mark.parametrize("state", ["", "idle", "disconnected", "no state"])
def test_a_state_without_a_connection_is_refused(state):
    with pytest.raises(ValueError, match="there is no connection"):
        nd.Faults().reset(at=state)


IS_DIRECT = pytest.mark.parametrize("direct", [False, True], ids=["tcp", "direct"])


ACCESSES = {
    "REMOTE_WRITE": lambda end, there: end.write(there, ("here", 0, 8)),
    "REMOTE_READ": lambda end, there: end.read(there, ("here", 0, 8)),
    "REMOTE_ATOMIC": lambda end, there: end.fetch_add(there, 1, ("here", 0, 8)),
}


@IS_DIRECT
@pytest.mark.parametrize("access", ACCESSES)
def test_the_next_access_of_its_kind_is_refused(make, access, direct):
    faults = nd.Faults(direct=direct)
    pair = make(None, far_faults=faults)
    there = pair.far.memory("there", 8, ALL | nd.Access.REMOTE_ATOMIC)
    pair.near.memory("here", 8, seed=1)
    faults.refuse_next(nd.Access[access])
    for name in ACCESSES.keys() - {access}:
        ACCESSES[name](pair.near, there)
        assert pair.near.completion().status == nd.Status.SUCCESS
    before = pair.near.content("here")
    assert faults.struck == []

    ACCESSES[access](pair.near, there)

    assert pair.near.wait_for_disconnect() == pair.far.wait_for_disconnect() == 1
    assert len(faults.struck) == 1
    assert pair.near.content("here") == before
    with pytest.raises(nd.RdmaConnectionResetError, match=r"access rights|invalid STag"):
        pair.near.write(there, "here")


def test_an_access_from_another_process_is_refused_on_a_direct_connection(peer_process):
    faults = nd.Faults(direct=True)
    with nd.Adapter.open("soft", faults=faults) as adapter:
        near = End(adapter=adapter, is_direct=True)
        far = FarProcess(peer_process, provider="soft", is_direct=True)
        connected = far.begin("connect", near.listen())
        near.accept()
        connected.result(LIMIT)
        there = near.memory("there", 8)
        far.memory("here", 8, seed=1)
        far.write(there, "here")
        far.read(there, "here")
        assert [r.status for r in far.completions("initiator", 2)] == [nd.Status.SUCCESS] * 2

        faults.refuse_next(nd.Access.REMOTE_WRITE)
        far.write(there, ("here", 0, 1))

        assert near.wait_for_disconnect() == far.wait_for_disconnect() == 1
        assert faults.struck == ["refuse_next: a write"]
        near.close()
        far.close()


@IS_DIRECT
def test_a_message_finds_no_receive_while_they_are_withheld(make, direct):
    faults = nd.Faults(direct=direct)
    pair = make(None, far_faults=faults)
    pair.near.memory("here", SIZE, seed=1)
    pair.far.memory("inbox", SIZE)
    pair.far.receive("inbox")

    faults.withhold_receives()
    pair.near.send("here")
    with pytest.raises(TimeoutError):
        pair.far.receive_cq.wait(0)
    faults.resume()

    assert pair.far.received().bytes_transferred == SIZE
    assert pair.far.content("inbox") == pattern(SIZE, 1)


def test_as_many_registrations_fail_as_were_named():
    faults = nd.Faults().fail_registration(2)
    with nd.Adapter.open("soft", faults=faults) as adapter, adapter.create_pd() as pd:
        found = [status_of(pd.register, bytearray(8)).name for _ in range(3)]

    assert found == ["INSUFFICIENT_RESOURCES"] * 2 + ["SUCCESS"]
    assert faults.struck == ["fail_registration"] * 2


@IS_DIRECT
def test_a_queue_that_overruns_is_dead_and_its_queue_pairs_with_it(make, direct):
    pair = make(nd.Faults(direct=direct))
    near = pair.near
    pair.faults.overrun(near.receive_cq)

    assert status_of(near.receive_cq.wait, 0) == nd.Status.BUFFER_OVERFLOW
    assert near.wait_for_disconnect() == pair.far.wait_for_disconnect() == 1
    with pytest.raises(nd.RdmaError, match="has overrun"):
        near.qp.send(b"late", flags=nd.Flag.INLINE)


def test_a_queue_of_another_adapter_does_not_overrun(make):
    pair = make(nd.Faults())

    with pytest.raises(ValueError, match="without these faults"):
        pair.faults.overrun(pair.far.receive_cq)


def test_a_right_that_is_none_of_a_peers_is_refused():
    for access in (nd.Access.LOCAL_WRITE, 0, 1 << 20):
        with pytest.raises(ValueError, match="no right of a peer"):
            nd.Faults().refuse_next(access)
