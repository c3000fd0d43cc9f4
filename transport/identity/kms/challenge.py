"""Challenges: what makes each piece of evidence good for one request, and for a minute.

A challenge is its expiry, random bytes, and a MAC under a key that the process draws at
its start and binds to who asked. So issuing one takes no memory, whoever asks how often;
what is kept are those that were spent, until they expire. A restart ends them all.
"""

from __future__ import annotations

import hmac
import os
from collections import deque
from typing import Final

LIFETIME: Final = 60.0  # seconds
SPENT_LIMIT: Final = 65536  # challenges remembered as spent; about 10 MiB

_RANDOM_LEN: Final = 8
_MAC_LEN: Final = 16
CHALLENGE_LEN: Final = 8 + _RANDOM_LEN + _MAC_LEN


class ChallengeError(ValueError):
    """A challenge is not ours, not this caller's, expired or spent. For the log."""


class Challenges:
    """Issues challenges and accepts each once. One thread at a time may use it."""

    def __init__(self) -> None:
        self._key = os.urandom(32)
        self._spent: set[bytes] = set()
        self._expiries: deque[tuple[float, bytes]] = deque()

    def issue(self, caller: str, now: float) -> bytes:
        """Return 32 fresh bytes for `caller`; `now` is in POSIX seconds."""
        expiry = round((now + LIFETIME) * 1000).to_bytes(8, "big")
        text = expiry + os.urandom(_RANDOM_LEN)
        return text + self._mac(text, caller)

    def spend(self, challenge: bytes | None, caller: str, now: float) -> None:
        """Return if `challenge` is fresh and `caller`'s; it will not be again.

        Raises:
            ChallengeError: it is not.
        """
        if challenge is None or len(challenge) != CHALLENGE_LEN:
            raise ChallengeError("no challenge of ours")
        text, mac = challenge[:-_MAC_LEN], challenge[-_MAC_LEN:]
        if not hmac.compare_digest(mac, self._mac(text, caller)):
            raise ChallengeError("a challenge of another process, or of another caller")
        expiry = int.from_bytes(text[:8], "big") / 1000
        # The second bound holds where the clock was set back meanwhile.
        if not now <= expiry <= now + LIFETIME + 1.0:
            raise ChallengeError(f"expired {now - expiry:.1f} s ago")
        self._forget(now)
        if challenge in self._spent:
            raise ChallengeError("spent already: a replay")
        if len(self._spent) >= SPENT_LIMIT:
            raise ChallengeError(f"{SPENT_LIMIT} challenges were spent within {LIFETIME:g} s")
        self._spent.add(challenge)
        self._expiries.append((expiry, challenge))

    def _forget(self, now: float) -> None:
        # In the order spent, which is nearly that of expiry: some are kept a little longer.
        while self._expiries and self._expiries[0][0] < now:
            self._spent.discard(self._expiries.popleft()[1])

    def _mac(self, text: bytes, caller: str) -> bytes:
        return hmac.digest(self._key, text + caller.encode("utf-8"), "sha256")[:_MAC_LEN]
