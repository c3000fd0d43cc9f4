"""Operations of a group under way: an execution joined to the node's messages.

Everything here runs inside the engine: begun by the caller of the group, carried on by
whichever thread drives when a message has come or gone. An operation needs no thread,
and nobody waits for it but its caller.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

from ..errors import (
    PeerError,
    PeerLostError,
    TransportError,
    TransportTimeoutError,
    UsageError,
)
from ..node import Work
from ..node.claims import Claim
from ..tensor.spec import MalformedSpecError, TensorSpec
from .execution import Execution, Port
from .header import Headers
from .membership import COLLECTIVE, Membership

log = logging.getLogger("transport")


class Collective(ABC):
    """One collective operation of this rank: what it says of itself, and how it ends.

    A subclass carries it out. All of it holds the engine.
    """

    __slots__ = (
        "_channel",
        "_claims",
        "_headers",
        "_keep",
        "_membership",
        "_messages",
        "_number",
        "_tag",
        "_then",
        "_timeout",
        "deadline",
        "work",
    )

    fatal = True

    def __init__(self, membership: Membership, headers: Headers, timeout: float) -> None:
        self._membership = membership
        self._channel = membership.channel
        self._headers = headers
        self._timeout = timeout
        self._number = membership.next_number()
        self._tag = COLLECTIVE | self._number
        self._messages: dict[Work[Any], None] = {}  # under way
        self._claims: dict[int, Claim] = {}  # openings that were not taken, by peer
        self._then: Callable[[], object] = _nothing
        self._keep: object = None  # owns the memory that is being sent
        self.deadline = monotonic() + timeout
        self.work: Work[Any] = self._channel.work(self)
        self.work.on_give_up(self._give_up)

    def __str__(self) -> str:
        return f"{self._headers.own.describe()} (operation {self._number} of the group)"

    def _enter(self, then: Callable[[], object], keep: object, start: Callable[[], None]) -> None:
        """Begin; `then` gives the result."""
        self._then, self._keep = then, keep
        self._membership.enter(self, self._number)
        if not self.work.done():
            self._guarded(start)
            self._channel.pump()

    def _guarded(self, action: Callable[[], object]) -> None:
        """A mistake of ours or of a kernel must end the operation, not leave it hanging."""
        try:
            action()
        except TransportError as error:
            self._membership.message_failed(str(self), None, error)
        except Exception as error:
            log.exception("%s failed", self)
            self._membership.fail(PeerError(f"{self} failed: {error!r}"), self._membership.rank)

    # --- messages ----------------------------------------------------------------------

    def _send(self, peer: int, data: memoryview | bytes, *, opening: bool) -> Work[None] | None:
        """Send; None where the memory is free already, or the operation has failed."""
        membership = self._membership
        try:
            note = self._headers.note(peer) if opening else b""
            return self._channel.send(data, to=membership.names[peer], tag=self._tag, note=note)
        except TransportError as error:
            membership.message_failed(str(self), peer, error)
            return None

    def _claim(self, peer: int, size: int, then: Callable[[memoryview | bytes], None]) -> None:
        """Expect the first message of a peer, with `size` bytes of a tensor."""
        opening = self._headers.opening(peer, size)

        def taken(link: object, description: bytes, payload: memoryview | bytes) -> None:
            self._claims.pop(peer, None)
            if self.work.done() or not self._membership.met_over(peer, link):
                return
            if description == opening and len(payload) == size:
                self._guarded(partial(then, payload))
                self._channel.pump()
            else:
                self._disagree(peer, description)

        def failed(error: TransportError) -> None:
            self._claims.pop(peer, None)
            if not self.work.done():
                self._membership.message_failed(str(self), peer, error)

        name = self._membership.names[peer]
        try:
            claim = self._channel.claim(size, taken, failed, source=name, tag=self._tag)
        except TransportError as error:
            failed(error)
            return
        if not claim.ended:
            self._claims[peer] = claim

    def _follow(self, work: Work[Any], peer: int, then: Callable[[], None]) -> None:
        """Go on with `then` when a message has come or gone."""
        self._messages[work] = None
        work.add_done_callback(partial(self._ended, work, peer, then))

    def _ended(self, work: Work[Any], peer: int, then: Callable[[], None]) -> None:
        self._messages.pop(work, None)
        if self.work.done():
            return
        error = work.exception()
        if error is not None:
            self._membership.message_failed(str(self), peer, error)
            return
        self._guarded(then)
        self._channel.pump()

    def _disagree(self, peer: int, description: bytes) -> None:
        """A peer means another operation than this rank, or has another tensor."""
        try:
            _, end = TensorSpec.decode(description)
        except MalformedSpecError:
            end = len(description)
        what = self._headers.expected(peer).difference(description[end:])
        self._membership.disagreed(str(self), peer, what)

    # --- the end -----------------------------------------------------------------------

    def _finished(self) -> None:
        """Every step is done."""
        self._membership.leave(self, self._number)
        try:
            result = self._then()
        except Exception as error:
            # The caller's own object refused to take the result.
            self.work.fail(UsageError(f"{self}: cannot store the result: {error}"))
            return
        self.work.finish(result)

    @abstractmethod
    def expects(self, rank: int) -> bool:
        """See `Numbered`."""

    @abstractmethod
    def _waiting_for(self) -> Sequence[int]:
        """The ranks from which something is still to come."""

    @abstractmethod
    def _stop(self) -> None:
        """Go no further."""

    def late(self) -> TransportError:
        """See `Member`."""
        names = ", ".join(map(self._membership.describe, self._waiting_for())) or "nobody"
        return TransportTimeoutError(
            f"{self} did not end within its timeout of {self._timeout} s; still waiting for {names}"
        )

    def end(self, error: TransportError) -> None:
        """See `Member`."""
        self._stop()
        messages, self._messages = list(self._messages), {}
        claims, self._claims = list(self._claims.values()), {}
        self.work.fail(error)
        for work in messages:
            work.abandon(error)
        for claim in claims:
            self._channel.unclaim(claim)

    def _give_up(self) -> bool:
        self._membership.fail(self.late(), None)
        return True


class Staged(Collective):
    """An operation in pieces; the port of its execution."""

    __slots__ = ("_execution", "_release")

    def begin(
        self,
        execution: Callable[[Port, Callable[[], None]], Execution],
        then: Callable[[], object],
        release: Callable[[], None],
        keep: object,
    ) -> None:
        """Carry it out; `then` gives the result, `release` lets go of partial ones.

        `release` is not called where it fails: a packet may be on its way into that memory.
        """
        self._release = release
        self._execution = execution(self, self._carried_out)
        self._enter(then, keep, self._execution.start)

    def _carried_out(self) -> None:
        self._release()
        self._finished()

    def send(
        self, peer: int, data: memoryview | bytes, then: Callable[[], None], *, opening: bool
    ) -> None:
        """See `Port`."""
        work = self._send(peer, data, opening=opening)
        if work is not None:
            self._follow(work, peer, then)
        elif not self.work.done():
            then()

    def opened(self, peer: int, size: int, then: Callable[[memoryview | bytes], None]) -> None:
        """See `Port`."""
        self._claim(peer, size, then)

    def receive(self, peer: int, into: memoryview, then: Callable[[int], None]) -> None:
        """See `Port`."""
        try:
            name = self._membership.names[peer]
            work = self._channel.receive(into, source=name, tag=self._tag)
        except TransportError as error:
            self._membership.message_failed(str(self), peer, error)
            return

        def received() -> None:
            if self._membership.met_over(peer, work.link):
                then(work.nbytes or 0)

        self._follow(work, peer, received)

    def cut_short(self, peer: int) -> None:
        """See `Port`."""
        self._membership.disagreed(str(self), peer, "sent fewer bytes than it announced")

    def expects(self, rank: int) -> bool:
        """See `Numbered`."""
        return self._execution.expects(rank)

    def _waiting_for(self) -> Sequence[int]:
        return self._execution.waiting_for()

    def _stop(self) -> None:
        self._execution.stop()


class Direct:
    """One message between two ranks, as `Group.send` and `Group.recv` begin it."""

    def __init__(
        self,
        membership: Membership,
        description: str,
        peer: int | None,
        timeout: float,
    ) -> None:
        self._membership = membership
        self._description = description
        self._peer = peer
        self._timeout = timeout
        self._message: Work[Any] | None = None
        self._again: Callable[[], Work[Any]] | None = None
        self.deadline = monotonic() + timeout
        self.fatal = False
        self.work: Work[Any] = membership.channel.work(self)
        self.work.on_cancel(self._cancel)
        self.work.on_give_up(self._give_up)

    def __str__(self) -> str:
        return self._description

    def begin(
        self, message: Work[Any] | None, again: Callable[[], Work[Any]] | None = None
    ) -> None:
        """Follow a message, None where it is sent already; `again` receives another one."""
        if message is None:
            self.work.finish(None)
            return
        self._again = again
        self._membership.follow(self)
        if not self.work.done():
            self._follow(message)

    def _follow(self, message: Work[Any]) -> None:
        self._message = message
        message.add_done_callback(self._ended)

    def _ended(self) -> None:
        message = self._message
        if message is None or self.work.done():
            return
        error = message.exception()
        stranger = self._membership.member_behind(message.source, message.link) is None
        if error is None and self._again is not None and stranger:
            # Whoever shares the trust can send here, but only members are heard.
            self._follow(self._again())
            return
        self._membership.leave(self)
        if error is None:
            work = self.work
            work.source, work.tag, work.nbytes = message.source, message.tag, message.nbytes
            work.finish(message.wait(0))
            return
        if isinstance(error, PeerLostError):
            self._membership.message_failed(str(self), self._peer, error)
            failure = self._membership.failure
            error = error if failure is None else failure.error
        self.work.fail(error)

    def late(self) -> TransportError:
        """See `Member`."""
        return TransportTimeoutError(f"{self} did not end within its timeout of {self._timeout} s")

    def end(self, error: TransportError) -> None:
        """See `Member`."""
        self._membership.leave(self)
        message, self._message = self._message, None
        self.work.fail(error)
        if message is not None:
            message.abandon(error)

    def _cancel(self) -> bool:
        if self._message is None or not self._message.cancel():
            return False
        self._membership.leave(self)
        return True

    def _give_up(self) -> bool:
        self.end(self.late())
        return True


def _nothing() -> None:
    return None
