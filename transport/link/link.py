"""The sealed link: bytes and the time come in, bytes and events go out (docs/spec.md 4-9).

Order of calls, after quinn and aioquic: feed `receive_packet` for everything
that arrived, then `handle_timeout` if `next_timeout` has passed, then send all
that `poll_transmit` returns, then take all that `poll_event` returns. None of
them blocks, and none raises for anything that came off the wire.

Not thread-safe: its owner calls it from one thread at a time.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ..config import Config
from ..crypto.seal import KeyLimits
from ..errors import HandshakeError, KeyExhaustedError, PeerError, PeerLostError
from ..wire import frames
from ..wire.codec import MalformedError
from ..wire.packet import FIRST_BULK, FIRST_FRAMES, FIRST_PAIR, split_pair
from . import events
from .beginning import Beginning
from .bottleneck import BottleneckWindow
from .congestion import CongestionController
from .credit import CreditPool
from .drops import AUTHENTICATION, LIMIT, MALFORMED, REPLAY, STATE, Drop, Drops
from .express import Buffer, Transmit
from .handshake import Hello, Terms
from .inbox import Inbox, IncomingMessage
from .introduction import Introduction
from .keys import Keys
from .mailbox import Mailbox
from .paths import PathState, SlotBank
from .pathset import PathSet
from .receiver import Receiver
from .scheduler import Scheduler, Spray
from .sender import Sender
from .snapshot import snapshot
from .state import Input, State, next_state
from .stats import LinkStats
from .watch import NEVER, Watch

FAILURES_WARN: Final = 1 << 10  # openings that failed: tell the operator
JOINS_AT_ONCE: Final = 64  # answers to path requests that wait to leave
RING_SHARE: Final = 32  # twice as many packets as wait for one acknowledgement fit the ring
FAILURES_RENEW: Final = 1 << 20  # take fresh keys (docs/spec.md 6.4)


class Link(Beginning):
    """One link between this node and a peer, from the first packet to the last."""

    def __init__(
        self,
        terms: Terms,
        config: Config,
        *,
        peer: str,
        index: int,
        now: float,
        hello: Hello | None = None,
        limits: KeyLimits | None = None,
        controller: CongestionController | None = None,
        scheduler: Scheduler | None = None,
        credit: CreditPool | None = None,
    ) -> None:
        self.peer = peer
        self.index = index
        self.initiator = hello is None
        self.state = State.HANDSHAKING
        self.drops = Drops()
        self.handshake_seconds = 0.0
        self._terms = terms
        self._config = config
        self._limits = limits or KeyLimits.for_advantage(config.advantage_exponent)
        self.controller = controller or BottleneckWindow(config)
        self._introduction = Introduction(
            terms, config, peer=peer, index=index, hello=hello, now=now
        )
        self._keys: Keys | None = None  # exists once both sides' evidence was accepted
        self._pathset = PathSet(config, initiator=self.initiator, random=terms.random)
        self.paths = self._pathset.all
        scheduler = scheduler or Spray(config.packet_payload, start=index)
        self._sender = Sender(config, self._pathset, self.controller, scheduler)
        self.acknowledgements = self._sender.acknowledgements
        self.flight = self._sender.flight
        self._receiver = Receiver(
            Inbox(credit=config.unexpected_bytes), self._sender.acknowledgements, now
        )
        self._watch = Watch(config, self._pathset, self._sender, self._receiver, now)
        self._events: deque[events.Event] = deque()
        self._mailbox = Mailbox(self._sender, self._receiver.inbox, self._events)
        if credit is not None:
            account = credit.open(self, self._mailbox.grant, self._pathset.least_round_trip)
            self._mailbox.account = self._receiver.account = account
        self._rest: tuple[object, memoryview, float] | None = None  # of a PAIR packet
        self._behind: tuple[memoryview, object, int, float] | None = None  # a message: frames
        self._close_queued, self._started = False, now

    def __repr__(self) -> str:
        return f"<Link peer={self.peer!r} {self.state.name} paths={len(self.paths)}>"

    @property
    def last_refusal(self) -> HandshakeError | None:
        """Why the latest attempt failed, where the peer itself gave or proved the reason."""
        return self._introduction.refusal

    # --- paths -----------------------------------------------------------------------

    def add_path(self, handle: object, address: str, now: float) -> PathState:
        """Give the link a path to use; the initiator's joins as soon as the link is open."""
        path = self._pathset.add(handle, address, now)
        if self.state is State.OPEN:
            self._pathset.join(path, self._send_over, now)
        return path

    def add_local_path(self, handle: object, slots: SlotBank, address: str, now: float) -> None:
        """Give the link a path through shared memory: it carries all, for as long as it works.

        The initiator joins it at once, the other side waits for that.
        """
        if self.initiator and self.state is State.OPEN:
            path = self._pathset.add(handle, address, now, slots)
            self._pathset.join(path, self._send_over, now)
        else:
            self._pathset.offer(handle, slots)

    def path_down(self, handle: object, reason: str, now: float) -> None:
        """The transport lost the connection below a path, and what it held."""
        self._pathset.down(handle, reason, self._sender.flight)
        self._watch.look_at = now

    def path_up(self, handle: object, now: float) -> None:
        """The connection below a path stands again; it has to prove itself anew."""
        path = self._pathset.restore(handle)
        self._watch.look_at = now
        if path is not None and self.state in (State.OPEN, State.DRAINING):
            self._pathset.join(path, self._send_over, now)

    # --- receiving -------------------------------------------------------------------

    def receive_packet(self, handle: object, packet: Buffer, now: float) -> None:
        """Take a packet that came over `handle`; hostile ones are dropped and counted."""
        message = self.receive(handle, packet, now)
        if message is not None:
            self._tell_of(message)

    def _tell_of(self, message: IncomingMessage) -> None:
        said = events.MessagePlaced if message.accepted else events.MessageArrived
        self._events.append(said(message))

    def receive(self, handle: object, packet: Buffer, now: float) -> IncomingMessage | None:
        """The same, but where a packet says only this of one message, that one is returned.

        Either it has come, in turn; or it had been accepted and all of it is in place.
        There is no event of it then, and events of earlier packets were taken before.
        """
        if self._rest is not None or self._behind is not None:
            self._receive_rest()
        try:
            if self.state is State.CLOSED or not len(packet):
                raise Drop(STATE)
            first = packet[0]
            if first == FIRST_FRAMES:
                return self._receive_frames(
                    handle, packet if type(packet) is bytes else memoryview(packet), now
                )
            if first == FIRST_BULK:
                return self._receive_piece(handle, memoryview(packet), now)
            elif first == FIRST_PAIR:
                return self._receive_pair(handle, memoryview(packet), now)
            elif self._keys is None or self.state is State.CONFIRMING:
                self._receive_handshake(handle, memoryview(packet), now)
            else:
                raise Drop(STATE)
        except Drop as drop:
            self._dropped(drop, handle, now)
        except (PeerError, KeyExhaustedError) as error:
            self.abort(error)
        return None

    def _dropped(self, drop: Drop, handle: object, now: float) -> None:
        self.drops[drop.cause] += 1
        if drop.cause == REPLAY:
            # Perhaps a repetition because our acknowledgement was lost.
            self._sender.acknowledgements.owe_again(now)
        elif drop.cause == AUTHENTICATION and self._keys is not None:
            self._opening_failed(self._keys.opener.failures, now)
        if not drop.opened and self._pathset.through_memory(handle):
            self._events.append(events.MemoryFailed(handle=handle, cause=drop.cause))

    def _receive_frames(
        self, handle: object, packet: bytes | memoryview, now: float
    ) -> IncomingMessage | None:
        payload = self._receiver.open_frames(packet, now)
        size, end = len(packet), 0
        path = self._came_over(handle, size, now)
        slots = None if path is None else path.slots
        if slots is not None and (type(packet) is memoryview or size * RING_SHARE > slots.window):
            self._sender.acknowledgements.owe_slot()  # in a slot, or few of these fit the ring
        found = self._receiver.inbox.predicted(payload, 0)
        if found is not None:
            message, end = found
            if end == len(payload) or (slots is not None and frames.ends_with_ack(payload, end)):
                if end < len(payload):
                    # The message goes first: its owner may answer while this is looked into.
                    self._behind = memoryview(payload)[end:], handle, size, now
                self._sender.acknowledgements.owe(size, now)
                return message
            while found is not None:
                message, end = found
                self._events.append(events.MessageArrived(message))
                found = self._receiver.inbox.predicted(payload, end)
        elif (ack := frames.lone_ack(payload)) is not None:
            self._on_ack(ack, now)
            return None
        self._take_frames(memoryview(payload)[end:], handle, size, now, elicits=end > 0)
        return None

    def _take_frames(
        self, payload: memoryview, handle: object, size: int, now: float, *, elicits: bool
    ) -> None:
        try:
            for frame in frames.decode(payload):
                if type(frame) is frames.Ack:
                    self._on_ack(frame, now)
                    continue
                elicits = True
                try:
                    self._on_frame(frame, handle, now)
                except Drop as drop:  # of this frame; those behind it are acknowledged too
                    self.drops[drop.cause] += 1
                if self.state is State.CLOSED:
                    return
        except MalformedError:
            raise Drop(MALFORMED, opened=True) from None
        finally:
            if elicits:
                self._sender.acknowledgements.owe(size, now)

    def _receive_pair(
        self, handle: object, packet: memoryview, now: float
    ) -> IncomingMessage | None:
        """An announcement and its bytes: these wait until the owner has heard of the message."""
        try:
            announcement, piece = split_pair(packet)
        except MalformedError:
            raise Drop(MALFORMED) from None
        self._rest = handle, piece, now
        payload = self._receiver.open_frames(announcement, now)
        size = len(announcement)
        self._came_over(handle, size, now)
        found, end = self._receiver.inbox.announced(payload), 0
        if found is not None:
            message, end = found
            if end == len(payload):
                self._sender.acknowledgements.owe(size, now)
                return message
            self._events.append(events.MessageArrived(message))
        self._take_frames(memoryview(payload)[end:], handle, size, now, elicits=end > 0)
        return None

    def _receive_rest(self) -> None:
        behind, self._behind = self._behind, None
        if behind is not None and self.state is not State.CLOSED:
            payload, handle, size, now = behind
            try:
                self._take_frames(payload, handle, size, now, elicits=False)
            except Drop as drop:
                self._dropped(drop, handle, now)
            except (PeerError, KeyExhaustedError) as error:
                self.abort(error)
        rest, self._rest = self._rest, None
        if rest is not None:
            self.receive_packet(*rest)

    def accept(self, message: IncomingMessage, destination: memoryview) -> bool:
        """Open an announced message's bytes into `destination`, which has its exact size.

        Returns True where all of them were at hand; else an event tells when they are.
        """
        if self._mailbox.accept(message, destination):
            return True
        if self._rest is None or not message.follows:
            return False
        rest, self._rest = self._rest, None
        placed = self.receive(*rest)
        if placed is not None and placed is not message:
            self._tell_of(placed)
        return placed is message

    def _receive_piece(
        self, handle: object, packet: memoryview, now: float
    ) -> IncomingMessage | None:
        message = self._receiver.open_piece(packet, now)
        path = self._came_over(handle, len(packet), now)
        in_memory = path is not None and path.slots is not None
        if in_memory:
            self._sender.acknowledgements.owe_slot()
        if message is None:
            return None
        if not (in_memory and message.follows):  # there an answer may take it along
            self._sender.acknowledgements.now_due = True
        return message if message.accepted else None

    def _came_over(self, handle: object, size: int, now: float) -> PathState | None:
        """An authentic packet: this path leads from the peer, and the peer has our keys."""
        path = self._pathset.find(handle)
        if path is not None:
            path.packets_received += 1
            path.bytes_received += size
            self._sender.heard_over = path
        if self.state is State.CONFIRMING:
            self.state = next_state(self.state, Input.CONFIRMED)
            self._watch.look_at = now
            self._open(now)
        return path

    def _opening_failed(self, failures: int, now: float) -> None:
        if failures == FAILURES_WARN:
            self._events.append(
                events.Warned(text=f"{failures} packets for the link to {self.peer!r} did not open")
            )
        if failures and failures % FAILURES_RENEW == 0 and self.state is State.OPEN:
            self.renew(now)

    def _on_ack(self, ack: frames.Ack, now: float) -> None:
        if ack.floor and self._keys is not None:
            self._sender.acknowledgements.forget_below(ack.floor)
            self._keys.opener.forget_before(ack.floor)
        self._sender.on_ack(ack.ranges, now)

    def _on_frame(self, frame: frames.Frame, handle: object, now: float) -> None:
        if self._mailbox.on_frame(frame) or self._keys is None:
            return
        match frame:
            case frames.Join():
                if self._sender.raw_waiting >= JOINS_AT_ONCE:
                    raise Drop(LIMIT)
                path = self._bind(frame.path, handle, now)
                self._send_over(path, frames.encode_joined(frame.path, frame.challenge), now)
            case frames.Joined():
                path = self._pathset.on_joined(frame, handle)
                if path.slots is not None:  # the peer has attached as well
                    self._events.append(events.PathBound(index=path.index, handle=handle))
            case frames.Handshake():
                answers = self._keys.receive_renewal(frame.body, now)
                # In one packet, because packets may overtake each other.
                self._sender.outbox.control(b"".join(map(frames.encode_handshake, answers)))
            case frames.Share(body):
                self._events.append(events.PeerShares(body=body))
            case frames.Close():
                self._sender.send_ack(self._keys)
                error = PeerLostError(f"peer {self.peer!r} closed the link")
                self._end(Input.PEER_CLOSED, error)
            case _:
                pass  # a PING only wants its acknowledgement

    # --- sending ---------------------------------------------------------------------

    def poll_transmit(self, now: float) -> Transmit | None:
        """The next packet to send, or `None`; call until it returns `None`."""
        state, sender = self.state, self._sender
        if state is not State.OPEN and (state is not State.DRAINING or self._drained()):
            return sender.next_raw()
        if self._keys is None:
            return None
        try:
            transmit = sender.poll(self._keys, now)
        except KeyExhaustedError as error:
            self._end(Input.FAILED, error)
            return None
        if sender.sealed:
            self._events.extend(map(events.MessageSealed, sender.sealed))
            sender.sealed.clear()
        return transmit

    def poll_event(self) -> events.Event | None:
        """The next event, or `None`."""
        if not self._events and (self._rest is not None or self._behind is not None):
            # The owner has taken the message's announcement, and perhaps said where it goes.
            self._receive_rest()
        return self._events.popleft() if self._events else None

    # --- time ------------------------------------------------------------------------

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called, or earlier; infinity once closed."""
        return NEVER if self.state is State.CLOSED else min(self._watch.due, self._mailbox.due)

    def handle_timeout(self, now: float) -> None:
        """Do what is due: acknowledge, repeat, probe, renew keys, give up."""
        if self.state is State.CLOSED:
            return
        keys = self._keys
        if keys is None or self.state is State.CONFIRMING:
            self._handshake_timeout(now)
            return
        self._watch.acknowledge(now)
        self._mailbox.look(now)
        if not self._watch.is_due(now):
            return
        silence = self._watch.silence(now)
        if silence is not None:
            self._peer_is_silent(silence)
            return
        is_open = self.state is State.OPEN
        if is_open and now >= keys.renew_at:
            self.renew(now)
        self._watch.expire(keys, self._send_over, now)
        if now >= self._watch.look_at:
            self._watch.look(keys, self._send_over, now, may_renew=is_open)

    def stats(self) -> LinkStats:
        """A snapshot of counters and estimates."""
        parts = self._sender, self._receiver, self.paths, self._keys
        window, taken = self.controller.window_bytes, self.handshake_seconds
        return snapshot(*parts, self.peer, self.state, taken, window, dict(self.drops))
