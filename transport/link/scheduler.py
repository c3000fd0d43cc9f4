"""Which path a packet takes: the policy behind one small interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from .paths import PathState


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


LIGHT: Final = 32 * 1024


class LeastLoaded:
    """The usable path with the fewest bytes in flight; suspected paths come last.

    Less than `LIGHT` counts as nothing, so that a stream of small packets stays
    on one path, whose socket and state are warm, instead of touring them all.
    """

    __slots__ = ()

    def choose(
        self, paths: Sequence[PathState], size: int, now: float, avoid: PathState | None = None
    ) -> PathState | None:
        """Least bytes in flight wins, then the lower index."""
        best: PathState | None = None
        best_rank = (True, True, 0)
        for path in paths:
            if not (path.joined and path.up):
                continue
            load = path.in_flight_bytes
            if load < LIGHT and not path.suspected and path is not avoid:
                return path
            rank = (path.suspected, path is avoid, load)
            if best is None or rank < best_rank:
                best, best_rank = path, rank
        return best
