"""Receiver-driven credit: who may send how much of what was accepted (docs/spec.md 8.4).

One pool serves all links of a node. A sender alone is granted far ahead, and its
own congestion window paces it. Where several senders have messages for this
node at once, the last hop is theirs together and none of them sees the others;
the receiver does. It then grants piece by piece, in turns, so that what is
granted and has not arrived stays at what its own way in takes: twice the rate
at which bytes really arrive, times the round trip. So a crowd neither collapses
nor starves anybody, and the queue before the receiver stays short.

The rules hold at any speed: rate and round trip are measured, and a piece is
whole packets. The pool never waits: it grants when a message is accepted, when
bytes arrive, and when something ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from ..config import Config
from .delivery import MaxFilter
from .inbox import IncomingMessage

GAIN: Final = 2.0  # of rate times round trip: one slow sender must not idle the others
FIRST_PACKETS: Final = 10  # granted before anything is known (RFC 6928)
AHEAD: Final = 64  # times the limit: what a sender alone is granted
RATE_ROUNDS: Final = 10
NEVER: Final = float("inf")
SLOWEST: Final = 4  # shares that a sender with a long way may have under way
STALLED: Final = 16  # round trips without a byte: what was granted does not count any more


class Account:
    """What one link's peer was granted; made by `CreditPool.open`."""

    __slots__ = (
        "_pool",
        "ahead",
        "grant",
        "look_at",
        "loop",
        "outstanding",
        "owner",
        "received",
        "round_trip",
        "used_at",
        "waiting",
    )

    def __init__(
        self,
        pool: CreditPool,
        owner: object,
        grant: Callable[[IncomingMessage], None],
        round_trip: Callable[[], float | None],
    ) -> None:
        self._pool = pool
        self.owner = owner
        self.grant = grant
        self.round_trip = round_trip
        self.waiting: deque[IncomingMessage] = deque()  # accepted, not granted whole
        self.outstanding = 0  # bytes granted that have not arrived
        self.received = 0  # bytes that arrived since it was last idle
        self.loop = 0.0  # round trip counted for it while it is active
        self.used_at = NEVER  # when bytes last came; NEVER while it is not known
        self.ahead = 0  # of these, granted when no other sender was active
        self.look_at = NEVER  # when it is to be looked at although nothing happens

    def accept(self, message: IncomingMessage) -> None:
        """A message of at least one byte has a destination: grant it when its turn comes."""
        self.waiting.append(message)
        self._pool.changed(self)

    def arrived(self, size: int, now: float) -> None:
        """Granted bytes are in place."""
        self.outstanding -= size
        self.ahead = max(0, min(self.ahead - size, self.outstanding))
        self.received += size
        self.used_at = now
        self._pool.measure(size, now)
        self._pool.changed(self)

    def look(self, now: float) -> None:
        """Time has passed: senders that stand still may have made room for this one."""
        if now >= self.look_at:
            self.look_at = NEVER
            self._pool.tell(now)
            self._pool.changed(self)

    def ended(self, message: IncomingMessage) -> None:
        """A message was withdrawn or declined: what it was granted will not come."""
        if message.granted < message.size and message in self.waiting:
            self.waiting.remove(message)
        self.outstanding -= message.granted - message.placed
        self.ahead = min(self.ahead, self.outstanding)
        self._pool.changed(self)

    def close(self) -> None:
        """The link has ended."""
        self.waiting.clear()
        self.outstanding = self.ahead = 0
        self.look_at = NEVER
        self._pool.changed(self)


