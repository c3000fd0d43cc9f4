"""What a wiretap keeps of one direction of one connection: bytes, frames, counts.

Bytes are recorded up to a limit and counted beyond it; the bytes below
`Stream.recorded` never change again and may be read from any thread.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import numpy as np
import numpy.typing as npt

from .zmtp import Frame, FrameReader

MIB: Final = 1024 * 1024
_RECEIVE_SIZE: Final = 1 * MIB
_FRAME_LIMIT: Final = 1_000_000  # frames remembered per stream; all are counted


class Direction(Enum):
    """Which way a stream flows."""

    TO_LISTENER = "to the listener"
    TO_DIALER = "to the dialer"


def blank_tape(limit: int, ready: int = 0) -> npt.NDArray[np.uint8]:
    """Memory for `limit` bytes, of which the first `ready` are in memory already.

    The system commits the others where they are first written, which is slow
    enough to show in a transfer.
    """
    tape = np.empty(limit, np.uint8)
    tape[:ready] = 0
    return tape


class Stream:
    """One direction of one connection: what passed, and where its frames lie."""

    def __init__(self, name: str, direction: Direction, tape: npt.NDArray[np.uint8]) -> None:
        self.name = name
        self.direction = direction
        self.passed = 0  # bytes that came from the sending side
        self.recorded = 0  # of these, how many are on the tape
        self.frames: list[Frame] = []
        self.frame_count = 0
        self.reader = FrameReader()
        self._tape = tape
        self._scratch = bytearray(_RECEIVE_SIZE)

    @property
    def tape(self) -> npt.NDArray[np.uint8]:
        """The recorded bytes, without a copy."""
        return self._tape[: self.recorded]

    @property
    def complete(self) -> bool:
        """Whether every byte that passed is on the tape."""
        return self.recorded == self.passed

    def view(self, start: int, end: int) -> memoryview:
        """Recorded bytes `start` to `end`, without a copy."""
        return self._tape.data[start:end]

    def room(self) -> memoryview:
        """Memory for the next bytes: the tape, or scratch once the tape is full."""
        if not self.complete or self.recorded == len(self._tape):
            return memoryview(self._scratch)
        return self.view(self.recorded, min(self.recorded + _RECEIVE_SIZE, len(self._tape)))

    def advance(self, received: memoryview) -> list[Frame]:
        """Count bytes that were written to `room()`; return the frames they complete."""
        if self.complete and self.recorded < len(self._tape):
            self.recorded += len(received)
        self.passed += len(received)
        frames = self.reader.feed(received)
        self.frame_count += len(frames)
        self.frames += frames[: _FRAME_LIMIT - len(self.frames)]
        return frames
