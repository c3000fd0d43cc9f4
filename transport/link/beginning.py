"""How a link begins: attempts, the answers to them, and keys, also fresh ones (docs/spec.md 4, 6).

Its messages and what they prove are in handshake.py and introduction.py; here is what
the link does with them.
"""

from __future__ import annotations

from ..config import Config
from ..crypto.seal import KeyLimits
from ..errors import HandshakeError
from ..wire import frames
from . import events
from .ending import Ending
from .handshake import Agreement, RefusedError, Terms
from .introduction import Introduction
from .keys import Keys
from .paths import PathState
from .pathset import PathSet
from .state import Input, State, next_state
from .watch import Watch


class Beginning(Ending):
    """The base of `Link`, which makes the parts that are named here."""

    index: int
    initiator: bool
    handshake_seconds: float
    paths: list[PathState]
    _config: Config
    _introduction: Introduction
    _limits: KeyLimits
    _pathset: PathSet
    _started: float
    _terms: Terms
    _watch: Watch

    def begin(self, now: float) -> None:
        """Start an attempt over the first path, or the next one after a failure."""
        if self._introduction.attempts:
            self.state = next_state(self.state, Input.ATTEMPT_RENEWED)
        path = self.paths[self._introduction.attempts % len(self.paths)]
        self._sender.send_bare(path.handle, self._introduction.begin(now))
        self._watch.look_at = self._introduction.due

    def _receive_handshake(self, handle: object, packet: memoryview, now: float) -> None:
        try:
            answers, agreement = self._introduction.receive(packet, now)
        except RefusedError as error:
            self._sender.send_bare(handle, error.answer)
            raise
        finally:
            self._watch.look_at = now
        for answer in answers:
            self._sender.send_bare(handle, answer)
        if self.state is State.HANDSHAKING and self._introduction.transcript_agreed:
            self.state = next_state(self.state, Input.TRANSCRIPT_AGREED)
        if agreement is not None and self._keys is None:
            self._adopt(agreement, handle, now)

    def _adopt(self, agreement: Agreement, handle: object, now: float) -> None:
        """Both sides' evidence is accepted: from here on there are application keys."""
        config = self._config
        self._keys = Keys(
            self._terms,
            agreement,
            index=self.index,
            initiator=self.initiator,
            limits=self._limits,
            interval=config.rehandshake_interval,
            now=now,
        )
        self._receiver.keys = self._keys
        self._receiver.last_received = now
        self._sender.open(config, agreement)
        if not self.initiator:
            # The connection that brought the last message is the one that works.
            self._bind(0, handle, now)
            self.state = next_state(self.state, Input.EVIDENCE_ACCEPTED_AS_RESPONDER)
            return
        path = self._pathset.find(handle)
        if path is not None:
            path.joined = True
        self.state = next_state(self.state, Input.EVIDENCE_ACCEPTED_AS_INITIATOR)
        # The first packet under application keys confirms them to the responder;
        # a CREDIT frame is repeated until acknowledged.
        self._sender.outbox.control(frames.encode_credit(config.unexpected_bytes))
        self._open(now)

    def _open(self, now: float) -> None:
        self.handshake_seconds = now - self._started
        self._events.append(events.Established(peer=self.peer))
        if self.initiator:
            # Also over the handshake's own path: to the responder its index may be another.
            for path in self.paths:
                if path.up:
                    self._pathset.join(path, self._send_over, now)

    def renew(self, now: float) -> None:
        """Take fresh keys by a new handshake inside the living link (docs/spec.md 6.5)."""
        if self._keys is not None and (message := self._keys.begin_renewal(now)) is not None:
            self._sender.outbox.control(frames.encode_handshake(message))

    def _handshake_timeout(self, now: float) -> None:
        self._watch.look_at = self._introduction.due
        if now < self._watch.look_at:
            return
        if self.initiator:
            self.begin(now)
        else:
            error = HandshakeError(f"{self.peer!r} began a handshake and never finished it")
            self._end(Input.FAILED, error)

    def _bind(self, index: int, handle: object, now: float) -> PathState:
        """The peer reaches us over `handle`: packets from there belong to path `index`."""
        if self._pathset.bind(index, handle, self._sender.flight, now):
            self._events.append(events.PathBound(index=index, handle=handle))
        return self.paths[index]
