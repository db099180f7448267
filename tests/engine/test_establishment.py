# SPDX-License-Identifier: Apache-2.0
"""The life of a connection: every input in every state, and what holds of all ways through them.

The table is written here a second time, by hand and from NDK's rules, so that a change of one is
seen to be a change of the other.
"""

import socket
from collections.abc import Iterator

import pytest

from ndverbs import _testing

STATES: list[str] = _testing.connector_states
INPUTS: list[str] = _testing.connector_inputs

# State, input: next state, effects. An absent pair is refused (a call) or ignored (an event).
TABLE = """
idle           connect              connecting
idle           close                disconnected   let_go
connecting     answered             accepted       finish clear
connecting     failed               idle           finish clear give_back let_go count_failure
connecting     deadline             idle           finish clear give_back let_go count_failure
connecting     abandon              idle           finish clear give_back let_go count_failure
connecting     close                disconnected   finish clear give_back let_go count_failure
accepted       complete             connected      enter count_connect
accepted       failed               disconnected   flush let_go count_failure
accepted       reject               disconnected   give_back let_go
accepted       flushed              disconnected   give_back goodbye let_go
accepted       queue_pair_closed    disconnected   give_back goodbye let_go
accepted       broken               disconnected   flush goodbye let_go
accepted       close                disconnected   give_back goodbye let_go
incoming       withdrawn            incoming       let_go count_failure
incoming       accept               completing
incoming       failed               disconnected   clear give_back let_go
incoming       reject               disconnected   let_go
incoming       close                disconnected   goodbye let_go
completing     established          connected      finish clear enter count_accept
completing     failed               disconnected   finish clear flush forget let_go count_failure
completing     gave_up              disconnected   finish clear flush forget let_go count_failure
completing     broken               disconnected   finish clear flush forget let_go count_failure
completing     deadline             disconnected   finish clear flush forget let_go count_failure
completing     flushed              disconnected   finish clear forget goodbye
completing     queue_pair_closed    disconnected   finish clear forget goodbye
completing     abandon              disconnected   finish clear flush forget let_go
completing     close                disconnected   finish clear flush forget goodbye let_go
connected      failed               disconnected   flush forget leave count_failure
connected      peer_closed          connected      notify
connected      peer_closed_unheard  disconnected   flush leave goodbye
connected      broken               disconnected   flush notify leave goodbye count_error
connected      flushed              disconnected   notify leave goodbye
connected      queue_pair_closed    disconnected   forget leave goodbye
connected      disconnect           disconnecting  forget
connected      close                disconnected   flush forget leave goodbye let_go
disconnecting  both_closed          disconnected   finish clear flush leave
disconnecting  failed               disconnected   finish clear flush leave count_failure
disconnecting  deadline             disconnected   finish flush leave goodbye
disconnecting  broken               disconnected   finish clear flush leave goodbye count_error
disconnecting  flushed              disconnected   finish clear leave goodbye
disconnecting  queue_pair_closed    disconnected   finish clear leave goodbye
disconnecting  abandon              disconnecting  finish
disconnecting  close                disconnected   finish clear flush leave goodbye let_go
disconnected   close                disconnected   let_go
"""
EXPECTED = {
    (state, given): (following, set(effects))
    for state, given, following, *effects in (line.split() for line in TABLE.split("\n") if line)
}
# A call of the program waits there for its peer.
WAITING = ("connecting", "completing", "disconnecting")


def step(state: str, given: str) -> tuple[str, set[str]] | None:
    found = _testing.connector_step(state, given)
    return None if found is None else (found[0], set(found[1]))


@pytest.mark.parametrize("state", STATES)
def test_every_input_in_this_state_does_what_the_table_says(state):
    for given in INPUTS:
        assert step(state, given) == EXPECTED.get((state, given)), given


def test_the_table_names_only_what_exists():
    assert {state for state, _ in EXPECTED} == set(STATES)
    assert {given for _, given in EXPECTED} == set(INPUTS)


def test_every_state_can_be_closed_and_nothing_follows_but_another_close():
    for state in STATES:
        assert step(state, "close")[0] == "disconnected"
    assert [given for given in INPUTS if step("disconnected", given)] == ["close"]


@pytest.mark.parametrize("state", WAITING)
def test_a_call_that_waits_ends_by_its_deadline_and_by_everything_else_that_ends_its_state(state):
    assert "finish" in step(state, "deadline")[1]
    for given in INPUTS:
        found = step(state, given)
        if found and found[0] != state:
            assert "finish" in found[1], given
            # The deadline itself needs no clearing, or does not mind it.
            assert given == "deadline" or "clear" in found[1], given


def ways(state: str, length: int) -> Iterator[list[tuple[str, set[str]]]]:
    """Yield all ways of so many steps from a state, as next states with effects."""
    yield []
    if length == 0:
        return
    for given in INPUTS:
        if found := step(state, given):
            for rest in ways(found[0], length - 1):
                yield [found, *rest]


@pytest.mark.parametrize("first", ["idle", "incoming"])
def test_an_active_connection_is_counted_while_it_is_connected_or_disconnecting(first):
    for way in ways(first, 6):
        active = 0
        for state, effects in way:
            active += ("enter" in effects) - ("leave" in effects)
            assert active == (state in ("connected", "disconnecting"))


def test_a_queue_pair_is_either_flushed_or_given_back():
    for state, given in EXPECTED:
        _, effects = step(state, given)
        assert not {"flush", "give_back"} <= effects


def test_the_end_of_a_connection_either_calls_on_disconnect_or_forgets_it():
    for given in INPUTS:
        found = step("connected", given)
        if found and given != "peer_closed_unheard" and found[0] != "connected":
            assert len({"notify", "forget"} & found[1]) == 1, given


def test_a_deadline_of_an_earlier_call_does_not_end_the_next_one():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        state = _testing.state_after_early_deadline(*silent.getsockname())

    assert state == "connecting"
