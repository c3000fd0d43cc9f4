"""Messages of one packet that leave at once, where nothing waits before them (docs/spec.md 8.4)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import Any, Final, NamedTuple

from ..wire import frames
from ..wire.frames import EAGER, EAGER_HEAD
from ..wire.packet import BULK_OVERHEAD, FRAMES_OVERHEAD, PAIR_HEADER, pack_pair
from .acknowledgement import Acknowledgements
from .flight import Flight, Packet
from .keys import Keys
from .outbox import Outbox
from .paths import PathState, SlotBank
from .pathset import PathSet
from .pool import SlotPool

COALESCE_PACKETS: Final = 32  # with this many packets in flight, small drafts wait for company
COPY_BELOW: Final = 256 * 1024  # a smaller packet is cheaper to copy than to track
INTO_SLOT: Final = 16 * 1024  # a larger message is sealed where the peer opens it
EXPRESS_OVERHEAD: Final = frames.EAGER_OVERHEAD + FRAMES_OVERHEAD
PAIR_ACK: Final = 256  # bytes of an acknowledgement beside an announcement
PAIR_FRONT: Final = (
    PAIR_HEADER.size
    + FRAMES_OVERHEAD
    + frames.ANNOUNCE_OVERHEAD
    + frames.MAX_DESCRIPTION
    + PAIR_ACK
)

Buffer = bytes | bytearray | memoryview
Sealed = bytes | memoryview


class Transmit(NamedTuple):
    """Bytes to send over the transport's path `handle`."""

    handle: Any  # as the transport gave it
    data: Buffer
    stable: bool
    """The memory is not written again before the packet is acknowledged: no copy is needed."""


class Express(ABC):
    """The base of `Sender`, which makes the parts that are named here."""

    __slots__ = ("_gathered", "_leaving")

    acknowledgements: Acknowledgements
    flight: Flight
    outbox: Outbox
    _pathset: PathSet
    _pool: SlotPool
    _raw: deque[Transmit]

    def __init__(self) -> None:
        # What `express` returned, until it has been sent: number, packet, message, path, slot.
        self._leaving: tuple[int, Sealed, int, PathState, memoryview | None] | None = None
        self._gathered = memoryview(b"")

    @abstractmethod
    def ack_frame(self, keys: Keys) -> bytes:
        """The acknowledgement that is owed, to go along with other frames."""

    @abstractmethod
    def within_span(self, keys: Keys) -> bool:
        """Whether a new number still leaves the oldest one within the peer's replay window."""

    @abstractmethod
    def _way_for(self, keys: Keys, size: int, now: float) -> PathState | None:
        """A path for a new packet of `size` bytes, if it may be in flight too."""

    @abstractmethod
    def _sent(self, packet: Packet, path: PathState, now: float) -> None:
        """`packet` leaves over `path` now."""

    def express(
        self,
        keys: Keys,
        data: memoryview,
        description: bytes,
        context: int,
        tag: int,
        now: float,
    ) -> Transmit | None:
        """Seal a message of one packet at once; None, and nothing done, where it must queue.

        Long before the hard limit of a key it asks for a fresh one, and all queue.
        """
        outbox, flight = self.outbox, self.flight
        if self._raw or outbox.drafts or outbox.sealing or flight.lost or keys.sealer.wants_rekey:
            return None  # what came first goes first
        length = len(data)
        if length > outbox.eager_limit:
            return self._express_pair(keys, data, description, context, tag, now)
        if len(flight) >= COALESCE_PACKETS and flight.crowded(COALESCE_PACKETS):
            return None  # it waits for company
        size = EXPRESS_OVERHEAD + len(description) + length
        path = self._pathset.local
        if path is None or not path.joined or path.slots is None:
            path = self._way_for(keys, size, now)
            if path is None:
                return None
        elif path.in_flight_bytes + size > path.slots.window or not self.within_span(keys):
            return None
        number = outbox.post_now(length, description, context, tag)
        if number < 0:
            return None
        head = EAGER_HEAD.pack(EAGER, number, context, tag, len(description), length)
        acknowledgement = self.ack_frame(keys) if self.acknowledgements.now_due else b""
        if length >= INTO_SLOT and path.slots is not None and (slot := path.slots.take()):
            end = size + len(acknowledgement)
            if end <= len(slot):
                content = self._gather(head + description, data, acknowledgement)
                spent = keys.sealer.seal_frames_into(slot, content)
                packet = slot[:end]
                self._leaving = spent, packet, number, path, slot
                return Transmit(path.handle, packet, False)
            path.slots.give_back(slot)
        spent, sealed = keys.sealer.seal_frames(
            b"".join((head, description, data, acknowledgement))
        )
        self._leaving = spent, sealed, number, path, None
        return Transmit(path.handle, sealed, size >= COPY_BELOW)

    def _gather(self, head: bytes, data: memoryview, tail: bytes) -> memoryview:
        """The three behind each other, in memory that is used for it again and again."""
        start, size = len(head), len(head) + len(data) + len(tail)
        if len(self._gathered) < size:
            self._gathered = memoryview(bytearray(size))
        gathered = self._gathered
        gathered[:start] = head
        gathered[start : start + len(data)] = data
        if tail:
            gathered[size - len(tail) : size] = tail
        return gathered[:size]

    def expressed(self, now: float) -> None:
        """The transport has been given what `express` returned: it is in flight.

        Noted only then, while it is on its way.
        """
        if self._leaving is not None:
            spent, sealed, number, path, slot = self._leaving
            self._leaving = None
            packet = Packet(spent, sealed, messages=(number,), reliable=True)
            if slot is not None:
                packet.slot, packet.bank = slot, path.slots
            self._sent(packet, path, now)

    def _express_pair(
        self,
        keys: Keys,
        data: memoryview,
        description: bytes,
        context: int,
        tag: int,
        now: float,
    ) -> Transmit | None:
        length = len(data)
        if length > self.outbox.follow_limit:
            return None
        path = self._way_for(keys, length + BULK_OVERHEAD, now)
        bank = None if path is None else path.slots or self._pool
        slot = None if bank is None else bank.take()
        if path is None or bank is None or slot is None:
            return None
        number = self.outbox.post_now(length, description, context, tag)
        if number < 0:
            bank.give_back(slot)
            return None
        announcement = frames.encode_announce(
            number, context, tag, description, length, follows=True
        )
        return self._seal_pair(keys, number, announcement, data, path, bank, slot, now)

    def _seal_pair(
        self,
        keys: Keys,
        number: int,
        announcement: bytes,
        data: memoryview,
        path: PathState,
        bank: SlotBank | SlotPool,
        slot: memoryview,
        now: float,
    ) -> Transmit:
        """Seal what a message is, and behind it all its bytes.

        Both are packets of their own, with numbers of their own; only this first time do
        they travel as one.
        """
        if self.acknowledgements.now_due:
            acknowledgement = self.ack_frame(keys)
            if len(acknowledgement) <= PAIR_ACK:
                announcement += acknowledgement
            else:
                self.acknowledgements.now_due = True  # it leaves by itself
        spent, sealed = keys.sealer.seal_frames(announcement)
        self._sent(Packet(spent, sealed, messages=(), reliable=True), path, now)
        front = pack_pair(sealed)
        start = len(front)
        slot[:start] = front
        spent, size = keys.sealer.seal_bulk_into(slot[start:], number, 0, data)
        end = start + size
        packet = Packet(spent, slot[start:end], messages=(number,), reliable=True)
        packet.slot, packet.bank = slot, bank
        self._sent(packet, path, now)
        return Transmit(path.handle, slot[:end], end >= COPY_BELOW)
