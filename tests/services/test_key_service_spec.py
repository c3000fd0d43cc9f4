"""A client of the key service, written from section 12 of docs/spec.md alone, gets its key.

It uses `msgpack` and `hashlib`; of this project only a node, the attester that makes its
evidence, and the reader of envelopes, which OpenSSL's are tested against.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import pytest

from support.kms import CONTEXT, KEY, World, recipient, spki, world
from support.nodes import PATIENCE, node
from transport import Identity, Node, Trust
from transport.identity.kms.cms import open_envelope
from transport.services import KeyServer

SECRET = bytes(range(32))
CONVERSATION = 0x4B4D53


class SecondClient:
    """Asks as the specification says, with evidence of the approved program."""

    def __init__(self, caller: Node, made: World) -> None:
        self._caller = caller
        self._made = made
        self._tag = 2**62 + 1

    def ask(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        self._tag += 1
        answer = self._caller.irecv(source="kms", tag=self._tag, context=CONVERSATION)
        request = msgpack.packb(dict(fields))
        self._caller.isend(request, to="kms", tag=self._tag, context=CONVERSATION)
        fields = msgpack.unpackb(answer.wait(PATIENCE).tobytes())
        assert isinstance(fields, dict)
        return fields

    def key(self, do: str, subject: bytes, pairs: Mapping[str, str]) -> dict[str, Any]:
        challenge = self.ask({"v": 1, "do": "challenge"})["challenge"]
        texts = [text.encode() for pair in sorted(pairs.items()) for text in pair]
        context = b"".join(struct.pack(">H", len(text)) + text for text in texts)
        operation = {"generate": b"generate data key", "decrypt": b"decrypt"}[do]
        bound = hashlib.sha512(b"sealfabric 1 key request")
        for part in (operation, subject, context, challenge):
            bound.update(struct.pack(">I", len(part)) + part)
        evidence = self._made.attester.evidence(spki(recipient()), bound.digest(), challenge)
        asked = {"v": 1, "do": do, "subject": subject, "context": context, "evidence": evidence}
        return self.ask(asked)


@pytest.fixture
def made(tmp_path: Path):
    with world(tmp_path) as made:
        yield made


def test_a_client_written_from_the_specification_gets_its_key(made: World) -> None:
    identity, trust = Identity.generate(), Trust(secret=SECRET)
    with KeyServer(made.service, "kms", identity=identity, trust=trust) as server:
        server.start()
        with node("second", listen=()) as caller:
            caller.connect(server.node.addresses, peer="kms", timeout=PATIENCE)
            client = SecondClient(caller, made)
            new = client.key("generate", KEY.encode(), CONTEXT)
            assert new.keys() == {"v", "ciphertext", "envelope"}
            again = client.key("decrypt", new["ciphertext"], CONTEXT)
            assert again["ciphertext"] == new["ciphertext"]
            key = open_envelope(new["envelope"], recipient())
            assert len(key) == 32
            assert open_envelope(again["envelope"], recipient()) == key
            other = client.key("decrypt", new["ciphertext"], {"model": "m2"})
            assert other == {"v": 1, "refused": 1}
    assert made.keys().decrypt(new["ciphertext"], CONTEXT) == key