class CreditPool:
    """Grants to all links of one node."""

    __slots__ = (
        "_active",
        "_arrived",
        "_delay",
        "_fresh",
        "_loops",
        "_piece",
        "_rates",
        "_round",
        "_since",
        "_now",
        "stirred",
    )

    def __init__(self, config: Config) -> None:
        self._piece = config.packet_payload
        self._delay = config.acknowledge_after
        self._active: dict[Account, None] = {}  # in the order of their turns
        self._loops = 0.0  # sum of the active accounts' round trips
        self._rates = MaxFilter(RATE_ROUNDS)
        self._round = 0
        self._since: float | None = None  # start of the present measurement
        self._arrived = 0
        self._now = 0.0  # the latest time that anybody told
        self._fresh: dict[Account, None] = {}  # granted something at a time not told
        self.stirred: dict[object, None] = {}
        """Owners of accounts that were granted something: their links have frames to send."""

    def open(
        self,
        owner: object,
        grant: Callable[[IncomingMessage], None],
        round_trip: Callable[[], float | None],
    ) -> Account:
        """An account for a link; `grant` tells its peer of `message.granted`."""
        return Account(self, owner, grant, round_trip)

    @property
    def limit(self) -> int:
        """How many bytes may be granted and not arrived where several senders compete."""
        count = len(self._active)
        loop = self._loops / count if count else 0.0
        return max(FIRST_PACKETS * self._piece, int(GAIN * self._rates.value * loop))

    @property
    def outstanding(self) -> int:
        """Bytes granted over all links that have not arrived."""
        return sum(account.outstanding for account in self._active)

    def tell(self, now: float) -> None:
        """The time; what was granted since it was last told counts from now on."""
        self._now = now
        for account in self._fresh:
            account.used_at = min(account.used_at, now)
        self._fresh.clear()

    def measure(self, size: int, now: float) -> None:
        """Take note of arriving bytes, for the rate of this node's way in."""
        self.tell(now)
        if self._since is None:
            self._since, self._arrived = now, 0
            return
        self._arrived += size
        elapsed = now - self._since
        if elapsed > 0 and elapsed * len(self._active) >= self._loops:
            self._rates.add(self._round, self._arrived / elapsed)
            self._round += 1
            self._since, self._arrived = now, 0

    def changed(self, account: Account) -> None:
        """An account has other needs than before: give whatever can be given."""
        active = self._active
        if account.outstanding > 0 or account.waiting:
            if account not in active:
                if len(active) == 1:
                    self._no_longer_alone(next(iter(active)))
                active[account] = None
                account.loop = (account.round_trip() or 0.0) + self._delay
                self._loops += account.loop
        elif account in active:
            del active[account]
            self._loops -= account.loop
            account.received = 0
            if not active:
                self._loops, self._since = 0.0, None
        if len(active) > 1:
            self._grant_in_turns()
        elif account in active and account.waiting:
            self._grant_ahead(account)
        elif active and account not in active:
            last = next(iter(active))
            if last.waiting:
                self._grant_ahead(last)

    def _no_longer_alone(self, account: Account) -> None:
        """What it was granted ahead cannot be taken back; it counts as half of what may be."""
        account.ahead = max(0, account.outstanding - self.limit // 2)

    def _grant_ahead(self, account: Account) -> None:
        """One sender: what arrived may be followed by twice as much, up to far ahead.

        Not all at once, for others may be about to announce; but never less than its own
        window, which starts with as many packets and doubles no faster.
        """
        most = min(FIRST_PACKETS * self._piece + 2 * account.received, self.limit * AHEAD)
        while account.waiting:
            message = account.waiting[0]
            wanted = message.size - message.granted
            room = most - account.outstanding
            if room < wanted and room < most // 4:
                return
            self._grant(account, min(wanted, room))

    def _grant_in_turns(self) -> None:
        """Several senders: as many bytes to each, whatever their round trips are."""
        active, limit = self._active, self.limit
        fair = max(limit // len(active), self._piece)
        step = max(fair // 2 // self._piece, 1) * self._piece
        most = max(SLOWEST * fair, step)
        pause = STALLED * self._loops / len(active)
        alive = self._now - pause
        left = limit - sum(
            account.outstanding - account.ahead for account in active if account.used_at > alive
        )
        for account in list(active):
            if left <= 0:
                if account.waiting and account.outstanding <= 0:
                    account.look_at = min(account.look_at, self._now + pause)
                continue
            if not account.waiting or account.ahead or account.outstanding + step > most:
                continue
            if account.outstanding > 0 and account.used_at <= alive:
                continue  # it has not used what it was granted
            message = account.waiting[0]
            size = min(step, message.size - message.granted)
            self._grant(account, size)
            left -= size
            del active[account]
            active[account] = None  # to the end of the queue

    def _grant(self, account: Account, size: int) -> None:
        message = account.waiting[0]
        message.granted += size
        if account.outstanding <= 0:
            account.used_at = NEVER
            self._fresh[account] = None
        account.outstanding += size
        if message.granted >= message.size:
            account.waiting.popleft()
        account.grant(message)
        self.stirred[account.owner] = None
