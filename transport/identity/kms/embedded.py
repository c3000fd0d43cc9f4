"""`EmbeddedKeyService`: a key service of our own, which decides by attestation and writes it down.

The order of a request: the key's record is read anew, the evidence is verified against
the key's policy, its binding to this very request and its challenge are checked, then
the data key is made or opened, the audit log is written, and only then the answer
exists. Each refusal has its reason in the log, in the audit log and in `refusals`; who
asked sees one error for all of them.

Keys are unwrapped for the time of one request and leave this process only inside
envelopes for attested recipients. No call returns a plaintext key.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

from ...errors import PeerRefusedError, UsageError
from ..attestation import UNCHECKED, Attested, RefusedEvidenceError, Verifier
from . import cms
from .audit import AuditLog, AuditValue
from .challenge import ChallengeError, Challenges
from .datakey import InvalidTag, SealedDataKey, open_data_key, parse_data_key, seal_data_key
from .interface import DATA_KEY_LEN, DataKey, EncryptionContext, Operation, request_binding
from .policy import policy_from
from .recipient import recipient_of
from .store import KEY_ID, KeyRecord, KeyStore, KeyStoreError, Purpose, UnknownKeyError

log = logging.getLogger("transport.kms")

REFUSED: Final = "the key service refused the request"
HERE: Final = "this process"
"""Who asks, where it is not a peer."""

_VERIFIERS_REMEMBERED: Final = 64  # policies; each verifier remembers chains of its own
_REFUSALS_A_MINUTE: Final = 600  # audit lines; beyond, refusals are counted and told together


class Reason(Enum):
    """Why a request was refused; for the operator, never for who asked."""

    MALFORMED = "malformed request"
    UNKNOWN_KEY = "no such key, or no such version of it"
    PURPOSE = "the key is not for attested data keys"
    DISABLED = "the key is disabled"
    EVIDENCE = "the evidence does not satisfy the key's policy"
    BINDING = "the evidence was made for another request"
    CHALLENGE = "the evidence's challenge is not fresh"
    RECIPIENT = "the evidence's public key is no RSA-2048 key"
    CIPHERTEXT = "the ciphertext does not open with this key and context"
    DAMAGED = "the key store is damaged"


class _RefusedError(Exception):
    """Ends a request inside this module."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class EmbeddedKeyService:
    """A `KeyService` over a key store and its audit log. One thread at a time may use it.

    `clock` returns POSIX seconds. `caller` is who asks, as the link proved it; a
    challenge serves only the caller that it was issued to.
    """

    def __init__(self, store: KeyStore, audit: AuditLog, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock
        self._challenges = Challenges()
        self._verifiers: OrderedDict[str, Verifier] = OrderedDict()
        self._omitted = 0
        self._window: tuple[float, int] = (0.0, 0)
        self.refusals: Counter[Reason] = Counter()
        """Refused requests by reason."""
        self.granted = 0
        """Answers that held a key."""

    def challenge(self, caller: str = HERE) -> bytes:
        """Return the nonce of the next request's evidence: once, within a minute."""
        return self._challenges.issue(caller, self._clock())

    def generate_data_key(
        self, key_id: str, context: EncryptionContext, evidence: bytes, *, caller: str = HERE
    ) -> DataKey:
        """Return a new 32-byte data key under the current version of `key_id`.

        Raises:
            UsageError: the context is not usable.
            PeerRefusedError: refused; nothing says why.
            AuditError: the audit log cannot be written, so nothing was released.
        """
        answer = self.release(
            Operation.GENERATE, key_id.encode("utf-8"), context, evidence, caller=caller
        )
        self.sync()
        return answer

    def decrypt(
        self, ciphertext: bytes, context: EncryptionContext, evidence: bytes, *, caller: str = HERE
    ) -> bytes:
        """Return the data key in `ciphertext`, in an envelope for the attested recipient.

        Raises: as `generate_data_key`.
        """
        answer = self.release(Operation.DECRYPT, ciphertext, context, evidence, caller=caller)
        self.sync()
        return answer.ciphertext_for_recipient

    def release(
        self,
        operation: Operation,
        subject: bytes,
        context: EncryptionContext,
        evidence: bytes,
        *,
        caller: str,
    ) -> DataKey:
        """Decide one request; its answer must not be sent before `sync`.

        `subject` is the key's name in UTF-8, or the ciphertext to decrypt. Where several
        requests wait, one `sync` serves them all.

        Raises: as `generate_data_key`.
        """
        fields: dict[str, AuditValue] = {"caller": caller, "operation": operation.value.decode()}
        try:
            binding = _BoundTo(operation, subject, context, caller)
            return self._released(binding, evidence, fields)
        except _RefusedError as refused:
            self._refuse(refused, fields)
        except KeyStoreError as error:
            self._refuse(_RefusedError(Reason.DAMAGED, str(error)), fields)
        raise PeerRefusedError(REFUSED)

    def refuse_malformed(self, detail: str, *, caller: str) -> None:
        """Count and log what could not even be read as a request."""
        self._refuse(_RefusedError(Reason.MALFORMED, detail), {"caller": caller})

    def check(self) -> None:
        """Return if every key's policy could hold now; a server asks before it serves.

        Raises:
            UsageError: one cannot, by this clock its roots are not valid, or evidence
                cannot be verified here at all.
            KeyStoreError: the record of a key was tampered with.
        """
        for key_id in self._store.key_ids():
            record = self._store.record(key_id)
            if record.purpose is Purpose.ATTESTED:
                try:
                    verifier = self._verifier(record.policy or "")
                    verifier.check_clock()
                    with suppress(RefusedEvidenceError):  # unless there is no library for it
                        verifier.verify(
                            b"\0", public_key=UNCHECKED, user_data=UNCHECKED, nonce=UNCHECKED
                        )
                except UsageError as error:
                    raise UsageError(f"key {key_id!r}: {error}") from None

    def sync(self) -> None:
        """Make the audit log durable.

        Raises:
            AuditError: it cannot be; no answer since the last `sync` may be sent.
        """
        self._audit.sync()

    # --- one request ---------------------------------------------------------------------

    def _released(self, bound: _BoundTo, evidence: bytes, fields: dict[str, AuditValue]) -> DataKey:
        sealed = bound.sealed_data_key()
        key_id = bound.key_name() if sealed is None else sealed.key_id
        fields["key"] = key_id
        record = self._usable(key_id)
        attested, recipient = self._attested(record, bound, evidence)
        version = record.current if sealed is None else sealed.version
        fields["version"] = version
        data_key, ciphertext = self._data_key(record, bound, sealed)
        envelope = cms.seal_envelope(data_key, recipient)
        fields["module"] = attested.module_id
        fields["pcr0"] = attested.pcrs[0].hex() if 0 in attested.pcrs else ""
        fields["context"] = dict(bound.context)
        self._audit.append("released", fields, now=self._clock())
        self.granted += 1
        return DataKey(ciphertext=ciphertext, ciphertext_for_recipient=envelope)

    def _usable(self, key_id: str) -> KeyRecord:
        try:
            record = self._store.record(key_id)
        except UnknownKeyError:
            raise _RefusedError(Reason.UNKNOWN_KEY) from None
        if record.purpose is not Purpose.ATTESTED:
            raise _RefusedError(Reason.PURPOSE)
        if not record.enabled:
            raise _RefusedError(Reason.DISABLED)
        return record

    def _attested(
        self, record: KeyRecord, bound: _BoundTo, evidence: bytes
    ) -> tuple[Attested, rsa.RSAPublicKey]:
        """Who asks, if the key's policy admits it and it asks for exactly this."""
        verifier = self._verifier(record.policy or "")
        try:
            # What the evidence is bound to is compared below, where each has its reason.
            attested = verifier.verify(
                evidence, public_key=UNCHECKED, user_data=UNCHECKED, nonce=UNCHECKED
            )
        except RefusedEvidenceError as error:
            raise _RefusedError(Reason.EVIDENCE, error.explanation) from None
        if attested.user_data != bound.user_data(attested.nonce or b""):
            raise _RefusedError(Reason.BINDING)
        try:
            self._challenges.spend(attested.nonce, bound.caller, self._clock())
        except ChallengeError as error:
            raise _RefusedError(Reason.CHALLENGE, str(error)) from None
        try:
            return attested, recipient_of(attested.public_key)
        except ValueError as error:
            raise _RefusedError(Reason.RECIPIENT, str(error)) from None

    def _data_key(
        self, record: KeyRecord, bound: _BoundTo, sealed: SealedDataKey | None
    ) -> tuple[bytes, bytes]:
        """The data key, new or opened, and its ciphertext."""
        version = record.current if sealed is None else sealed.version
        try:
            material = self._store.material(record, version)
        except UnknownKeyError as error:
            raise _RefusedError(Reason.UNKNOWN_KEY, str(error)) from None
        if sealed is None:
            data_key = os.urandom(DATA_KEY_LEN)
            ciphertext = seal_data_key(
                data_key, material, key_id=record.key_id, version=version, context=bound.context
            )
            return data_key, ciphertext
        try:
            return open_data_key(sealed, material, bound.context), bound.subject
        except InvalidTag:
            raise _RefusedError(Reason.CIPHERTEXT) from None

    def _verifier(self, policy: str) -> Verifier:
        verifier = self._verifiers.pop(policy, None)
        if verifier is None:
            verifier = Verifier(policy_from(policy), clock=self._clock)
        self._verifiers[policy] = verifier
        if len(self._verifiers) > _VERIFIERS_REMEMBERED:
            self._verifiers.popitem(last=False)
        return verifier

    # --- refusals -----------------------------------------------------------------------

    def _refuse(self, refused: _RefusedError, fields: dict[str, AuditValue]) -> None:
        reason, now = refused.reason, self._clock()
        self.refusals[reason] += 1
        log.warning("refused %s: %s %s", fields, reason.value, refused.detail)
        if not self._may_write(now):
            self._omitted += 1
            return
        if self._omitted:
            fields["refusals_omitted_before"], self._omitted = self._omitted, 0
        explained = f"{reason.value}: {refused.detail}" if refused.detail else reason.value
        self._audit.append("refused", {**fields, "reason": explained[:1000]}, now=now)

    def _may_write(self, now: float) -> bool:
        """Whether another refusal may fill the disk with a line."""
        begun, count = self._window
        if not begun <= now < begun + 60.0:
            begun, count = now, 0
        self._window = (begun, count + 1)
        return count < _REFUSALS_A_MINUTE


class _BoundTo:
    """One request, as its evidence has to be bound to it."""

    def __init__(
        self, operation: Operation, subject: bytes, context: EncryptionContext, caller: str
    ) -> None:
        self.operation = operation
        self.subject = bytes(subject)
        self.context = context
        self.caller = caller
        self.user_data(b"")  # a context that is not usable is the caller's mistake

    def user_data(self, challenge: bytes) -> bytes:
        return request_binding(self.operation, self.subject, self.context, challenge)

    def key_name(self) -> str:
        name = self.subject.decode("ascii", "replace")
        if KEY_ID.fullmatch(name) is None:
            raise _RefusedError(Reason.UNKNOWN_KEY, "not a key's name")
        return name

    def sealed_data_key(self) -> SealedDataKey | None:
        """The ciphertext taken apart; None where a new data key is asked for."""
        if self.operation is Operation.GENERATE:
            return None
        try:
            return parse_data_key(self.subject)
        except ValueError as error:
            digest = hashlib.sha256(self.subject).hexdigest()
            raise _RefusedError(Reason.MALFORMED, f"{error}; SHA-256 {digest}") from None
