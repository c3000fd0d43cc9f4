"""The paths of one link: how they are proven, probed, lost and found again (docs/spec.md 9).

The initiator opens paths and challenges the peer over each with a sealed JOIN;
the answer must come back over the same path. A path that has been silent is
asked for a sign of life; one that lost packets is asked more often.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Final

from ..config import Config
from ..wire import frames
from .drops import STATE, Drop
from .flight import Flight
from .paths import PathState, SlotBank

MAX_PATHS: Final = 256


class _NoSlots:
    """Of a path whose memory is gone: it stays what it was, and keeps nothing mapped."""

    window = 0

    def take(self) -> memoryview | None:
        return None

    def give_back(self, slot: memoryview) -> None:
        pass


NO_SLOTS: Final = _NoSlots()

_last_sent = attrgetter("last_sent")

SendOver = Callable[[PathState, bytes, float], None]


class PathSet:
    """Path states by index and by the transport's handle."""

    def __init__(self, config: Config, *, initiator: bool, random: Callable[[int], bytes]) -> None:
        self._config = config
        self._initiator = initiator
        self._random = random
        self.all: list[PathState] = []
        self.network: list[PathState] = []
        """All but the one that leads through shared memory."""
        self.local: PathState | None = None
        """That one, from its first use to the failure of its memory."""
        self._offered: tuple[object, SlotBank] | None = None
        self._by_handle: dict[object, PathState] = {}

    def find(self, handle: object) -> PathState | None:
        """The path that packets over `handle` belong to."""
        return self._by_handle.get(handle)

    def least_round_trip(self) -> float | None:
        """The shortest round trip that any path has had; None before the first sample."""
        return min((path.rtt_min for path in self.all if path.rtt_min is not None), default=None)

    def through_memory(self, handle: object) -> bool:
        """Whether the path through shared memory leads over `handle`, joined or yet to be."""
        if self.local is not None:
            return self.local.handle is handle
        return self._offered is not None and self._offered[0] is handle

    def add(
        self, handle: object, address: str, now: float, slots: SlotBank | None = None
    ) -> PathState:
        """A new path, not proven yet; with `slots` it is the one through shared memory."""
        path = PathState(len(self.all), handle, address, now, slots)
        self.all.append(path)
        if slots is None:
            self.network.append(path)
        else:
            self.local = path
        self._by_handle[handle] = path
        return path

    def offer(self, handle: object, slots: SlotBank) -> None:
        """The peer may open a path through shared memory, over `handle`."""
        self._offered = handle, slots

    def join(self, path: PathState, send_over: SendOver, now: float) -> None:
        """Challenge the peer over a path of ours."""
        path.challenge = self._random(16)
        send_over(path, frames.encode_join(path.index, path.challenge), now)

    def bind(self, index: int, handle: object, flight: Flight, now: float) -> bool:
        """Path `index` leads over `handle` from now on; False where it did already.

        A handle belongs to one path: the one that it belonged to before is down.

        Raises:
            Drop: only the caller opens paths, only so many, and memory is not a network.
        """
        if self._initiator or index >= MAX_PATHS:
            raise Drop(STATE)
        while len(self.all) <= index:
            unknown = PathState(len(self.all), None, "", now)
            self.all.append(unknown)
            self.network.append(unknown)
        path = self.all[index]
        other = self._by_handle.get(handle)
        if self._offered is not None and self._offered[0] is handle:
            self._become_local(path, self._offered[1])
        elif path is not other and any(each and each.slots for each in (path, other)):
            raise Drop(STATE)  # memory is not a network: neither takes the other's place
        path.up = path.joined = True
        if path.handle is handle:
            return False
        if other is not None:
            other.handle, other.up, other.joined = None, False, False
            flight.abandon(other)
        flight.abandon(path)
        self._by_handle.pop(path.handle, None)
        path.handle = handle
        self._by_handle[handle] = path
        return True

    def _become_local(self, path: PathState, slots: SlotBank) -> None:
        if path.handle is not None:
            raise Drop(STATE)  # that place is taken
        path.slots = slots
        self.network.remove(path)
        self.local, self._offered = path, None

    def down(self, handle: object, reason: str, flight: Flight) -> None:
        """The connection below a path is gone: repeat elsewhere what was on it."""
        if self._offered is not None and self._offered[0] is handle:
            self._offered = None
        path = self._by_handle.get(handle)
        if path is not None and path.up:
            if path is self.local:
                self.local = None
                path.slots = NO_SLOTS  # what is in flight there keeps its own until it is settled
            path.up = path.joined = False
            path.challenge = None
            path.last_failure = reason
            flight.abandon(path)

    def restore(self, handle: object) -> PathState | None:
        """The connection below a path stands again; return the path if it was down.

        Memory does not: it is gone for good, and nothing sent there would ever be missed.
        """
        path = self._by_handle.get(handle)
        if path is None or path.up or path.slots is not None:
            return None
        path.up = True
        return path

    def on_joined(self, frame: frames.Joined, handle: object) -> PathState:
        """The peer returned a challenge; return the path, which is proven now.

        Raises:
            Drop: not the one sent over this path, or not over this path.
        """
        path = self._by_handle.get(handle)
        if path is None or path.index != frame.path or path.challenge != frame.challenge:
            raise Drop(STATE)
        path.challenge = None
        path.joined = True
        return path

    def due(self, path: PathState, patience: float) -> float:
        """When an idle path is next asked for a sign of life.

        `patience` is how long its answer may take, its backoff included.
        """
        if not path.up or (not path.joined and not self._initiator):
            return float("inf")
        interval = self._config.heartbeat_interval
        if path.joined and not path.suspected:
            return self._quiet_since(path) + interval
        return path.last_sent + min(patience, interval)

    def _quiet_since(self, path: PathState) -> float:
        """When something was last sent that lets this path be silent for a heartbeat more.

        While memory carries all, the network's paths only stand by, so they take turns:
        were all of them asked, links to 63 neighbours would keep a core busy.
        """
        if self.local is None or not self.local.usable:
            return path.last_sent
        return max(each.last_sent for each in self.network if each.usable and not each.suspected)

    def by_turn(self) -> list[PathState]:
        """The network's paths; beside memory the one first over which nothing was sent longest."""
        return self.network if self.local is None else sorted(self.network, key=_last_sent)

    def probe(self, path: PathState, send_over: SendOver, now: float) -> None:
        """Ask for a sign of life, or for admission once more."""
        if path.joined:
            send_over(path, frames.encode_ping(), now)
        else:
            path.suspect("no answer to a challenge")
            self.join(path, send_over, now)
