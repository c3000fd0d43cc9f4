"""A program's side: the recipient key is of the call, and the answer is for it."""

from __future__ import annotations

import pytest

from support.kms import CONTEXT, KEY, recipient, world
from transport.errors import AuthenticationError, UsageError
from transport.identity.attestation import UNCHECKED, Verifier
from transport.identity.kms import AttestedKeys, DataKey
from transport.identity.kms.cms import REFUSED, seal_envelope
from transport.identity.kms.interface import Operation, request_binding
from transport.identity.kms.recipient import recipient_of


class Recorder:
    """A key service that records what it was asked, and answers for a key of its own."""

    def __init__(self, nonce: bytes = b"nonce") -> None:
        self.nonce = nonce
        self.asked: list[tuple[bytes, bytes]] = []
        self.content = bytes(32)

    def challenge(self) -> bytes:
        return self.nonce

    def generate_data_key(self, key_id, context, evidence) -> DataKey:
        self.asked.append((key_id.encode(), evidence))
        return DataKey(
            ciphertext=b"ciphertext",
            ciphertext_for_recipient=seal_envelope(self.content, recipient().public_key()),
        )

    def decrypt(self, ciphertext, context, evidence) -> bytes:
        self.asked.append((ciphertext, evidence))
        return self.generate_data_key("", context, evidence).ciphertext_for_recipient


class ForWhoAsks(Recorder):
    """Answers to the recipient in the evidence, without looking at anything else."""

    def __init__(self, verifier: Verifier) -> None:
        super().__init__()
        self._verifier = verifier

    def generate_data_key(self, key_id, context, evidence) -> DataKey:
        attested = self._verifier.verify(
            evidence, public_key=UNCHECKED, user_data=UNCHECKED, nonce=UNCHECKED
        )
        return DataKey(
            ciphertext=b"c",
            ciphertext_for_recipient=seal_envelope(self.content, recipient_of(attested.public_key)),
        )


@pytest.fixture
def made(tmp_path):
    with world(tmp_path) as made:
        yield made


def attested(made, evidence: bytes):
    verifier = Verifier(made.policy(), clock=made.clock)
    return verifier.verify(evidence, public_key=UNCHECKED, user_data=UNCHECKED, nonce=UNCHECKED)


@pytest.mark.parametrize("nonce", [b"nonce", b""])
def test_each_call_has_a_key_of_its_own_and_evidence_bound_to_it(made, nonce):
    service = Recorder(nonce)
    keys = AttestedKeys(service, made.attester)
    for ask in (
        lambda: keys.generate_data_key(KEY, CONTEXT),
        lambda: keys.decrypt(b"ciphertext", CONTEXT),
    ):
        with pytest.raises(AuthenticationError, match=REFUSED):
            ask()
    (first_subject, first), (second_subject, second) = service.asked[:2]
    documents = [attested(made, first), attested(made, second)]
    assert documents[0].public_key != documents[1].public_key
    for document, operation, subject in zip(
        documents,
        (Operation.GENERATE, Operation.DECRYPT),
        (first_subject, second_subject),
        strict=True,
    ):
        assert recipient_of(document.public_key).key_size == 2048
        assert document.user_data == request_binding(operation, subject, CONTEXT, nonce)
        assert document.nonce == (nonce or None)


def test_an_answer_for_the_recipient_opens(made):
    service = ForWhoAsks(Verifier(made.policy(), clock=made.clock))
    key, ciphertext = AttestedKeys(service, made.attester).generate_data_key(KEY, CONTEXT)
    assert (key, ciphertext) == (service.content, b"c")
    assert isinstance(key, bytearray), "so that its owner can overwrite it"


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_data_key_of_another_length_is_refused(made, length):
    service = ForWhoAsks(Verifier(made.policy(), clock=made.clock))
    service.content = bytes(length)
    with pytest.raises(AuthenticationError, match=REFUSED):
        AttestedKeys(service, made.attester).generate_data_key(KEY, CONTEXT)


def test_a_context_that_is_not_usable_is_told_before_anything_is_asked(made):
    service = Recorder()
    with pytest.raises(UsageError):
        AttestedKeys(service, made.attester).decrypt(b"c", {})
    assert service.asked == []
