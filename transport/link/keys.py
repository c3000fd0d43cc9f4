"""The keys of a living link: epochs, generations, and when each changes (docs/spec.md 6).

Two ways lead to new keys. An epoch grows from the last one by HKDF, alone,
whenever a soft limit is reached. A generation comes of a whole new handshake
carried inside the link: fresh ephemeral keys and fresh evidence, at least every
hour, without pause for the messages under way.
"""

from __future__ import annotations

from ..crypto.seal import KeyLimits, Opener, Sealer
from ..errors import AuthenticationError
from ..wire.packet import Kind, first_byte
from .drops import STATE, Drop
from .flight import Flight
from .handshake import Agreement, Handshake, Terms, open_hello


class Keys:
    """Sealer and opener of one link, and the handshake that will replace their keys."""

    __slots__ = (
        "_index",
        "_initiator",
        "_interval",
        "_next_secret",
        "_renewal",
        "_terms",
        "agreement",
        "opener",
        "renew_at",
        "renewals",
        "sealer",
    )

    def __init__(
        self,
        terms: Terms,
        agreement: Agreement,
        *,
        index: int,
        initiator: bool,
        limits: KeyLimits,
        interval: float,
        now: float,
    ) -> None:
        self._terms = terms
        self._index = index
        self._initiator = initiator
        # The responder asks a little later, in case the initiator does not.
        self._interval = interval if initiator else interval * 1.25
        self._renewal: Handshake | None = None
        self._next_secret: bytes | None = None  # of the generation that sealing moves to
        self.agreement = agreement
        self.sealer = Sealer(
            agreement.sealing_secret(initiator=initiator),
            receiver=agreement.peer_index,
            limits=limits,
        )
        self.opener = Opener(agreement.opening_secret(initiator=initiator))
        self.renew_at = now + self._interval
        self.renewals = 0

    def begin_renewal(self, now: float) -> bytes | None:
        """A handshake message that starts a renewal; the responder's is an empty request.

        None while one is under way, or its keys are not yet in use both ways: the
        peer has room for one next generation.
        """
        unfinished = self._renewal is not None and self._initiator
        if unfinished or self._next_secret is not None or not self._in_step:
            self.renew_at = now + min(1.0, self._interval)  # ask again then
            return None
        self.renew_at = now + self._interval
        if not self._initiator:
            return b""
        self._renewal = Handshake(
            self._terms,
            peer=self.agreement.peer,
            index=self._index,
            binding=self.agreement.transcript,
            peer_key=self.agreement.peer_key,
        )
        return self._renewal.first_packet()

    @property
    def _in_step(self) -> bool:
        """Whether both directions use the same generation."""
        return self.opener.generation == self.sealer.generation

    def receive_renewal(self, body: bytes, now: float) -> list[bytes]:
        """Take a handshake message from inside the link; return the answers.

        Raises:
            Drop: out of turn or not genuine.
            HandshakeError: the peer could not prove again that it is the same.
        """
        if not body:
            if not self._initiator:
                raise Drop(STATE)
            begun = self.begin_renewal(now)
            return [] if begun is None else [begun]
        packet = memoryview(body)
        if not self._initiator and packet[0] == first_byte(Kind.INIT):
            self._renewal = self._answering(packet)  # in place of one that was never finished
        if self._renewal is None:
            raise Drop(STATE)
        answers = self._renewal.receive(packet)
        agreement = self._renewal.agreement
        if agreement is not None:
            self._renewal = None
            self.agreement = agreement
            self.opener.expect(agreement.opening_secret(initiator=self._initiator))
            self._next_secret = agreement.sealing_secret(initiator=self._initiator)
            self.renewals += 1
            self.renew_at = now + self._interval
        return answers

    def _answering(self, packet: memoryview) -> Handshake:
        hello = open_hello(packet, self._terms)
        if hello.caller != self.agreement.peer:
            raise AuthenticationError(
                f"peer {self.agreement.peer!r} called itself {hello.caller!r} in a renewal"
            )
        return Handshake(
            self._terms,
            peer=hello.caller,
            index=self._index,
            hello=hello,
            binding=self.agreement.transcript,
            peer_key=self.agreement.peer_key,
        )

    def change(self, flight: Flight) -> None:
        """Move sealing to the next generation or epoch where one is due and the peer can follow.

        The peer holds the key in force and the one before. So nothing of an older
        epoch may be outstanding, and the peer must have shown that it reached ours.

        Raises:
            KeyExhaustedError: no epoch is left in this generation.
        """
        sealer = self.sealer
        if self._next_secret is None and not sealer.wants_rekey:
            return
        # The responder waits until the initiator has used the new generation:
        # only then has the initiator certainly derived it.
        renewing = self._next_secret is not None and (
            self._initiator or self.opener.generation != sealer.generation
        )
        if not (renewing or sealer.wants_rekey):
            return  # a generation is agreed, but its turn has not come
        settled = flight.floor(sealer.next_number) >= sealer.first_number
        if not settled or flight.highest_acknowledged < sealer.first_number:
            return
        if renewing and self._next_secret is not None:
            sealer.renew(self._next_secret)
            self._next_secret = None
        else:
            sealer.advance()

    def drop(self) -> None:
        """Forget every key."""
        self.sealer.drop()
        self.opener.drop()
        self._next_secret = None
        self._renewal = None
