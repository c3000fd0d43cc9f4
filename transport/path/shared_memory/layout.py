"""Where things lie in a segment.

    page 0      nonce, then three words 128 bytes apart: PRODUCED, CONSUMED, ASLEEP
    ring        sealed packets and references to slots
    slots       sealed pieces of large messages, each at the start of a page

The sizes are agreed in sealed frames and never read from the segment itself.
Every word is written by the segment's owner alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ...errors import UsageError

PAGE: Final = 4096
NONCE: Final = 32

# Indices of 64-bit words. Two of them never share a cache line, nor the pair of
# lines that processors fetch together.
PRODUCED: Final = 16  # bytes the owner has put into its ring, ever
CONSUMED: Final = 32  # bytes the owner has taken from the other side's ring, ever
ASLEEP: Final = 48  # odd while the owner sleeps and wants its bell rung

MIN_RING: Final = 64 * 1024
MAX_RING: Final = 4 * 1024 * 1024
MAX_SLOT: Final = 17 * 1024 * 1024  # the largest packet payload, and its header
MAX_SLOTS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Sizes of a segment's parts, in bytes, and the number of its slots.

    Raises:
        UsageError: a size is out of its range.
    """

    ring: int = 1024 * 1024
    slot: int = 1024 * 1024 + PAGE
    slots: int = 4

    def __post_init__(self) -> None:
        if not MIN_RING <= self.ring <= MAX_RING or self.ring & self.ring - 1:
            raise UsageError(
                f"a ring takes a power of two in {MIN_RING}..{MAX_RING} bytes, got {self.ring}"
            )
        if not 1 <= self.slot <= MAX_SLOT:
            raise UsageError(f"a slot takes 1..{MAX_SLOT} bytes, got {self.slot}")
        if not 0 <= self.slots <= MAX_SLOTS:
            raise UsageError(f"a segment has 0..{MAX_SLOTS} slots, got {self.slots}")

    @property
    def slot_stride(self) -> int:
        """Bytes from the start of one slot to that of the next."""
        return (self.slot + PAGE - 1) // PAGE * PAGE

    @property
    def size(self) -> int:
        """Bytes of the whole segment."""
        return PAGE + self.ring + self.slots * self.slot_stride

    @property
    def record_limit(self) -> int:
        """The largest packet that the ring takes: at least four fit, wherever they begin."""
        return self.ring // 8
