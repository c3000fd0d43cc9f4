"""The engine of a node: packets from paths to links and back, events to the node.

The way in: endpoint → dispatch by receiver index → `Link.receive_packet`.
The way out: `Link.poll_transmit` → `Path.send`. Both happen in `step`, under
the driver's lock, in whichever thread drives.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, cast

from ..config import Config
from ..errors import TransportError
from ..link import (
    Established,
    Event,
    Failed,
    Link,
    MemoryFailed,
    MessageArrived,
    MessagePlaced,
    PathBound,
    PeerShares,
    State,
    Warned,
)
from ..link.drops import MALFORMED, VERSION
from ..link.inbox import IncomingMessage
from ..path.base import Buffer, Path, PathFilter
from ..path.shared_memory import Channel
from ..wire.codec import MalformedError
from ..wire.packet import FIRST_BULK, FIRST_FRAMES, FIRST_PAIR, Kind, VersionError, classify
from .connections import Connections
from .directory import Directory
from .driver import Driver, Waitable
from .neighbour import Neighbours

log = logging.getLogger("transport")

RECEIVE_BATCH: Final = 64  # packets of one endpoint before others have their turn
MIDDLING: Final = 1024
LARGE: Final = 256 * 1024
HANDSHAKE_SHARE: Final = RECEIVE_BATCH // 4  # of a batch, that a handshake packet takes
STEP_LIMIT: Final = 0.002  # seconds after which a step leaves the rest to the next one
_OF_LINKS: Final = (FIRST_FRAMES, FIRST_BULK, FIRST_PAIR)
NEGLECT: Final = 0.002  # who only sends looks at all endpoints where nobody has for so long
LOOK_INTERVAL: Final = 0.0005  # a busy engine looks at its links' deadlines this often


class Engine(Connections):
    """Moves packets and events of one node, and keeps its links' time.

    `on_message(link, message)` is called under the lock for each message that arrives
    or is announced, `on_event(link, event)` for whatever else the engine does not handle
    itself, and with None after each time it has served a link.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        directory: Directory,
        packet_limit: int,
        on_event: Callable[[Link, Event | None], None],
        on_message: Callable[[Link, IncomingMessage], None],
        path_filter: PathFilter | None = None,
    ) -> None:
        super().__init__(config, packet_limit, path_filter)
        self._directory = directory
        self._granted = directory.credit.stirred  # links that were granted something
        directory.on_retire(self._retire)
        self._on_event = on_event
        self._on_message = on_message
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_serial = 0
        self._due: dict[Link, float] = {}  # when each link wants its time-out handled
        self._stale: dict[Link, None] = {}  # links whose entry there is out of date
        self._look_at = 0.0  # no link's time comes before this
        self._glance_at = 0.0  # nor is there a glance before this
        self._waiting: dict[Link, None] = {}  # links with messages that wait for the peer
        self._neglected_at = 0.0  # from then on all endpoints have been left alone for long
        self._neglected = False
        self._stepping = False
        self._pump_asked = False  # by a callback, within a step
        self.drops: Counter[str] = Counter()
        # What a filter does to paths is not to be passed by.
        allowed = config.shared_memory and path_filter is None
        self.neighbours = Neighbours(self, config, allowed=allowed)
        self.driver = Driver(name, self._step, self._next_timeout, self.neighbours)

    def call_later(self, delay: float, action: Callable[[], None]) -> None:
        """Run `action` under the lock after `delay` seconds."""
        self._timer_serial += 1
        due = monotonic() + delay
        heapq.heappush(self._timers, (due, self._timer_serial, action))
        self.driver.expect_by(due)

    # --- the step ----------------------------------------------------------------------

    def pump(self) -> None:
        """Send at once what can be sent without sleeping; called under the lock.

        From within a step, that is from a done-callback, it only sees to it that the
        step sends before it ends. Only where something could not be sent, or waits, is there
        a look at what has come: acknowledgements make room. Else what has come can wait for the
        one who waits for it, whose receive may not be posted yet.
        """
        if self._stepping:
            self._pump_asked = True
            return
        if not (self._active or self._granted):
            if self._waiting or self._neglected:
                self._glance()
            return
        self._touch_granted()
        asked = list(self._active)
        self._pump_asked = self._stepping = True
        try:
            self._serve_callbacks()
        finally:
            self._stepping = False
        if any(link.wants_service for link in asked):
            self._step((), None)
        self.driver.expect_by(0.0 if self._stirred else self._look_at)

    def in_callback(self) -> bool:
        """Whether the calling thread is in the midst of a step: a done-callback called."""
        return self._stepping and self.driver.held()

    def _step(self, ready: Sequence[int], until: Waitable | None) -> None:
        self._stepping = True
        try:
            self._advance(ready, until)
            self._serve_callbacks()
        finally:
            self._stepping = False

    def _serve_callbacks(self) -> None:
        """What callbacks have sent must not wait for whoever drives next."""
        while self._pump_asked:
            self._pump_asked = False
            self._touch_granted()
            self._serve(monotonic())

    def _advance(self, ready: Sequence[int], until: Waitable | None) -> None:
        """Do what there is to do; leave early, the rest noted, once `until` has ended.

        Also after `STEP_LIMIT`, for otherwise a flood of packets, even of worthless
        ones, would keep every other thread from the node.

        Sending comes before looking for more: an answer leaves at once, and what
        its sending has stirred is looked at while the answer travels.
        """
        for descriptor in ready:
            endpoint = self._endpoints.get(descriptor)
            if endpoint is not None:
                self._stirred[endpoint] = True
            elif descriptor in self._monitored:
                self._check_connectivity(self._monitored[descriptor])
        now = monotonic()
        if ready:
            self._neglected_at = now + NEGLECT
        enough = now + STEP_LIMIT
        while True:
            now = monotonic()
            peek = self.neighbours.peek
            if peek is not None and peek() and self._receive_local(until, now):
                return
            if self._granted:
                self._touch_granted()
            if self._active:
                self._serve(now)
            if now >= self._look_at or self._timers:
                self._run_due(now)
            if self._stirred and self._receive(until):
                return
            if self._active or self._granted:
                continue
            if now >= enough or not (self._stirred or (peek is not None and peek())):
                return

    def _receive_local(self, until: Waitable | None, now: float) -> bool:
        """One batch from each channel in which packets wait; True once `until` has ended."""
        for channel, link in self.neighbours.attached():
            count = 0
            while count < RECEIVE_BATCH and (packet := channel.take()) is not None:
                size = len(packet)
                message = link.receive(channel, packet, now)
                if message is None:
                    self._take_events(link)
                    self._look_at_soon(link, now)
                else:
                    if message.accepted:
                        self._on_event(link, MessagePlaced(message))
                    else:
                        self._on_message(link, message)
                        if message.follows:
                            self._take_events(link)  # of its bytes, if nobody waited for them
                    if link not in self._stale or link.wants_service:
                        self._look_at_soon(link, now)
                if until is not None and until.done():
                    return True
                if size >= MIDDLING:
                    count += 8 if size < LARGE else RECEIVE_BATCH
                    now = monotonic()  # opening it took time
                count += 1
            if channel.fault is not None:
                self.neighbours.failed(channel)
        return False

    def _take_events(self, link: Link) -> None:
        """A link has received something: hear what it says of it."""
        while (event := link.poll_event()) is not None:
            self._handle(link, event)

    def _look_at_soon(self, link: Link, now: float) -> None:
        """A link has received or sent something: it may have to send, if not now then later."""
        if link.wants_service:
            self._active[link] = None
        elif link not in self._stale:
            self._stale[link] = None
            self._look_at = min(self._look_at, now + LOOK_INTERVAL)

    def waits(self, link: Link) -> None:
        """A message waits for what the peer acknowledges or grants: the next pump glances there.

        Who sends and never waits keeps the background thread away; so nobody else would
        look. Not here, where the message has no owner yet who could be told of its end.
        """
        self._waiting[link] = None

    def _glance(self) -> None:
        """Look now and then whether anything has come that nobody else looks for.

        That is what messages that wait are waiting for, and what comes over other links
        while a caller sends and sends.
        """
        now = monotonic()
        if now < self._glance_at:
            return
        self._glance_at = now + LOOK_INTERVAL
        waiting, self._waiting = self._waiting, {}
        if self._neglected:
            self._neglected, self._neglected_at = False, now + NEGLECT
            for endpoint in self._endpoints.values():
                self._stirred.setdefault(endpoint, False)
        for link in waiting:
            for path in self._paths.get(link, ()):
                self._stirred.setdefault(path.endpoint, False)
        self._step((), None)

    def express(
        self, link: Link, data: memoryview, description: bytes, context: int, tag: int
    ) -> bool:
        """Send a small message at once where nothing waits before it; False where something does.

        Called under the lock.
        """
        now = monotonic()
        self.driver.used(now)
        if now >= self._neglected_at:
            self._neglected = True
        transmit = link.express(data, description, context, tag, now)
        if transmit is None:
            return False
        handle, packet, stable = transmit
        path: Path = handle
        try:
            sent = path.send(packet, stable=stable)
        finally:
            link.expressed(now)
        if not isinstance(path, Channel):  # in memory nothing is ever late
            self._stirred.setdefault(path.endpoint, False)
            self._look_at_soon(link, now)
            self.driver.expect_by(0.0)
        if not sent:
            self._path_failed(link, path, now)
        return True

    def _path_failed(self, link: Link, path: Path, now: float) -> None:
        """Nobody is at the other end of a path: what was on it goes other ways."""
        if isinstance(path, Channel):
            self.neighbours.failed(path)
        elif link.state is not State.CLOSED:
            link.path_down(path, "nobody at the other end", now)
        self._active[link] = None

    def _receive(self, until: Waitable | None) -> bool:
        """One batch from each endpoint that may have something; True once `until` has ended.

        The time is taken anew: sealing and opening large packets takes about as long as
        a round trip, and an answer that came meanwhile would seem to have taken none.
        """
        endpoints, self._stirred = self._stirred, {}
        ended = False
        for endpoint, signalled in endpoints.items():
            if ended:
                self._stirred[endpoint] = signalled
                continue
            count, now = 0, monotonic()
            for path, packet in endpoint.receive(RECEIVE_BATCH, signalled=signalled):
                # A large packet ends the batch: its sender waits for the acknowledgement.
                # A few handshake packets do too: each takes milliseconds, and those who
                # are linked, or were answered, wait for what leaves after the batch.
                size = len(packet)
                count += 1 if size < MIDDLING else 8 if size < LARGE else RECEIVE_BATCH
                if size and packet[0] not in _OF_LINKS:
                    count += HANDSHAKE_SHARE
                self._dispatch(path, packet, now)
                if until is not None and until.done():
                    ended = True
                if ended or count >= RECEIVE_BATCH:
                    self._stirred[endpoint] = False
                    break
            if isinstance(endpoint, Channel) and endpoint.fault is not None:
                self.neighbours.failed(endpoint)
        return ended

    def _dispatch(self, path: Path, packet: Buffer, now: float) -> None:
        link = self._link_for(path, packet, now)
        if link is not None:
            link.receive_packet(path, packet, now)
            if link.state is State.CONFIRMING:
                self._directory.committed(link)
            self._active[link] = None
            self._take_events(link)

    def _link_for(self, path: Path, packet: Buffer, now: float) -> Link | None:
        """The link that a packet names; None where it is dropped, or answered already."""
        if isinstance(path, Channel):  # which belongs to one
            return self.neighbours.link_of(path)
        if len(packet) >= 8 and packet[0] in _OF_LINKS:
            return self._directory.by_index(int.from_bytes(packet[4:8], "little"))
        try:
            kind, index = classify(memoryview(packet))
        except MalformedError as error:
            if isinstance(error, VersionError) and not self.drops[VERSION]:
                log.warning("dropping packets from %s: %s", path.address, error)
            self.drops[VERSION if isinstance(error, VersionError) else MALFORMED] += 1
            return None
        if kind is Kind.INIT:
            self._answer(path, packet, now)
            return None
        return self._directory.by_index(index)

    def _answer(self, path: Path, packet: Buffer, now: float) -> None:
        link = self._directory.answer(path, memoryview(packet), now)
        if link is not None:
            path.keep()
            self._paths.setdefault(link, []).append(path)
            link.receive_packet(path, packet, now)
            self._active[link] = None

    def _touch_granted(self) -> None:
        """What arrived over one link may let another one grant: it has frames to send."""
        for link in self._granted:
            self._active[cast(Link, link)] = None
        self._granted.clear()

    def _serve(self, now: float) -> None:
        """Take events of every active link and send what it has to send."""
        active, self._active = self._active, {}
        self._stale.update(active)
        self._look_at = min(self._look_at, now + LOOK_INTERVAL)
        for link in active:
            while True:
                while (event := link.poll_event()) is not None:
                    self._handle(link, event)
                transmit = link.poll_transmit(now)
                if transmit is None:
                    event = link.poll_event()  # sealing may have told of something
                    if event is None:
                        break
                    self._handle(link, event)
                    continue
                path: Path = transmit.handle
                sent = path.send(transmit.data, stable=transmit.stable)
                if not isinstance(path, Channel):
                    # Sending takes in whatever told that something waits: also where it fails.
                    self._stirred.setdefault(path.endpoint, False)
                if not sent:
                    self._path_failed(link, path, now)
                if len(transmit.data) >= LARGE:
                    now = monotonic()  # sealing it took time
            self._active.pop(link, None)  # what its own events asked for has been done
            self._on_event(link, None)
            if link.state is State.CLOSED:
                self._release(link)

    def _handle(self, link: Link, event: Event) -> None:
        if type(event) is MessageArrived:
            self._on_message(link, event.message)  # by far the most frequent
            return
        if isinstance(event, Established):
            self._directory.established(link)
            self.neighbours.established(link)
        elif isinstance(event, PeerShares):
            self.neighbours.heard(link, event.body)
            self.touch(link)
            return
        elif isinstance(event, MemoryFailed):
            self.neighbours.failed(cast(Channel, event.handle), f"dropped: {event.cause}")
            return
        elif isinstance(event, Failed):
            self._waiting.pop(link, None)
            self._directory.ended(link, event.error)
        elif isinstance(event, PathBound):
            path = cast(Path, event.handle)
            path.keep()
            link.paths[event.index].address = path.address
            if not isinstance(path, Channel):
                self._bind(link, path)
            return
        elif isinstance(event, Warned):
            log.warning("%s", event.text)
            return
        self._on_event(link, event)

    def _retire(self, link: Link, error: TransportError) -> None:
        link.abort(error)
        self.touch(link)

    def _run_due(self, now: float) -> None:
        timers = self._timers
        while timers and timers[0][0] <= now:
            heapq.heappop(timers)[2]()
        if now < self._look_at:
            return
        self._look_at = self._refresh_due()
        if now < self._look_at:
            return
        for link, at in list(self._due.items()):
            if at <= now:
                link.handle_timeout(now)
                self._active[link] = None
        self._look_at = now + LOOK_INTERVAL

    def _refresh_due(self) -> float:
        due = self._due
        for link in self._stale:
            if link.state is State.CLOSED:
                due.pop(link, None)
            else:
                due[link] = link.next_timeout()
        self._stale.clear()
        return min(due.values(), default=float("inf"))

    def _next_timeout(self) -> float:
        if self._stirred or self._granted or self._active:
            return 0.0
        self._look_at = self._refresh_due()
        return min(self._look_at, self._timers[0][0]) if self._timers else self._look_at

    def close(self) -> None:
        """Release every socket; called once, after the driver has stopped."""
        for endpoint in set(self._endpoints.values()):
            endpoint.close()
        self._endpoints.clear()
        self.neighbours.close()
        self._zeromq.close()
