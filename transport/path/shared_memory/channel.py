"""Both directions of shared memory between two processes, as a path of their link.

    one side                            the other
    Channel(): segment and bell
    claim  ------- sealed frame ------> Channel(), attach(claim)
    attach(claim) <--- sealed frame --- claim
    JOIN through the ring ------------> its challenge is in this very memory
                  <------------- JOINED through the other ring

What `attach` maps is the peer's because the nonce of its claim lies in it, and
the path carries nothing before the link's own challenge has come back through
it. Where anything fails, the link goes on over its other paths.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final, cast

from .. import cores
from ..base import Buffer
from .doorbell import Bell, PeerBell, Sleeper, Waker
from .layout import NONCE, Layout
from .ring import CorruptError, RingReader, RingWriter
from .segment import Claim, Host, Segment, UnavailableError, attach, create
from .slots import PeerSlots, SlotBank

_UNATTACHED: Final = "not attached"
_CLOSED: Final = "closed"


class Channel:
    """A path and its endpoint in one. It is connected once `attach` has returned.

    Raises:
        UnavailableError: this system has no shared memory to give.
    """

    def __init__(self, layout: Layout, *, random: Callable[[int], bytes] = os.urandom) -> None:
        self._host = Host.here()
        self._nonce = random(NONCE)
        self._own: Segment = create(layout, self._nonce)
        try:
            self._bell = Bell()
        except UnavailableError:
            self._own.close()
            raise
        self.descriptor = self._bell.descriptor
        self.monitor_descriptor: int | None = None
        self.slots = SlotBank(self._own)
        """Where pieces of large messages are sealed into; `send` takes them as they lie there."""
        self.fault: str | None = _UNATTACHED
        """Why nothing can be sent or received; None while it works."""
        self._told = False  # of the fault
        self.address = f"shared memory of process {os.getpid()}"

    @property
    def claim(self) -> bytes:
        """What the peer needs in order to attach, for a sealed frame."""
        return Claim(
            boot=self._host.boot,
            namespace=self._host.namespace,
            user=self._host.user,
            process=os.getpid(),
            segment=self._own.descriptor,
            bell=self._bell.offered,
            layout=self._own.layout,
            nonce=self._nonce,
        ).encode()

    def attach(self, claim: bytes | memoryview) -> None:
        """Map the peer's segment and open its bell.

        Raises:
            UnavailableError: another host, user or namespace, or it is not there.
            MalformedError: not a claim.
        """
        theirs = Claim.decode(claim)
        if not self._host.shared_with(theirs):
            raise UnavailableError("the peer is on another host, in another namespace or user")
        peer = attach(theirs, self._own.device)
        try:
            bell = PeerBell(theirs.process, theirs.bell)
        except UnavailableError:
            peer.close()
            raise
        self._peer, self._peer_bell = peer, bell
        words, peer_words = self._own.words, peer.words
        ours, layout = self._own.layout, peer.layout
        self._writer = RingWriter(self._own.mapped, ours.ring, ours.record_limit, peer_words)
        self._reader = RingReader(peer.mapped, layout.ring, layout.record_limit, words)
        self._peer_slots = PeerSlots(peer)
        self._sleeper = Sleeper(words, peer_words)
        self._waker = Waker(peer_words, bell)
        self._leaves = os.getpid() < theirs.process  # of two on one core, one must go
        self.address = f"shared memory with process {theirs.process}"
        self.fault = None

    # --- as a path ---------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether the peer is there, as far as anybody has noticed."""
        return self.fault is None

    @property
    def endpoint(self) -> Channel:
        """The endpoint that receives for this path."""
        return self

    def keep(self) -> None:
        """The peer has attached as well: what it was found by is not needed any more."""
        self._own.hide()
        self._bell.hide()

    def takes(self, packet: Buffer) -> bool:
        """Whether `send` could carry it: small, or sealed into a slot."""
        if len(packet) <= self._own.layout.record_limit:
            return True
        return isinstance(packet, memoryview) and self.slots.index_of(packet) is not None

    def send(self, packet: Buffer, *, stable: bool) -> bool:
        """Hand over one packet; False where the peer is gone, or takes nothing any more.

        Nor is there room for a packet that is too large and lies in no slot.
        """
        if self.fault is not None:
            return False
        try:
            if type(packet) is memoryview and (slot := self.slots.index_of(packet)) is not None:
                put = self._writer.put_slot(slot, len(packet))
            else:
                put = self._writer.put(packet)
        except CorruptError as error:
            self._fail(str(error))
            return False
        if put:
            self._waker.produced()
        else:
            # The link keeps to a window that fits, and nothing here repeats what is lost.
            self._fail("the peer takes nothing out of the ring")
        return put

    # --- as an endpoint ----------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether a packet waits; cheap enough to be asked again and again."""
        return self.fault is None and self._reader.waiting()

    def lie_down(self) -> bool:
        """The engine is about to sleep on the descriptor; False where a packet waits."""
        if self.fault is not None:
            return True
        return not self._reader.waiting() and self._sleeper.lie_down(self._reader.seen)

    def get_up(self) -> None:
        """The engine is awake and will look without being rung."""
        if self.fault is None:
            self._sleeper.get_up()

    @property
    def peek(self) -> Callable[[], bool]:
        """`waiting`, for who asks without pause; not after `close`."""
        return self._reader.waiting

    def receive(self, limit: int, *, signalled: bool) -> Iterator[tuple[Channel, Buffer]]:
        """Yield waiting packets.

        A packet in a slot is read where it lies. It stays there until its sender has
        seen it acknowledged, so it must not be kept any longer than that.
        """
        # Asked before the ring is read: what a peer put there before it died is still good.
        signalled = signalled and self.fault is None  # else the bell may be let go of already
        gone = signalled and not self._bell.quiet()
        if signalled and self._leaves:
            if self._bell.rung_from == cores.current() & 255:
                cores.cores.leave()
            self._bell.rung_from = -1
        for _ in range(limit):
            packet = self.take()
            if packet is None:
                break
            yield self, packet
        if gone and self.fault is None and not self._reader.waiting():
            self._fail("the peer's process has gone")

    def take(self) -> Buffer | None:
        """The next waiting packet, as `receive` yields it; None where none waits."""
        if self.fault is not None:
            return None
        try:
            found = self._reader.take()
            if type(found) is bytes or found is None:
                return found
            return self._peer_slots.packet(*cast("tuple[int, int]", found))
        except CorruptError as error:
            self._fail(str(error))
            return None

    def connectivity(self) -> Iterator[tuple[Channel, bool]]:
        """Yield the channel once after it has failed."""
        if self.fault not in (None, _UNATTACHED, _CLOSED) and not self._told:
            self._told = True
            yield self, False

    def give_up(self, reason: str) -> None:
        """Nothing more goes in or out, for a reason that is not seen from here."""
        self._fail(reason)

    def _fail(self, reason: str) -> None:
        if self.fault is None:
            self.fault = reason

    def close(self) -> None:
        """Let go of everything; the memory is gone once the peer has let go too."""
        if self.fault == _CLOSED:
            return
        attached = self.fault != _UNATTACHED
        self.fault = _CLOSED
        self._told = True
        self._bell.close()
        if attached:
            self._peer_bell.close()
            del self._writer, self._reader, self._peer_slots, self._sleeper, self._waker
            self._peer.close()
        self.slots.close()
        self._own.close()
