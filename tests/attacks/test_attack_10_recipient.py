"""Attack 10: swap the recipient key, two recipients, an answer in plaintext: one error, no key.

Each defence is shown to be what stops its attack: with that one taken out, in the test
alone, the attacker gets the key or the program takes the answer.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import cbor2
import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_public_key,
)

from support.kms import CONTEXT, KEY, World, recipient, spki, world
from transport.errors import AuthenticationError, PeerRefusedError
from transport.identity.attestation import Attested, Verifier
from transport.identity.kms import (
    AttestedKeys,
    AwsKeyService,
    DataKey,
    EmbeddedKeyService,
    ber,
    cms,
    embedded,
    messages,
)
from transport.identity.kms.cms import REFUSED, open_envelope, seal_envelope
from transport.identity.kms.interface import Operation, request_binding


@pytest.fixture
def made(tmp_path):
    with world(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def attacker() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


class Between:
    """The operator of the network, between a program and its key service."""

    def __init__(self, service: EmbeddedKeyService, change: Callable[[bytes], bytes]) -> None:
        self._service = service
        self._change = change
        self.answers: list[bytes] = []

    def challenge(self) -> bytes:
        return self._service.challenge()

    def generate_data_key(self, key_id, context, evidence) -> DataKey:
        answer = self._service.generate_data_key(key_id, context, self._change(evidence))
        self.answers.append(answer.ciphertext_for_recipient)
        return answer

    def decrypt(self, ciphertext, context, evidence) -> bytes:
        self.answers.append(self._service.decrypt(ciphertext, context, self._change(evidence)))
        return self.answers[-1]


def with_public_key(evidence: bytes, public_key: bytes) -> bytes:
    """The same document with another recipient key in it."""
    protected, unprotected, payload, signature = cbor2.loads(evidence)
    claims = cbor2.loads(payload) | {"public_key": public_key}
    return cbor2.dumps([protected, unprotected, cbor2.dumps(claims), signature])


class Gullible(Verifier):
    """Believes what a document holds, without looking at its signature."""

    def verify(self, evidence, *, public_key, user_data, nonce) -> Attested:
        claims = cbor2.loads(cbor2.loads(evidence)[2])
        return Attested(
            module_id=claims["module_id"],
            timestamp=claims["timestamp"] / 1000,
            digest=claims["digest"],
            pcrs=claims["pcrs"],
            debug=False,
            signer=None,
            hardware=False,
            root="",
            expires=0.0,
            chain=(),
            public_key=claims["public_key"],
            user_data=claims["user_data"],
            nonce=claims["nonce"],
        )


# --- the recipient key is swapped on the way ---------------------------------------------------


def swapped(made: World, attacker: rsa.RSAPrivateKey) -> Between:
    return Between(made.service, lambda evidence: with_public_key(evidence, spki(attacker)))


def test_a_swapped_recipient_key_is_refused(made, attacker):
    between = swapped(made, attacker)
    with pytest.raises(PeerRefusedError):
        AttestedKeys(between, made.attester).generate_data_key(KEY, CONTEXT)
    assert between.answers == []
    assert made.service.granted == 0


def test_without_the_signature_the_attacker_would_have_the_key(made, attacker, monkeypatch):
    monkeypatch.setattr(embedded, "Verifier", Gullible)
    between = swapped(made, attacker)
    with pytest.raises(AuthenticationError, match=REFUSED):
        AttestedKeys(between, made.attester).generate_data_key(KEY, CONTEXT)
    assert len(open_envelope(between.answers[0], attacker)) == 32


def test_evidence_of_the_attacker_s_own_is_refused(made, attacker):
    changed = made.changed_program()

    def own(evidence: bytes) -> bytes:
        challenge = made.service.challenge()
        binding = request_binding(Operation.GENERATE, KEY.encode(), CONTEXT, challenge)
        return changed.evidence(spki(attacker), binding, challenge)

    between = Between(made.service, own)
    with pytest.raises(PeerRefusedError):
        AttestedKeys(between, made.attester).generate_data_key(KEY, CONTEXT)
    assert made.service.granted == 0


def test_evidence_for_a_link_is_no_evidence_for_a_key(made, attacker):
    """The approved program's links attest a public key too, but to another purpose."""
    challenge = made.service.challenge()
    of_a_link = made.attester.evidence(spki(attacker), bytes(64), challenge)
    with pytest.raises(PeerRefusedError):
        made.service.generate_data_key(KEY, CONTEXT, of_a_link)


def test_without_the_binding_such_evidence_would_serve(made, attacker, monkeypatch):
    monkeypatch.setattr(embedded, "request_binding", lambda *parts: bytes(64))
    challenge = made.service.challenge()
    of_a_link = made.attester.evidence(spki(attacker), bytes(64), challenge)
    answer = made.service.generate_data_key(KEY, CONTEXT, of_a_link)
    assert len(open_envelope(answer.ciphertext_for_recipient, attacker)) == 32


