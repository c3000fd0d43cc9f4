"""Operations of a group under way: an execution joined to the node's messages.

Everything here runs inside the engine: begun by the caller of the group, carried on by
whichever thread drives when a message has come or gone. An operation needs no thread,
and nobody waits for it but its caller.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
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
from .execution import Execution
from .header import Header
from .membership import COLLECTIVE, Membership

log = logging.getLogger("transport")


class Collective:
    """One collective operation of this rank; the port of its execution."""

    def __init__(
        self,
        membership: Membership,
        header: Callable[[int], Header],
        description: object,
        timeout: float,
    ) -> None:
        self._membership = membership
        self._channel = membership.channel
        self._header = header  # what is expected of a rank
        self._description = description
        self._timeout = timeout
        self._number = membership.next_number()
        self._tag = COLLECTIVE | self._number
        self._execution: Execution | None = None
        self._messages: dict[Work[Any], None] = {}  # under way
        self._then: Callable[[], object] = _nothing
        self._release: Callable[[], None] = _nothing
        self._keep: object = None  # owns the memory that is being sent
        self.deadline = monotonic() + timeout
        self.fatal = True
        self.work: Work[Any] = self._channel.work(self)
        self.work.on_give_up(self._give_up)

    def __str__(self) -> str:
        return f"{self._description} (operation {self._number} of the group)"

    def begin(
        self,
        execution: Execution,
        then: Callable[[], object],
        release: Callable[[], None],
        keep: object,
    ) -> None:
        """Carry it out; `then` gives the result, `release` lets go of partial ones.

        Neither is called where it fails: a packet may be on its way into that memory.
        """
        self._execution, self._then, self._release = execution, then, release
        self._keep = keep
        self._membership.enter(self, self._number)
        if not self.work.done():
            self._guarded(execution.start)
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

    # --- the port ----------------------------------------------------------------------

    def send(self, peer: int, data: memoryview | bytes, then: Callable[[], None]) -> None:
        """See `Port`."""
        try:
            name = self._membership.names[peer]
            work = self._channel.send(data, to=name, tag=self._tag)
        except TransportError as error:
            self._membership.message_failed(str(self), peer, error)
            return
        if work is None:
            then()
            return
        self._messages[work] = None
        work.add_done_callback(partial(self._ended, work, peer, then))

    def receive(self, peer: int, into: memoryview, then: Callable[[int], None]) -> None:
        """See `Port`."""
        try:
            name = self._membership.names[peer]
            work = self._channel.receive(into, source=name, tag=self._tag)
        except TransportError as error:
            self._membership.message_failed(str(self), peer, error)
            return
        self._messages[work] = None
        work.add_done_callback(partial(self._ended, work, peer, lambda: then(work.nbytes or 0)))

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

    def disagree(self, peer: int, header: memoryview) -> None:
        """See `Port`."""
        what = self._header(peer).difference(header)
        self._membership.disagreed(str(self), peer, what)

    # --- the end -----------------------------------------------------------------------

    def finished(self) -> None:
        """Every step is done."""
        self._membership.leave(self, self._number)
        self._release()
        try:
            result = self._then()
        except Exception as error:
            # The caller's own object refused to take the result.
            self.work.fail(UsageError(f"{self}: cannot store the result: {error}"))
            return
        self.work.finish(result)

    def expects(self, rank: int) -> bool:
        """See `Numbered`."""
        return self._execution is not None and self._execution.expects(rank)

    def late(self) -> TransportError:
        """See `Member`."""
        waiting = () if self._execution is None else self._execution.waiting_for()
        names = ", ".join(map(self._membership.describe, waiting)) or "nobody"
        return TransportTimeoutError(
            f"{self} did not end within its timeout of {self._timeout} s; still waiting for {names}"
        )

    def end(self, error: TransportError) -> None:
        """See `Member`."""
        if self._execution is not None:
            self._execution.stop()
        messages, self._messages = list(self._messages), {}
        self.work.fail(error)
        for work in messages:
            work.abandon(error)

    def _give_up(self) -> bool:
        self._membership.fail(self.late(), None)
        return True


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
        stranger = self._membership.member_behind(message.source) is None
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
