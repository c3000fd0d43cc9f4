"""Sealing and opening: one direction of a link, its keys, epochs and limits (docs/spec.md 6).

A `Sealer` owns the only packet counter of its direction and the key in force;
an `Opener` holds the keys a peer may still be using and the replay window.
The nonce is the packet number XORed into a secret IV and never comes from a
caller; the whole header is associated data. There is no null cipher: without
a key neither object exists.

Limits follow SP 800-38D and the CFRG AEAD-limits draft: what counts is blocks,
so that small packets cannot step round a byte count.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import AuthenticationError, ClosedError, KeyExhaustedError, UsageError
from ..wire.packet import (
    BULK_HEADER,
    BULK_OVERHEAD,
    FIRST_BULK,
    FIRST_FRAMES,
    FRAMES_HEADER,
    FRAMES_OVERHEAD,
)
from .primitives import hkdf_sha512_expand, hkdf_sha512_extract, wipe
from .replay import ReplayWindow

Buffer = bytes | bytearray | memoryview

ROOT_SIZE: Final = 64
_FRAMES_HEADER_SIZE: Final = FRAMES_HEADER.size

_forks = 0
_DROPPED: Final = -1  # in place of the count of forks, in a sealer without a key


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


def forks() -> int:
    """How often this process has forked away from the one that loaded this module.

    Compared with the value at creation it tells, without a system call, whether
    an object that must not be used twice has been inherited.
    """
    return _forks


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """When a key is changed (soft) and when it refuses to seal (hard).

    One AES block is 16 bytes. With q blocks under one key an attacker's
    advantage is about q^2 / 2^129: 2^36 bytes give 2^-65 and 2^39 give 2^-59.
    """

    soft_packets: int = 1 << 16
    hard_packets: int = 1 << 19
    soft_blocks: int = 1 << 32
    hard_blocks: int = 1 << 35

    @classmethod
    def for_advantage(cls, exponent: int) -> KeyLimits:
        """Limits that stop within a factor of two of an advantage of 2^-`exponent`."""
        hard = 1 << (130 - exponent) // 2
        return cls(soft_blocks=hard >> 3, hard_blocks=hard)


def link_root(
    split: tuple[bytes, bytes], transcript: bytes, evidence: tuple[bytes, bytes]
) -> bytes:
    """Root secret of a link generation: 64 bytes (docs/spec.md 6.1).

    `split` is the output of Noise Split(), `transcript` the handshake hash and
    `evidence` the SHA-512 of the initiator's and of the responder's evidence, so
    the keys exist only where both ends saw the same evidence.
    """
    return hkdf_sha512_extract(transcript + evidence[0] + evidence[1], b"".join(split))


def direction_secret(root: bytes, *, from_initiator: bool) -> bytes:
    """First epoch secret of one direction of a generation: 64 bytes."""
    label = b"sealfabric 1 from initiator" if from_initiator else b"sealfabric 1 from responder"
    return hkdf_sha512_expand(root, label, ROOT_SIZE)


class _EpochKey:
    """Key and IV of one epoch, and the secret that the next epoch grows from."""

    __slots__ = ("_secret", "aead", "iv")

    def __init__(self, secret: bytes) -> None:
        self._secret = bytearray(secret)
        material = hkdf_sha512_expand(secret, b"sealfabric 1 key and iv", 44)
        self.aead = AESGCM(material[:32])
        self.iv = int.from_bytes(material[32:], "big")

    def successor(self) -> _EpochKey:
        return _EpochKey(
            hkdf_sha512_expand(bytes(self._secret), b"sealfabric 1 next epoch", ROOT_SIZE)
        )

    def drop(self) -> None:
        wipe(self._secret)
        self.iv = 0
        del self.aead


class _Uncopyable:
    """Two copies of a counter under one key would repeat a nonce."""

    __slots__ = ()

    def __copy__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a key and cannot be copied")

    def __deepcopy__(self, memo: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a key and cannot be copied")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds a key and cannot be serialised")


class Sealer(_Uncopyable):
    """Encrypts one direction of a link.

    Owns the only counter for its key, so a nonce cannot repeat. Numbers go on
    rising across epochs: a link direction has one packet-number space.
    """

    __slots__ = (
        "_blocks",
        "_forks",
        "_key",
        "_limits",
        "_packets",
        "_prefix",
        "_receiver",
        "epoch",
        "first_number",
        "generation",
        "next_number",
        "wants_rekey",
    )

    def __init__(
        self, secret: bytes, *, receiver: int, limits: KeyLimits, generation: int = 0
    ) -> None:
        self._key = _EpochKey(secret)
        self._receiver = receiver
        self._limits = limits
        self.next_number = 0
        """The number that the next packet will carry; nobody else sets it."""
        self.wants_rekey = False
        """The soft limit is reached: advance as soon as the peer can follow."""
        self._packets = 0
        self._blocks = 0
        self._forks = _forks
        self.generation = generation
        self.epoch = 0
        self.first_number = 0
        """Lowest packet number that this epoch sealed or will seal."""
        self._prefix = self._frames_prefix()

    def __repr__(self) -> str:
        return (
            f"<Sealer generation={self.generation} epoch={self.epoch} "
            f"next_number={self.next_number}>"
        )

    def _frames_prefix(self) -> bytes:
        """What headers of FRAMES packets begin with in this epoch: all but the number."""
        whole = FRAMES_HEADER.pack(FIRST_FRAMES, self.generation, self.epoch, self._receiver, 0)
        return whole[:-8]

    def advance(self) -> None:
        """Go to the next epoch of this generation; the old key is dropped.

        Raises:
            KeyExhaustedError: the generation has no epoch left.
            ClosedError: the key was dropped.
            UsageError: this process is a fork.
        """
        self._require_ownership()
        if self.epoch == 0xFFFF:
            raise KeyExhaustedError("no epoch left in this generation; a new handshake is due")
        successor = self._key.successor()
        self._install(successor, self.generation, self.epoch + 1)

    def renew(self, secret: bytes) -> None:
        """Go to the first epoch of the next generation, after a new handshake.

        Raises:
            ClosedError: the key was dropped.
            UsageError: this process is a fork.
        """
        self._require_ownership()
        self._install(_EpochKey(secret), (self.generation + 1) & 0xFF, 0)

    def _install(self, key: _EpochKey, generation: int, epoch: int) -> None:
        self._key.drop()
        self._key = key
        self._packets = self._blocks = 0
        self.wants_rekey = False
        self.first_number = self.next_number
        self.generation, self.epoch = generation, epoch
        self._prefix = self._frames_prefix()

    def _require_ownership(self) -> None:
        if self._forks == _DROPPED:
            raise ClosedError("the key of this link was dropped")
        if self._forks != _forks:
            raise UsageError(
                "this link belongs to the parent process; create a new Node after fork()"
            )

    def _spend(self, plaintext_size: int, header_size: int) -> int:
        """Take the next number; it is spent even if sealing fails afterwards.

        Raises:
            KeyExhaustedError: the hard limit is reached; nothing was sealed.
            ClosedError: the key was dropped.
            UsageError: this process is a fork of the one that owns the counter.
        """
        if self._forks != _forks:
            self._require_ownership()
        limits = self._limits
        blocks = self._blocks + (plaintext_size + 15 >> 4) + (header_size + 15 >> 4) + 1
        packets = self._packets + 1
        if packets > limits.hard_packets or blocks > limits.hard_blocks:
            raise KeyExhaustedError(
                f"epoch {self.epoch} reached its hard limit after {self._packets} packets "
                f"and {self._blocks} blocks without a rekey"
            )
        self._blocks = blocks
        self._packets = packets
        if packets >= limits.soft_packets or blocks >= limits.soft_blocks:
            self.wants_rekey = True
        number = self.next_number
        self.next_number = number + 1
        return number

    def seal_frames(self, frames: Buffer) -> tuple[int, bytes]:
        """Seal `frames` into a packet of its own; return its number and the packet.

        Raises:
            KeyExhaustedError: the hard limit of this key is reached; rekey first.
            UsageError: this process is a fork.
        """
        number = self._spend(len(frames), _FRAMES_HEADER_SIZE)
        header = self._prefix + number.to_bytes(8, "little")
        key = self._key
        # For what is small, the allocation inside costs less than views to write into.
        sealed = key.aead.encrypt((key.iv ^ number).to_bytes(12, "big"), frames, header)
        return number, header + sealed

    def seal_frames_into(self, slot: memoryview, frames: Buffer) -> int:
        """Seal `frames` into a packet at the front of `slot`; return its number.

        Raises:
            KeyExhaustedError: the hard limit of this key is reached; rekey first.
            UsageError: this process is a fork.
        """
        size = len(frames)
        number = self._spend(size, _FRAMES_HEADER_SIZE)
        header = self._prefix + number.to_bytes(8, "little")
        slot[:_FRAMES_HEADER_SIZE] = header
        key = self._key
        key.aead.encrypt_into(
            (key.iv ^ number).to_bytes(12, "big"),
            frames,
            header,
            slot[_FRAMES_HEADER_SIZE : size + FRAMES_OVERHEAD],
        )
        return number

    def seal_bulk_into(
        self, slot: memoryview, message: int, offset: int, plaintext: Buffer
    ) -> tuple[int, int]:
        """Seal a piece of a message straight into `slot`; return number and packet size.

        Raises:
            KeyExhaustedError: the hard limit of this key is reached; rekey first.
            UsageError: this process is a fork.
        """
        size = len(plaintext)
        number = self._spend(size, BULK_HEADER.size)
        header = BULK_HEADER.pack(
            FIRST_BULK, self.generation, self.epoch, self._receiver, number, message, offset
        )
        slot[: BULK_HEADER.size] = header
        end = size + BULK_OVERHEAD
        key = self._key
        key.aead.encrypt_into(
            (key.iv ^ number).to_bytes(12, "big"), plaintext, header, slot[BULK_HEADER.size : end]
        )
        return number, end

    def drop(self) -> None:
        """Forget the key; sealing raises from now on, and no later key can follow."""
        if self._forks != _DROPPED:
            self._forks = _DROPPED
            self._key.drop()


class Opener(_Uncopyable):
    """Decrypts one direction of a link and refuses what it has seen before.

    Holds the key in force, its predecessor while packets of it may still be on
    the way, and the key that the peer will use next. `verdict` first, then one
    of the `open_` methods; only a successful open marks the number, so a forged
    packet changes nothing.
    """

    __slots__ = (
        "_key",
        "_keys",
        "_replay",
        "epoch",
        "failures",
        "generation",
        "lowest_of_epoch",
        "verdict",
    )

    def __init__(self, secret: bytes, *, generation: int = 0) -> None:
        self._key = _EpochKey(secret)  # in force
        self._keys: dict[tuple[int, int], _EpochKey] = {
            (generation, 0): self._key,
            (generation, 1): self._key.successor(),
        }
        self._replay = ReplayWindow()
        self.verdict: Callable[[int], str | None] = self._replay.check
        """`None` where a number is new, else the cause to drop by: a drop counter's name."""
        self.generation = generation
        self.epoch = 0
        self.failures = 0
        """Packets whose tag did not verify, over the life of the link."""
        self.lowest_of_epoch = 0
        """Lowest number opened under the key in force; older ones may use the one before."""

    def __repr__(self) -> str:
        return f"<Opener generation={self.generation} epoch={self.epoch} failures={self.failures}>"

    def expect(self, secret: bytes) -> None:
        """Be ready for the first epoch of the next generation, after a new handshake."""
        self._keys[(self.generation + 1) & 0xFF, 0] = _EpochKey(secret)

    def open_frames(self, packet: bytes | memoryview, header: bytes | None = None) -> bytes:
        """Open a FRAMES packet whose length was checked; return its frames.

        A packet may lie in memory that its sender writes while it is opened. So whoever
        has looked into the header passes the copy that was looked into, and that is what
        is authenticated.

        Raises:
            AuthenticationError: key unknown or tag wrong; nothing changed.
        """
        header = header or bytes(packet[:_FRAMES_HEADER_SIZE])
        _, generation, epoch, _, number = FRAMES_HEADER.unpack(header)
        current = epoch == self.epoch and generation == self.generation
        key = self._key if current else self._keys.get((generation, epoch))
        if key is None:
            self.failures += 1
            raise AuthenticationError("no key for this epoch")
        nonce = (key.iv ^ number).to_bytes(12, "big")
        try:
            frames = key.aead.decrypt(nonce, packet[_FRAMES_HEADER_SIZE:], header)
        except InvalidTag:
            self.failures += 1
            raise AuthenticationError("packet does not authenticate") from None
        self._replay.mark(number)
        if not current:
            self._follow(generation, epoch, number)
        return frames

    def open_bulk_into(
        self, packet: memoryview, destination: memoryview, header: bytes | None = None
    ) -> None:
        """Open a BULK packet straight into `destination`, which has its exact size.

        `header` is as for `open_frames`.

        Raises:
            AuthenticationError: key unknown or tag wrong. `destination` may then
                hold arbitrary bytes; the caller must not have delivered them.
        """
        header = header or bytes(packet[: BULK_HEADER.size])
        fields = BULK_HEADER.unpack(header)
        self._open(packet, header, fields[1], fields[2], fields[4], destination)

    def _open(
        self,
        packet: memoryview,
        header: bytes,
        generation: int,
        epoch: int,
        number: int,
        destination: memoryview,
    ) -> None:
        current = epoch == self.epoch and generation == self.generation
        key = self._key if current else self._keys.get((generation, epoch))
        if key is None:
            self.failures += 1
            raise AuthenticationError("no key for this epoch")
        try:
            key.aead.decrypt_into(
                (key.iv ^ number).to_bytes(12, "big"),
                packet[len(header) :],
                header,
                destination,
            )
        except InvalidTag:
            self.failures += 1
            raise AuthenticationError("packet does not authenticate") from None
        self._replay.mark(number)
        if not current:
            self._follow(generation, epoch, number)

    def _follow(self, generation: int, epoch: int, number: int) -> None:
        """The peer sealed under another epoch; where it is a newer one, go along."""
        if generation == self.generation:
            if epoch < self.epoch:
                return
        elif generation != (self.generation + 1) & 0xFF:
            return  # a late packet of the generation before
        keep = {(self.generation, self.epoch), (generation, epoch)}
        for name in [name for name in self._keys if name not in keep]:
            # A next generation that is agreed but not begun stays ready.
            if name != ((generation + 1) & 0xFF, 0):
                self._keys.pop(name).drop()
        self.generation, self.epoch, self.lowest_of_epoch = generation, epoch, number
        self._key = self._keys[generation, epoch]
        self._keys[generation, epoch + 1] = self._key.successor()

    def forget_before(self, floor: int) -> None:
        """Drop the previous epoch's key once no packet below `floor` is outstanding."""
        if floor <= self.lowest_of_epoch or len(self._keys) <= 2:
            return
        current = (self.generation, self.epoch)
        upcoming = {
            current,
            (self.generation, self.epoch + 1),
            ((self.generation + 1) & 0xFF, 0),
        }
        for name in [name for name in self._keys if name not in upcoming]:
            self._keys.pop(name).drop()

    def drop(self) -> None:
        """Forget every key; nothing opens from now on."""
        self.epoch = -1  # no header names it, so none finds the key that was in force
        for key in self._keys.values():
            key.drop()
        self._keys.clear()
