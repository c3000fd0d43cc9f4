"""The calls of an AWS KMS external key store (XKS) proxy, version 1, over our key store.

Follows the AWS KMS External Key Store Proxy API Specification: `GetKeyMetadata`,
`Encrypt`, `Decrypt` and `GetHealthStatus`, their paths, limits, error names and status
codes. A request comes in as parsed HTTP and leaves as a status and JSON; sockets and TLS
are the server's (`transport.services`).

Only keys made for this purpose exist here: an attested key would otherwise be usable
without attestation. Plaintext is in no log. As the specification asks, what KMS says of
a request beyond what is needed (its metadata) is logged and not validated.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from ...errors import UsageError
from . import external
from .audit import AuditError, AuditLog, AuditValue
from .external import CiphertextError, ExternalCiphertext
from .sigv4 import Credential, HttpRequest, SignatureError, verify_signature
from .store import KEY_ID, KeyRecord, KeyStore, KeyStoreError, Purpose, UnknownKeyError

log = logging.getLogger("transport.kms")

PLAINTEXT_LIMIT: Final = 4300  # bytes, what the specification asks to support
AAD_LIMIT: Final = 8192
BODY_LIMIT: Final = 64 * 1024  # the largest request of the specification has about 30 KiB
ARN_LIMIT: Final = 2048
PING: Final = "/ping"
"""A path for load balancers: GET answers 200 and nothing else."""

_LOGGED_LIMIT: Final = 512  # characters of each field in the audit log
_LOGGED: Final = (
    *("awsPrincipalArn", "awsSourceVpc", "awsSourceVpce", "kmsKeyArn", "kmsOperation"),
    *("kmsRequestId", "kmsViaService"),
)
_VENDOR: Final = "Sealfabric"


class ErrorName(Enum):
    """The errors of the specification, with their status."""

    VALIDATION = ("ValidationException", 400)
    INVALID_STATE = ("InvalidStateException", 400)
    INVALID_CIPHERTEXT = ("InvalidCiphertextException", 400)
    INVALID_KEY_USAGE = ("InvalidKeyUsageException", 400)
    AUTHENTICATION_FAILED = ("AuthenticationFailedException", 401)
    ACCESS_DENIED = ("AccessDeniedException", 403)
    KEY_NOT_FOUND = ("KeyNotFoundException", 404)
    INVALID_URI_PATH = ("InvalidUriPathException", 404)
    THROTTLING = ("ThrottlingException", 429)
    INTERNAL = ("InternalException", 500)
    UNSUPPORTED_OPERATION = ("UnsupportedOperationException", 501)
    DEPENDENCY_TIMEOUT = ("DependencyTimeoutException", 503)


class XksError(Exception):
    """Ends a call with an error of the specification."""

    def __init__(self, name: ErrorName, message: str = "") -> None:
        super().__init__(message)
        self.name = name
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    """What goes back: a status, and a body of JSON or nothing."""

    status: int
    body: bytes = field(repr=False, default=b"")
    allow: str | None = None  # the Allow header of a 405

    @classmethod
    def error(cls, name: ErrorName, message: str = "") -> HttpResponse:
        """An error of the specification; `message` is printable ASCII, below 512 characters."""
        kind, status = name.value
        said = {"errorName": kind} | ({"errorMessage": message[:500]} if message else {})
        return cls(status=status, body=_json(said))


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalPolicy:
    """Which callers of AWS KMS may use an external key; empty: whoever KMS lets through.

    The same external key under two KMS keys would let one decrypt for the other, so
    naming the KMS key is worth it.
    """

    kms_keys: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()

    def to_text(self) -> str:
        """As JSON, for `KeyStore.add`."""
        return json.dumps({"kms_keys": self.kms_keys, "principals": self.principals})

    @classmethod
    def from_text(cls, text: str | None) -> ExternalPolicy:
        """The policy that `to_text` wrote; an empty one for None."""
        fields = {} if text is None else json.loads(text)
        return cls(
            kms_keys=tuple(fields.get("kms_keys", ())),
            principals=tuple(fields.get("principals", ())),
        )

    def admits(self, metadata: Mapping[str, str]) -> bool:
        """Whether a request with this metadata may use the key."""
        return (not self.kms_keys or metadata.get("kmsKeyArn") in self.kms_keys) and (
            not self.principals or metadata.get("awsPrincipalArn") in self.principals
        )


class XksProxy:
    """Answers the calls of AWS KMS. One thread at a time may use it.

    `credentials` may be two, so that they can be changed without a pause; each is good
    for its own path. `clock` returns POSIX seconds.

    Raises:
        UsageError: there is no credential, or two have one name.
    """

    def __init__(
        self,
        store: KeyStore,
        audit: AuditLog,
        credentials: Sequence[Credential],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._credentials = {each.access_key_id: each for each in credentials}
        if not credentials or len(self._credentials) != len(credentials):
            raise UsageError("an XKS proxy needs a credential, and each its own access key id")
        self._paths = {each.uri_path for each in credentials}
        self._store = store
        self._audit = audit
        self._clock = clock
        self.errors: Counter[ErrorName] = Counter()
        """Refused calls by error."""

    def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer one request. Whatever it holds, nothing is raised."""
        try:
            return self._handle(request)
        except XksError as error:
            return self._failed(request, error.name, error.message)
        except (KeyStoreError, AuditError) as error:
            log.error("xks %s failed: %s", request.path, error)
            return self._failed(request, ErrorName.INTERNAL, "the key store is not available")

    def _failed(self, request: HttpRequest, name: ErrorName, message: str) -> HttpResponse:
        self.errors[name] += 1
        log.warning("xks %.300s: %s %s", request.path, name.value[0], message)
        return HttpResponse.error(name, message)

    def _handle(self, request: HttpRequest) -> HttpResponse:
        if request.path == PING:
            is_get = request.method == "GET"
            return HttpResponse(status=200 if is_get else 405, allow=None if is_get else "GET")
        uri_path, key_id, operation = self._route(request.path)
        if request.method != "POST":
            return HttpResponse(status=405, allow="POST")
        try:
            credential = verify_signature(request, self._credentials, self._clock())
            if credential.uri_path != uri_path:
                raise SignatureError("a credential of another path")
        except SignatureError as error:
            log.warning("xks: %s", error)
            raise XksError(ErrorName.AUTHENTICATION_FAILED) from None
        call = _Call(request.body)
        if operation == "health":
            return HttpResponse(status=200, body=_json(self._health(call)))
        answers = {"metadata": self._metadata, "encrypt": self._encrypt, "decrypt": self._decrypt}
        return HttpResponse(status=200, body=_json(answers[operation](key_id, call)))

    def _route(self, path: str) -> tuple[str, str, str]:
        """The credential's path, the key and the operation that `path` names."""
        for uri_path in self._paths:
            if path == f"{uri_path}/health":
                return uri_path, "", "health"
            if not path.startswith(f"{uri_path}/keys/"):
                continue
            key_id, _, operation = path.removeprefix(f"{uri_path}/keys/").partition("/")
            if KEY_ID.fullmatch(key_id) and operation in {"metadata", "encrypt", "decrypt"}:
                return uri_path, key_id, operation
        raise XksError(ErrorName.INVALID_URI_PATH)

    # --- the calls -----------------------------------------------------------------------

    def _metadata(self, key_id: str, call: _Call) -> dict[str, Any]:
        call.require("awsPrincipalArn", "kmsOperation", "kmsRequestId")
        record = self._known(key_id)
        self._authorize(record, call, needs_key=False)
        return {
            "keySpec": "AES_256",
            "keyUsage": ["ENCRYPT", "DECRYPT"],
            "keyStatus": "ENABLED" if record.enabled else "DISABLED",
        }

    def _encrypt(self, key_id: str, call: _Call) -> dict[str, Any]:
        record, aad = self._usable(key_id, call)
        plaintext = call.octets("plaintext", PLAINTEXT_LIMIT)
        wants_integrity = call.algorithm("ciphertextDataIntegrityValueAlgorithm", "SHA_256")
        material = self._store.material(record, record.current)
        encrypted = external.encrypt(plaintext, material, record.current, aad)
        answer = {
            "ciphertext": _base64(encrypted.ciphertext),
            "ciphertextMetadata": _base64(encrypted.metadata),
            "initializationVector": _base64(encrypted.iv),
            "authenticationTag": _base64(encrypted.tag),
        }
        if wants_integrity:
            # The value comes first: bits that flip after the trial would stay unnoticed.
            answer["ciphertextDataIntegrityValue"] = _base64(
                external.data_integrity_value(encrypted, aad)
            )
            if external.decrypt(encrypted, material, aad) != plaintext:
                raise XksError(ErrorName.INTERNAL, "what was encrypted does not decrypt")
        self._record("xks encrypt", record, record.current, call)
        return answer

    def _decrypt(self, key_id: str, call: _Call) -> dict[str, Any]:
        record, aad = self._usable(key_id, call)
        encrypted = ExternalCiphertext(
            ciphertext=call.octets("ciphertext", PLAINTEXT_LIMIT),
            metadata=call.octets("ciphertextMetadata", 256, optional=True),
            iv=call.octets("initializationVector", 256),
            tag=call.octets("authenticationTag", 256),
        )
        try:
            version = external.version_of(encrypted)
            plaintext = external.decrypt(encrypted, self._store.material(record, version), aad)
        except (CiphertextError, UnknownKeyError):
            raise XksError(ErrorName.INVALID_CIPHERTEXT) from None
        self._record("xks decrypt", record, version, call)
        return {"plaintext": _base64(plaintext)}

    def _health(self, call: _Call) -> dict[str, Any]:
        call.require("kmsOperation", "kmsRequestId")
        return {
            "xksProxyFleetSize": 1,
            "xksProxyVendor": _VENDOR,
            "xksProxyModel": "Sealfabric XKS proxy 1",
            "ekmVendor": _VENDOR,
            "ekmFleetDetails": [
                {
                    "id": self._store.store_id.hex(),
                    "model": "Sealfabric key store 1",
                    "healthStatus": "ACTIVE" if self._works() else "UNAVAILABLE",
                }
            ],
        }

    def _works(self) -> bool:
        """Whether the next call would succeed: the store is read, the log taken, AES tried."""
        try:
            self._store.key_ids()
            self._audit.sync()
            material, sample = os.urandom(32), os.urandom(32)
            return external.decrypt(external.encrypt(sample, material, 1, b""), material, b"") == (
                sample
            )
        except (KeyStoreError, AuditError) as error:
            log.error("xks health: %s", error)
            return False

    # --- whose key, and may it be used -------------------------------------------------------

    def _known(self, key_id: str) -> KeyRecord:
        try:
            record = self._store.record(key_id)
        except UnknownKeyError:
            raise XksError(ErrorName.KEY_NOT_FOUND) from None
        if record.purpose is not Purpose.EXTERNAL:
            raise XksError(ErrorName.KEY_NOT_FOUND)
        return record

    def _usable(self, key_id: str, call: _Call) -> tuple[KeyRecord, bytes]:
        call.require("awsPrincipalArn", "kmsOperation", "kmsRequestId", "kmsKeyArn")
        if not call.algorithm("encryptionAlgorithm", "AES_GCM"):
            raise XksError(ErrorName.VALIDATION, "encryptionAlgorithm is missing")
        aad = call.octets("additionalAuthenticatedData", AAD_LIMIT, optional=True)
        record = self._known(key_id)
        self._authorize(record, call, needs_key=True)
        if not record.enabled:
            raise XksError(ErrorName.INVALID_STATE)
        return record, aad

    def _authorize(self, record: KeyRecord, call: _Call, *, needs_key: bool) -> None:
        policy = ExternalPolicy.from_text(record.policy)
        # CreateKey asks for metadata before the KMS key has a name.
        unnamed = not needs_key and "kmsKeyArn" not in call.metadata
        if unnamed:
            policy = ExternalPolicy(principals=policy.principals)
        if not policy.admits(call.metadata):
            log.warning("xks: key %s is not for %s", record.key_id, call.metadata)
            raise XksError(ErrorName.ACCESS_DENIED)

    def _record(self, event: str, record: KeyRecord, version: int, call: _Call) -> None:
        fields: dict[str, AuditValue] = {
            "key": record.key_id,
            "version": version,
            "request": {
                name: call.metadata[name][:_LOGGED_LIMIT]
                for name in _LOGGED
                if name in call.metadata
            },
        }
        self._audit.append(event, fields, now=self._clock())
        self._audit.sync()


