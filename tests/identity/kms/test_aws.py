"""AWS KMS as a key service: what it is asked, and which answers are refused.

botocore's Stubber checks every call against the service's own model. moto's KMS knows
no Recipient: it answers in plaintext, which is exactly what must be refused.
"""

from __future__ import annotations

import builtins
import sys

import pytest

from support.kms import CONTEXT, world
from transport.errors import AuthenticationError, PeerError, PeerRefusedError, UsageError
from transport.identity.attestation import UNCHECKED, Verifier
from transport.identity.kms import AttestedKeys, AwsKeyService
from transport.identity.kms.cms import REFUSED, seal_envelope
from transport.identity.kms.recipient import recipient_of

EVIDENCE = b"an attestation document"
KEY_ARN = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ENVELOPE = b"an envelope"
RECIPIENT = {
    "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
    "AttestationDocument": EVIDENCE,
}


@pytest.fixture
def client(monkeypatch):
    boto3 = pytest.importorskip("boto3", reason="the extra `aws` is not installed")
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "testing"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    return boto3.client("kms")


@pytest.fixture
def stub(client):
    from botocore.stub import Stubber

    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def expect_generate(stub, answer, **changes: object) -> None:
    asked = {
        "KeyId": KEY_ARN,
        "KeySpec": "AES_256",
        "EncryptionContext": CONTEXT,
        "Recipient": RECIPIENT,
    }
    stub.add_response("generate_data_key", answer, asked | changes)


def test_every_call_bears_a_recipient(client, stub):
    expect_generate(
        stub,
        {"CiphertextBlob": b"c", "CiphertextForRecipient": ENVELOPE, "KeyId": KEY_ARN},
    )
    stub.add_response(
        "decrypt",
        {"CiphertextForRecipient": ENVELOPE, "KeyId": KEY_ARN},
        {"CiphertextBlob": b"c", "EncryptionContext": CONTEXT, "Recipient": RECIPIENT},
    )
    service = AwsKeyService(client)
    assert service.challenge() == b""
    answer = service.generate_data_key(KEY_ARN, CONTEXT, EVIDENCE)
    assert (answer.ciphertext, answer.ciphertext_for_recipient) == (b"c", ENVELOPE)
    assert service.decrypt(b"c", CONTEXT, EVIDENCE) == ENVELOPE


def test_decrypt_can_be_held_to_one_key(client, stub):
    stub.add_response(
        "decrypt",
        {"CiphertextForRecipient": ENVELOPE},
        {
            "CiphertextBlob": b"c",
            "EncryptionContext": CONTEXT,
            "Recipient": RECIPIENT,
            "KeyId": KEY_ARN,
        },
    )
    AwsKeyService(client, decrypt_key_id=KEY_ARN).decrypt(b"c", CONTEXT, EVIDENCE)


@pytest.mark.parametrize(
    "answer",
    [
        {"CiphertextBlob": b"c", "Plaintext": bytes(32)},
        {"CiphertextBlob": b"c", "Plaintext": bytes(32), "CiphertextForRecipient": ENVELOPE},
        {"CiphertextBlob": b"c"},
        {"CiphertextBlob": b"c", "CiphertextForRecipient": b""},
        {"CiphertextForRecipient": ENVELOPE},
    ],
    ids=["plaintext", "both", "no envelope", "empty envelope", "no ciphertext"],
)
def test_another_answer_is_one_error(client, stub, answer):
    expect_generate(stub, answer)
    with pytest.raises(AuthenticationError) as failed:
        AwsKeyService(client).generate_data_key(KEY_ARN, CONTEXT, EVIDENCE)
    assert (type(failed.value), str(failed.value)) == (AuthenticationError, REFUSED)


def test_an_empty_plaintext_is_what_kms_documents(client, stub):
    expect_generate(
        stub, {"CiphertextBlob": b"c", "Plaintext": b"", "CiphertextForRecipient": ENVELOPE}
    )
    assert AwsKeyService(client).generate_data_key(KEY_ARN, CONTEXT, EVIDENCE)


@pytest.mark.parametrize("code", ["AccessDeniedException", "DisabledException"])
def test_a_refusal_names_the_code_of_kms(client, stub, code):
    stub.add_client_error("decrypt", service_error_code=code)
    with pytest.raises(PeerRefusedError, match=code):
        AwsKeyService(client).decrypt(b"c", CONTEXT, EVIDENCE)


