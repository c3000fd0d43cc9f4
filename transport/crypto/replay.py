"""The replay window: which packet numbers of one key have already been opened.

A ring of 64-bit words after RFC 6479, as WireGuard uses it: the window slides
by clearing whole words, never by shifting. Invariants:

- `check` changes nothing. It runs before a packet is opened, and a forged packet
  number must not move the window; `mark` runs only after the tag has verified.
- With `highest` the largest number marked, a number is fresh if and only if it
  was not marked and it is greater than `highest - size`.
- Numbers of a key are below `limit`; anything else is refused unseen.

WireGuard calls its window 8128: the greatest distance behind `highest` that it
accepts. Counting `highest` itself, that is a `size` of 8129 numbers, which is
what a ring of 8192 bits can hold while one word of it is being reused.
"""

from __future__ import annotations

from ..errors import UsageError

__all__ = ["MALFORMED", "REJECT_AFTER", "REPLAY", "TOO_OLD", "WINDOW", "ReplayWindow"]

_WORD_BITS = 64
_RING_BITS = 8192

WINDOW = _RING_BITS - _WORD_BITS + 1  # numbers, as WireGuard has it
REJECT_AFTER = 2**64 - 2**13 - 1  # WireGuard's REJECT_AFTER_MESSAGES

# Verdicts of `check`, named as the drop counters are. A fresh number has none.
REPLAY = "replay"
TOO_OLD = "too_old"
MALFORMED = "malformed"  # at or past the limit: no sender may use such a number


class ReplayWindow:
    """Remembers the last `size` packet numbers; numbers at or past `limit` never pass.

    Thread rule: one thread at a time.

    Raises:
        UsageError: `size` or `limit` is less than 1.
    """

    __slots__ = ("_floor", "_highest", "_limit", "_mask", "_size", "_words")

    def __init__(self, size: int = WINDOW, *, limit: int = REJECT_AFTER) -> None:
        if size < 1 or limit < 1:
            raise UsageError(f"a replay window needs size and limit >= 1, got {size} and {limit}")
        # The word of `highest` and every word that a distance of size - 1 can
        # reach, however the word boundaries fall; a power of two to mask by.
        words = (size - 1 + _WORD_BITS - 1) // _WORD_BITS + 1
        ring = 1 << (words - 1).bit_length()
        self._words = [0] * ring
        self._mask = ring - 1
        self._size = size
        self._limit = limit
        self._highest = -1
        self._floor = -1  # at or below this, a number is too old

    @property
    def size(self) -> int:
        """How many consecutive numbers the window covers, the highest included."""
        return self._size

    @property
    def highest(self) -> int:
        """The largest number marked so far, or -1."""
        return self._highest

    def check(self, number: int) -> str | None:
        """Return None where `number` is fresh, else why it is not; change nothing."""
        if number > self._highest:
            return None if number < self._limit else MALFORMED
        if number <= self._floor:
            return TOO_OLD
        if self._words[(number >> 6) & self._mask] >> (number & 63) & 1:
            return REPLAY
        return None

    def mark(self, number: int) -> None:
        """Record `number`, whose packet has been authenticated, and slide the window.

        Marking a number that is too old changes nothing.
        """
        words, mask, block = self._words, self._mask, number >> 6
        highest = self._highest
        if number == highest + 1 and number & 63:  # in order, within a word: nothing to clear
            self._highest = number
            if number >= self._size:
                self._floor = number - self._size
        elif number > highest:
            newest = highest >> 6
            if block - newest > mask:  # the whole ring lies behind the new window
                words[:] = [0] * len(words)
            else:
                for passed in range(newest + 1, block + 1):
                    words[passed & mask] = 0
            self._highest = number
            self._floor = max(number - self._size, -1)
        elif number <= self._floor:
            return
        words[block & mask] |= 1 << (number & 63)

    def accept(self, number: int) -> bool:
        """Return whether `number` was fresh, and mark it if so.

        For numbers that are already authenticated; before opening, use `check`.
        """
        if self.check(number) is not None:
            return False
        self.mark(number)
        return True