class _Call:
    """The JSON of one request. Fields that this version does not know are ignored."""

    def __init__(self, body: bytes) -> None:
        try:
            fields = json.loads(body.decode("utf-8"), object_pairs_hook=_without_repeats)
        except (ValueError, RecursionError):
            raise XksError(ErrorName.VALIDATION, "the body is not JSON") from None
        if not isinstance(fields, dict) or not isinstance(fields.get("requestMetadata"), dict):
            raise XksError(ErrorName.VALIDATION, "requestMetadata is missing")
        self._fields: dict[str, Any] = fields
        self.metadata: dict[str, str] = {
            name: value
            for name, value in fields["requestMetadata"].items()
            if isinstance(value, str)
        }

    def require(self, *names: str) -> None:
        """Raise `XksError` unless the metadata holds these names, as text."""
        for name in names:
            if name not in self.metadata:
                raise XksError(ErrorName.VALIDATION, f"requestMetadata.{name} is missing")
            if name.endswith("Arn") and len(self.metadata[name]) > ARN_LIMIT:
                raise XksError(ErrorName.VALIDATION, f"requestMetadata.{name} is too long")

    def algorithm(self, name: str, supported: str) -> bool:
        """Whether the field is there; raise `XksError` where it names another algorithm."""
        value = self._fields.get(name)
        if value is None:
            return False
        if value != supported:
            raise XksError(ErrorName.VALIDATION, f"{name} must be {supported}")
        return True

    def octets(self, name: str, limit: int, *, optional: bool = False) -> bytes:
        """A field of Base64, decoded; empty where it is optional and absent."""
        value = self._fields.get(name)
        if value is None and optional:
            return b""
        if not isinstance(value, str):
            raise XksError(ErrorName.VALIDATION, f"{name} is missing or no string")
        try:
            decoded = base64.b64decode(value.encode("ascii"), validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise XksError(ErrorName.VALIDATION, f"{name} is not Base64") from None
        if len(decoded) > limit:
            raise XksError(ErrorName.UNSUPPORTED_OPERATION, f"{name} has over {limit} bytes")
        return decoded


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    collected = dict(pairs)
    if len(collected) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return collected


def _json(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode("ascii")


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")
