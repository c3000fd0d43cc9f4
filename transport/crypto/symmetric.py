"""The symmetric half of Noise: `CipherState` and `SymmetricState` (revision 34, section 5).

Values inside them are replaced, never changed in place, so that a checkpoint is a
tuple of references. A failed decryption changes nothing.
"""

from __future__ import annotations

from typing import TypeAlias

from ..errors import AuthenticationError, KeyExhaustedError, UsageError
from .patterns import Protocol
from .primitives import AEAD_KEY_LEN, Buffer, Cipher, InvalidTag, KeyHolder, noise_hkdf

__all__ = ["Checkpoint", "CipherState", "SymmetricState"]

_NONCE_LIMIT = 2**64 - 1  # reserved for rekey, section 5.1


class CipherState(KeyHolder):
    """A key and its nonce counter (Noise section 5.1). Without a key it passes data through."""

    __slots__ = ("_aead", "_cipher", "_nonce")

    def __init__(self, cipher: Cipher, key: Buffer | None = None) -> None:
        self._cipher = cipher
        self._aead = None if key is None else cipher.new(key)
        self._nonce = 0

    @property
    def has_key(self) -> bool:
        """Whether data is encrypted at all: false before the first MixKey."""
        return self._aead is not None

    @property
    def nonce(self) -> int:
        """The counter of the next message under this key."""
        return self._nonce

    def set_nonce(self, nonce: int) -> None:
        """Continue at `nonce`: for receivers of unordered messages (section 11.4)."""
        self._nonce = nonce

    def encrypt_with_ad(self, ad: bytes, plaintext: bytes) -> bytes:
        """Return the ciphertext with its 16-byte tag, and spend one nonce.

        Raises:
            KeyExhaustedError: the counter has reached 2^64 - 1.
        """
        if self._aead is None:
            return plaintext
        nonce = self._next_nonce()
        self._nonce += 1
        return self._aead.encrypt(nonce, plaintext, ad)

    def decrypt_with_ad(self, ad: bytes, ciphertext: bytes) -> bytes:
        """Return the plaintext; a nonce is spent only where the tag verifies.

        Raises:
            AuthenticationError: the tag does not verify.
            KeyExhaustedError: the counter has reached 2^64 - 1.
        """
        if self._aead is None:
            return ciphertext
        nonce = self._next_nonce()
        try:
            plaintext = self._aead.decrypt(nonce, ciphertext, ad)
        except InvalidTag:
            raise AuthenticationError("handshake message refused") from None
        self._nonce += 1
        return plaintext

    def rekey(self) -> None:
        """Replace the key by REKEY(key) (section 4.2), keeping the counter.

        Raises:
            UsageError: there is no key.
        """
        if self._aead is None:
            raise UsageError("a CipherState without a key cannot be rekeyed")
        nonce = self._cipher.nonce(_NONCE_LIMIT)
        fresh = self._aead.encrypt(nonce, bytes(AEAD_KEY_LEN), b"")[:AEAD_KEY_LEN]
        self._aead = self._cipher.new(fresh)

    def _next_nonce(self) -> bytes:
        if self._nonce >= _NONCE_LIMIT:
            raise KeyExhaustedError("a Noise key encrypts at most 2^64 - 1 messages")
        return self._cipher.nonce(self._nonce)


Checkpoint: TypeAlias = tuple[bytes, bytes, CipherState, int]


class SymmetricState(KeyHolder):
    """The chaining key, the transcript hash and a `CipherState` (Noise section 5.2)."""

    __slots__ = ("_chaining_key", "_cipher_state", "_handshake_hash", "_protocol")

    def __init__(self, protocol: Protocol) -> None:
        name = protocol.name.encode("ascii")
        algorithm = protocol.hash
        fits = len(name) <= algorithm.hash_len
        digest = name.ljust(algorithm.hash_len, b"\0") if fits else algorithm.hash(name)
        self._protocol = protocol
        self._handshake_hash = digest
        self._chaining_key = digest
        self._cipher_state = CipherState(protocol.cipher)

    @property
    def handshake_hash(self) -> bytes:
        """The hash of everything sent and received so far, HASHLEN bytes."""
        return self._handshake_hash

    @property
    def has_key(self) -> bool:
        """Whether `encrypt_and_hash` encrypts yet."""
        return self._cipher_state.has_key

    def mix_key(self, input_key_material: bytes) -> None:
        """Mix a secret into the chaining key, and start a new cipher key at nonce 0."""
        self._chaining_key, key = noise_hkdf(
            self._protocol.hash, self._chaining_key, input_key_material, 2
        )
        self._cipher_state = CipherState(self._protocol.cipher, key[:AEAD_KEY_LEN])

    def mix_hash(self, data: bytes) -> None:
        """Mix `data` into the transcript hash."""
        self._handshake_hash = self._protocol.hash.hash(self._handshake_hash + data)

    def mix_key_and_hash(self, input_key_material: bytes) -> None:
        """Mix a pre-shared key into both (section 9.2)."""
        self._chaining_key, mixed, key = noise_hkdf(
            self._protocol.hash, self._chaining_key, input_key_material, 3
        )
        self.mix_hash(mixed)
        self._cipher_state = CipherState(self._protocol.cipher, key[:AEAD_KEY_LEN])

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """Return the ciphertext, or the plaintext while there is no key; mix it in."""
        ciphertext = self._cipher_state.encrypt_with_ad(self._handshake_hash, plaintext)
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt_and_hash(self, ciphertext: bytes) -> bytes:
        """Return the plaintext and mix the ciphertext in.

        Raises:
            AuthenticationError: the tag does not verify; nothing is mixed in.
        """
        plaintext = self._cipher_state.decrypt_with_ad(self._handshake_hash, ciphertext)
        self.mix_hash(ciphertext)
        return plaintext

    def split_keys(self) -> tuple[bytes, bytes]:
        """Return the keys of Split(): initiator to responder first, 32 bytes each."""
        first, second = noise_hkdf(self._protocol.hash, self._chaining_key, b"", 2)
        return first[:AEAD_KEY_LEN], second[:AEAD_KEY_LEN]

    def checkpoint(self) -> Checkpoint:
        """Return what `restore` needs; values are never changed in place, so this is cheap."""
        state = self._cipher_state
        return self._chaining_key, self._handshake_hash, state, state.nonce

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to `checkpoint`, as if nothing had been mixed or encrypted since."""
        self._chaining_key, self._handshake_hash, self._cipher_state, nonce = checkpoint
        self._cipher_state.set_nonce(nonce)

    def forget(self) -> None:
        """Drop the chaining key and the cipher key; the transcript hash stays."""
        self._chaining_key = b""
        self._cipher_state = CipherState(self._protocol.cipher)