# --- an envelope for two -------------------------------------------------------------------------


def for_two(first: rsa.RSAPrivateKey, second: rsa.RSAPrivateKey) -> bytes:
    """One content, whose key two recipients can decrypt: what CMS allows and this profile not."""
    sealed = cms.read_envelope(seal_envelope(bytes(32), first.public_key()))
    oaep = cms.padding.OAEP(cms.padding.MGF1(cms.hashes.SHA256()), cms.hashes.SHA256(), None)
    key = first.decrypt(sealed.encrypted_key, oaep)
    parts = []
    for each in (first, second):
        twin = cms.Envelope(
            recipient_id=cms.recipient_id(each.public_key()),
            encrypted_key=each.public_key().encrypt(key, oaep),
            iv=sealed.iv,
            ciphertext=sealed.ciphertext,
        )
        encoded = cms.write_envelope(twin)
        at = encoded.index(b"\x31\x82")
        end = at + 4 + int.from_bytes(encoded[at + 2 : at + 4], "big")
        parts.append((encoded[:at], encoded[at + 4 : end], encoded[end:]))
    recipients = ber.write_constructed(ber.SET, [parts[0][1], parts[1][1]])
    return parts[0][0] + recipients + parts[0][2]


def test_an_envelope_for_two_is_refused(attacker):
    with pytest.raises(AuthenticationError, match=REFUSED):
        open_envelope(for_two(recipient(), attacker), recipient())


def test_a_reader_without_that_rule_would_take_it(attacker, tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("the openssl command is not installed")
    envelope = tmp_path / "envelope.ber"
    envelope.write_bytes(for_two(recipient(), attacker))
    for number, key in enumerate((recipient(), attacker)):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / f"{number}.pem").write_bytes(pem)
        command = f"{openssl} cms -decrypt -binary -inform DER -in {envelope}"
        opened = subprocess.run(
            [*command.split(), "-inkey", str(tmp_path / f"{number}.pem")],
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert opened.stdout == bytes(32)


# --- an answer in plaintext -------------------------------------------------------------------


class InPlaintext:
    """A KMS, or somebody in its place, that ignores the recipient."""

    def __init__(self, **more: bytes) -> None:
        self._answer = {"CiphertextBlob": b"c", "Plaintext": bytes(32)} | more

    def generate_data_key(self, **asked):
        return self._answer

    decrypt = generate_data_key


@pytest.mark.parametrize("more", [{}, {"CiphertextForRecipient": b"e"}], ids=["alone", "beside"])
def test_a_plaintext_of_aws_kms_is_refused(made, more):
    pytest.importorskip("boto3", reason="the extra `aws` is not installed")
    keys = AttestedKeys(AwsKeyService(InPlaintext(**more)), made.attester)
    for ask in (
        lambda: keys.generate_data_key("k", CONTEXT),
        lambda: keys.decrypt(b"c", CONTEXT),
    ):
        with pytest.raises(AuthenticationError) as refused:
            ask()
        assert str(refused.value) == REFUSED


class Lenient(AwsKeyService):
    """Takes what it can use of an answer, and overlooks the rest."""

    def _ask(self, call, context, evidence, **arguments):
        return call(**arguments, evidence=evidence)


def test_without_that_rule_a_key_that_crossed_in_plaintext_would_be_used(made):
    pytest.importorskip("boto3", reason="the extra `aws` is not installed")

    class Leaking(InPlaintext):
        def generate_data_key(self, *, evidence, **asked):
            attested = cbor2.loads(cbor2.loads(evidence)[2])["public_key"]
            envelope = seal_envelope(bytes(32), load_der_public_key(attested))
            return self._answer | {"CiphertextForRecipient": envelope}

    key, _ciphertext = AttestedKeys(Lenient(Leaking()), made.attester).generate_data_key(
        "k", CONTEXT
    )
    assert key == bytes(32)


def test_a_plaintext_over_a_link_is_refused():
    for answer in (
        {"v": 1, "ciphertext": b"c", "plaintext": bytes(32)},
        {"v": 1, "ciphertext": b"c", "envelope": bytes(32), "plaintext": bytes(32)},
    ):
        with pytest.raises(AuthenticationError) as refused:
            messages.decode_data_key(msgpack.packb(answer))
        assert str(refused.value) == REFUSED


def test_a_plaintext_in_place_of_the_envelope_is_refused():
    with pytest.raises(AuthenticationError, match=REFUSED):
        open_envelope(bytes(range(32)), recipient())
