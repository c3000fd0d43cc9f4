"""The trace of a run as one SHA-256: two runs with the same digest did the same things.

Numbers go in, 64 bits each, in the order of events: when each event happened
and which it was, what each packet was that was sent, lost or delivered. Bytes
on the wire do not: keys are fresh in every run, so ciphertext differs where
nothing else does.
"""

from __future__ import annotations

from array import array
from hashlib import sha256
from typing import Final

BLOCK: Final = 1 << 15  # numbers hashed at once


class Trace:
    """Hashes numbers in blocks; whoever appends to `numbers` directly calls `flush` at times."""

    __slots__ = ("_hash", "numbers")

    def __init__(self) -> None:
        self._hash = sha256()
        self.numbers = array("q")

    def note(self, *numbers: int) -> None:
        """Add numbers of at most 63 bits and a sign."""
        self.numbers.extend(numbers)

    def flush(self) -> None:
        """Hash what was added, if it is worth the call."""
        if len(self.numbers) >= BLOCK:
            self._hash.update(self.numbers)
            del self.numbers[:]

    def digest(self) -> str:
        """SHA-256 of everything added so far, in hexadecimal."""
        self._hash.update(self.numbers)
        del self.numbers[:]
        return self._hash.hexdigest()