def test_a_service_that_cannot_be_reached(monkeypatch, client):
    import boto3
    from botocore.config import Config

    nowhere = boto3.client(
        "kms",
        endpoint_url="http://127.0.0.1:1",
        config=Config(retries={"max_attempts": 0}, connect_timeout=2),
    )
    with pytest.raises(PeerError, match="cannot be reached"):
        AwsKeyService(nowhere).decrypt(b"c", CONTEXT, EVIDENCE)


def test_a_context_that_is_not_usable_is_told_before_anything_is_asked(client, stub):
    with pytest.raises(UsageError, match="encryption context"):
        AwsKeyService(client).decrypt(b"c", {}, EVIDENCE)


def test_without_boto3_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **more):
        if name.partition(".")[0] in {"boto3", "botocore"}:
            raise ImportError(name)
        return real(name, *arguments, **more)

    for name in [name for name in sys.modules if name.partition(".")[0] in {"boto3", "botocore"}]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"sealfabric\[aws\]"):
        AwsKeyService()


def test_without_a_region_boto3_s_complaint_is_told(client, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UsageError, match="region"):
        AwsKeyService()


class Kms:
    """What KMS does with a Recipient, for the key that a document vouches for.

    It stands where `AwsKeyService` expects boto3's client, since no emulator of KMS
    knows recipients.
    """

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    def generate_data_key(self, **asked):
        attested = self._verifier.verify(
            asked["Recipient"]["AttestationDocument"],
            public_key=UNCHECKED,
            user_data=UNCHECKED,
            nonce=None,
        )
        key = recipient_of(attested.public_key)
        return {
            "CiphertextBlob": b"c",
            "CiphertextForRecipient": seal_envelope(bytes(range(32)), key),
        }

    decrypt = generate_data_key


def test_a_program_opens_the_answer(tmp_path):
    pytest.importorskip("boto3", reason="the extra `aws` is not installed")
    with world(tmp_path) as made:
        service = AwsKeyService(Kms(Verifier(made.policy(), clock=made.clock)))
        keys = AttestedKeys(service, made.attester)
        assert keys.generate_data_key(KEY_ARN, CONTEXT) == (bytearray(range(32)), b"c")
        assert keys.decrypt(b"c", CONTEXT) == bytearray(range(32))


# --- moto -------------------------------------------------------------------------------------


def test_an_emulated_kms_that_ignores_the_recipient_is_refused(client, tmp_path):
    moto = pytest.importorskip("moto", reason="moto is not installed")
    import boto3

    with moto.mock_aws():
        emulated = boto3.client("kms", region_name="us-east-1")
        key_id = emulated.create_key()["KeyMetadata"]["KeyId"]
        service = AwsKeyService(emulated)
        with pytest.raises(AuthenticationError, match=REFUSED):
            service.generate_data_key(key_id, CONTEXT, EVIDENCE)
        made = emulated.generate_data_key(
            KeyId=key_id, KeySpec="AES_256", EncryptionContext=CONTEXT
        )
        assert len(made["Plaintext"]) == 32, "moto's answer, which must not reach a program"
        with pytest.raises(AuthenticationError, match=REFUSED):
            service.decrypt(made["CiphertextBlob"], CONTEXT, EVIDENCE)


def test_an_emulated_kms_refuses(client):
    moto = pytest.importorskip("moto", reason="moto is not installed")
    import boto3

    with moto.mock_aws():
        emulated = boto3.client("kms", region_name="us-east-1")
        service = AwsKeyService(emulated)
        with pytest.raises(PeerRefusedError, match="NotFoundException"):
            service.generate_data_key("absent", CONTEXT, EVIDENCE)
        key_id = emulated.create_key()["KeyMetadata"]["KeyId"]
        made = emulated.generate_data_key(
            KeyId=key_id, KeySpec="AES_256", EncryptionContext=CONTEXT
        )
        with pytest.raises(PeerRefusedError, match="InvalidCiphertext"):
            service.decrypt(made["CiphertextBlob"], {"other": "context"}, EVIDENCE)
