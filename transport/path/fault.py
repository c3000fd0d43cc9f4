"""Faults on command: lose, delay, duplicate, reorder, corrupt and blackhole packets.

`Faults` says what happens how often; `FaultInjector` decides, packet by packet,
from a seed. `FaultyPath` puts an injector in front of a real path. For tests and
for users who want to see what their program does on a bad network.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from functools import partial

from ..errors import UsageError
from .base import Buffer, CallLater, Endpoint, Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Probabilities per packet (0 to 1) and times in seconds.

    Raises:
        UsageError: a probability is outside 0..1 or a time is negative.
    """

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0  # the packet waits for `reordering_delay` first
    corruption: float = 0.0  # one bit is flipped
    delay: float = 0.0
    jitter: float = 0.0  # added to the delay, uniform from zero
    reordering_delay: float = 0.005

    def __post_init__(self) -> None:
        for name in ("loss", "duplication", "reordering", "corruption"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"Faults.{name} must lie in 0..1, got {getattr(self, name)}")
        if min(self.delay, self.jitter, self.reordering_delay) < 0:
            raise UsageError("Faults times must not be negative")


class FaultInjector:
    """Turns one packet into the copies that arrive, each with its extra delay."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self.faults = faults
        self.blackholed = False
        """While set, nothing passes."""
        self.counts: Counter[str] = Counter()
        self._random = random.Random(seed)

    def apply(self, packet: Buffer) -> list[tuple[float, bytes]]:
        """Copies of `packet` to deliver, with seconds to wait; none where it is lost."""
        draw, faults = self._random.random, self.faults
        if self.blackholed or draw() < faults.loss:
            self.counts["lost"] += 1
            return []
        copies = [self._one(packet)]
        if draw() < faults.duplication:
            self.counts["duplicated"] += 1
            copies.append(self._one(packet))
        return copies

    def _one(self, packet: Buffer) -> tuple[float, bytes]:
        draw, faults = self._random.random, self.faults
        delay = faults.delay + faults.jitter * draw()
        if draw() < faults.reordering:
            self.counts["reordered"] += 1
            delay += faults.reordering_delay
        # A copy: the slot may be written again before a delayed packet leaves.
        content = bytearray(packet)
        if draw() < faults.corruption and content:
            self.counts["corrupted"] += 1
            content[self._random.randrange(len(content))] ^= 1 << self._random.randrange(8)
        return delay, bytes(content)


class FaultyPath:
    """A path that suffers `injector`'s faults on its way out.

    Delayed copies leave through `call_later`, so that the path below is only
    used where the engine uses it.
    """

    def __init__(self, inner: Path, injector: FaultInjector, call_later: CallLater) -> None:
        self.inner = inner
        self.injector = injector
        self._call_later = call_later
        self._closed = False

    @property
    def address(self) -> str:
        """The address of the path below."""
        return self.inner.address

    @property
    def connected(self) -> bool:
        """Whether the path below is connected."""
        return self.inner.connected

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint of the path below."""
        return self.inner.endpoint

    def keep(self) -> None:
        """Keep the path below."""
        self.inner.keep()

    def send(self, packet: Buffer, *, stable: bool) -> bool:
        """Send what the injector leaves of the packet."""
        delivered = True
        for delay, copy in self.injector.apply(packet):
            if delay > 0:
                self._call_later(delay, partial(self._send_late, copy))
            else:
                delivered = self.inner.send(copy, stable=False)
        return delivered

    def _send_late(self, packet: bytes) -> None:
        if not self._closed:
            self.inner.send(packet, stable=False)

    def close(self) -> None:
        """Close the path below; what is still delayed is lost."""
        self._closed = True
        self.inner.close()
