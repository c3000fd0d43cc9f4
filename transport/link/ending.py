"""How a link ends: closed and drained, told goodbye, silent, or failed (docs/spec.md 9.4)."""

from __future__ import annotations

from ..errors import ClosedError, KeyExhaustedError, PeerLostError, TransportError
from . import events
from .messaging import Messaging
from .paths import PathState
from .receiver import Receiver
from .state import Input, State, next_state


class Ending(Messaging):
    """The base of `Link`, which makes the parts that are named here."""

    _receiver: Receiver
    _close_queued: bool

    def close(self) -> None:
        """Deliver what was sent, then end; a link that is not open ends at once."""
        if self.state is State.OPEN:
            self.state = next_state(self.state, Input.LOCAL_CLOSE)
        elif self.state is not State.DRAINING:
            self.abort(ClosedError(f"link to {self.peer!r} was closed"))

    def abort(self, error: TransportError) -> None:
        """End now: the peer is told once, if it can be, and nothing is waited for."""
        alive = self.state is State.OPEN or self.state is State.DRAINING
        if alive and (path := self._sender.any_path()) is not None:
            goodbye = self._sender.goodbye(self._keys, 1)
            self._send_over(path, goodbye, self._receiver.last_received)
        self._end(Input.FAILED, error)

    def _end(self, cause: Input, error: TransportError) -> None:
        if self.state is State.CLOSED:
            return
        self.state = next_state(self.state, cause)
        self._events.append(
            events.Failed(
                error=error,
                settled_through=self.settled_through,
                outgoing=tuple(self._sender.outbox.fail()),
                incoming=tuple(self._receiver.inbox.fail()),
            )
        )
        self._sender.flight.clear()
        self._mailbox.close()
        if self._keys is not None:
            self._keys.drop()

    def _drained(self) -> bool:
        """Once everything is delivered, say goodbye; its acknowledgement ends the link."""
        if not self._sender.idle:
            return False
        if self._close_queued:
            self._end(Input.DRAINED, ClosedError(f"link to {self.peer!r} was closed"))
            return True
        self._close_queued = True
        self._sender.outbox.control(self._sender.goodbye(self._keys, 0))
        return False

    def _peer_is_silent(self, silence: float) -> None:
        if self._close_queued and self._sender.outbox.idle:
            # Everything was delivered; only the acknowledgement of the goodbye is missing.
            self._end(Input.DRAINED, ClosedError(f"link to {self.peer!r} was closed"))
        else:
            error = PeerLostError(f"peer {self.peer!r} was silent for {silence:.1f} s")
            self._end(Input.FAILED, error)

    def _send_over(self, path: PathState, frame: bytes, now: float) -> None:
        if self._keys is None:
            return
        try:
            self._sender.send_over(self._keys, path, frame, now)
        except KeyExhaustedError as error:
            self._end(Input.FAILED, error)
