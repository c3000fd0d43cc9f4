"""Memory that operations use in passing, kept for the next one.

Fresh memory costs a page fault every 4 KiB, as much as a pass over it, so what an
operation gives back is kept: pieces by size, and one large area for partial results.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

KEPT_PIECES = 16  # of each size
KEPT_SIZES = 4
KEPT_AREA = 64 * 1024 * 1024  # bytes; a larger area goes back to the system


class Scratch:
    """Spare memory of one group. Its owner holds the engine."""

    def __init__(self) -> None:
        self._pieces: dict[int, list[memoryview]] = {}
        self._area: memoryview | None = None

    def take(self, size: int) -> memoryview:
        """A piece of exactly this size, with undefined content."""
        spare = self._pieces.get(size)
        return spare.pop() if spare else _fresh(size)

    def give_back(self, piece: memoryview) -> None:
        """Nobody uses the piece any more."""
        spare = self._pieces.get(len(piece))
        if spare is None:
            if len(self._pieces) == KEPT_SIZES:
                del self._pieces[next(iter(self._pieces))]
            spare = self._pieces[len(piece)] = []
        if len(spare) < KEPT_PIECES:
            spare.append(piece)

    def area(self, size: int) -> tuple[memoryview, Callable[[], None]]:
        """Memory for partial results, and what gives it back."""
        area, self._area = self._area, None
        if area is None or len(area) < size:
            area = _fresh(size)

        def give_back() -> None:
            if len(area) <= KEPT_AREA and (self._area is None or len(self._area) < len(area)):
                self._area = area

        return area[:size], give_back


def _fresh(size: int) -> memoryview:
    return np.empty(size, np.uint8).data
