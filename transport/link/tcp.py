"""The control that SRD is compared with: one hashed path and a window that losses drive.

It behaves as TCP does on most machines, and no link uses it unless it is asked
for: the simulator and the benchmarks run it beside the policy that ships, over
the same link code, so that every claim has its opposite next to it.

- `HashedPath` keeps a flow on one path, as ECMP keeps a TCP connection.
- `LossWindow` grows and halves as RFC 5681 says. Losses of one window count
  once, after RFC 6582 and, with selective acknowledgements, RFC 6675. After
  silence one segment is left.
- `CubicWindow` grows as RFC 9438 says, which is what Linux does by default.

TCP's minimum time-out (0.2 s on Linux) is not here: it is `Config.retransmit_min`
of the hosts that run this control. Left out are the heuristics that Linux adds on
top: tail loss probes (RFC 8985 7), which find a loss at the end of a flow sooner than
the time-out does, HyStart, F-RTO, and undo of a needless reduction.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from .congestion import Delivery
from .paths import PathState

INITIAL_SEGMENTS: Final = 10  # RFC 6928
FEWEST_SEGMENTS: Final = 2  # RFC 5681 equation 4: the threshold never falls below
CUBIC_SCALE: Final = 0.4  # RFC 9438 section 5: C, in segments per second cubed
CUBIC_DECREASE: Final = 0.7  # RFC 9438 section 4.6: what a loss leaves of the window


class HashedPath:
    """One path for all packets, by a hash of the flow's name; moved only where it is unusable.

    Of the usable paths the one with the highest rank is taken, and a rank depends on
    flow and path alone (rendezvous hashing): a path that joins or fails moves no flow
    but those that win or lose their place by it. Delay, loss and suspicion do not count.
    """

    __slots__ = ("_flow", "_ranks")

    def __init__(self, flow: bytes = b"") -> None:
        self._flow = flow
        self._ranks: dict[int, int] = {}

    def choose(
        self, paths: Sequence[PathState], size: int, now: float, avoid: PathState | None = None
    ) -> PathState | None:
        """The flow's own path, even to repeat what that path lost."""
        best: PathState | None = None
        best_rank = -1
        for path in paths:
            if not path.usable:
                continue
            rank = self._rank(path.index)
            if rank > best_rank:
                best, best_rank = path, rank
        return best

    def on_acknowledged(self, path: PathState, rtt: float, now: float) -> None:
        """A fast path attracts nothing."""

    def on_lost(self, path: PathState, now: float) -> None:
        """A lossy path is kept."""

    def _rank(self, index: int) -> int:
        rank = self._ranks.get(index)
        if rank is None:
            digest = sha256(index.to_bytes(4, "big") + self._flow).digest()
            rank = self._ranks[index] = int.from_bytes(digest[:8], "big")
        return rank


