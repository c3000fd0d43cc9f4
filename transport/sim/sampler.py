"""Samples queues and flows at equal intervals of virtual time."""

from __future__ import annotations

from collections.abc import Sequence

from .events import SECOND, Events
from .ledger import FlowState
from .port import Port
from .result import Series


class Sampler:
    """Looks at ports and flows every `interval` picoseconds from `origin` on."""

    def __init__(
        self,
        events: Events,
        ports: Sequence[Port],
        states: Sequence[FlowState],
        *,
        interval: int,
        origin: int,
    ) -> None:
        self._events = events
        self._ports = ports
        self._states = states
        self._interval = interval
        self._origin = origin
        self._times: list[int] = []
        self._queues: list[list[int]] = [[] for _ in ports]
        self._received: list[list[int]] = [[] for _ in states]
        events.at(origin, self._look)

    def _look(self, time: int, _: object) -> None:
        self._times.append(time)
        for port, queue in zip(self._ports, self._queues, strict=True):
            queue.append(port.held(time))
        for state, received in zip(self._states, self._received, strict=True):
            received.append(state.received)
        self._events.at(time + self._interval, self._look)

    def series(self) -> Series:
        """Everything sampled so far."""
        return Series(
            times=tuple((time - self._origin) / SECOND for time in self._times),
            queue={
                port.name: tuple(queue)
                for port, queue in zip(self._ports, self._queues, strict=True)
            },
            received={
                state.name: tuple(received)
                for state, received in zip(self._states, self._received, strict=True)
            },
        )
