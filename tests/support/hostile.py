"""What an enemy may hold: a peer's keys, to play a hostile one; and an oracle for nonces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from transport.crypto.primitives import CIPHERS
from transport.crypto.seal import KeyLimits, Sealer
from transport.wire.packet import FRAMES_OVERHEAD

from .pair import CLIENT_INDEX, Pair

Buffer = bytes | bytearray | memoryview


class StolenKeys:
    """The sealers of every link made after `steal`, by the receiver index they seal for.

    With one of them a test is the authenticated peer, and may send what no honest
    link would. Make the `Pair` after this.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._sealers: dict[int, Sealer] = {}
        self._twins: dict[int, Sealer] = {}

        def recorded(
            secret: bytes, *, receiver: int, limits: KeyLimits, generation: int = 0
        ) -> Sealer:
            sealer = Sealer(secret, receiver=receiver, limits=limits, generation=generation)
            self._sealers[receiver] = sealer
            self._twins[receiver] = Sealer(secret, receiver=receiver, limits=limits)
            return sealer

        monkeypatch.setattr("transport.link.keys.Sealer", recorded)

    def sealer(self, pair: Pair, of: str) -> Sealer:
        """The sealer that `of` seals with for the other side."""
        if of == "server":
            return self._sealers[CLIENT_INDEX]
        return self._sealers[pair.server.link.index]

    def twin(self, pair: Pair, of: str) -> Sealer:
        """What nobody may ever have: a second counter under the same key."""
        return self._twins[CLIENT_INDEX if of == "server" else pair.server.link.index]

    def say(self, pair: Pair, frames: bytes, *, by: str = "client", path: int = 0) -> None:
        """Deliver a packet of these frames at once, sealed as `by` would seal it."""
        _, packet = self.sealer(pair, by).seal_frames(frames)
        assert len(packet) == len(frames) + FRAMES_OVERHEAD
        receiver = pair.other(by)
        receiver.link.receive_packet(receiver.wires[path], bytes(packet), pair.now)
        receiver.take_events(receiver.link)


class NonceOracle:
    """Counts every (key, nonce) that anything encrypts with, links and handshakes alike."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uses: Counter[tuple[bytes, bytes]] = Counter()
        oracle = self

        class Watched:
            """AESGCM that reports each encryption."""

            def __init__(self, key: Buffer) -> None:
                self._key = bytes(key)
                self._aead = AESGCM(self._key)
                self.decrypt = self._aead.decrypt
                self.decrypt_into = self._aead.decrypt_into

            def encrypt(self, nonce: Buffer, plaintext: Buffer, aad: Buffer | None) -> bytes:
                oracle.uses[self._key, bytes(nonce)] += 1
                return self._aead.encrypt(nonce, plaintext, aad)

            def encrypt_into(
                self, nonce: Buffer, plaintext: Buffer, aad: Buffer | None, out: Buffer
            ) -> int:
                oracle.uses[self._key, bytes(nonce)] += 1
                return self._aead.encrypt_into(nonce, plaintext, aad, out)

        monkeypatch.setattr("transport.crypto.seal.AESGCM", Watched)
        monkeypatch.setattr("transport.crypto.primitives.AESGCM", Watched)
        noise = replace(CIPHERS["AESGCM"], new=cast(Callable[[Buffer], AESGCM], Watched))
        monkeypatch.setitem(CIPHERS, "AESGCM", noise)

    @property
    def keys(self) -> int:
        """How many different keys encrypted something."""
        return len({key for key, _ in self.uses})

    @property
    def repeats(self) -> list[tuple[bytes, bytes]]:
        """Nonces used twice under one key: each is the end of that key's secrecy."""
        return [use for use, times in self.uses.items() if times > 1]
