"""The life of a link: each state with each input, and no way back from the end."""

from __future__ import annotations

from itertools import product

import pytest

from transport.errors import UsageError
from transport.link.state import TRANSITIONS, Input, State, next_state

PAIRS = list(product(State, Input))


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda each: each.name)
def test_each_pair_follows_the_table_or_raises(state: State, event: Input) -> None:
    if (state, event) in TRANSITIONS:
        assert next_state(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(UsageError, match=f"{state.name} cannot take {event.name}"):
            next_state(state, event)


def test_every_state_is_reached_and_every_input_is_used() -> None:
    assert {state for state, _ in TRANSITIONS} == set(State) - {State.CLOSED}
    assert set(TRANSITIONS.values()) == set(State)
    assert {event for _, event in TRANSITIONS} == set(Input)


def test_closed_is_final_and_within_reach_of_everything() -> None:
    assert all(state is not State.CLOSED for state, _ in TRANSITIONS)
    for state in set(State) - {State.CLOSED}:
        assert TRANSITIONS[state, Input.FAILED] is State.CLOSED


def test_nothing_is_open_without_evidence() -> None:
    """The only ways to OPEN: evidence accepted, or confirmation after it was."""
    ways = {pair for pair, following in TRANSITIONS.items() if following is State.OPEN}
    assert ways == {
        (State.ATTESTING, Input.EVIDENCE_ACCEPTED_AS_INITIATOR),
        (State.CONFIRMING, Input.CONFIRMED),
    }
    ways = {pair for pair, following in TRANSITIONS.items() if following is State.CONFIRMING}
    assert ways == {(State.ATTESTING, Input.EVIDENCE_ACCEPTED_AS_RESPONDER)}
