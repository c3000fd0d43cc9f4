"""Packets that were sealed and not yet acknowledged (docs/spec.md 7).

A packet stays here, sealed, until the peer acknowledges its number. A
retransmission is the same bytes over another path: same key, same number, same
plaintext, so no nonce is used twice, and the replay window drops whichever copy
comes second. A packet counts as lost when a few packets sent later over the
same path have arrived (paths keep order, or nearly), when its path's timeout
passes, or when the transport says that the path was cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from .congestion import CongestionController
from .paths import PathState

REORDERING: Final = 3  # packets of one path that may overtake another on the same path


class Packet:
    """One sealed packet and where it is."""

    __slots__ = (
        "data",
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
    )

    def __init__(
        self,
        number: int,
        data: bytearray | memoryview,
        *,
        slot: memoryview | None,
        messages: Sequence[int],
        reliable: bool,
    ) -> None:
        self.number = number
        self.data = data
        self.size = len(data)
        self.slot = slot  # returns to the pool once this packet is settled
        self.messages = messages  # ids of the messages it carries a part of
        self.reliable = reliable  # repeated until acknowledged
        self.path: PathState | None = None  # None while it waits for retransmission
        self.lost_by: PathState | None = None
        self.sequence = 0
        self.sent_at = 0.0
        self.transmissions = 0


class Flight:
    """All packets of one link direction between sealing and acknowledgement."""

    __slots__ = (
        "_controller",
        "_packets",
        "bytes",
        "highest_acknowledged",
        "lost",
        "retransmissions",
    )

    def __init__(self, controller: CongestionController) -> None:
        self._controller = controller
        self._packets: dict[int, Packet] = {}  # by number, ascending
        self.bytes = 0
        self.lost: deque[Packet] = deque()
        """Packets that wait to be sent again; some may be acknowledged meanwhile."""
        self.highest_acknowledged = -1
        self.retransmissions = 0

    def __len__(self) -> int:
        return len(self._packets)

    def __contains__(self, packet: Packet) -> bool:
        return packet.number in self._packets

    def floor(self, next_number: int) -> int:
        """The lowest number that may still be acknowledged; `next_number` where there is none."""
        for number in self._packets:
            return number
        return next_number

    def sent(self, packet: Packet, path: PathState, now: float) -> None:
        """Record that `packet` leaves over `path` now, for the first time or again."""
        if packet.transmissions == 0:
            self._packets[packet.number] = packet
            self.bytes += packet.size
        else:
            self.retransmissions += 1
        packet.transmissions += 1
        packet.path = path
        packet.sent_at = now
        packet.sequence = path.sequence
        path.sequence += 1
        path.in_flight[packet.number] = packet
        path.in_flight_bytes += packet.size
        path.packets_sent += 1
        path.bytes_sent += packet.size
        path.last_sent = now
        self._controller.on_sent(path.index, packet.size, now)

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
        for packet in settled:
            self._settle(packet, now)
        return settled

    def _settle(self, packet: Packet, now: float) -> None:
        self.bytes -= packet.size
        if packet.number > self.highest_acknowledged:
            self.highest_acknowledged = packet.number
        path = packet.path
        if path is None:
            return
        path.in_flight_bytes -= packet.size
        del path.in_flight[packet.number]
        if packet.transmissions > 1:
            # Either copy may have arrived: no sample, and no credit to the path (Karn).
            self._controller.on_acknowledged(path.index, packet.size, None, now)
            return
        if path.suspected or path.backoff != 1.0:
            path.trust()
        if packet.sequence > path.sequence_acknowledged:
            path.sequence_acknowledged = packet.sequence
        rtt = now - packet.sent_at
        path.sample(rtt)
        self._controller.on_acknowledged(path.index, packet.size, rtt, now)

    def detect_losses(self, path: PathState) -> None:
        """Give up packets that later ones of the same path have overtaken by far."""
        horizon = path.sequence_acknowledged - REORDERING
        overtaken = []
        for packet in path.in_flight.values():
            if packet.sequence > horizon:
                break
            overtaken.append(packet)
        for packet in overtaken:
            self._give_up(packet, path)

    def expire(self, path: PathState, now: float, minimum: float, maximum: float) -> None:
        """Give up packets that waited longer than the path's timeout, and suspect it."""
        timeout = path.timeout(minimum, maximum)
        expired = []
        for packet in path.in_flight.values():
            if packet.sent_at + timeout > now:  # the same sum as in `deadline`
                break
            expired.append(packet)
        for packet in expired:
            self._give_up(packet, path)
        if expired:
            path.suspect(f"{len(expired)} packets unacknowledged in time")

    def abandon(self, path: PathState) -> None:
        """The transport lost what it held of this path: repeat all of it elsewhere."""
        for packet in list(path.in_flight.values()):
            self._give_up(packet, path)

    def _give_up(self, packet: Packet, path: PathState) -> None:
        del path.in_flight[packet.number]
        path.in_flight_bytes -= packet.size
        path.retransmissions += 1
        packet.path = None
        packet.lost_by = path
        self._controller.on_lost(path.index, packet.size, packet.sent_at)
        if packet.reliable:
            self.lost.append(packet)
        else:
            del self._packets[packet.number]
            self.bytes -= packet.size

    def next_lost(self) -> Packet | None:
        """The next packet to repeat, if any; it stays at the head until it is sent."""
        while self.lost:
            packet = self.lost[0]
            if packet.number in self._packets and packet.path is None:
                return packet
            self.lost.popleft()
        return None

    def deadline(self, path: PathState, minimum: float, maximum: float) -> float | None:
        """When the oldest packet of `path` expires."""
        for packet in path.in_flight.values():
            return packet.sent_at + path.timeout(minimum, maximum)
        return None

    def clear(self) -> None:
        """Forget everything; the link has ended."""
        for packet in self._packets.values():
            if packet.path is not None:
                packet.path.in_flight.clear()
                packet.path.in_flight_bytes = 0
        self._packets.clear()
        self.lost.clear()
        self.bytes = 0
