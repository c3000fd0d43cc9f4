"""The cryptographic algorithms Sealfabric uses, as a thin typed layer over `cryptography`.

Nothing here is implemented by hand except HKDF and HMAC plumbing. Invariants:

- What the caller supplies wrongly (a key or nonce of the wrong length) is a
  `UsageError`; what may have come from a peer (a public key, a KEM ciphertext) is
  an `AuthenticationError`, which never says more than which step refused it.
- AES-GCM takes 32-byte keys and 12-byte nonces and nothing else. The library
  accepts 8 to 128 bytes, and nonces that are not 96 bits are hashed, which
  voids the uniqueness argument of SP 800-38D section 8.
- Objects that hold keys cannot be copied or pickled and show none in `repr`.

Standards: RFC 7748 (X25519), FIPS 203 (ML-KEM), RFC 5869 (HKDF), RFC 2104 (HMAC),
SP 800-38D (AES-GCM), RFC 8439 (ChaCha20-Poly1305), Noise revision 34 section 12.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from ..errors import AuthenticationError, UsageError

__all__ = [
    "AEAD_KEY_LEN",
    "CIPHERS",
    "HASHES",
    "MLKEM768",
    "NONCE_LEN",
    "SHA512",
    "TAG_LEN",
    "X25519",
    "X25519_LEN",
    "Aead",
    "Buffer",
    "Cipher",
    "Hash",
    "InvalidTag",
    "KeyHolder",
    "hkdf_sha512",
    "hkdf_sha512_expand",
    "hkdf_sha512_extract",
    "noise_hkdf",
    "wipe",
]

Buffer: TypeAlias = bytes | bytearray | memoryview

AEAD_KEY_LEN = 32
NONCE_LEN = 12
TAG_LEN = 16
X25519_LEN = 32  # private keys, public keys and shared secrets alike


def wipe(secret: bytearray) -> None:
    """Overwrite `secret` with zeros, keeping its length.

    This reaches only this one copy: immutable `bytes` that CPython or the
    library made on the way cannot be overwritten.
    """
    secret[:] = bytes(len(secret))


class KeyHolder:
    """Base of every object that holds key material: no pickling, no copying, no `repr`.

    A copy would be a second place to wipe and, for a cipher, a second counter
    for the same key. `copy` and `pickle` both go through `__reduce_ex__`.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds keys and cannot be copied or pickled")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class X25519(KeyHolder):
    """An X25519 key pair made from 32 private bytes (RFC 7748 section 5).

    `public` is the 32-byte public key.

    Raises:
        UsageError: `private` is not 32 bytes.
    """

    __slots__ = ("_private", "public")

    def __init__(self, private: Buffer) -> None:
        if len(private) != X25519_LEN:
            raise UsageError(
                f"an X25519 private key is {X25519_LEN} bytes long, got {len(private)}"
            )
        self._private = X25519PrivateKey.from_private_bytes(private)
        self.public: bytes = self._private.public_key().public_bytes_raw()

    def dh(self, public: bytes) -> bytes:
        """Return the 32-byte secret shared with the owner of `public`.

        Raises:
            AuthenticationError: `public` is not 32 bytes, or it has low order and
                the secret would be all zeros (RFC 7748 section 6.1): such a key
                contributes nothing and lets a third party know the secret.
        """
        if len(public) != X25519_LEN:
            raise AuthenticationError("X25519 public key refused")
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(bytes(public)))
        except ValueError:
            raise AuthenticationError("X25519 public key refused") from None

    def private_bytes_exposed(self) -> bytes:
        """Return the raw private key, for the one file that stores it."""
        return self._private.private_bytes_raw()


