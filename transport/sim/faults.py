"""What goes wrong on a line, and when: loss, delay, damage, slowness, silence, and repair.

Faults are stated before the run, so the network knows its own future and every
packet's fate follows from seed and time. What one packet suffers is decided by
`transport.path.FaultInjector`, the one that tests put before real paths.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from ..errors import UsageError
from ..path.fault import FaultInjector, Faults
from .events import picoseconds

_NONE = Faults()


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of a directed port, from `at` until it is repaired; seconds after the barrier.

    Raises:
        UsageError: a time is negative, the repair does not come after the fault, or
            `factor` is not in 0..1.
    """

    port: str
    at: float = 0.0
    until: float = math.inf
    factor: float = 1.0  # of the line's rate that is left
    dead: bool = False  # everything is silently lost
    faults: Faults = _NONE  # what single packets suffer

    def __post_init__(self) -> None:
        if not 0 <= self.at < self.until:
            raise UsageError(
                f"a fault of {self.port} must begin at 0 s or later and end after it begins, "
                f"got {self.at} to {self.until}"
            )
        if not 0 < self.factor <= 1:
            raise UsageError(
                f"the rate factor of {self.port} must lie above 0 and not above 1, "
                f"got {self.factor}; a line without any rate is a blackhole"
            )

    @classmethod
    def blackhole(cls, port: str, *, at: float = 0.0, until: float = math.inf) -> Fault:
        """Nothing arrives, and nobody is told."""
        return cls(port=port, at=at, until=until, dead=True)

    @classmethod
    def degrade(
        cls, port: str, factor: float, *, at: float = 0.0, until: float = math.inf
    ) -> Fault:
        """The line keeps only this part of its rate."""
        return cls(port=port, at=at, until=until, factor=factor)

    @classmethod
    def impair(
        cls, port: str, faults: Faults, *, at: float = 0.0, until: float = math.inf
    ) -> Fault:
        """Packets are lost, doubled, delayed or damaged at random."""
        return cls(port=port, at=at, until=until, faults=faults)


class Phase:
    """How a line is for a while: the sum of the faults that it then has."""

    __slots__ = ("blackhole", "injector", "rate")

    def __init__(
        self, *, rate: int, blackhole: bool = False, injector: FaultInjector | None = None
    ) -> None:
        self.rate = rate
        self.blackhole = blackhole
        self.injector = injector


def phases(
    faults: Iterable[Fault], *, rate: int, origin: int, chance: random.Random
) -> list[tuple[int, Phase]]:
    """The phases of a line with these faults; times in picoseconds, `origin` is the barrier."""
    known = list(faults)
    times = {each.at for each in known} | {each.until for each in known}
    found: list[tuple[int, Phase]] = []
    for time in sorted(times - {math.inf}):
        present = [each for each in known if each.at <= time < each.until]
        suffered = _together([each.faults for each in present])
        seed = chance.getrandbits(32)
        phase = Phase(
            rate=max(int(rate * math.prod(each.factor for each in present)), 1),
            blackhole=any(each.dead for each in present),
            injector=None if suffered == _NONE else FaultInjector(suffered, seed),
        )
        found.append((origin + picoseconds(time), phase))
    return found


def _together(suffered: Sequence[Faults]) -> Faults:
    """Independent faults one behind another: chances combine, delays add up."""
    if len(suffered) == 1:
        return suffered[0]
    chances = ("loss", "duplication", "reordering", "corruption")
    combined: dict[str, float] = {}
    for field in fields(Faults):
        values = [getattr(each, field.name) for each in suffered]
        if field.name in chances:
            combined[field.name] = 1 - math.prod(1 - value for value in values)
        elif field.name == "reordering_delay":
            delays = [each.reordering_delay for each in suffered if each.reordering]
            combined[field.name] = max(delays, default=_NONE.reordering_delay)
        else:
            combined[field.name] = sum(values)
    return Faults(**combined)
