"""From the first packet to the link's root secret (docs/spec.md 4).

    initiator                                    responder
    INIT      sealed hello, Noise message 1  ->
                                             <-  RESPONSE  Noise message 2
    FINISH    Noise message 3                ->
    EVIDENCE  bound to this transcript       ->
                                             <-  EVIDENCE  or a sealed refusal

The hello is sealed under a key that every legitimate caller can derive, so a
stranger costs one symmetric operation and learns no names. A message that does
not verify is a `Drop` and changes nothing: the genuine one can still arrive.
What ends an attempt is only what the peer itself has proven: the wrong key, or
a refusal under the handshake's own keys.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha512
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag

from ..crypto.noise import Entropy, HandshakeState
from ..crypto.primitives import Aead, hkdf_sha512
from ..crypto.seal import direction_secret, link_root
from ..errors import AuthenticationError, HandshakeError, UsageError
from ..identity.evidence import EvidenceBinding, EvidenceExchange, NoEvidence
from ..identity.keys import Identity, fingerprint
from ..identity.trust import Trust
from ..wire import codec
from ..wire.packet import (
    HANDSHAKE_HEADER,
    PROTOCOL_VERSION,
    TAG_SIZE,
    HandshakeHeader,
    Kind,
    pack_handshake,
    parse_handshake,
)
from .drops import AUTHENTICATION, BAD_HELLO, MALFORMED, STATE, UNKNOWN_PEER, Drop

if TYPE_CHECKING:
    from ..identity.attestation import Attested

CIPHER_SUITE: Final = "Noise_XXhfs+psk3_25519+MLKEM768_AESGCM_SHA512"
MAX_EVIDENCE: Final = 7 * 1024
MIN_PACKET: Final = 16 * 1024  # every node takes packets of this size

_HELLO_LABEL: Final = b"sealfabric 1 hello"
_PROLOGUE_LABEL: Final = b"sealfabric 1 prologue"
_HELLO_LIMIT: Final = 1024
_NONCE: Final = 32
_ZERO_NONCE: Final = bytes(12)
_EPHEMERAL: Final = 32  # the X25519 key that opens Noise message 1
_ACCEPTED, _REFUSED = b"\x01", b"\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What one node brings to every handshake."""

    name: str
    identity: Identity
    trust: Trust
    evidence: EvidenceExchange = field(default_factory=NoEvidence)
    packet_limit: int  # largest packet this node takes, bytes
    credit: int  # what unclaimed messages may cost at this node, bytes
    random: Callable[[int], bytes] = os.urandom
    noise_entropy: Callable[[], Entropy] = Entropy

    def __post_init__(self) -> None:
        """Refuse a policy that nothing would apply: it must not fail open.

        Raises:
            UsageError: the trust has a policy, and `evidence` applies none.
        """
        if self.trust.policy is not None and isinstance(self.evidence, NoEvidence):
            raise UsageError("a trust with a policy needs the evidence that applies it")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What a caller says of itself and of whom it wants, bound into the prologue."""

    caller: str
    responder: str
    caller_index: int
    nonce: bytes
    packet_limit: int
    credit: int
    encoded: bytes  # the very bytes that the prologue covers


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The outcome of a handshake, and where all keys of the generation come from."""

    peer: str
    peer_key: bytes
    peer_index: int
    peer_packet_limit: int
    peer_credit: int
    transcript: bytes
    attested: Attested | None  # what the peer's evidence says; None where no policy asks
    root: bytes = field(repr=False)

    def sealing_secret(self, *, initiator: bool) -> bytes:
        """The first secret of the direction away from this side."""
        return direction_secret(self.root, from_initiator=initiator)

    def opening_secret(self, *, initiator: bool) -> bytes:
        """The first secret of the direction towards this side."""
        return direction_secret(self.root, from_initiator=not initiator)


def _hello_key(caller_key: bytes, noise_message: bytes) -> Aead:
    # Salted with the fresh ephemeral key, so the zero nonce is used once a key.
    salt = noise_message[:_EPHEMERAL]
    return Aead(hkdf_sha512(caller_key, salt=salt, info=_HELLO_LABEL, length=32))


