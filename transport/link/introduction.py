"""The attempts of one link to become one: who begins, who repeats, who gives up (spec 4.6).

An initiator repeats an attempt that gets no answer with fresh ephemeral keys
and a growing pause, over one path after another. A responder makes one attempt
and forgets it at a deadline.
"""

from __future__ import annotations

from ..config import Config
from ..errors import HandshakeError
from .drops import STATE, Drop
from .handshake import Agreement, Handshake, Hello, RefusedError, Terms

REFUSALS_BELIEVED = 3  # one forged or confused answer must not end a call


class Introduction:
    """Runs handshakes until one ends in an `Agreement` or the peer's refusal is believed."""

    def __init__(
        self,
        terms: Terms,
        config: Config,
        *,
        peer: str,
        index: int,
        hello: Hello | None,
        now: float,
    ) -> None:
        self._terms = terms
        self._config = config
        self._peer = peer
        self._index = index
        self._initiator = hello is None
        self._handshake: Handshake | None = None
        self._deadline = now + config.handshake_deadline
        self._retry_at = float("inf")
        self.attempts = 0
        self._refusals = 0
        self.refusal: HandshakeError | None = None
        """Why the latest attempt failed, where the peer itself gave or proved the reason."""
        if hello is not None:
            self._handshake = Handshake(terms, peer=peer, index=index, hello=hello)

    @property
    def transcript_agreed(self) -> bool:
        """Whether the present attempt waits for evidence only."""
        return self._handshake is not None and self._handshake.transcript_agreed

    @property
    def due(self) -> float:
        """When `begin` is to be called again, or the responder gives up."""
        return self._retry_at if self._initiator else self._deadline

    def begin(self, now: float) -> bytes:
        """The first packet of a new attempt."""
        self._handshake = Handshake(self._terms, peer=self._peer, index=self._index)
        self._retry_at = now + self._config.handshake_retry * (1 << min(self.attempts, 4))
        self.attempts += 1
        return self._handshake.first_packet()

    def receive(self, packet: memoryview, now: float) -> tuple[list[bytes], Agreement | None]:
        """Take a handshake packet; return the answers, and the agreement once there is one.

        Raises:
            Drop: not genuine, or not expected now.
            RefusedError: this side refuses the peer; its answer is still to be sent.
            HandshakeError: the peer has ended the matter.
        """
        if self._handshake is None:
            raise Drop(STATE)
        try:
            answers = self._handshake.receive(packet)
        except HandshakeError as error:
            self.refusal = error
            self._refusals += 1
            if not self._initiator or self._refusals >= REFUSALS_BELIEVED:
                raise
            self._handshake = None
            self._retry_at = now + self._config.handshake_retry / 2
            return ([error.answer] if isinstance(error, RefusedError) else []), None
        return answers, self._handshake.agreement
