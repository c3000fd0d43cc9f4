"""The life of a link, whole, in one table (docs/spec.md 4.1); docs draw this table."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from ..errors import UsageError


class State(Enum):
    """Where a link stands."""

    HANDSHAKING = auto()  # Noise messages are being exchanged
    ATTESTING = auto()  # Noise has finished, evidence is being judged
    CONFIRMING = auto()  # the responder has keys, the initiator has not yet used them
    OPEN = auto()  # messages flow
    DRAINING = auto()  # closing: what was sent is still being delivered
    CLOSED = auto()  # nothing goes in or out any more


class Input(Enum):
    """What moves a link from state to state."""

    TRANSCRIPT_AGREED = auto()  # the last Noise message was written or read
    EVIDENCE_ACCEPTED_AS_INITIATOR = auto()
    EVIDENCE_ACCEPTED_AS_RESPONDER = auto()
    CONFIRMED = auto()  # the first packet under application keys has opened
    ATTEMPT_RENEWED = auto()  # the initiator starts over with fresh ephemeral keys
    LOCAL_CLOSE = auto()
    DRAINED = auto()
    PEER_CLOSED = auto()
    FAILED = auto()  # refused, lost, exhausted, or closed without waiting


TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    (State.HANDSHAKING, Input.TRANSCRIPT_AGREED): State.ATTESTING,
    (State.HANDSHAKING, Input.ATTEMPT_RENEWED): State.HANDSHAKING,
    (State.HANDSHAKING, Input.FAILED): State.CLOSED,
    (State.ATTESTING, Input.EVIDENCE_ACCEPTED_AS_INITIATOR): State.OPEN,
    (State.ATTESTING, Input.EVIDENCE_ACCEPTED_AS_RESPONDER): State.CONFIRMING,
    (State.ATTESTING, Input.ATTEMPT_RENEWED): State.HANDSHAKING,
    (State.ATTESTING, Input.FAILED): State.CLOSED,
    (State.CONFIRMING, Input.CONFIRMED): State.OPEN,
    (State.CONFIRMING, Input.FAILED): State.CLOSED,
    (State.OPEN, Input.LOCAL_CLOSE): State.DRAINING,
    (State.OPEN, Input.PEER_CLOSED): State.CLOSED,
    (State.OPEN, Input.FAILED): State.CLOSED,
    (State.DRAINING, Input.DRAINED): State.CLOSED,
    (State.DRAINING, Input.PEER_CLOSED): State.CLOSED,
    (State.DRAINING, Input.FAILED): State.CLOSED,
}
"""A missing pair is illegal: it raises instead of being ignored."""


def next_state(state: State, event: Input) -> State:
    """The state that follows, by `TRANSITIONS`.

    Raises:
        UsageError: the table has no such pair; the caller's logic is at fault.
    """
    following = TRANSITIONS.get((state, event))
    if following is None:
        raise UsageError(f"a link that is {state.name} cannot take {event.name}")
    return following
