"""The way out: what leaves next, sealed, over which path (docs/spec.md 7 and 8).

1 packets that bypass the flight: handshakes, and frames that mean one path
2 lost packets, the same bytes again over another path
3 the draft of small messages and control frames
4 a piece of a large message, sealed straight from its owner's memory
5 an acknowledgement, where nothing above carried it
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from ..config import Config
from ..wire import frames
from ..wire.packet import BULK_OVERHEAD, FRAMES_OVERHEAD
from .acknowledgement import Acknowledgements
from .congestion import CongestionController
from .express import COALESCE_PACKETS, COPY_BELOW, PAIR_FRONT, Buffer, Express, Transmit
from .flight import Flight, Packet
from .handshake import Agreement
from .keys import Keys
from .outbox import Outbox, OutgoingMessage
from .paths import PathState
from .pathset import PathSet
from .pool import SlotPool
from .recovery import Recovery
from .scheduler import Scheduler

COALESCE_BYTES: Final = 8 * 1024  # a draft that waits for company leaves once it has grown to this
DATA_SPAN: Final = 4096  # numbers between the oldest packet in flight and the newest
ACK_SPAN: Final = 8000  # the same for bare acknowledgements; less than the replay window
EAGER_RESERVE: Final = frames.EAGER_OVERHEAD + frames.MAX_DESCRIPTION
ACK_RESERVE: Final = frames.MAX_ACK  # a packet has room for an acknowledgement at its end


def frames_capacity(config: Config) -> int:
    """Bytes of frames in one packet: a whole eager message, at least 16 KiB, and an ACK."""
    return max(config.eager_limit + EAGER_RESERVE, 16 * 1024) + ACK_RESERVE


def packet_limit(config: Config) -> int:
    """The largest packet that a node of this configuration sends over a network, in bytes."""
    return max(slot_size(config.packet_payload), frames_capacity(config) + FRAMES_OVERHEAD)


def slot_size(payload: int) -> int:
    """A bulk packet of this many tensor bytes, and an announcement in front of it, in bytes."""
    return PAIR_FRONT + payload + BULK_OVERHEAD


def local_payload(config: Config) -> int:
    """Most tensor bytes in a packet through shared memory, which takes what a network takes."""
    return max(config.packet_payload, config.shared_payload)


class Sender(Express):
    """Everything a link has to send, and the packets of it that are in flight."""

    __slots__ = (
        "_controller",
        "_local_limit",
        "_pathset",
        "_piece_limit",
        "_pool",
        "_raw",
        "_scheduler",
        "acknowledgements",
        "bare_bytes",
        "bare_packets",
        "flight",
        "heard_over",
        "outbox",
        "recovery",
        "sealed",
        "settled",
    )

    def __init__(
        self,
        config: Config,
        pathset: PathSet,
        controller: CongestionController,
        scheduler: Scheduler,
    ) -> None:
        super().__init__()
        self._pathset = pathset
        self._controller = controller
        self._scheduler = scheduler
        self._raw: deque[Transmit] = deque()
        self._pool = SlotPool(slot_size(config.packet_payload), config.spare_slots)
        self._piece_limit = config.packet_payload
        self._local_limit = local_payload(config)
        self.flight = Flight(controller, scheduler)
        self.recovery = Recovery(config, self.flight, controller, scheduler)
        self.acknowledgements = Acknowledgements(config.acknowledge_after)
        # Before the handshake the peer has given no credit.
        self.outbox = Outbox(eager_limit=0, capacity=0, credit=0)
        self.sealed: list[OutgoingMessage] = []
        """Messages whose last byte was sealed since the owner last looked."""
        self.settled = False
        """Something was acknowledged since `poll` was last called."""
        self.heard_over: PathState | None = None
        """The path that the last authentic packet came by."""
        self.bare_packets = self.bare_bytes = 0  # sent outside the flight

    def open(self, config: Config, agreement: Agreement) -> None:
        """The peer's limits are known: messages may be posted."""
        taken = min(frames_capacity(config), agreement.peer_packet_limit - FRAMES_OVERHEAD)
        capacity = taken - ACK_RESERVE
        most = agreement.peer_packet_limit - BULK_OVERHEAD - PAIR_FRONT
        self._piece_limit = min(config.packet_payload, most)
        self._local_limit = min(local_payload(config), most)
        self.outbox = Outbox(
            eager_limit=min(config.eager_limit, capacity - EAGER_RESERVE),
            capacity=capacity,
            credit=agreement.peer_credit,
            follow_limit=self._piece_limit,
        )

    def send_bare(self, handle: object, data: Buffer) -> None:
        """Send a packet that is not tracked."""
        self.bare_packets += 1
        self.bare_bytes += len(data)
        self._raw.append(Transmit(handle, data, False))

    def send_over(self, keys: Keys, path: PathState, frame: bytes, now: float) -> None:
        """Seal a frame that means this very path; it is never repeated elsewhere.

        Raises:
            KeyExhaustedError: the hard limit of the key is reached.
        """
        number, data = keys.sealer.seal_frames(frame)
        packet = Packet(number, data, messages=(), reliable=False)
        self._sent(packet, path, now)
        self._raw.append(Transmit(path.handle, data, False))

    def send_ack(self, keys: Keys) -> None:
        """Queue an acknowledgement ahead of everything else."""
        path = self.any_path()
        if path is not None:
            self._raw.append(Transmit(path.handle, self._bare_ack(keys), False))

    def ack_frame(self, keys: Keys) -> bytes:
        """The acknowledgement that is owed, to go along with other frames."""
        return self.acknowledgements.frame(self.flight.floor(keys.sealer.next_number))

    def goodbye(self, keys: Keys | None, reason: int) -> bytes:
        """CLOSE, behind what the peer must learn of its messages: it takes nothing after it."""
        acknowledgement = b"" if keys is None else self.ack_frame(keys)
        return acknowledgement + frames.encode_close(reason)

    def any_path(self, avoid: PathState | None = None) -> PathState | None:
        """A path for a packet that is not tracked, by preference another than `avoid`.

        The one that the peer was last heard over works at least in one direction,
        and the peer's own probes of it are answered over it. Suspected itself, it is
        still the best choice where every other path is suspected too: two sides that
        answered each other over dead paths would suspect the good one for ever.
        """
        local = self._pathset.local
        if local is not None and local.joined:
            return local
        heard = self.heard_over
        if heard is not None and heard.usable and heard is not avoid and not heard.suspected:
            return heard
        last: PathState | None = heard if heard is not None and heard.usable else None
        for path in self._pathset.network:
            if not path.usable or path is avoid:
                continue
            if not path.suspected:
                return path
            if last is None or last is avoid:
                last = path
        return last

    @property
    def raw_waiting(self) -> int:
        """Packets that bypass the flight and have not left."""
        return len(self._raw)

    def next_raw(self) -> Transmit | None:
        """The next packet that bypasses the flight."""
        return self._raw.popleft() if self._raw else None

    def poll(self, keys: Keys, now: float) -> Transmit | None:
        """Seal and return the next packet; None where nothing may leave now.

        Raises:
            KeyExhaustedError: the hard limit of the key is reached.
        """
        self.settled = False
        if self._raw:
            return self._raw.popleft()
        if self.flight.lost:
            repeated = self._repeat(now)
            if repeated is not None:
                return repeated
        outbox = self.outbox
        held_up = self.flight.packets_waiting  # what was lost goes first
        if outbox.drafts and not held_up:
            sealed = self._seal_draft(keys, now)
            if sealed is not None:
                return sealed
        if outbox.sealing and not held_up:
            sealed = self._seal_piece(keys, now)
            if sealed is not None:
                return sealed
        if not outbox.sealing and not outbox.drafts:
            self.flight.nothing_to_send()
        return self._seal_ack(keys, now) if self.acknowledgements.now_due else None

    @property
    def wants_service(self) -> bool:
        """Whether anything may leave now, or something has arrived that was sent."""
        return bool(
            self.settled
            or self._raw
            or (self.outbox.drafts and not self._waits_for_company)
            or self.outbox.sealing
            or self.flight.lost
            or self.acknowledgements.now_due
        )

    @property
    def _waits_for_company(self) -> bool:
        """The only draft is small, and so much is in flight that it may grow meanwhile."""
        drafts = self.outbox.drafts
        draft = drafts[0]
        return (
            len(draft.frames) < COALESCE_BYTES
            and not draft.urgent
            and self.flight.crowded(COALESCE_PACKETS)
            and len(drafts) == 1
        )

    def _sent(self, packet: Packet, path: PathState, now: float) -> None:
        self.flight.sent(packet, path, now)
        if path.slots is None:
            self.recovery.watch(path, now)

    def _repeat(self, now: float) -> Transmit | None:
        flight = self.flight
        packet = flight.next_lost()
        if packet is None:
            return None
        under_way = flight.bytes - flight.waiting - flight.probe_bytes
        count = len(flight) - flight.packets_waiting - flight.probes
        probing = self.recovery.probing  # which no window holds up (RFC 9002 7.5)
        if under_way and not probing and not self._controller.admits(packet.size, under_way, count):
            return None  # its turn comes with the next acknowledgement, or time-out
        paths = self._pathset.network
        path = self._scheduler.choose(paths, packet.size, now, avoid=packet.lost_by)
        if path is None:
            return None
        flight.lost.popleft()
        self.recovery.probing = False
        self._sent(packet, path, now)
        return Transmit(path.handle, packet.data, packet.size >= COPY_BELOW)

    def within_span(self, keys: Keys) -> bool:
        """Whether a new number still leaves the oldest one within the peer's replay window."""
        number = keys.sealer.next_number
        return number - self.flight.floor(number) < DATA_SPAN

    def _way_for(self, keys: Keys, size: int, now: float) -> PathState | None:
        """A path for a new packet of `size` bytes, if it may be in flight too.

        Shared memory has no congestion: what is in flight there is bounded by its size.
        """
        flight = self.flight
        local = self._pathset.local
        if local is not None and local.joined:
            return local if self.within_span(keys) else None
        in_flight, count = flight.bytes - flight.probe_bytes, len(flight) - flight.probes
        if not self._controller.admits(size, in_flight, count):
            return None
        if not self.within_span(keys):
            return None
        return self._scheduler.choose(self._pathset.network, size, now)

    @staticmethod
    def _fits(path: PathState, size: int) -> bool:
        """Whether a packet that lies in no slot has room beside those in flight."""
        return path.slots is None or path.in_flight_bytes + size <= path.slots.window

    def _seal_draft(self, keys: Keys, now: float) -> Transmit | None:
        drafts = self.outbox.drafts
        draft = drafts[0]
        if self._waits_for_company:
            return None
        frames_size = len(draft.frames)
        path = self._way_for(keys, frames_size + FRAMES_OVERHEAD, now)
        if path is None or not self._fits(path, frames_size + FRAMES_OVERHEAD):
            return None
        keys.change(self.flight)
        drafts.popleft()
        if self.acknowledgements.now_due:
            draft.frames += self.ack_frame(keys)
        number, data = keys.sealer.seal_frames(draft.frames)
        packet = Packet(number, data, messages=draft.messages, reliable=True)
        self._sent(packet, path, now)
        return Transmit(path.handle, data, packet.size >= COPY_BELOW)

    def _seal_piece(self, keys: Keys, now: float) -> Transmit | None:
        local = self._pathset.local
        midway = 0 if local is None or not local.joined else self._local_limit
        piece = self.outbox.next_piece(self._piece_limit, midway)
        if piece is None:
            return None
        message, offset, data = piece
        path = self._way_for(keys, len(data) + BULK_OVERHEAD, now)
        if path is None:
            return None
        bank = path.slots or self._pool
        slot = bank.take()
        if slot is None:
            return None  # until one of those in flight is acknowledged
        keys.change(self.flight)
        if message.follows:
            announcement = frames.encode_announce(
                message.id,
                message.context,
                message.tag,
                message.description,
                message.size,
                follows=True,
            )
            transmit = self._seal_pair(keys, message.id, announcement, data, path, bank, slot, now)
        else:
            number, end = keys.sealer.seal_bulk_into(slot, message.id, offset, data)
            packet = Packet(number, slot[:end], messages=(message.id,), reliable=True)
            packet.slot, packet.bank = slot, bank
            self._sent(packet, path, now)
            transmit = Transmit(path.handle, packet.data, end >= COPY_BELOW)
        if self.outbox.piece_sealed(message, len(data)):
            self.sealed.append(message)
        return transmit

    def _seal_ack(self, keys: Keys, now: float) -> Transmit | None:
        number = keys.sealer.next_number
        path = self.any_path()
        if path is None or number - self.flight.floor(number) >= ACK_SPAN:
            return None
        if not keys.sealer.wants_rekey or len(self.flight):
            return Transmit(path.handle, self._bare_ack(keys), False)
        # A side that only acknowledges learns nothing of what the peer has; to change
        # its key it must know, so this acknowledgement asks for one itself.
        keys.change(self.flight)
        number, data = keys.sealer.seal_frames(self.ack_frame(keys) + frames.encode_ping())
        packet = Packet(number, data, messages=(), reliable=False)
        self._sent(packet, path, now)
        return Transmit(path.handle, data, False)

    def _bare_ack(self, keys: Keys) -> bytes:
        keys.change(self.flight)
        _, data = keys.sealer.seal_frames(self.ack_frame(keys))
        self.bare_packets += 1
        self.bare_bytes += len(data)
        return data

    def on_ack(self, ranges: Sequence[tuple[int, int]], now: float) -> None:
        """The peer acknowledged packets: settle their messages, free their slots."""
        settled = self.flight.acknowledge(ranges, now)
        if not settled:
            return
        self.settled = True
        outbox = self.outbox
        for packet in settled:
            if packet.messages:
                outbox.settle(packet.messages)
            if packet.bank is not None and packet.slot is not None and packet.transmissions == 1:
                packet.bank.give_back(packet.slot)
        self.recovery.on_acknowledged(settled, now)

    @property
    def idle(self) -> bool:
        """Whether everything posted was sealed and acknowledged."""
        return self.outbox.idle and not len(self.flight)
