"""An operation whose messages all fit into one packet each, carried out without ado.

A small all_reduce takes less time on the wire than the bookkeeping of pieces, lanes and
scratch memory. Here steps are done one after another in the order of the schedule, each
message is sealed straight from its tensor, and what comes is reduced or stored straight
from the packet in which it was opened. On the wire nothing differs from `Execution`, so
ranks need not agree on which of the two they use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from .execution import Area, Combine
from .operation import Collective
from .steps import Buffer, Kind, Region, Schedule


class Brief(Collective):
    """A collective operation in which no peer sends, or is sent to, more than once."""

    __slots__ = ("_areas", "_arrived", "_at", "_combine", "_inward", "_schedule", "_stopped")

    def begin(
        self,
        schedule: Schedule,
        areas: Mapping[Buffer, Area],
        combine: Combine,
        then: Callable[[], object],
        keep: object,
    ) -> None:
        """Carry it out; `then` gives the result."""
        self._schedule = schedule
        self._areas = areas
        self._combine = combine
        self._at = 0
        self._arrived: dict[int, memoryview | bytes] = {}  # by peer, before their turn
        self._stopped = True  # until every message is claimed
        self._inward = [
            step.peer for step in schedule.steps if step.kind not in (Kind.SEND, Kind.COPY)
        ]
        self._enter(then, keep, self._start)

    def _start(self) -> None:
        for step in self._schedule.steps:
            if step.kind is not Kind.SEND and step.kind is not Kind.COPY:
                self._claim(step.peer, self._size(step.extent), partial(self._take, step.peer))
        if not self.work.done():
            self._stopped = False
            self._advance()

    def _size(self, extent: Region) -> int:
        bounds = self._areas[extent.buffer].bounds
        return bounds[extent.last] - bounds[extent.first]

    def _memory(self, region: Region, extent: Region) -> memoryview:
        area = self._areas[region.buffer]
        start = area.bounds[region.first]
        return area.data[start : start + self._size(extent)]

    def _take(self, peer: int, data: memoryview | bytes) -> None:
        """A message has come; its memory may be looked at now, and not later."""
        steps, at = self._schedule.steps, self._at
        if self._stopped or steps[at].peer != peer or steps[at].kind is Kind.SEND:
            self._arrived[peer] = bytes(data)
            return
        self._arrived[peer] = data
        self._advance()

    def _advance(self) -> None:
        """Do one step after another, as far as messages have come."""
        steps = self._schedule.steps
        while not self._stopped:
            if self._at == len(steps):
                self._stopped = True
                self._finished()
                return
            step = steps[self._at]
            kind = step.kind
            if kind is Kind.SEND:
                # It is not done before its memory may change: what comes meanwhile is kept.
                work = self._send(step.peer, self._memory(step.at, step.extent), opening=True)
                self._at += 1
                if work is not None and not work.done():
                    # No credit: the memory is still needed as it is.
                    self._stopped = True
                    self._follow(work, step.peer, self._go_on)
                continue
            if kind is Kind.COPY:
                assert step.other is not None
                self._memory(step.at, step.extent)[:] = self._memory(step.other, step.extent)
                self._at += 1
                continue
            data = self._arrived.pop(step.peer, None)
            if data is None:
                return
            self._receive(step.at, data) if kind is Kind.PLACE else self._reduce(self._at, data)
            self._at += 1

    def _go_on(self) -> None:
        self._stopped = False
        self._advance()

    def _receive(self, at: Region, data: memoryview | bytes) -> None:
        if len(data):
            start = self._areas[at.buffer].bounds[at.first]
            self._areas[at.buffer].data[start : start + len(data)] = data

    def _reduce(self, number: int, data: memoryview | bytes) -> None:
        step = self._schedule.steps[number]
        assert step.other is not None
        received = memoryview(data)
        at, other = self._memory(step.at, step.extent), self._memory(step.other, step.extent)
        left, right = (received, other) if step.received_first else (other, received)
        self._combine(left, right, at, step.final)

    def expects(self, rank: int) -> bool:
        """See `Numbered`."""
        return rank in self._inward

    def _waiting_for(self) -> Sequence[int]:
        return tuple(self._claims)

    def _stop(self) -> None:
        self._stopped = True
        self._arrived = {}
