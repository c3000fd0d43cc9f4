"""AWS KMS as a `KeyService`, through boto3 (the extra `aws`): its Recipient flow alone.

KMS verifies the attestation document itself and encrypts its answer to the document's
RSA key. This client asks for nothing else: every call bears a Recipient, and an answer
that holds a plaintext is refused, whoever sent it, since it would mean that the key can
be had without attestation. An answer that cannot be taken is one error, as it is for
every key service; the log says what was wrong. KMS accepts genuine Nitro documents only.

Key policies say which programs KMS answers, by the condition keys
`kms:RecipientAttestation:ImageSha384` (PCR0) and `kms:RecipientAttestation:PCR<n>`.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from typing import Any, Final, Protocol

from ...errors import AuthenticationError, PeerError, PeerRefusedError, UsageError
from .cms import REFUSED
from .interface import DataKey, EncryptionContext, encode_context

log = logging.getLogger("transport.kms")

_ALGORITHM: Final = "RSAES_OAEP_SHA_256"
_SPEC: Final = "AES_256"


class KmsClient(Protocol):
    """What is used of boto3's KMS client."""

    def generate_data_key(self, **arguments: Any) -> Mapping[str, Any]:
        """The call GenerateDataKey."""
        ...

    def decrypt(self, **arguments: Any) -> Mapping[str, Any]:
        """The call Decrypt."""
        ...


class AwsKeyService:
    """A `KeyService` that is AWS KMS.

    `client` is a KMS client of boto3; without one, it is made from the environment as
    boto3 does. `decrypt_key_id` names the one KMS key that `decrypt` may use; naming it
    keeps others from handing in ciphertexts of keys of theirs. Any thread may use it.

    Raises:
        UsageError: boto3 is not installed, or not configured.
    """

    def __init__(
        self,
        client: KmsClient | None = None,
        *,
        region: str | None = None,
        decrypt_key_id: str | None = None,
    ) -> None:
        boto3, self._exceptions = _library("boto3"), _library("botocore.exceptions")
        if client is None:
            try:
                client = boto3.client("kms", region_name=region)
            except self._exceptions.BotoCoreError as error:
                raise UsageError(f"boto3 cannot reach AWS KMS: {error}") from None
        self._client: Any = client
        self._decrypt_key_id = decrypt_key_id

    def challenge(self) -> bytes:
        """Empty: AWS KMS asks for no nonce. It judges a document by its age."""
        return b""

    def generate_data_key(
        self, key_id: str, context: EncryptionContext, evidence: bytes
    ) -> DataKey:
        """Return a new 32-byte data key under the KMS key `key_id`, for the attested recipient.

        Raises:
            UsageError: the context is not usable.
            PeerRefusedError: KMS refused; the message has its error code.
            AuthenticationError: the answer holds a plaintext, or no envelope.
            PeerError: KMS cannot be reached.
        """
        answer = self._ask(
            self._client.generate_data_key,
            context,
            evidence,
            KeyId=key_id,
            KeySpec=_SPEC,
        )
        return DataKey(
            ciphertext=_octets(answer, "CiphertextBlob"),
            ciphertext_for_recipient=_octets(answer, "CiphertextForRecipient"),
        )

    def decrypt(self, ciphertext: bytes, context: EncryptionContext, evidence: bytes) -> bytes:
        """Return the data key in `ciphertext`, in an envelope for the attested recipient.

        Raises: as `generate_data_key`.
        """
        which = {} if self._decrypt_key_id is None else {"KeyId": self._decrypt_key_id}
        answer = self._ask(
            self._client.decrypt, context, evidence, CiphertextBlob=ciphertext, **which
        )
        return _octets(answer, "CiphertextForRecipient")

    def _ask(
        self, call: Any, context: EncryptionContext, evidence: bytes, **arguments: Any
    ) -> Mapping[str, Any]:
        encode_context(context)  # the rules of ours hold here as well
        recipient = {"KeyEncryptionAlgorithm": _ALGORITHM, "AttestationDocument": evidence}
        try:
            answer: Mapping[str, Any] = call(
                EncryptionContext=dict(context), Recipient=recipient, **arguments
            )
        except self._exceptions.ClientError as error:
            code = error.response.get("Error", {}).get("Code", "an unnamed error")
            raise PeerRefusedError(f"AWS KMS refused the request: {code}") from None
        except self._exceptions.BotoCoreError as error:
            raise PeerError(f"AWS KMS cannot be reached: {type(error).__name__}") from None
        if answer.get("Plaintext"):
            log.error("AWS KMS answered in plaintext; the answer was dropped")
            raise AuthenticationError(REFUSED)
        return answer


def _octets(answer: Mapping[str, Any], name: str) -> bytes:
    value = answer.get(name)
    if not isinstance(value, bytes) or not value:
        log.error("the answer of AWS KMS holds no %s", name)
        raise AuthenticationError(REFUSED)
    return value


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError("AWS KMS needs boto3: pip install 'sealfabric[aws]'") from None
