"""The deadlines of an established link: silence, expiry, probes, fresh keys (docs/spec.md 7, 9).

Looking at every path costs more than a small packet does, so it is done only
when something can be due: `look_at` is a time before which nothing is, except
acknowledgements and packets in flight, which have bounds of their own.
"""

from __future__ import annotations

from ..config import Config
from .keys import Keys
from .pathset import PathSet, SendOver
from .receiver import Receiver
from .sender import Sender

NEVER = float("inf")


class Watch:
    """Knows when a link must be looked at, and looks."""

    __slots__ = ("_config", "_last_look", "_pathset", "_receiver", "_sender", "look_at")

    def __init__(
        self, config: Config, pathset: PathSet, sender: Sender, receiver: Receiver, now: float
    ) -> None:
        self._config = config
        self._pathset = pathset
        self._sender = sender
        self._receiver = receiver
        self._last_look = now
        self.look_at = now

    @property
    def due(self) -> float:
        """When the link wants to be looked at, or earlier."""
        return min(self.look_at, self._sender.acknowledgements.due, self._sender.expires_after)

    def acknowledge(self, now: float) -> None:
        """Let an acknowledgement that has waited long enough leave."""
        acknowledgements = self._sender.acknowledgements
        if now >= acknowledgements.due:
            acknowledgements.now_due = True
            acknowledgements.due = NEVER

    def is_due(self, now: float) -> bool:
        """Whether `look` could find anything."""
        return now >= self.look_at or now >= self._sender.expires_after

    def silence(self, now: float) -> float | None:
        """For how long the peer has been silent, where that is too long."""
        config, receiver = self._config, self._receiver
        if now - self._last_look > 2 * config.heartbeat_interval:
            # This side stood still. The peer's packets may be waiting to be read.
            grace = now - config.peer_timeout + 2 * config.heartbeat_interval
            receiver.last_received = max(receiver.last_received, grace)
        self._last_look = now
        lost = now >= receiver.last_received + config.peer_timeout
        return now - receiver.last_received if lost else None

    def look(self, keys: Keys, send_over: SendOver, now: float, *, may_renew: bool) -> None:
        """Give up what has expired, probe what is quiet, and set the next time to look."""
        config, flight = self._config, self._sender.flight
        # At most a heartbeat away, so that standing still is noticed.
        due = min(
            self._receiver.last_received + config.peer_timeout, now + config.heartbeat_interval
        )
        if may_renew:
            due = min(due, keys.renew_at)
        expires = NEVER
        for path in self._pathset.all:
            flight.expire(path, now, config.retransmit_min, config.retransmit_max)
            if not path.in_flight and now >= self._pathset.due(path):
                self._pathset.probe(path, send_over, now)
            deadline = flight.deadline(path, config.retransmit_min, config.retransmit_max)
            if deadline is not None:
                expires = min(expires, deadline)
            else:
                due = min(due, self._pathset.due(path))
        self.look_at = due
        self._sender.expires_after = expires