class MLKEM768(KeyHolder):
    """An ML-KEM-768 key pair made from the 64-byte seed d ‖ z (FIPS 203 section 7.1).

    `public` is the 1184-byte encapsulation key.

    Raises:
        UsageError: `seed` is not 64 bytes.
    """

    SEED_LEN = 64
    PUBLIC_LEN = 1184
    CIPHERTEXT_LEN = 1088

    __slots__ = ("_private", "public")

    def __init__(self, seed: Buffer) -> None:
        if len(seed) != self.SEED_LEN:
            raise UsageError(f"an ML-KEM-768 seed is {self.SEED_LEN} bytes long, got {len(seed)}")
        self._private = MLKEM768PrivateKey.from_seed_bytes(seed)
        self.public: bytes = self._private.public_key().public_bytes_raw()

    def decapsulate(self, ciphertext: Buffer) -> bytes:
        """Return the 32-byte shared secret inside `ciphertext`.

        A forged ciphertext of the right length yields an unrelated secret
        (implicit rejection, FIPS 203 section 6.3): the next tag exposes it.

        Raises:
            AuthenticationError: `ciphertext` is not 1088 bytes.
        """
        if len(ciphertext) != self.CIPHERTEXT_LEN:
            raise AuthenticationError("ML-KEM ciphertext refused")
        try:
            return self._private.decapsulate(ciphertext)
        except ValueError:
            raise AuthenticationError("ML-KEM ciphertext refused") from None

    @staticmethod
    def check_public(public: Buffer) -> None:
        """Check that `public` is a well-formed encapsulation key (FIPS 203 section 7.2).

        Raises:
            AuthenticationError: wrong length, or coefficients that are not reduced.
        """
        _mlkem768_public(public)

    @staticmethod
    def encapsulate(public: Buffer) -> tuple[bytes, bytes]:
        """Return (32-byte shared secret, 1088-byte ciphertext) for the owner of `public`.

        Raises:
            AuthenticationError: `public` is not a well-formed encapsulation key.
        """
        return _mlkem768_public(public).encapsulate()


def _mlkem768_public(public: Buffer) -> MLKEM768PublicKey:
    try:
        return MLKEM768PublicKey.from_public_bytes(public)
    except ValueError:
        raise AuthenticationError("ML-KEM public key refused") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hash:
    """A Noise hash function: HASH, HASHLEN, BLOCKLEN and HMAC (Noise section 4.3)."""

    name: str
    hash_len: int
    block_len: int
    new: Callable[..., Any]  # the hashlib constructor; its type is private to hashlib

    def hash(self, data: Buffer) -> bytes:
        """Return HASH(data), `hash_len` bytes."""
        digest: bytes = self.new(data).digest()
        return digest

    def hmac(self, key: Buffer, data: Buffer) -> bytes:
        """Return HMAC-HASH(key, data), `hash_len` bytes (RFC 2104)."""
        return hmac.digest(bytes(key), bytes(data), self.new)


SHA256 = Hash(name="SHA256", hash_len=32, block_len=64, new=hashlib.sha256)
SHA512 = Hash(name="SHA512", hash_len=64, block_len=128, new=hashlib.sha512)
BLAKE2S = Hash(name="BLAKE2s", hash_len=32, block_len=64, new=hashlib.blake2s)
BLAKE2B = Hash(name="BLAKE2b", hash_len=64, block_len=128, new=hashlib.blake2b)

HASHES: dict[str, Hash] = {each.name: each for each in (SHA256, SHA512, BLAKE2S, BLAKE2B)}


def noise_hkdf(
    algorithm: Hash, chaining_key: Buffer, ikm: Buffer, outputs: int
) -> tuple[bytes, ...]:
    """Return two or three outputs of HASHLEN bytes (Noise section 4.3, HKDF).

    Raises:
        UsageError: `outputs` is neither 2 nor 3.
    """
    if outputs not in (2, 3):
        raise UsageError(f"Noise HKDF gives 2 or 3 outputs, asked for {outputs}")
    prk = algorithm.hmac(chaining_key, ikm)
    return tuple(_hkdf_blocks(algorithm, prk, b"", outputs))


def hkdf_sha512_extract(salt: Buffer, ikm: Buffer) -> bytes:
    """Return a 64-byte pseudorandom key from input key material (RFC 5869 section 2.2)."""
    return SHA512.hmac(salt or bytes(SHA512.hash_len), ikm)


