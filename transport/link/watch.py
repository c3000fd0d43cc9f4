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
        return min(self.look_at, self._sender.acknowledgements.due, self._sender.recovery.due)

    def acknowledge(self, now: float) -> None:
        """Let an acknowledgement that has waited long enough leave."""
        acknowledgements = self._sender.acknowledgements
        if now >= acknowledgements.due:
            acknowledgements.now_due = True
            acknowledgements.due = NEVER

    def is_due(self, now: float) -> bool:
        """Whether `look` could find anything."""
        return now >= self.look_at or now >= self._sender.recovery.due

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

    def expire(self, keys: Keys, send_over: SendOver, now: float) -> None:
        """Give up packets that are lost; ask where nobody knows."""
        recovery, paths = self._sender.recovery, self._pathset.network
        if now < recovery.due:
            return
        for path in recovery.expire(now):
            # In a long outage probes must not use up the numbers that the oldest packet
            # needs to stay within the peer's replay window; a repetition uses none.
            if recovery.only_hope(path, paths) or not self._sender.within_span(keys):
                recovery.repeat_oldest(path, now)
                continue
            # Over this path and another: whichever answers tells what became of the rest.
            self._pathset.probe(path, send_over, now)
            other = self._sender.any_path(avoid=path)
            if other is not None and other is not path:
                self._pathset.probe(other, send_over, now)
        self.look_at = now

    def look(self, keys: Keys, send_over: SendOver, now: float, *, may_renew: bool) -> None:
        """Probe what is quiet, and set the next time to look."""
        config, recovery = self._config, self._sender.recovery
        # At most a heartbeat away, so that standing still is noticed.
        due = min(
            self._receiver.last_received + config.peer_timeout, now + config.heartbeat_interval
        )
        if may_renew:
            due = min(due, keys.renew_at)
        for path in self._pathset.by_turn():  # of shared memory, the kernel tells
            if path.in_flight:
                continue
            patience = recovery.patience(path)
            if now >= self._pathset.due(path, patience):
                if not self._sender.within_span(keys):
                    due = min(due, now + config.heartbeat_interval)
                    continue
                self._pathset.probe(path, send_over, now)
            due = min(due, self._pathset.due(path, recovery.patience(path)))
        self.look_at = due