def _prologue(encoded_hello: bytes, binding: bytes) -> bytes:
    parts = (_PROLOGUE_LABEL, CIPHER_SUITE.encode(), binding, encoded_hello)
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def open_hello(packet: memoryview, terms: Terms) -> Hello:
    """Read the hello of an INIT packet: one HKDF and one small decryption, nothing kept.

    Raises:
        Drop: the caller does not know what a peer of this node knows, asks for
            another node or version, or is not among the pinned peers.
    """
    header_size = HANDSHAKE_HEADER.size
    try:
        header = parse_handshake(packet)
    except codec.MalformedError:
        raise Drop(MALFORMED) from None
    box_end = header_size + header.counter
    noise_message = bytes(packet[box_end:])
    if header.counter > _HELLO_LIMIT + TAG_SIZE or len(noise_message) < _EPHEMERAL:
        raise Drop(MALFORMED)
    key = _hello_key(terms.trust.caller_key(terms.name, terms.identity.public_key), noise_message)
    aad = bytes(packet[:header_size]) + noise_message
    try:
        encoded = key.decrypt(_ZERO_NONCE, bytes(packet[header_size:box_end]), aad)
    except (InvalidTag, ValueError):
        raise Drop(BAD_HELLO) from None
    try:
        fields = codec.unpack(encoded, limit=_HELLO_LIMIT)
        codec.integer(fields, "version", PROTOCOL_VERSION, PROTOCOL_VERSION)
        codec.octets(fields, "policy", 32)
        hello = Hello(
            caller=codec.text(fields, "from", 255),
            responder=codec.text(fields, "to", 255),
            caller_index=header.receiver,
            nonce=codec.octets(fields, "nonce", _NONCE),
            packet_limit=codec.integer(fields, "packet", MIN_PACKET, 1 << 30),
            credit=codec.integer(fields, "credit", 1024, 1 << 50),
            encoded=encoded,
        )
    except codec.MalformedError:
        raise Drop(MALFORMED) from None
    if hello.responder != terms.name:
        raise Drop(BAD_HELLO)
    if hello.caller == terms.name or not terms.trust.knows(hello.caller):
        raise Drop(UNKNOWN_PEER)
    return hello