def hkdf_sha512_expand(prk: Buffer, info: Buffer, length: int) -> bytes:
    """Return `length` bytes of output key material (RFC 5869 section 2.3, SHA-512).

    Raises:
        UsageError: `length` is not within 1 to 255 * 64 bytes.
    """
    limit = 255 * SHA512.hash_len
    if not 1 <= length <= limit:
        raise UsageError(f"HKDF-SHA-512 gives 1 to {limit} bytes, asked for {length}")
    blocks = -(-length // SHA512.hash_len)
    return b"".join(_hkdf_blocks(SHA512, prk, info, blocks))[:length]


def hkdf_sha512(ikm: Buffer, *, salt: Buffer, info: Buffer, length: int) -> bytes:
    """Return `length` bytes: extract, then expand (RFC 5869, SHA-512).

    Raises:
        UsageError: `length` is not within 1 to 255 * 64 bytes.
    """
    return hkdf_sha512_expand(hkdf_sha512_extract(salt, ikm), info, length)


def _hkdf_blocks(algorithm: Hash, prk: Buffer, info: Buffer, count: int) -> Iterator[bytes]:
    """Yield T(1) to T(count) of RFC 5869; Noise's HKDF is the same with an empty info."""
    block = b""
    for index in range(1, count + 1):
        block = algorithm.hmac(prk, block + info + bytes((index,)))
        yield block


class Aead(KeyHolder):
    """AES-256-GCM with 12-byte nonces only.

    Thread rule: one object may be used from several threads; the library
    releases the GIL for data above about 2 KiB.

    Raises:
        UsageError: `key` is not 32 bytes.
    """

    __slots__ = ("_decrypt_into", "_encrypt_into")

    def __init__(self, key: Buffer) -> None:
        if len(key) != AEAD_KEY_LEN:
            raise UsageError(f"an AES-256-GCM key is {AEAD_KEY_LEN} bytes long, got {len(key)}")
        aead = AESGCM(key)
        self._encrypt_into = aead.encrypt_into
        self._decrypt_into = aead.decrypt_into

    def encrypt_into(
        self, nonce: bytes | bytearray, plaintext: Buffer, aad: Buffer | None, out: Buffer
    ) -> int:
        """Seal `plaintext` into `out`, ciphertext then tag; return the bytes written.

        `out` must be exactly 16 bytes longer than `plaintext`.

        Raises:
            UsageError: `nonce` is not 12 bytes.
            ValueError: `out` does not fit exactly.
        """
        # A memoryview counts elements, not bytes, so its length proves nothing.
        if len(nonce) != NONCE_LEN or not isinstance(nonce, (bytes, bytearray)):
            raise _nonce_refused(nonce)
        return self._encrypt_into(nonce, plaintext, aad, out)

    def decrypt_into(
        self, nonce: bytes | bytearray, ciphertext: Buffer, aad: Buffer | None, out: Buffer
    ) -> int:
        """Open `ciphertext` (with its tag) into `out`; return the bytes written.

        `out` must be exactly 16 bytes shorter than `ciphertext`. On `InvalidTag`
        it has been overwritten with unauthenticated bytes.

        Raises:
            UsageError: `nonce` is not 12 bytes.
            InvalidTag: the ciphertext, `aad` or nonce is not what was sealed.
            ValueError: `out` does not fit exactly.
        """
        if len(nonce) != NONCE_LEN or not isinstance(nonce, (bytes, bytearray)):
            raise _nonce_refused(nonce)
        return self._decrypt_into(nonce, ciphertext, aad, out)

    def encrypt(self, nonce: bytes | bytearray, plaintext: Buffer, aad: Buffer | None) -> bytes:
        """Return ciphertext then tag. Raises as `encrypt_into` does."""
        out = bytearray(memoryview(plaintext).nbytes + TAG_LEN)
        self.encrypt_into(nonce, plaintext, aad, out)
        return bytes(out)

    def decrypt(self, nonce: bytes | bytearray, ciphertext: Buffer, aad: Buffer | None) -> bytes:
        """Return the plaintext. Raises as `decrypt_into` does."""
        out = bytearray(max(memoryview(ciphertext).nbytes - TAG_LEN, 0))
        self.decrypt_into(nonce, ciphertext, aad, out)
        return bytes(out)


def _nonce_refused(nonce: Any) -> UsageError:
    return UsageError(
        f"an AES-GCM nonce is {NONCE_LEN} bytes, got {type(nonce).__name__} of length {len(nonce)}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cipher:
    """A Noise cipher function: how to key it, and how a counter becomes a nonce."""

    name: str
    new: Callable[[Buffer], AESGCM | ChaCha20Poly1305]
    nonce: Callable[[int], bytes]


# Noise sections 12.3 and 12.4: 32 zero bits, then the 64-bit counter,
# little-endian for ChaChaPoly and big-endian for AESGCM.
CIPHERS: dict[str, Cipher] = {
    "AESGCM": Cipher(name="AESGCM", new=AESGCM, nonce=struct.Struct(">4xQ").pack),
    "ChaChaPoly": Cipher(name="ChaChaPoly", new=ChaCha20Poly1305, nonce=struct.Struct("<4xQ").pack),
}
