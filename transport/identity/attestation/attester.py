"""What can speak for this node: the `Attester` interface, and its one kind of failure."""

from __future__ import annotations

from typing import Protocol

from ...errors import TransportError, UsageError
from .document import FIELD_LIMIT

__all__ = ["Attester", "AttesterError", "check_field"]


class AttesterError(TransportError):
    """This node's own attester could not make a document; the peer has no part in it."""


class Attester(Protocol):
    """Makes attestation documents about the program that runs here."""

    def evidence(
        self, public_key: bytes | None, user_data: bytes | None, nonce: bytes | None
    ) -> bytes:
        """Return a document that is bound to what is given; None leaves a field out.

        Each is at most 1024 bytes. The call may take some milliseconds.

        Raises:
            UsageError: an argument is too long.
            AttesterError: the attester failed, or its device did.
        """
        ...


def check_field(value: bytes | None, name: str) -> bytes | None:
    """Return `value` as a document can hold it.

    Raises:
        UsageError: it is neither None nor bytes, or is too long.
    """
    if value is None:
        return None
    if not isinstance(value, (bytes, bytearray)):
        raise UsageError(f"`{name}` must be bytes or None, got {type(value).__name__}")
    if len(value) > FIELD_LIMIT:
        raise UsageError(f"`{name}` has {len(value)} bytes, at most {FIELD_LIMIT}")
    return bytes(value)
