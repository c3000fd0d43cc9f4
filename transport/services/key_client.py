"""`RemoteKeyService`: the `KeyService` that a peer offers over a sealed link."""

from __future__ import annotations

import secrets
from typing import Final

import numpy as np

from ..errors import AuthenticationError
from ..identity.kms import DataKey, EncryptionContext, messages
from ..identity.kms.cms import REFUSED
from ..identity.kms.interface import Operation
from ..identity.kms.messages import ChallengeRequest, KeyRequest, Request
from ..node import Node
from .key_server import KEY_CONVERSATION

PATIENCE: Final = 10.0  # seconds


class RemoteKeyService:
    """A key service at `peer`, to which `node` is linked. Any thread may use it.

    `timeout` is in seconds and holds for each message.
    """

    def __init__(self, node: Node, peer: str, *, timeout: float = PATIENCE) -> None:
        self._node = node
        self._peer = peer
        self._timeout = timeout

    def challenge(self) -> bytes:
        """Return the nonce of the next request's evidence.

        Raises:
            PeerLostError: the service is gone.
            TransportTimeoutError: it did not answer in time.
        """
        return messages.decode_challenge(self._ask(ChallengeRequest()))

    def generate_data_key(
        self, key_id: str, context: EncryptionContext, evidence: bytes
    ) -> DataKey:
        """Return a new 32-byte data key; see `KeyService`.

        Raises:
            UsageError: the context is not usable.
            PeerRefusedError: the service refused.
            AuthenticationError: its answer is malformed.
            PeerLostError: the service is gone.
            TransportTimeoutError: it did not answer in time.
        """
        return self._key(Operation.GENERATE, key_id.encode("utf-8"), context, evidence)

    def decrypt(self, ciphertext: bytes, context: EncryptionContext, evidence: bytes) -> bytes:
        """Return the data key in `ciphertext`, in an envelope; see `KeyService`.

        Raises: as `generate_data_key`.
        """
        return self._key(Operation.DECRYPT, ciphertext, context, evidence).ciphertext_for_recipient

    def _key(
        self, operation: Operation, subject: bytes, context: EncryptionContext, evidence: bytes
    ) -> DataKey:
        request = KeyRequest(
            operation=operation, subject=subject, context=context, evidence=evidence
        )
        return messages.decode_data_key(self._ask(request))

    def _ask(self, request: Request) -> bytes:
        encoded = messages.encode_request(request)
        # Drawn, not counted: two clients on one node need not know of each other.
        tag = secrets.randbits(63)
        answer = self._node.irecv(source=self._peer, tag=tag, context=KEY_CONVERSATION)
        self._node.isend(encoded, to=self._peer, tag=tag, context=KEY_CONVERSATION)
        # After a timeout the receive stays posted, so that a late answer is taken away.
        received = answer.wait(self._timeout)
        if received.dtype != np.uint8 or received.ndim != 1:
            raise AuthenticationError(REFUSED)
        content: bytes = received.tobytes()
        return content
