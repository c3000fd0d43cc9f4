"""A second implementation, written from docs/spec.md alone, understands the first.

It uses `hmac`, `msgpack` and the AES-GCM of `cryptography`; of this project only the Noise
state machine, which has public vectors of its own, and the objects under test.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

import msgpack
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from transport.crypto.noise import HandshakeState
from transport.crypto.seal import KeyLimits, Sealer
from transport.identity import Identity, Trust
from transport.link.handshake import Handshake, Terms

SUITE = b"Noise_XXhfs+psk3_25519+MLKEM768_AESGCM_SHA512"
SECRET = bytes(range(40))
NO_POLICY = hashlib.sha256(b"sealfabric 1 policy: none").digest()
CALLER_INDEX, RESPONDER_INDEX = 7, 99


def extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt, ikm, "sha512")


def expand(prk: bytes, info: bytes, length: int) -> bytes:
    output, block = b"", b""
    for count in range(1, -(-length // 64) + 1):
        block = hmac.digest(prk, block + info + bytes([count]), "sha512")
        output += block
    return output[:length]


def with_lengths(*parts: bytes) -> bytes:
    return b"".join(struct.pack(">H", len(part)) + part for part in parts)


class SecondResponder:
    """Sections 4.2 to 4.5, the responder's side, for a node called bob."""

    def __init__(self, identity: Identity, secret: bytes | None) -> None:
        self.identity = identity
        if secret is None:
            self.psk = bytes(32)
            base = extract(b"sealfabric 1 responder public key", identity.public_key)
        else:
            base = extract(b"sealfabric 1 cluster secret", secret)
            self.psk = expand(base, b"sealfabric 1 psk", 32)
        self.caller_key = expand(base, b"sealfabric 1 caller key" + b"bob", 32)

    def answer(self, init: bytes) -> bytes:
        """Open the hello of INIT and return RESPONSE."""
        first, zero, counter, index = struct.unpack_from("<BBHI", init)
        assert (first, zero, index) == (0x11, 0, CALLER_INDEX)
        box, noise_message = init[8 : 8 + counter], init[8 + counter :]
        key = expand(extract(noise_message[:32], self.caller_key), b"sealfabric 1 hello", 32)
        encoded = AESGCM(key).decrypt(bytes(12), box, init[:8] + noise_message)
        self.hello = msgpack.unpackb(encoded)
        self.noise = HandshakeState(
            SUITE.decode(),
            initiator=False,
            prologue=with_lengths(b"sealfabric 1 prologue", SUITE, b"", encoded),
            s=self.identity.keypair,
            psk=self.psk,
        )
        self.noise.read_message(noise_message)
        fields = {
            "index": RESPONDER_INDEX,
            "nonce": bytes(32),
            "policy": NO_POLICY,
            "packet": 1 << 14,
            "credit": 1 << 20,
        }
        header = struct.pack("<BBHI", 0x12, 0, 0, CALLER_INDEX)
        return header + self.noise.write_message(msgpack.packb(fields))

    def conclude(self, finish: bytes, evidence: bytes) -> bytes:
        """Take FINISH and EVIDENCE and return EVIDENCE; `root` is agreed then."""
        assert struct.unpack_from("<BBHI", finish) == (0x13, 0, 0, RESPONDER_INDEX)
        assert struct.unpack_from("<BBHI", evidence) == (0x14, 0, 0, RESPONDER_INDEX)
        assert self.noise.read_message(finish[8:]) == b""
        transcript = self.noise.handshake_hash
        from_initiator, from_responder = self.noise.split_keys()
        accepted = AESGCM(from_initiator).decrypt(bytes(12), evidence[8:], evidence[:8])
        assert accepted == b"\x01"
        nothing = hashlib.sha512(b"").digest()
        self.root = extract(transcript + nothing + nothing, from_initiator + from_responder)
        header = struct.pack("<BBHI", 0x14, 0, 0, CALLER_INDEX)
        return header + AESGCM(from_responder).encrypt(bytes(12), b"\x01", header)


def linked(secret: bytes | None) -> tuple[Handshake, SecondResponder]:
    """Run the handshake between this project's initiator and the second responder."""
    ada, bob = Identity.generate(), Identity.generate()
    pinned = {"ada": ada.public_key, "bob": bob.public_key}
    terms = Terms(
        name="ada",
        identity=ada,
        trust=Trust(peers=pinned, secret=secret),
        packet_limit=1 << 20,
        credit=1 << 24,
    )
    first = Handshake(terms, peer="bob", index=CALLER_INDEX)
    second = SecondResponder(bob, secret)
    response = second.answer(first.first_packet())
    finish, evidence = first.receive(memoryview(response))
    assert first.receive(memoryview(second.conclude(finish, evidence))) == []
    return first, second


@pytest.mark.parametrize("secret", [SECRET, None], ids=["cluster secret", "pinned keys"])
def test_both_agree_on_the_root(secret):
    first, second = linked(secret)
    assert first.agreement.root == second.root
    assert first.agreement.peer_key == second.identity.public_key
    assert second.hello | {"nonce": b""} == {
        "version": 1,
        "from": "ada",
        "to": "bob",
        "nonce": b"",
        "policy": NO_POLICY,
        "packet": 1 << 20,
        "credit": 1 << 24,
    }


def test_sealed_packets_of_a_later_epoch_open():
    first, second = linked(SECRET)
    secret = first.agreement.sealing_secret(initiator=True)
    sealer = Sealer(secret, receiver=RESPONDER_INDEX, limits=KeyLimits())
    sealer.seal_frames(b"\x08")
    sealer.advance()
    credit = b"\x05" + (1 << 20).to_bytes(8, "little")
    _, packet = sealer.seal_frames(credit)
    slot = bytearray(256)
    _, end = sealer.seal_bulk_into(memoryview(slot), 3, 4096, b"tensor bytes")

    epoch = expand(second.root, b"sealfabric 1 from initiator", 64)
    epoch = expand(epoch, b"sealfabric 1 next epoch", 64)
    material = expand(epoch, b"sealfabric 1 key and iv", 44)

    def open_packet(sealed: bytes, header_size: int, number: int) -> bytes:
        nonce = int.from_bytes(material[32:], "big") ^ number
        return AESGCM(material[:32]).decrypt(
            nonce.to_bytes(12, "big"), sealed[header_size:], sealed[:header_size]
        )

    assert struct.unpack_from("<BBHIQ", packet) == (0x15, 0, 1, RESPONDER_INDEX, 1)
    assert open_packet(bytes(packet), 16, 1) == credit
    assert struct.unpack_from("<BBHIQQQ", slot) == (0x16, 0, 1, RESPONDER_INDEX, 2, 3, 4096)
    assert open_packet(bytes(slot[:end]), 32, 2) == b"tensor bytes"
