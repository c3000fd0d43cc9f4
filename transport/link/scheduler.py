"""Which path a packet takes: the policy behind one small interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from .paths import PathState

TURN: Final = 32 * 1024  # bytes that follow each other over one path, unless packets are smaller
MEMORY: Final = 1 / 16  # weight of a sample in what is usual
CLEARLY: Final = 7 / 8  # of a round trip: less of a difference is chance
PATIENCE: Final = 64.0  # round trips after which even the slowest path is tried again


class Scheduler(Protocol):
    """Chooses a path for each packet, first transmissions and repetitions alike."""

    def choose(
        self, paths: Sequence[PathState], size: int, now: float, avoid: PathState | None = None
    ) -> PathState | None:
        """Return a usable path, or `None` where there is none.

        `avoid` is the path that lost the packet last; it is taken only when no
        other is usable.
        """
        ...

    def on_acknowledged(self, path: PathState, rtt: float, now: float) -> None:
        """A packet sent once over `path` arrived after `rtt`."""
        ...

    def on_lost(self, path: PathState, now: float) -> None:
        """Packets sent over `path` were given up."""
        ...


def _better(one: PathState, other: PathState) -> bool:
    """Whether `one` has less in flight, or as much and a clearly shorter round trip."""
    if one.in_flight_bytes != other.in_flight_bytes:
        return one.in_flight_bytes < other.in_flight_bytes
    return one.rtt is not None and other.rtt is not None and one.rtt < CLEARLY * other.rtt


class Spray:
    """Every path in turn, save those that are silent, and those slower than is usual.

    Of the next two in turn the one with less in flight, or else the shorter round trip, is
    taken: two choices keep queues far more even than one (Mitzenmacher 2001), for flows
    that share switches as for connections that share a host.

    What is usual is learnt from the packets of all paths together. If all of them
    slow down, that is the network's congestion, none is slower than is usual, and
    the turns go on. A path that alone is slow is left out for a round trip, then
    for two, for four: it keeps being tried, ever more rarely, until it is found as
    quick as the others. Small packets share a path until they fill a turn, because
    its socket and state are warm.
    """

    __slots__ = ("_at", "_current", "_left", "_spread", "_turn", "_usual")

    def __init__(self, packet_payload: int, start: int = 0) -> None:
        self._turn = min(TURN, packet_payload)
        self._at = start
        self._current = -1  # the path that has the turn
        self._left = 0
        self._usual = 0.0  # round trip of the average packet
        self._spread = 0.0  # mean deviation from it

    def choose(
        self, paths: Sequence[PathState], size: int, now: float, avoid: PathState | None = None
    ) -> PathState | None:
        """The path that has the turn, else the emptier of the next two, else the least bad one."""
        count = len(paths)
        if self._left > 0 and self._current < count:
            path = paths[self._current]
            if path.joined and path.up and not path.suspected and path is not avoid:
                self._left -= size
                return path
        chosen = self._next_good(paths, self._at, now, avoid)
        if chosen is None:
            return self._least_bad(paths, avoid)
        self._at = chosen.index
        if count > 1:
            other = self._next_good(paths, chosen.index, now, avoid)
            if other is not None and _better(other, chosen):
                chosen = other
                self._at = other.index
        self._current = chosen.index
        self._left = self._turn - size
        return chosen

    def _next_good(
        self, paths: Sequence[PathState], after: int, now: float, avoid: PathState | None
    ) -> PathState | None:
        count = len(paths)
        for step in range(1, count + 1):
            path = paths[(after + step) % count]
            if (
                path.joined
                and path.up
                and not path.suspected
                and path.slow_until <= now
                and path is not avoid
            ):
                return path
        return None

    def _least_bad(self, paths: Sequence[PathState], avoid: PathState | None) -> PathState | None:
        usable = [path for path in paths if path.joined and path.up]
        if not usable:
            return None
        return min(
            usable,
            key=lambda path: (
                path.suspected,
                path is avoid,
                path.backoff,
                path.in_flight_bytes,
                path.index,
            ),
        )

    def on_acknowledged(self, path: PathState, rtt: float, now: float) -> None:
        """Leave out a path whose round trip is above what is usual."""
        usual = self._usual
        if not usual:
            self._usual, self._spread = rtt, rtt / 2
            return
        if rtt > usual + max(2 * self._spread, usual / 4):
            if path.slow_until <= now:  # it was tried again, or for the first time
                path.slow_for = min(max(2 * path.slow_for, usual), PATIENCE * usual)
                path.slow_until = now + path.slow_for
        else:
            path.slow_for = path.slow_until = 0.0
        deviation = min(rtt, 2 * usual) - usual  # a slow path does not set the standard
        self._spread += MEMORY * (abs(deviation) - self._spread)
        self._usual = usual + MEMORY * deviation

    def on_lost(self, path: PathState, now: float) -> None:
        """Nothing to learn: suspicion is the link's own, for every policy."""
