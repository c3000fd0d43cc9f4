"""`KeyServer`: a key service that peers reach over sealed links.

Each request is one message and has one answer with the same tag, in a conversation of
its own, so that a node's other messages stay apart. Requests that wait are decided
together: one sync of the audit log serves them all, and only then their answers leave.

Peers are kept apart. Each has a few receives of its own, so that one which begins a
message and does not end it, or sends without pause, takes turns only from itself. What
it can make the server hold is bounded: a message by `MESSAGE_LIMIT`, answers that it does
not take by `ANSWERS_OWED`. Beyond, its requests are dropped and counted.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter, deque
from collections.abc import Sequence
from functools import partial
from types import TracebackType
from typing import Any, Final

import numpy as np

from ..config import Config
from ..errors import ClosedError, PeerLostError, TransportError, UsageError
from ..identity import Identity, Trust
from ..identity.kms import EmbeddedKeyService, messages
from ..identity.kms.messages import MESSAGE_LIMIT, ChallengeRequest
from ..node import Node, Work
from ..wire.codec import MalformedError

log = logging.getLogger("transport.kms")

KEY_CONVERSATION: Final = 0x4B4D53
"""The `context` of these messages: "KMS"."""
REQUESTS_AT_ONCE: Final = 4  # of one peer, between two syncs
ANSWERS_OWED: Final = 64  # answers that one peer may leave waiting
_LOOK_UP: Final = 0.05  # seconds between looks for new peers, and whether to stop


def server_config() -> Config:
    """The configuration of a key server's node: small messages, little memory for each peer."""
    return Config(message_limit=MESSAGE_LIMIT)


class KeyServer:
    """Answers requests for keys on a node of its own. A context manager.

    The service belongs to the thread that runs `serve`; `start` makes one.

    Raises:
        UsageError: a name, address or other argument is not usable.
    """

    def __init__(
        self,
        service: EmbeddedKeyService,
        name: str,
        *,
        identity: Identity,
        trust: Trust,
        listen: Sequence[str] = ("tcp://127.0.0.1:0",),
    ) -> None:
        self._service = service
        self._owed: dict[str, deque[Work[None]]] = {}
        self._posted: dict[Work[Any], str] = {}
        self._arrived: queue.SimpleQueue[Work[Any]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.drops: Counter[str] = Counter()
        """Requests that were dropped without an answer, by cause."""
        self.node = Node(
            name, identity=identity, trust=trust, listen=listen, config=server_config()
        )

    def __enter__(self) -> KeyServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Serve in a thread of this process until `close`.

        Raises:
            UsageError: it serves already.
        """
        if self._thread is not None:
            raise UsageError("this key server was started already")
        self._thread = threading.Thread(target=self.serve, name="key server", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let `serve` return soon. A signal handler may call this."""
        self._stop.set()

    def close(self) -> None:
        """Stop serving, then close the node; answers under way are delivered."""
        self.stop()
        if self._thread is not None:
            self._thread.join()
        self.node.close()

    def serve(self) -> None:
        """Answer requests until `stop`, or until the node is closed."""
        try:
            while not self._stop.is_set():
                self._receive_from_all()
                self._decide(self._arrived_now())
        except ClosedError:
            pass
        finally:
            for work in self._posted:
                work.cancel()
            self._posted.clear()

    def _receive_from_all(self) -> None:
        """Have receives posted for every linked peer, each peer its own few."""
        waiting = Counter(self._posted.values())
        for peer in self.node.stats().links:
            for _ in range(REQUESTS_AT_ONCE - waiting[peer]):
                try:
                    work = self.node.irecv(source=peer, tag=None, context=KEY_CONVERSATION)
                except PeerLostError:
                    break  # since a moment ago
                self._posted[work] = peer
                work.add_done_callback(partial(self._arrived.put, work))

    def _arrived_now(self) -> list[tuple[str, Work[Any]]]:
        """The receives that have ended, well or not; waits a moment for the first."""
        ended = []
        try:
            ended.append(self._arrived.get(timeout=_LOOK_UP))
            while True:
                ended.append(self._arrived.get_nowait())
        except queue.Empty:
            return [(self._posted.pop(work), work) for work in ended]

    def _decide(self, ended: list[tuple[str, Work[Any]]]) -> None:
        answers = [
            (peer, work.tag or 0, answer)
            for peer, work in ended
            if work.exception() is None and (answer := self._answer(work.wait(0), peer)) is not None
        ]
        if not answers:
            return
        try:
            self._service.sync()
        except TransportError as error:
            # What is not on the disk must not be known outside: nobody gets an answer.
            log.error("no answers, since the audit log failed: %s", error)
            self.drops["audit"] += len(answers)
            return
        for peer, tag, answer in answers:
            self._send(peer, tag, answer)

    def _answer(self, request: Any, caller: str) -> bytes | None:
        """The answer to one message; None where the peer has too many waiting."""
        owed = self._owed.get(caller, ())
        if sum(not work.done() for work in owed) >= ANSWERS_OWED:
            self.drops["owed"] += 1
            return None
        try:
            return self._decided(request, caller)
        except MalformedError as error:
            self._service.refuse_malformed(str(error), caller=caller)
        except TransportError as error:
            log.warning("refused %s: %s", caller, error)
        return messages.encode_refusal()

    def _decided(self, request: Any, caller: str) -> bytes:
        if request.dtype != np.uint8 or request.ndim != 1:
            raise MalformedError("not a string of bytes")
        decoded = messages.decode_request(request.tobytes())
        if isinstance(decoded, ChallengeRequest):
            return messages.encode_challenge(self._service.challenge(caller))
        return messages.encode_data_key(
            self._service.release(
                decoded.operation,
                decoded.subject,
                decoded.context,
                decoded.evidence,
                caller=caller,
            )
        )

    def _send(self, peer: str, tag: int, answer: bytes) -> None:
        try:
            work = self.node.isend(answer, to=peer, tag=tag, context=KEY_CONVERSATION)
        except ClosedError:
            raise
        except TransportError as error:
            log.info("an answer to %s could not be sent: %s", peer, error)
            self._owed.pop(peer, None)
            return
        owed = self._owed.setdefault(peer, deque())
        while owed and owed[0].done():
            owed.popleft()
        if not work.done():
            owed.append(work)
        if not owed:
            del self._owed[peer]