class Handshake:
    """One attempt, from one side. Feed packets to `receive`; read `agreement` at the end.

    A responder is made with the caller's `hello`. `binding` ties a re-handshake
    to the link it runs in, where `peer_key` must be found again.
    """

    __slots__ = (
        "_awaits",
        "_binding",
        "_index",
        "_initiator",
        "_nonce",
        "_noise",
        "_own_evidence",
        "_peer",
        "_peer_credit",
        "_peer_index",
        "_peer_nonce",
        "_peer_packet_limit",
        "_required_key",
        "_split",
        "_terms",
        "_transcript",
        "agreement",
    )

    def __init__(
        self,
        terms: Terms,
        *,
        peer: str,
        index: int,
        hello: Hello | None = None,
        binding: bytes = b"",
        peer_key: bytes | None = None,
    ) -> None:
        self._terms = terms
        self._peer = peer
        self._index = index
        self._binding = binding
        self._required_key = peer_key
        self._initiator = hello is None
        self._awaits: Kind | None = Kind.RESPONSE if hello is None else Kind.INIT
        self._nonce = terms.random(_NONCE)
        self._peer_nonce = b""
        self._peer_index = self._peer_packet_limit = self._peer_credit = 0
        self._split: tuple[bytes, bytes] | None = None  # initiator's direction first
        self._transcript = b""
        self._own_evidence = b""
        self.agreement: Agreement | None = None
        """Set once both sides' evidence has been accepted; no key exists before."""
        self._noise: HandshakeState | None = None
        if hello is not None:
            self._peer_nonce = hello.nonce
            self._peer_index = hello.caller_index
            self._peer_packet_limit = hello.packet_limit
            self._peer_credit = hello.credit
            self._noise = self._begin_noise(hello.encoded)

    @property
    def transcript_agreed(self) -> bool:
        """Whether the Noise part is over and evidence is awaited."""
        return self._awaits is Kind.EVIDENCE or self.agreement is not None

    def _begin_noise(self, encoded_hello: bytes) -> HandshakeState:
        return HandshakeState(
            CIPHER_SUITE,
            initiator=self._initiator,
            prologue=_prologue(encoded_hello, self._binding),
            s=self._terms.identity.keypair,
            psk=self._terms.trust.psk,
            entropy=self._terms.noise_entropy(),
        )

    def _own_fields(self) -> dict[str, codec.Value]:
        return {
            "nonce": self._nonce,
            "policy": self._terms.trust.policy_hash,
            "packet": self._terms.packet_limit,
            "credit": self._terms.credit,
        }

    def first_packet(self) -> bytes:
        """The initiator's INIT packet; call it once, before anything else."""
        terms = self._terms
        encoded = codec.pack(
            {
                "version": PROTOCOL_VERSION,
                "from": terms.name,
                "to": self._peer,
                **self._own_fields(),
            }
        )
        self._noise = self._begin_noise(encoded)
        noise_message = self._noise.write_message()
        header = pack_handshake(Kind.INIT, self._index, len(encoded) + TAG_SIZE)
        caller_key = terms.trust.caller_key(self._peer, terms.trust.pinned(self._peer))
        key = _hello_key(caller_key, noise_message)
        return header + key.encrypt(_ZERO_NONCE, encoded, header + noise_message) + noise_message

    def receive(self, packet: memoryview) -> list[bytes]:
        """Take a handshake packet; return the packets to answer with.

        Raises:
            Drop: not genuine, or not expected now; nothing has changed.
            HandshakeError: the peer itself ended this attempt, or proved to be
                another than the one pinned. Nothing is taken afterwards.
        """
        try:
            header = parse_handshake(packet)
        except codec.MalformedError:
            raise Drop(MALFORMED) from None
        try:
            return self._receive(header, packet)
        except HandshakeError:
            self._awaits = self._noise = self._split = self.agreement = None
            raise

    def _receive(self, header: HandshakeHeader, packet: memoryview) -> list[bytes]:
        if header.kind is Kind.EVIDENCE:
            return self._receive_evidence(packet, header.counter)
        noise = self._noise
        if header.kind is not self._awaits or noise is None:
            raise Drop(STATE)
        body = bytes(packet[HANDSHAKE_HEADER.size :])
        if header.kind is Kind.INIT:
            body = body[header.counter :]  # `open_hello` has read what stands before
        elif header.counter:
            raise Drop(MALFORMED)
        try:
            payload = noise.read_message(body)
        except HandshakeError:
            raise Drop(AUTHENTICATION) from None
        if header.kind is Kind.INIT:
            return self._answer_init(noise)
        if header.kind is Kind.RESPONSE:
            return self._answer_response(noise, payload)
        return self._answer_finish(noise)

    def _answer_init(self, noise: HandshakeState) -> list[bytes]:
        try:
            message = noise.write_message(codec.pack({"index": self._index, **self._own_fields()}))
        except HandshakeError:  # an ephemeral key of low order shows only here
            self._awaits = None
            raise Drop(AUTHENTICATION) from None
        self._awaits = Kind.FINISH
        return [pack_handshake(Kind.RESPONSE, self._peer_index) + message]

    def _answer_response(self, noise: HandshakeState, payload: bytes) -> list[bytes]:
        try:
            fields = codec.unpack(payload, limit=_HELLO_LIMIT)
            self._peer_index = codec.integer(fields, "index", 0, (1 << 32) - 1)
            self._peer_nonce = codec.octets(fields, "nonce", _NONCE)
            codec.octets(fields, "policy", 32)
            self._peer_packet_limit = codec.integer(fields, "packet", MIN_PACKET, 1 << 30)
            self._peer_credit = codec.integer(fields, "credit", 1024, 1 << 50)
        except codec.MalformedError as error:
            raise HandshakeError(f"peer {self._peer!r} answered with {error}") from None
        # Before anything more is said: an impostor must not learn this side's key.
        self._check_key(noise)
        try:
            message = noise.write_message()
        except HandshakeError:
            raise HandshakeError(f"peer {self._peer!r} answered with an unusable key") from None
        finish = pack_handshake(Kind.FINISH, self._peer_index) + message
        self._agree_transcript(noise)
        return [finish, self._evidence_packet()]

    def _answer_finish(self, noise: HandshakeState) -> list[bytes]:
        self._agree_transcript(noise)
        try:
            self._check_key(noise)
        except AuthenticationError as error:
            raise RefusedError(str(error), answer=self._refusal()) from None
        return []

    def _check_key(self, noise: HandshakeState) -> None:
        found = noise.remote_static or b""
        if self._required_key is not None and found != self._required_key:
            raise AuthenticationError(f"peer {self._peer!r} changed its key within a link")
        if not self._terms.trust.admits(self._peer, found):
            pinned = self._terms.trust.pinned(self._peer)
            raise AuthenticationError(
                f"peer {self._peer!r} presented key {fingerprint(found)}, "
                f"pinned is {fingerprint(pinned) if pinned else 'none'}"
            )
        if found == self._terms.identity.public_key:
            raise AuthenticationError(f"peer {self._peer!r} presented this node's own key")

    def _agree_transcript(self, noise: HandshakeState) -> None:
        self._transcript = noise.handshake_hash
        self._split = noise.split_keys()
        self._awaits = Kind.EVIDENCE

    # --- evidence ----------------------------------------------------------------------

    def _binding_of(self, *, author_is_initiator: bool) -> EvidenceBinding:
        assert self._noise is not None
        own_key = self._terms.identity.public_key
        peer_key = self._noise.remote_static or b""
        mine = author_is_initiator == self._initiator
        nonces = (self._nonce, self._peer_nonce)
        return EvidenceBinding.of(
            author_is_initiator=author_is_initiator,
            transcript=self._transcript,
            author_key=own_key if mine else peer_key,
            reader_key=peer_key if mine else own_key,
            initiator_nonce=nonces[0 if self._initiator else 1],
            responder_nonce=nonces[1 if self._initiator else 0],
        )

    def _evidence_packet(self) -> bytes:
        evidence = self._terms.evidence.produce(
            self._binding_of(author_is_initiator=self._initiator)
        )
        if len(evidence) > MAX_EVIDENCE:
            raise HandshakeError(f"own evidence has {len(evidence)} bytes, at most {MAX_EVIDENCE}")
        self._own_evidence = evidence
        return self._sealed(0, _ACCEPTED + evidence)

    def _refusal(self) -> bytes:
        """Tell the peer, under the handshake's keys, that it is refused; never why."""
        return self._sealed(1 if self._initiator else 0, _REFUSED)

    def _sealed(self, counter: int, content: bytes) -> bytes:
        assert self._split is not None
        header = pack_handshake(Kind.EVIDENCE, self._peer_index, counter)
        key = Aead(self._split[0 if self._initiator else 1])
        return header + key.encrypt(counter.to_bytes(12, "big"), content, header)

    def _receive_evidence(self, packet: memoryview, counter: int) -> list[bytes]:
        # A second packet from the initiator can only be its refusal of our evidence.
        concluded = self.agreement is not None
        allowed = 1 if concluded and not self._initiator else 0
        if self._split is None or counter != allowed or (concluded and self._initiator):
            raise Drop(STATE)
        key = Aead(self._split[1 if self._initiator else 0])
        header = bytes(packet[: HANDSHAKE_HEADER.size])
        try:
            content = key.decrypt(
                counter.to_bytes(12, "big"), bytes(packet[HANDSHAKE_HEADER.size :]), header
            )
        except (InvalidTag, ValueError):
            raise Drop(AUTHENTICATION) from None
        if content[:1] != _ACCEPTED:
            raise AuthenticationError(f"peer {self._peer!r} refused this node")
        if concluded:
            raise Drop(STATE)
        return self._judge(content[1:])

    def _judge(self, evidence: bytes) -> list[bytes]:
        binding = self._binding_of(author_is_initiator=not self._initiator)
        try:
            attested = self._terms.evidence.verify(evidence, binding)
        except AuthenticationError as error:
            # The explanation is this side's; the peer gets a refusal that is always the same.
            why = getattr(error, "explanation", str(error))
            raise RefusedError(
                f"evidence of peer {self._peer!r} refused: {why}",
                answer=self._refusal(),
                evidence=True,
            ) from None
        answers = [] if self._initiator else [self._evidence_packet()]
        assert self._split is not None and self._noise is not None
        hashes = (sha512(self._own_evidence).digest(), sha512(evidence).digest())
        self.agreement = Agreement(
            peer=self._peer,
            peer_key=self._noise.remote_static or b"",
            peer_index=self._peer_index,
            peer_packet_limit=self._peer_packet_limit,
            peer_credit=self._peer_credit,
            transcript=self._transcript,
            attested=attested,
            root=link_root(
                self._split, self._transcript, hashes if self._initiator else hashes[::-1]
            ),
        )
        self._awaits = None
        if self._initiator:
            self._split = None  # nothing more comes under these keys
        return answers


class RefusedError(AuthenticationError):
    """This side refuses the peer; `answer` tells it so under the handshake's keys.

    `evidence` says whether it was refused for its evidence or for its key.
    """

    def __init__(self, text: str, *, answer: bytes, evidence: bool = False) -> None:
        super().__init__(text)
        self.answer = answer
        self.evidence = evidence
