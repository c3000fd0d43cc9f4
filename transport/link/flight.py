"""Packets that were sealed and not yet acknowledged (docs/spec.md 7).

A packet stays here, sealed, until the peer acknowledges its number. A
retransmission is the same bytes over another path: same key, same number, same
plaintext, so no nonce is used twice, and the replay window drops whichever copy
comes second. When a packet counts as lost is decided in recovery.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from .congestion import CongestionController, Delivery
from .paths import PathState, SlotBank
from .pool import SlotPool
from .scheduler import Scheduler

BELIEVABLE: Final = 16  # times the round trip that was known: a later answer tells of a silence


class Packet:
    """One sealed packet and where it is."""

    __slots__ = (
        "bank",
        "data",
        "delivered",
        "delivered_at",
        "first_sent_at",
        "limited",
        "lost_by",
        "messages",
        "number",
        "path",
        "reliable",
        "sent_at",
        "sequence",
        "size",
        "slot",
        "transmissions",
        "waited",
    )

    def __init__(
        self,
        number: int,
        data: bytes | memoryview,
        *,
        messages: Sequence[int],
        reliable: bool,
    ) -> None:
        self.number = number
        self.data = data
        self.size = len(data)
        self.slot: memoryview | None = None  # returns to its bank once this packet is settled
        self.bank: SlotBank | SlotPool | None = None
        self.messages = messages
        self.reliable = reliable
        self.path: PathState | None = None
        self.lost_by: PathState | None = None
        self.transmissions = 0
        # Set when it is sent over the network: place and time, and the state of the
        # flight, which a delivery rate is measured from.
        self.sent_at: float
        self.sequence: int
        self.delivered: int
        self.delivered_at: float
        self.first_sent_at: float
        self.limited: bool
        # Set when a path has lost it: when the transmission that was lost left.
        self.waited: float


class Flight:
    """All packets of one link direction between sealing and acknowledgement."""

    __slots__ = (
        "_controller",
        "_delivered_at",
        "_first_sent_at",
        "_limited_until",
        "_packets",
        "_scheduler",
        "bytes",
        "delivered",
        "highest_acknowledged",
        "latest_sent",
        "lost",
        "packets_waiting",
        "probe_bytes",
        "probes",
        "retransmissions",
        "spread",
        "spurious",
        "usual",
        "waiting",
    )

    def __init__(self, controller: CongestionController, scheduler: Scheduler) -> None:
        self._controller = controller
        self._scheduler = scheduler
        self._packets: dict[int, Packet] = {}  # by number, ascending
        self.bytes = 0
        self.lost: deque[Packet] = deque()
        """Packets that wait to be sent again; some may be acknowledged meanwhile."""
        self.waiting = 0
        """Bytes of them, without those acknowledged meanwhile."""
        self.packets_waiting = 0
        self.probes = self.probe_bytes = 0
        """Packets that are never repeated: no window counts them, lest a dead path fill it."""
        self.highest_acknowledged = -1
        self.retransmissions = 0
        self.spurious = 0
        """Repetitions that turned out to be needless: the first copy was merely late."""
        self.latest_sent = -1.0
        """When the latest-sent packet of those that arrived was sent."""
        self.delivered = 0
        """Bytes acknowledged over the link's life."""
        self.usual = 0.0
        """Round trip of the average packet, whatever its path; 0 before the first sample."""
        self.spread = 0.0
        """Mean deviation from it: paths differ, and an answer may take another one."""
        self._delivered_at = 0.0
        self._first_sent_at = 0.0
        self._limited_until = 0

    def __len__(self) -> int:
        return len(self._packets)

    def __contains__(self, packet: Packet) -> bool:
        return packet.number in self._packets

    def crowded(self, count: int) -> bool:
        """Whether so many packets are on their way that the next acknowledgement is near.

        Probes of a network that is silent are answered by nobody.
        """
        return len(self._packets) - self.probes >= count

    @property
    def oldest(self) -> Packet | None:
        """The packet with the lowest number, if any."""
        return next(iter(self._packets.values()), None)

    def floor(self, next_number: int) -> int:
        """The lowest number that may still be acknowledged; `next_number` where there is none."""
        for number in self._packets:
            return number
        return next_number

    def nothing_to_send(self) -> None:
        """The window has room and nothing fills it: rates measured now say little."""
        self._limited_until = self.delivered + self.bytes + 1

    def sent(self, packet: Packet, path: PathState, now: float) -> None:
        """Record that `packet` leaves over `path` now, for the first time or again."""
        if packet.transmissions == 0:
            if not self._packets:
                self._first_sent_at = self._delivered_at = now
            self._packets[packet.number] = packet
            self.bytes += packet.size
            if not packet.reliable:
                self.probes += 1
                self.probe_bytes += packet.size
        else:
            self.retransmissions += 1
            self.waiting -= packet.size
            self.packets_waiting -= 1
        packet.transmissions += 1
        packet.path = path
        packet.sent_at = now
        path.packets_sent += 1
        path.bytes_sent += packet.size
        path.last_sent = now
        path.in_flight[packet.number] = packet
        if path.slots is not None:
            # Memory is no network: nothing is measured, and nothing is late.
            if packet.slot is None:
                path.in_flight_bytes += packet.size
            return
        path.in_flight_bytes += packet.size
        packet.delivered = self.delivered
        packet.delivered_at = self._delivered_at
        packet.first_sent_at = self._first_sent_at
        packet.limited = self._limited_until > self.delivered
        packet.sequence = path.sequence
        path.sequence += 1
        self._controller.on_sent(path, packet.size, now)

    def acknowledge(self, ranges: Sequence[tuple[int, int]], now: float) -> list[Packet]:
        """Take an acknowledgement; return the packets that it settles, once each.

        Numbers never sent are ignored: a peer can only acknowledge what exists.
        """
        packets = self._packets
        if not packets or not ranges:
            return []
        settled: list[Packet] = []
        lowest = next(iter(packets))
        for first, last in ranges:
            if last < lowest:
                break
            if last - first < len(packets):
                numbers: Iterable[int] = range(max(first, lowest), last + 1)
            else:
                numbers = [number for number in packets if first <= number <= last]
            for number in numbers:
                packet = packets.pop(number, None)
                if packet is not None:
                    settled.append(packet)
        if settled:
            self._settle_all(settled, now)
        return settled

    def _settle_all(self, settled: Sequence[Packet], now: float) -> None:
        before = self.delivered
        newest: Packet | None = None
        source: Packet | None = None
        for packet in settled:
            path = packet.path
            if path is not None and path.slots is not None:
                self._settle_local(packet, path, now)
                continue
            if path is None and packet.transmissions == 1 and _lost_in_memory(packet):
                self._forget(packet)  # it had arrived when its memory failed
                self.waiting -= packet.size
                self.packets_waiting -= 1
                continue
            source = packet
            self.delivered += packet.size
            self._settle(packet, now)
            once = packet.transmissions == 1
            if once and (newest is None or packet.sent_at >= newest.sent_at):
                newest = packet
        if source is None:
            return  # nothing of this tells of the network
        self._delivered_at = now
        rate: float | None = None
        source = newest or source
        if newest is not None:
            if newest.sent_at > self.latest_sent:
                self.latest_sent = newest.sent_at
            self._first_sent_at = newest.sent_at
            interval = max(newest.sent_at - newest.first_sent_at, now - newest.delivered_at)
            if interval > 0:
                rate = (self.delivered - newest.delivered) / interval
        self._controller.on_delivery(
            Delivery(
                self.delivered - before, self.delivered, source.delivered, rate, source.limited
            ),
            now,
        )

    def _settle_local(self, packet: Packet, path: PathState, now: float) -> None:
        """A packet that went through shared memory: its round trip is for people to read.

        But that it arrived shows that the peer lives: what is overdue on the network, and
        was sent before it, is lost.
        """
        self._forget(packet)
        if packet.sent_at > self.latest_sent:
            self.latest_sent = packet.sent_at
        del path.in_flight[packet.number]
        if packet.slot is None:
            path.in_flight_bytes -= packet.size
        path.sample(now - packet.sent_at)

    def _forget(self, packet: Packet) -> None:
        """It is on its way no more."""
        self.bytes -= packet.size
        if not packet.reliable:
            self.probes -= 1
            self.probe_bytes -= packet.size
        if packet.number > self.highest_acknowledged:
            self.highest_acknowledged = packet.number

    def _settle(self, packet: Packet, now: float) -> None:
        self._forget(packet)
        path = packet.path
        if path is not None:
            path.in_flight_bytes -= packet.size
            del path.in_flight[packet.number]
        else:
            self.waiting -= packet.size
            self.packets_waiting -= 1
        if packet.transmissions > 1 or path is None:
            self._settle_repeated(packet, path, now)
            return
        if packet.sequence > path.sequence_acknowledged:
            path.sequence_acknowledged = packet.sequence
        rtt = now - packet.sent_at
        if path.suspected:
            # How long it was silent is no round trip. Nor must a route that became longer
            # stay unknown: what is believed may grow by this factor at most.
            path.trust()
            path.sample(min(rtt, BELIEVABLE * max(path.rtt or rtt, self.usual)))
            self._controller.on_acknowledged(path, packet.size, None, now)
            self._scheduler.on_acknowledged(path, rtt, now)
            return
        path.backoff = 1.0
        path.sample(rtt)
        path.carried(packet.size, now)
        self._learn(rtt)
        self._controller.on_acknowledged(path, packet.size, rtt, now)
        self._scheduler.on_acknowledged(path, rtt, now)

    def _learn(self, rtt: float) -> None:
        if not self.usual:
            self.usual = rtt
        # One slow path must not make the link patient with all others.
        deviation = min(rtt, 2 * self.usual) - self.usual
        self.spread += (abs(deviation) - self.spread) / 16
        self.usual += deviation / 16

    def _settle_repeated(self, packet: Packet, path: PathState | None, now: float) -> None:
        """Either copy may have arrived: no sample, and no credit to the path (Karn).

        But where the answer came sooner than the repetition can have caused it, the
        first copy was only late (Eifel, RFC 3522), and its path is more patient from now on.
        """
        earlier = packet.lost_by
        sooner = path is None or (path.rtt_min is not None and now < packet.sent_at + path.rtt_min)
        if earlier is not None and sooner:
            earlier.was_late(now - packet.waited)
        if path is None:
            return  # given up, and not sent again yet
        self.spurious += sooner
        if not sooner:  # as RACK has it, the repetition arrived (RFC 8985 6.2)
            self.latest_sent = max(self.latest_sent, packet.sent_at)
            path.sequence_acknowledged = max(path.sequence_acknowledged, packet.sequence)
            path.trust()
        self._controller.on_acknowledged(path, packet.size, None, now)

    def give_up(self, packet: Packet) -> None:
        """A packet counts as lost: it is to be repeated, or forgotten where it is not reliable."""
        path = packet.path
        assert path is not None, "only a packet that is under way can be given up"
        del path.in_flight[packet.number]
        if path.slots is None or packet.slot is None:
            path.in_flight_bytes -= packet.size
        path.retransmissions += 1
        packet.path = None
        packet.lost_by = path
        packet.waited = packet.sent_at
        if path.slots is None:
            self._controller.on_lost(path, packet.size, packet.sent_at)
        if packet.reliable:
            self.lost.append(packet)
            self.waiting += packet.size
            self.packets_waiting += 1
        else:
            del self._packets[packet.number]
            self.bytes -= packet.size
            self.probes -= 1
            self.probe_bytes -= packet.size

    def abandon(self, path: PathState) -> None:
        """The transport lost what it held of this path: repeat all of it elsewhere."""
        for packet in list(path.in_flight.values()):
            self.give_up(packet)

    def next_lost(self) -> Packet | None:
        """The next packet to repeat, if any; it stays at the head until it is sent."""
        while self.lost:
            packet = self.lost[0]
            if packet.number in self._packets and packet.path is None:
                return packet
            self.lost.popleft()
        return None

    def clear(self) -> None:
        """Forget everything; the link has ended."""
        for packet in self._packets.values():
            if packet.path is not None:
                packet.path.in_flight.clear()
                packet.path.in_flight_bytes = 0
        self._packets.clear()
        self.lost.clear()
        self.bytes = self.waiting = self.packets_waiting = 0
        self.probes = self.probe_bytes = 0


def _lost_in_memory(packet: Packet) -> bool:
    return packet.lost_by is not None and packet.lost_by.slots is not None
