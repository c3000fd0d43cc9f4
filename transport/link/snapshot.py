"""The statistics of a link, put together from its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .handshake import CIPHER_SUITE
from .keys import Keys
from .paths import PathState
from .receiver import Receiver
from .sender import Sender
from .state import State
from .stats import LinkStats


def snapshot(
    sender: Sender,
    receiver: Receiver,
    paths: Sequence[PathState],
    keys: Keys | None,
    peer: str,
    state: State,
    handshake_seconds: float,
    window_bytes: int,
    drops: Mapping[str, int],
) -> LinkStats:
    """What the link can say of itself now."""
    total = sum(path.bytes_sent for path in paths)
    each = tuple(path.stats(of_bytes=total) for path in paths)
    return LinkStats(
        peer=peer,
        state=state.name.lower(),
        cipher_suite=CIPHER_SUITE,
        peer_key=keys.agreement.peer_key if keys else b"",
        attested=keys.agreement.attested if keys else None,
        generation=keys.renewals if keys else 0,
        epoch=keys.sealer.epoch if keys else 0,
        handshake_seconds=handshake_seconds,
        rtt=min((path.rtt for path in each if path.rtt is not None), default=None),
        bytes_sent=sender.bare_bytes + total,
        bytes_received=receiver.bytes_received,
        packets_sent=sender.bare_packets + sum(path.packets_sent for path in paths),
        packets_received=receiver.packets_received,
        messages_sent=sender.outbox.messages_sent,
        messages_received=receiver.inbox.messages_received,
        retransmissions=sender.flight.retransmissions,
        spurious_retransmissions=sender.flight.spurious,
        in_flight_bytes=sender.flight.bytes,
        in_flight_packets=len(sender.flight),
        window_bytes=window_bytes,
        unclaimed_messages=receiver.inbox.unclaimed,
        drops=drops,
        paths=each,
    )
