"""The Noise Protocol Framework, revision 34, with the hybrid forward secrecy (HFS) extension.

The objects bear the specification's names: `CipherState` and `SymmetricState` are
in `symmetric`, `HandshakeState` is here. Patterns are data (`patterns`), so the
public vectors of plain patterns run through the very code that links use for

    Noise_XXhfs+psk3_25519+MLKEM768_AESGCM_SHA512

Invariants:

- A message that cannot be read raises `HandshakeError` (mostly its subclass
  `AuthenticationError`) and nothing else, and leaves the state as it was: a
  forged message does not end a handshake that the genuine peer can still finish.
- There is no negotiation and no fallback: the protocol name is fixed at
  construction and hashed into the transcript.
- Keys come out once, through `split` or `split_keys`, which then forget all else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from ..errors import HandshakeError, UsageError
from .patterns import Message, Protocol, Token
from .primitives import MLKEM768, TAG_LEN, X25519, X25519_LEN, Buffer, KeyHolder
from .symmetric import Checkpoint, CipherState, SymmetricState

__all__ = [
    "MESSAGE_LIMIT",
    "PSK_LEN",
    "CipherState",
    "Entropy",
    "HandshakeState",
    "SymmetricState",
]

MESSAGE_LIMIT = 65535  # bytes, Noise section 3
PSK_LEN = 32  # bytes, Noise section 9.2

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entropy:
    """Where a handshake takes its ephemeral secrets from; tests give fixed ones.

    `random(length)` returns that many bytes: 32 for an X25519 ephemeral, 64 for
    an ML-KEM seed. `encapsulate(public)` returns (shared secret, ciphertext): the
    library cannot encapsulate from a given seed, so a known answer is put in here.
    """

    random: Callable[[int], bytes] = os.urandom
    encapsulate: Callable[[bytes], tuple[bytes, bytes]] = MLKEM768.encapsulate


class HandshakeState(KeyHolder):
    """One side of a handshake (Noise section 5.3).

    `s` is the own static key pair, or its 32 private bytes; `rs` the peer's static
    public key where the pattern demands that it be known before; `psk` the 32-byte
    pre-shared key where the name has a psk modifier. What the pattern does not use
    is refused, so that nothing is believed to protect which does not.

    Call `write_message` and `read_message` in turn, the initiator writing first,
    until `finished`; then take the keys once. Thread rule: one thread at a time.

    Raises:
        UsageError: the name is not supported, or a key is missing, superfluous or
            of the wrong length.
    """

    __slots__ = (
        "_e",
        "_e1",
        "_entropy",
        "_initiator",
        "_position",
        "_protocol",
        "_psk",
        "_re",
        "_re1",
        "_rs",
        "_s",
        "_split",
        "_symmetric",
    )

    def __init__(
        self,
        protocol_name: str,
        *,
        initiator: bool,
        prologue: bytes = b"",
        s: X25519 | Buffer | None = None,
        rs: bytes | None = None,
        psk: bytes | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        protocol = Protocol.parse(protocol_name)
        self._protocol = protocol
        self._initiator = initiator
        self._entropy = entropy or Entropy()
        self._s = s if isinstance(s, X25519) or s is None else X25519(s)
        self._rs = rs
        self._psk = psk
        self._e: X25519 | None = None
        self._re: bytes | None = None
        self._e1: MLKEM768 | None = None
        self._re1: bytes | None = None
        self._position = 0  # messages written or read so far
        self._split = False
        self._check_keys()
        self._symmetric = SymmetricState(protocol)
        self._symmetric.mix_hash(prologue)
        self._mix_premessages()

    @property
    def finished(self) -> bool:
        """Whether every message of the pattern has been written or read."""
        return self._position == len(self._protocol.pattern.messages)

    @property
    def my_turn(self) -> bool:
        """Whether the next step is this side's `write_message`."""
        return not self.finished and (self._position % 2 == 0) == self._initiator

    @property
    def remote_static(self) -> bytes | None:
        """The peer's static public key, or None while it is not known.

        The peer has proved that it holds the key once a message after the one that
        carried it has been read; in XX that is so for both when `finished`.
        """
        return self._rs

    @property
    def handshake_hash(self) -> bytes:
        """The hash of the whole transcript, HASHLEN bytes: a unique name of the channel.

        Raises:
            UsageError: the handshake is not finished.
        """
        self._require_finished()
        return self._symmetric.handshake_hash

    def write_message(self, payload: bytes = b"") -> bytes:
        """Return the next message, carrying `payload`.

        Raises:
            UsageError: it is not this side's turn, or the message would pass 65535 bytes.
            AuthenticationError: the peer's earlier ephemeral key cannot be used.
        """
        if not self.my_turn:
            raise UsageError("this side of the handshake has no message to write now")
        checkpoint = self._checkpoint()
        try:
            message = self._write(payload)
        except BaseException:
            self._restore(checkpoint)
            raise
        self._position += 1
        return message

    def read_message(self, message: Buffer) -> bytes:
        """Return the payload of the peer's next message.

        Whether the payload was encrypted and authenticated depends on the pattern
        and the message: in XX the first one's is not.

        Raises:
            UsageError: it is not the peer's turn.
            HandshakeError: the message is not genuine; the state is as before, and
                the genuine message can still be read.
        """
        if self.finished or self.my_turn:
            raise UsageError("the peer has no handshake message to send now")
        if len(message) > MESSAGE_LIMIT:
            raise HandshakeError(
                f"handshake message of {len(message)} bytes, at most {MESSAGE_LIMIT} allowed"
            )
        checkpoint = self._checkpoint()
        try:
            payload = self._read(bytes(message))
        except BaseException:
            self._restore(checkpoint)
            raise
        self._position += 1
        return payload

    def split(self) -> tuple[CipherState, CipherState]:
        """Return the ciphers of Split(): initiator to responder first.

        The handshake's secrets are dropped; keys can be taken only once.

        Raises:
            UsageError: the handshake is not finished, or was split before.
        """
        first, second = self.split_keys()
        cipher = self._protocol.cipher
        return CipherState(cipher, first), CipherState(cipher, second)

    def split_keys(self) -> tuple[bytes, bytes]:
        """Return the raw 32-byte keys of Split() instead, for a key schedule above Noise.

        Raises: as `split` does.
        """
        self._require_finished()
        if self._split:
            raise UsageError("the keys of this handshake have been taken already")
        keys = self._symmetric.split_keys()
        self._split = True
        self._symmetric.forget()
        self._s = self._e = self._e1 = self._psk = None
        return keys

    def _check_keys(self) -> None:
        pattern = self._protocol.pattern
        mine_known, theirs_known = pattern.initiator_static_known, pattern.responder_static_known
        if not self._initiator:
            mine_known, theirs_known = theirs_known, mine_known
        writes_s = any(Token.S in each for each in pattern.messages[not self._initiator :: 2])
        if (mine_known or writes_s) != (self._s is not None):
            needs = "needs" if self._s is None else "does not use"
            raise UsageError(f"{self._protocol.name} {needs} an own static key pair `s`")
        if theirs_known != (self._rs is not None):
            needs = "needs" if theirs_known else "does not use"
            raise UsageError(f"{self._protocol.name} {needs} the peer's static key `rs` beforehand")
        if self._rs is not None and len(self._rs) != X25519_LEN:
            raise UsageError(f"`rs` is {X25519_LEN} bytes long, got {len(self._rs)}")
        if self._protocol.psk != (self._psk is not None):
            needs = "needs" if self._protocol.psk else "does not use"
            raise UsageError(f"{self._protocol.name} {needs} a pre-shared key `psk`")
        if self._psk is not None and len(self._psk) != PSK_LEN:
            raise UsageError(f"`psk` is {PSK_LEN} bytes long, got {len(self._psk)}")

    def _mix_premessages(self) -> None:
        """Mix in the static keys known beforehand, the initiator's first (section 5.3)."""
        own = None if self._s is None else self._s.public
        initiator, responder = (own, self._rs) if self._initiator else (self._rs, own)
        if self._protocol.pattern.initiator_static_known and initiator is not None:
            self._symmetric.mix_hash(initiator)
        if self._protocol.pattern.responder_static_known and responder is not None:
            self._symmetric.mix_hash(responder)

    def _write(self, payload: bytes) -> bytes:
        message = b"".join(self._write_token(token) for token in self._tokens())
        message += self._symmetric.encrypt_and_hash(bytes(payload))
        if len(message) > MESSAGE_LIMIT:
            raise UsageError(
                f"handshake message of {len(message)} bytes, at most {MESSAGE_LIMIT} allowed"
            )
        return message

    def _write_token(self, token: Token) -> bytes:
        """Carry out `token` and return what it adds to the message."""
        symmetric = self._symmetric
        match token:
            case Token.E:
                self._e = X25519(self._entropy.random(X25519_LEN))
                self._mix_ephemeral(self._e.public)
                return self._e.public
            case Token.S:
                return symmetric.encrypt_and_hash(_present(self._s).public)
            case Token.E1:
                self._e1 = MLKEM768(self._entropy.random(MLKEM768.SEED_LEN))
                return symmetric.encrypt_and_hash(self._e1.public)
            case Token.EKEM1:
                secret, kem_ciphertext = self._entropy.encapsulate(_present(self._re1))
                ciphertext = symmetric.encrypt_and_hash(kem_ciphertext)
                symmetric.mix_key(secret)
                return ciphertext
        self._mix_secret(token)
        return b""

    def _read(self, message: bytes) -> bytes:
        start = 0
        for token in self._tokens():
            end = start + self._length(token)
            if end > len(message):
                raise HandshakeError(f"handshake message of {len(message)} bytes is too short")
            self._read_token(token, message[start:end])
            start = end
        return self._symmetric.decrypt_and_hash(message[start:])

    def _length(self, token: Token) -> int:
        """Return how many bytes of a message belong to `token`."""
        tag = TAG_LEN if self._symmetric.has_key else 0
        match token:
            case Token.E:
                return X25519_LEN
            case Token.S:
                return X25519_LEN + tag
            case Token.E1:
                return MLKEM768.PUBLIC_LEN + tag
            case Token.EKEM1:
                return MLKEM768.CIPHERTEXT_LEN + tag
        return 0

    def _read_token(self, token: Token, data: bytes) -> None:
        symmetric = self._symmetric
        match token:
            case Token.E:
                self._re = data
                self._mix_ephemeral(data)
            case Token.S:
                self._rs = symmetric.decrypt_and_hash(data)
            case Token.E1:
                public = symmetric.decrypt_and_hash(data)
                MLKEM768.check_public(public)
                self._re1 = public
            case Token.EKEM1:
                kem_ciphertext = symmetric.decrypt_and_hash(data)
                symmetric.mix_key(_present(self._e1).decapsulate(kem_ciphertext))
            case _:
                self._mix_secret(token)

    def _mix_ephemeral(self, public: bytes) -> None:
        """Mix an ephemeral public key; with a psk also as a key, so that no two
        handshakes encrypt under a key made of the psk alone (section 9.2)."""
        self._symmetric.mix_hash(public)
        if self._protocol.psk:
            self._symmetric.mix_key(public)

    def _mix_secret(self, token: Token) -> None:
        """Carry out `psk` or a DH token, which add nothing to the message."""
        if token is Token.PSK:
            self._symmetric.mix_key_and_hash(_present(self._psk))
            return
        initiators, responders = token[0], token[1]
        mine, theirs = (initiators, responders) if self._initiator else (responders, initiators)
        local = self._e if mine == "e" else self._s
        remote = self._re if theirs == "e" else self._rs
        self._symmetric.mix_key(_present(local).dh(_present(remote)))

    def _tokens(self) -> Message:
        return self._protocol.pattern.messages[self._position]

    def _checkpoint(self) -> _Checkpoint:
        return self._symmetric.checkpoint(), self._e, self._re, self._e1, self._re1, self._rs

    def _restore(self, checkpoint: _Checkpoint) -> None:
        symmetric, self._e, self._re, self._e1, self._re1, self._rs = checkpoint
        self._symmetric.restore(symmetric)

    def _require_finished(self) -> None:
        if not self.finished:
            raise UsageError("the handshake is not finished")


_Checkpoint: TypeAlias = tuple[
    Checkpoint, X25519 | None, bytes | None, MLKEM768 | None, bytes | None, bytes | None
]


def _present(value: _T | None) -> _T:
    """Return a key that the pattern and the checks at construction say is there."""
    if value is None:
        raise UsageError("the handshake lacks a key that its pattern needs")
    return value
