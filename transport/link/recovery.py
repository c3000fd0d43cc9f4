"""When a packet counts as lost, and what is asked while nobody knows (docs/spec.md 7.4).

A packet is given up on evidence only, as RACK does (RFC 8985): something sent
after it has arrived, over its own path by more than a few places, or over any
path while this packet is overdue on its own. One silent path among others that
answer is therefore found within about a round trip, whatever a round trip is
here, while a peer that stands still, which silences all of them, has nothing
repeated to it. Where a packet is overdue without evidence, a small probe asks:
its acknowledgement is the evidence.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Final

from ..config import Config
from .congestion import CongestionController
from .flight import Flight, Packet
from .paths import NEVER, PathState
from .scheduler import Scheduler

SPREADS: Final = 4  # mean deviations that an acknowledgement may be late


class Recovery:
    """Watches the packets of a flight, path by path."""

    __slots__ = (
        "_controller",
        "_delay",
        "_flight",
        "_granularity",
        "_maximum",
        "_overdue",
        "_queue",
        "_scheduler",
        "_serial",
        "probing",
    )

    def __init__(
        self,
        config: Config,
        flight: Flight,
        controller: CongestionController,
        scheduler: Scheduler,
    ) -> None:
        self._granularity = config.retransmit_min
        self._delay = config.acknowledge_after
        self._maximum = config.retransmit_max
        self._flight = flight
        self._controller = controller
        self._scheduler = scheduler
        self._queue: list[tuple[float, int, PathState]] = []  # one live entry a path, its `due`
        self._serial = 0
        self._overdue: dict[PathState, None] = {}  # that wait for evidence
        self.probing = False
        """The next repetition is a probe: it asks whether anything still arrives."""

    def timeout(self, path: PathState) -> float:
        """How long an acknowledgement of something sent over `path` may take."""
        flight = self._flight
        slack = max(self._granularity, SPREADS * flight.spread)
        return path.timeout(flight.usual, slack, self._delay, self._maximum)

    def patience(self, path: PathState) -> float:
        """The same with the path's backoff: after how long to ask again."""
        return min(self.timeout(path) * path.backoff, self._maximum)

    @property
    def due(self) -> float:
        """When `expire` could find something, or earlier."""
        return self._queue[0][0] if self._queue else NEVER

    def watch(self, path: PathState, now: float) -> None:
        """Something was sent over `path`, or more is known of it than before."""
        if path.due < now + self._granularity:
            return  # sooner than any patience
        at = now + self.patience(path)
        if at < path.due:  # nothing was in flight, or its round trip is shorter than was thought
            self._look_again(path, at)

    def _look_again(self, path: PathState, at: float) -> None:
        path.due = at
        self._serial += 1
        heapq.heappush(self._queue, (at, self._serial, path))

    def expire(self, now: float) -> list[PathState]:
        """Give up what is overdue on evidence; return the overdue paths to probe instead."""
        unknown: list[PathState] = []
        queue = self._queue
        while queue and queue[0][0] <= now:
            at, _, path = heapq.heappop(queue)
            if path.due != at:
                continue
            path.due = NEVER
            oldest = next(iter(path.in_flight.values()), None)
            if oldest is None:
                continue
            overdue_at = oldest.sent_at + self.timeout(path)
            if overdue_at > now:
                self._look_again(path, overdue_at)
                continue
            if not self._give_up_overdue(path, now):
                unknown.append(path)
                self._overdue[path] = None
                path.suspect("no answer in time, over any path")
                self._look_again(path, now + self.patience(path))
            elif path.in_flight:
                self._look_again(path, now + self.timeout(path))
        return unknown

    def _give_up_overdue(self, path: PathState, now: float) -> bool:
        """Give up packets of `path` that are overdue while later ones of others arrived."""
        timeout, latest = self.timeout(path), self._flight.latest_sent
        lost: list[Packet] = []
        for packet in path.in_flight.values():
            if packet.sent_at + timeout > now or packet.sent_at >= latest:
                break
            lost.append(packet)
        if not lost:
            return False
        self._overdue.pop(path, None)
        if path.sequence_acknowledged < lost[-1].sequence:
            # First: what a silent path loses is its own doing, not congestion.
            path.suspect(f"{len(lost)} packets unacknowledged in time")
        for packet in lost:
            self._flight.give_up(packet)
        self._scheduler.on_lost(path, now)
        return True

    def on_acknowledged(self, settled: Sequence[Packet], now: float) -> None:
        """Packets arrived: whatever they have overtaken is lost."""
        for path in dict.fromkeys(packet.path for packet in settled):
            if path is None:
                continue
            if path.slots is not None:  # nothing is late in shared memory
                self._give_up_oldest(now)
                continue
            self._overdue.pop(path, None)
            if path.in_flight:
                self._give_up_overtaken(path, now)
                self._give_up_overdue(path, now)
                self.watch(path, now)
        for path in list(self._overdue):
            if not path.in_flight or self._give_up_overdue(path, now):
                self._overdue.pop(path, None)

    def _give_up_oldest(self, now: float) -> None:
        """Memory would use up all numbers before a path that was silent is looked at again."""
        oldest = self._flight.oldest
        if oldest is not None and oldest.path is not None and oldest.path.slots is None:
            self._give_up_overdue(oldest.path, now)

    def _give_up_overtaken(self, path: PathState, now: float) -> None:
        """Give up packets that later ones of the same path have overtaken by far."""
        horizon = path.sequence_acknowledged - path.reordering
        overtaken = []
        for packet in path.in_flight.values():
            if packet.sequence > horizon:
                break
            overtaken.append(packet)
        for packet in overtaken:
            self._flight.give_up(packet)
        if overtaken:
            self._scheduler.on_lost(path, now)

    def only_hope(self, path: PathState, paths: Sequence[PathState]) -> bool:
        """Whether no other path is left to ask over: then the oldest packet is the probe."""
        return not any(other.usable for other in paths if other is not path)

    def repeat_oldest(self, path: PathState, now: float) -> None:
        """Repeat the oldest packet without evidence, as TCP and QUIC do on a time-out."""
        oldest = next(iter(path.in_flight.values()), None)
        if oldest is not None:
            self.probing = oldest.reliable
            if self._controller.on_silence(now):
                self._flight.abandon(path)
            else:
                self._flight.give_up(oldest)
        self._overdue.pop(path, None)
