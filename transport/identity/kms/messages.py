"""What a key service and its client say to each other over a sealed link.

Flat msgpack maps with a fixed set of fields for each kind (`transport.wire.codec`):
anything unknown, missing, oversized or repeated makes a request malformed, and so does
any other encoding than ours. An answer is a challenge, a key, or "refused", which has no
further detail.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from ...errors import AuthenticationError, PeerRefusedError
from ...wire import codec
from ...wire.codec import MalformedError
from . import cms
from .cms import CONTENT_LIMIT
from .datakey import CIPHERTEXT_LIMIT
from .embedded import REFUSED
from .interface import (
    CONTEXT_LIMIT,
    DataKey,
    EncryptionContext,
    Operation,
    decode_context,
    encode_context,
)

log = logging.getLogger("transport.kms")

VERSION: Final = 1
EVIDENCE_LIMIT: Final = 16 * 1024  # bytes; a real document is about 5 KiB
MESSAGE_LIMIT: Final = EVIDENCE_LIMIT + CONTEXT_LIMIT + CIPHERTEXT_LIMIT + CONTENT_LIMIT
_SUBJECT_LIMIT: Final = 4096  # bytes; anything near it is refused by its content

_OPERATIONS: Final = {"generate": Operation.GENERATE, "decrypt": Operation.DECRYPT}
_NAMES: Final = {operation: name for name, operation in _OPERATIONS.items()}
_REQUEST: Final = frozenset({"v", "do", "subject", "context", "evidence"})


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """A request for a key; see `interface.request_binding` for `subject`."""

    operation: Operation
    subject: bytes
    context: EncryptionContext
    evidence: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ChallengeRequest:
    """A request for a challenge."""


Request = KeyRequest | ChallengeRequest


def encode_request(request: Request) -> bytes:
    """Return a request's bytes.

    Raises:
        UsageError: the context is not usable.
    """
    if isinstance(request, ChallengeRequest):
        return codec.pack({"v": VERSION, "do": "challenge"})
    return codec.pack(
        {
            "v": VERSION,
            "do": _NAMES[request.operation],
            "subject": request.subject,
            "context": encode_context(request.context),
            "evidence": request.evidence,
        }
    )


def decode_request(encoded: bytes) -> Request:
    """Return the request in `encoded`.

    Raises:
        MalformedError: it is none.
    """
    fields = codec.unpack(encoded, limit=MESSAGE_LIMIT)
    if codec.pack(fields) != encoded:  # a repeated field, say, of which one was dropped
        raise MalformedError("another encoding than ours")
    codec.integer(fields, "v", VERSION, VERSION)
    do = codec.text(fields, "do", 16)
    if do == "challenge":
        _require(fields, frozenset({"v", "do"}))
        return ChallengeRequest()
    operation = _OPERATIONS.get(do)
    if operation is None:
        raise MalformedError("an unknown request")
    _require(fields, _REQUEST)
    try:
        context = decode_context(_bytes(fields, "context", CONTEXT_LIMIT))
    except ValueError as error:
        raise MalformedError(f"context: {error}") from None
    return KeyRequest(
        operation=operation,
        subject=_bytes(fields, "subject", _SUBJECT_LIMIT),
        context=context,
        evidence=_bytes(fields, "evidence", EVIDENCE_LIMIT),
    )


def encode_challenge(challenge: bytes) -> bytes:
    """Return the answer that holds a challenge."""
    return codec.pack({"v": VERSION, "challenge": challenge})


def encode_data_key(data_key: DataKey) -> bytes:
    """Return the answer that holds a key."""
    return codec.pack(
        {
            "v": VERSION,
            "ciphertext": data_key.ciphertext,
            "envelope": data_key.ciphertext_for_recipient,
        }
    )


def encode_refusal() -> bytes:
    """Return the answer to everything that is refused, whatever the reason."""
    return codec.pack({"v": VERSION, "refused": 1})


def decode_challenge(encoded: bytes) -> bytes:
    """Return the challenge in an answer.

    Raises:
        PeerRefusedError: the answer is a refusal.
        AuthenticationError: it is malformed.
    """
    fields = _answer(encoded, frozenset({"v", "challenge"}))
    return _answered(fields, "challenge", 64)


def decode_data_key(encoded: bytes) -> DataKey:
    """Return the key in an answer.

    Raises:
        PeerRefusedError: the answer is a refusal.
        AuthenticationError: it is malformed.
    """
    fields = _answer(encoded, frozenset({"v", "ciphertext", "envelope"}))
    return DataKey(
        ciphertext=_answered(fields, "ciphertext", _SUBJECT_LIMIT),
        ciphertext_for_recipient=_answered(fields, "envelope", CONTENT_LIMIT),
    )


def _answer(encoded: bytes, names: frozenset[str]) -> dict[str, codec.Value]:
    try:
        fields = codec.unpack(encoded, limit=MESSAGE_LIMIT)
        codec.integer(fields, "v", VERSION, VERSION)
        if fields.keys() == {"v", "refused"}:
            raise PeerRefusedError(REFUSED)
        # An answer that held a plaintext, say, would be one field too many.
        _require(fields, names)
    except MalformedError as error:
        log.error("the answer of a key service is malformed: %s", error)
        raise AuthenticationError(cms.REFUSED) from None
    return fields


def _answered(fields: dict[str, codec.Value], name: str, limit: int) -> bytes:
    try:
        return _bytes(fields, name, limit)
    except MalformedError as error:
        log.error("the answer of a key service is malformed: %s", error)
        raise AuthenticationError(cms.REFUSED) from None


def _require(fields: dict[str, codec.Value], names: frozenset[str]) -> None:
    if fields.keys() != names:
        raise MalformedError("not the fields of this kind of message")


def _bytes(fields: dict[str, codec.Value], name: str, limit: int) -> bytes:
    value = fields.get(name)
    if not isinstance(value, bytes) or not 1 <= len(value) <= limit:
        raise MalformedError(f"field {name!r} must be 1..{limit} bytes")
    return value