class LossWindow:
    """A congestion window of bytes after RFC 5681: it doubles, then creeps; a loss halves it."""

    decrease = 0.5  # what a loss leaves of the bytes in flight

    __slots__ = (
        "_answered",
        "_limit",
        "_limit_packets",
        "_newest",
        "_outstanding",
        "_recovering",
        "_segment",
        "_threshold",
        "_timed_out",
        "_window",
    )

    def __init__(
        self,
        segment: int,
        limit_bytes: int,
        limit_packets: int,
        *,
        initial_segments: int = INITIAL_SEGMENTS,
    ) -> None:
        self._segment = segment  # bytes of a full packet
        self._limit = limit_bytes
        self._limit_packets = limit_packets
        self._window = float(min(initial_segments * segment, limit_bytes))
        self._threshold = float("inf")
        self._outstanding = 0  # RFC 5681: FlightSize
        self._newest = float("-inf")  # when the last packet left
        self._answered = float("-inf")
        """Losses of packets sent until then were answered already (RFC 6582: `recover`)."""
        self._recovering = False
        self._timed_out = False

    @property
    def window_bytes(self) -> int:
        """The congestion window."""
        return int(self._window)

    @property
    def threshold_bytes(self) -> float:
        """Below it the window doubles once a round trip; infinite before the first loss."""
        return self._threshold

    @property
    def recovering(self) -> bool:
        """Whether nothing sent since the last reduction was acknowledged yet."""
        return self._recovering

    def admits(self, size: int, in_flight_bytes: int, in_flight_packets: int) -> bool:
        """Whether it fits beside what is outstanding; one packet is always admitted.

        What was lost and waits for its repetition is not outstanding (RFC 6675: `pipe`), so
        the window also says when a repetition may leave, where the link asks before it.
        """
        if self._outstanding == 0:
            return True
        fits = self._outstanding + size <= self._window
        return fits and in_flight_packets < self._limit_packets

    def on_sent(self, path: PathState, size: int, now: float) -> None:
        """Count it as outstanding."""
        self._outstanding += size
        self._newest = now

    def on_acknowledged(self, path: PathState, size: int, rtt: float | None, now: float) -> None:
        """Recovery ends with the first packet that was sent after it began (RFC 9002 7.3.2)."""
        self._outstanding = max(self._outstanding - size, 0)
        self._timed_out = False
        if self._recovering and rtt is not None and now - rtt > self._answered:
            self._recovering = False

    def on_delivery(self, delivery: Delivery, now: float) -> None:
        """Grow by what arrived (RFC 3465), unless the window was not what held the sender."""
        if self._recovering or delivery.limited:
            return
        if self._window < self._threshold:
            grown = self._window + delivery.size
        else:
            grown = self._window + self._increase(delivery.size, now)
        self._window = min(grown, float(self._limit))

    def on_lost(self, path: PathState, size: int, sent_at: float) -> None:
        """Reduce the window, once for all packets that were on their way together."""
        if sent_at > self._answered:
            self._shrink()
            self._window = self._threshold
            self._answered = self._newest
            self._recovering = True
        self._outstanding = max(self._outstanding - size, 0)

    def on_silence(self, now: float) -> bool:
        """Start again from one segment; the threshold falls with the first time-out only.

        All that was under way counts as lost (RFC 6675 5.1).
        """
        if not self._timed_out:
            self._shrink()
        self._timed_out = True
        self._window = float(self._segment)
        self._answered = now
        self._recovering = False
        return True

    def _shrink(self) -> None:
        """Set the threshold after a loss."""
        fewest = FEWEST_SEGMENTS * self._segment
        self._threshold = float(max(self._outstanding * self.decrease, fewest))

    def _increase(self, size: int, now: float) -> float:
        """What `size` acknowledged bytes add above the threshold: a segment for each window."""
        return self._segment * size / self._window


class CubicWindow(LossWindow):
    """The same with growth after RFC 9438: a cubic of the time since the last reduction."""

    decrease = CUBIC_DECREASE

    __slots__ = ("_epoch", "_friendly", "_plateau", "_rtt")

    def __init__(
        self,
        segment: int,
        limit_bytes: int,
        limit_packets: int,
        *,
        initial_segments: int = INITIAL_SEGMENTS,
    ) -> None:
        super().__init__(segment, limit_bytes, limit_packets, initial_segments=initial_segments)
        self._plateau = 0.0  # W_max: where the window was when it lost, in segments
        self._friendly = 0.0  # W_est: what Reno would have by now, in segments
        self._epoch: tuple[float, float] | None = None  # begin, and the seconds K to W_max
        self._rtt = 0.0

    def on_acknowledged(self, path: PathState, size: int, rtt: float | None, now: float) -> None:
        """The curve looks one round trip ahead."""
        self._rtt = path.rtt or 0.0
        super().on_acknowledged(path, size, rtt, now)

    def _shrink(self) -> None:
        reached = self._outstanding / self._segment
        if reached < self._plateau:
            # Fast convergence (section 4.7): a flow that lost ground leaves more to others.
            reached *= (1 + CUBIC_DECREASE) / 2
        self._plateau = reached
        self._epoch = None
        super()._shrink()

    def _increase(self, size: int, now: float) -> float:
        """Section 4.2 to 4.5: the greater of the cubic and of what Reno would have."""
        window, arrived = self._window / self._segment, size / self._segment
        if self._epoch is None:
            distance = max(self._plateau - window, 0.0) / CUBIC_SCALE
            self._plateau = max(self._plateau, window)
            self._epoch = now, distance ** (1 / 3)
            self._friendly = window
        begin, climb = self._epoch
        # Section 4.3: as aggressive as Reno on average, until W_est has passed W_max.
        slope = 3 * (1 - CUBIC_DECREASE) / (1 + CUBIC_DECREASE)
        self._friendly += (slope if self._friendly < self._plateau else 1.0) * arrived / window
        cubic = CUBIC_SCALE * (now + self._rtt - begin - climb) ** 3 + self._plateau
        target = min(max(cubic, window), 1.5 * window)
        grown = max(window + (target - window) * arrived / window, self._friendly)
        return (grown - window) * self._segment
