"""How a rank gets the links that an operation needs: a few calls at a time, each once.

All ranks need theirs at the same moment. Were each to call all others at once, every pair
would shake hands twice, and on a host with few cores no handshake would end before its
caller tries again: 64 ranks on two cores would never be linked. So each rank calls upwards
from itself, `CALLS` at a time; whoever it would come to late has called it by then.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any, Final, Protocol

from ..errors import TransportError
from ..node import Work
from ..node.channel import Channel

CALLS: Final = 4
"""Calls of one rank that are under way at a time (docs/adr/0035)."""


class Roll(Protocol):
    """Whom the ranks are, as the membership knows them."""

    channel: Channel
    rank: int
    size: int
    names: tuple[str, ...]

    def check(self) -> None:
        """Return if the group may be used; raise why not."""
        ...

    def addresses_of(self, rank: int) -> Sequence[str]:
        """Where a rank listens; none where it has to call."""
        ...

    def note_link(self, rank: int) -> bool:
        """Remember the link to a rank, if there is one."""
        ...

    @property
    def failure(self) -> object:
        """Why the group cannot be used any more; None while it can."""
        ...


class Meeting:
    """Links to some ranks that are to be made; one use."""

    def __init__(self, roll: Roll, ranks: Sequence[int]) -> None:
        self._roll = roll
        # Of two ranks that want each other, one finds the other in the first half of its
        # circle, and calls; only then would the other one call.
        self._queue = sorted(ranks, key=self._distance)
        self._calls: dict[int, Work[Any]] = {}  # placed by this rank
        self._awaited: dict[int, Work[Any]] = {}  # who has no address has to call
        self._progress = monotonic()

    def _distance(self, rank: int) -> int:
        return (rank - self._roll.rank) % self._roll.size

    def hold(self, patience: float, limit: float) -> tuple[int, TransportError] | None:
        """Wait for the links; return who could not be linked, and why.

        Not holding the engine. `patience` is how long nobody new may be linked, `limit`
        how long all may take, in seconds.

        Raises:
            TransportError: the group has failed, or the node was closed.
        """
        end = monotonic() + limit
        channel = self._roll.channel
        try:
            while True:
                with channel:
                    self._roll.check()
                    unmet = self._settle()
                    due = min(end, self._progress + patience)
                    if unmet is None and self._under_way and monotonic() >= due:
                        unmet = self._late(min(patience, limit))
                    if unmet is not None:
                        return unmet
                    self._call()
                    if not self._under_way:
                        return None
                    channel.pump()
                channel.wait(self, max(0.0, due - monotonic()))
        finally:
            with channel:
                self._withdraw()

    @property
    def _under_way(self) -> dict[int, Work[Any]]:
        return self._calls | self._awaited

    def done(self) -> bool:
        """Whether a call was answered, or the group has failed. Holds the engine."""
        if self._roll.failure is not None:
            return True
        return any(work.done() for work in self._under_way.values())

    def _settle(self) -> tuple[int, TransportError] | None:
        """Note who has been linked."""
        called = [rank for rank in self._queue if self._roll.note_link(rank)]
        if called:
            self._queue = [rank for rank in self._queue if rank not in called]
            self._progress = monotonic()
        for works in (self._calls, self._awaited):
            for rank in [rank for rank, work in works.items() if work.done()]:
                error = works.pop(rank).exception()
                if error is not None:
                    assert isinstance(error, TransportError)
                    return rank, error
                self._roll.note_link(rank)
                self._progress = monotonic()
        return None

    def _call(self) -> None:
        """Call those whose turn it is, and who have not called meanwhile."""
        later = []
        for rank in self._queue:
            addresses = self._roll.addresses_of(rank)
            if addresses and not self._may_call(rank):
                later.append(rank)
            elif not self._roll.note_link(rank):
                works = self._calls if addresses else self._awaited
                works[rank] = self._roll.channel.connect(addresses, self._roll.names[rank])
        self._queue = later

    def _may_call(self, rank: int) -> bool:
        if len(self._calls) >= CALLS:
            return False
        # Who has no address has to call all, and they wait for it from the start.
        mine = self._roll.addresses_of(self._roll.rank)
        near = self._roll.size // 2 if mine else self._roll.size
        return self._distance(rank) <= near or all(
            self._distance(each) > near for each in self._calls
        )

    def _late(self, after: float) -> tuple[int, TransportError]:
        """Who was not linked in time."""
        works = self._calls or self._awaited
        rank = next(iter(works))
        return rank, self._end(rank, works.pop(rank), after)

    def _withdraw(self) -> None:
        """Call no longer: all are linked, or the group has failed."""
        for rank, work in self._under_way.items():
            if not work.done():
                self._end(rank, work, 0.0)

    def _end(self, rank: int, work: Work[Any], after: float) -> TransportError:
        return self._roll.channel.give_up(work, self._roll.names[rank], after)
