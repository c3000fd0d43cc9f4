"""Who is in a group, the links among them, and how all learn that the group has failed.

A group fails once and as a whole: a rank that is lost, late or out of step has left
tensors half reduced on others. Whoever notices first ends its own operations and sends
a notice over its links to the other members, who do the same. So a rank that waits for
a third one learns of the loss too, and every member names the same rank. Messages are
sealed like any others; nobody outside the trust can make a group fail.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from ..errors import (
    AuthenticationError,
    ClosedError,
    LimitError,
    PeerError,
    PeerLostError,
    PeerRefusedError,
    TransportError,
    TruncatedError,
    UsageError,
)
from ..identity import fingerprint
from ..node import Node
from ..node.channel import Channel
from .header import MAX_NOTICE, Cause, Header, Notice
from .meeting import Meeting

log = logging.getLogger("transport")

# A tag is 64 bits: the upper two say what a message is, the rest which one.
COLLECTIVE: Final = 0  # the operation's number in the group
DIRECT: Final = 1 << 62  # of `Group.send`: the user's tag
NOTICE: Final = 2 << 62
USER_TAGS: Final = 1 << 62
_KIND: Final = 3 << 62

GRACE: Final = 1.0  # seconds that a notice may take to explain why a peer withdrew


class Member(Protocol):
    """An operation of the group that is under way."""

    deadline: float
    fatal: bool
    """Whether the group fails with it where it is late."""

    def late(self) -> TransportError:
        """Why it must end now: its deadline has passed."""
        ...

    def end(self, error: TransportError) -> None:
        """End with `error`; let go of all memory."""
        ...


class Numbered(Member, Protocol):
    """A collective operation: all members have it under the same number."""

    def expects(self, rank: int) -> bool:
        """Whether it receives anything from this rank."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the group has failed: the error, and the rank to blame."""

    error: TransportError
    rank: int | None


class Membership:
    """One rank's view of its group. Methods say where their caller holds the engine."""

    def __init__(
        self,
        node: Node,
        members: Mapping[str, Sequence[str]],
        name: str,
        keys: Mapping[str, bytes] | None = None,
    ) -> None:
        self.names = tuple(members)
        if node.name not in members:
            raise UsageError(f"node {node.name!r} is not among the members {list(self.names)}")
        self.rank = self.names.index(node.name)
        self.size = len(self.names)
        self.failure: Failure | None = None
        self._addresses = dict(members)
        self._keys = dict(keys or {})
        self._rank_of = {each: rank for rank, each in enumerate(self.names)}
        self._links: dict[int, object] = {}  # as they were when first used
        self._told: set[int] = set()
        self._under_way: dict[Member, None] = {}
        self._number = 0
        self._expecting: dict[int, Numbered] = {}  # by number of operation
        self._early: dict[int, set[int]] = {}  # by number: ranks ahead of this one
        self._alarm = float("inf")
        self.channel: Channel = node.channel(_context(node, self.names, name))
        with self.channel:
            self.channel.watch(self._on_stray)

    def describe(self, rank: int) -> str:
        """A rank as errors name it."""
        return f"rank {rank} ({self.names[rank]!r})"

    def rank_of(self, name: str | None) -> int | None:
        """The rank of a node, or None where it is no member."""
        return None if name is None else self._rank_of.get(name)

    def member_behind(self, name: str | None, link: object) -> int | None:
        """The rank of who sent a message; None where no member did, or not one's own key.

        `link` is what the message came over: its sender may have left since. Holds the
        engine.
        """
        rank = self.rank_of(name)
        if rank is None or link is None:
            return None
        expected = self._keys.get(self.names[rank])
        if expected is None or self._links.get(rank) is link:
            return rank
        return rank if expected == self.channel.key_over(link) else None

    def check(self) -> None:
        """Return if the group may be used.

        Raises:
            TransportError: it has failed or was closed; of the class of the first error.
        """
        if self.failure is not None:
            error = self.failure.error
            kind = ClosedError if isinstance(error, ClosedError) else type(error)
            raise kind(f"the group cannot be used any more: {error}")

    # --- links -----------------------------------------------------------------------

    def link(self, ranks: Sequence[int], patience: float, limit: float) -> None:
        """See to it that there are links to these ranks; may wait, not holding the engine.

        `patience` is how long nobody new may be linked, `limit` how long all may take, in
        seconds.

        Raises:
            PeerLostError: a rank could not be reached, or its link is gone.
            TransportError: the group has failed.
        """
        if self.failure is None and all(rank in self._links for rank in ranks):
            return
        meeting = Meeting(self, [rank for rank in ranks if rank not in self._links])
        unmet = meeting.hold(patience, limit)
        if unmet is not None:
            rank, error = unmet
            lost = PeerLostError(f"{self.describe(rank)} cannot be reached: {error}")
            with self.channel:
                self.fail(lost, rank)
            raise lost

    def addresses_of(self, rank: int) -> Sequence[str]:
        """Where a rank listens; none where it has to call."""
        return self._addresses[self.names[rank]]

    def note_link(self, rank: int) -> bool:
        """Remember the link to a rank, if there is one.

        Raises:
            AuthenticationError: not the rank that was met is at its other end.
        """
        link = self.channel.link_to(self.names[rank])
        if link is not None and rank not in self._links:
            self._check_key(rank)
            self._links[rank] = link
        return link is not None

    def _check_key(self, rank: int) -> None:
        """What was told of a rank's key is believed only where the handshake proved it."""
        expected, proved = self._keys.get(self.names[rank]), self.channel.key_of(self.names[rank])
        if expected is None or expected == proved:
            return
        error = AuthenticationError(
            f"{self.describe(rank)} has key {fingerprint(proved) if proved else 'none'}, but "
            f"{fingerprint(expected)} was announced for it: not the process that joined the group"
        )
        self.fail(error, rank)
        raise error

    def has_left(self, rank: int, tag: int) -> bool:
        """Whether a rank is gone whose next message was delivered before, over its own link."""
        name = self.names[rank]
        with self.channel:
            gone = self.channel.link_to(name) is None
            return gone and self.channel.holds(name, tag, self._links.get(rank))

    def check_links(self, ranks: Sequence[int], only_from: frozenset[int] = frozenset()) -> None:
        """Return if the links to these ranks are still the same. Holds the engine.

        A rank of `only_from` is sent nothing in the operation that comes next. It may have
        left, where what it had to say in that operation was delivered before.

        Raises:
            PeerLostError: one has ended, even if the peer is linked anew: what it knew of
                the group is gone. The group has failed with it.
        """
        for rank in ranks:
            name, known = self.names[rank], self._links.get(rank)
            link = self.channel.link_to(name)
            if link is known:
                continue
            if link is not None:
                self._check_key(rank)
            elif rank in only_from and self.channel.holds(name, self._number + 1, known):
                continue
            raise self._lost(rank)

    def met_over(self, rank: int, link: object) -> bool:
        """Whether a message of this rank came over its own link; else the group has failed.

        Whoever comes under the rank's name later is somebody else, or has forgotten the
        group. Holds the engine.
        """
        if self._links.get(rank) is link:
            return True
        self._lost(rank)
        return False

    def _lost(self, rank: int) -> PeerLostError:
        """The group fails, for the link to a rank is not what it was."""
        text = self.channel.lost(self.names[rank]) or "it came back"
        error = PeerLostError(f"{self.describe(rank)} is lost: {text}")
        self.fail(error, rank)
        return error

    # --- operations; the caller holds the engine --------------------------------------

    def next_number(self) -> int:
        """The number of the next collective operation, the same on every rank."""
        self._number += 1
        return self._number

    def enter(self, member: Numbered, number: int) -> None:
        """A collective operation begins."""
        self._expecting[number] = member
        for rank in self._early.pop(number, ()):
            if not member.expects(rank):
                self._out_of_step(rank, number)
        self.follow(member)

    def follow(self, member: Member) -> None:
        """End an operation with the group, and at its deadline."""
        if self.failure is not None:
            member.end(self.failure.error)
            return
        self._under_way[member] = None
        if member.deadline < self._alarm:
            self._alarm = member.deadline
            self.channel.later(max(0.0, member.deadline - monotonic()), self._look)

    def leave(self, member: Member, number: int | None = None) -> None:
        """An operation has ended."""
        self._under_way.pop(member, None)
        if number is not None:
            self._expecting.pop(number, None)

    def _look(self) -> None:
        """Some deadline may have passed."""
        self._alarm = float("inf")
        now = monotonic()
        for member in list(self._under_way):
            if member.deadline > now or self.failure is not None:
                continue
            if member.fatal:
                self.fail(member.late(), None)
            else:
                member.end(member.late())
        if self._under_way:
            self._alarm = min(member.deadline for member in self._under_way)
            self.channel.later(max(0.0, self._alarm - monotonic()), self._look)

    # --- failure; the caller holds the engine ------------------------------------------

    def message_failed(self, what: str, rank: int | None, error: TransportError) -> None:
        """A message of an operation failed; the group fails with it, for the best reason known."""
        if self.failure is not None:
            return
        if isinstance(error, PeerRefusedError):
            # The peer takes part no longer. It says why, but packets may overtake each other.
            text = f"{what}: {self._blame(rank)} withdrew: {error}"
            self.channel.later(GRACE, lambda: self.fail(PeerError(text), rank))
            return
        if isinstance(error, PeerLostError):
            self.fail(PeerLostError(f"{what}: {self._blame(rank)} is lost: {error}"), rank)
        elif isinstance(error, (UsageError, TruncatedError)):
            text = f"{what}: {self._blame(rank)} sent something else than expected: {error}"
            self.fail(UsageError(text), rank)
        else:
            kinds = (ClosedError, LimitError)
            kind = type(error) if isinstance(error, kinds) else PeerError
            self.fail(kind(f"{what}: {error}"), rank)

    def disagreed(self, what: str, rank: int, difference: str) -> None:
        """A rank is in another operation than this one, or has another tensor."""
        self.fail(UsageError(f"{what}: {self.describe(rank)} {difference}"), rank)

    def _blame(self, rank: int | None) -> str:
        return "a peer" if rank is None else self.describe(rank)

    def fail(
        self,
        error: TransportError,
        rank: int | None,
        *,
        told_by: int | None = None,
        tell: bool = True,
    ) -> None:
        """The group has failed: end every operation, and let the other members know.

        Without `tell` only those are told who are waiting for this rank.
        """
        if self.failure is not None:
            return
        self.failure = Failure(error, rank)
        self._told |= {each for each in (rank, told_by) if each is not None}
        if rank is not None and not isinstance(error, PeerLostError):
            self._told.discard(rank)  # it is alive, and should hear of it
        # Notices first: what ends the operations withdraws messages that peers wait for.
        waiting = {each for ranks in self._early.values() for each in ranks}
        for each in sorted(self._links if tell else waiting):
            self._tell(each)
        for member in list(self._under_way):
            member.end(error)
        self._under_way.clear()
        self._expecting.clear()
        self._early.clear()
        self.channel.discard()
        self.channel.pump()

    def _tell(self, rank: int) -> None:
        name = self.names[rank]
        if self.failure is None or rank in self._told or self.channel.link_to(name) is None:
            return
        self._told.add(rank)
        failure = self.failure
        notice = Notice(Cause.of(failure.error), failure.rank, str(failure.error))
        try:
            self.channel.send(notice.encode(), to=name, tag=NOTICE)
        except TransportError as error:
            log.info("could not tell %s that the group failed: %s", name, error)

    def _on_stray(self, source: str, tag: int, link: object) -> None:
        """A message came that no receive waits for."""
        rank = self.member_behind(source, link)
        if rank is None:
            # No member: it shares the trust, not the group.
            self.channel.discard(source, link)
            return
        # It may have left before this rank begins what that was for.
        self._links.setdefault(rank, link)
        if tag & _KIND == NOTICE:
            self._on_notice(rank, source, tag)
        elif self.failure is not None:
            self.channel.discard(source, link)
            self._tell(rank)
            self.channel.pump()
        elif tag & _KIND == COLLECTIVE:
            self._on_early(rank, tag)

    def _on_early(self, rank: int, number: int) -> None:
        if number > self._number:
            self._early.setdefault(number, set()).add(rank)
            return
        member = self._expecting.get(number)
        if member is None or not member.expects(rank):
            self._out_of_step(rank, number)

    def _out_of_step(self, rank: int, number: int) -> None:
        """A rank sent for an operation in which nothing is expected from it."""
        header = Header.decode(self.channel.note_of(self.names[rank], COLLECTIVE | number))
        theirs = "something else" if header is None else header.describe()
        member = self._expecting.get(number)
        ours = f"done with operation {number}" if member is None else f"in {member}"
        text = f"{self.describe(rank)} calls {theirs}, while rank {self.rank} is {ours}"
        self.fail(UsageError(text), rank)

    def _on_notice(self, rank: int, source: str, tag: int) -> None:
        if self.failure is not None:
            self.channel.discard(source)
            return
        work = self.channel.receive(memoryview(bytearray(MAX_NOTICE)), source=source, tag=tag)
        if not work.done() or work.exception() is not None:
            work.cancel()
            return
        notice = Notice.decode(bytes(work.wait(0)[: work.nbytes]), self.size)
        text = notice.text
        if not text.startswith(_REPORTED):
            text = f"{_REPORTED}{self.describe(rank)}: {text}"
        blamed = notice.rank
        self.fail(notice.cause.error(text), blamed, told_by=rank)

    def close(self) -> None:
        """End the group on this rank.

        Members are told where operations were under way, or once they send to this rank;
        those who are only behind with the last operation must not be disturbed.
        """
        with self.channel:
            error = ClosedError(f"the group was closed on {self.describe(self.rank)}")
            self.fail(error, self.rank, tell=bool(self._under_way))


_REPORTED: Final = "reported by "


_made: WeakKeyDictionary[Node, Counter[tuple[tuple[str, ...], str]]] = WeakKeyDictionary()
"""How many groups of the same members and name each node has made."""


def _context(node: Node, names: tuple[str, ...], name: str) -> int:
    """The context of a group: the same on every member, and another one for another group.

    Members must make groups of the same members and name in the same order. Never zero,
    which is the context of a node's own messages.
    """
    serials = _made.setdefault(node, Counter())
    serials[names, name] += 1
    identity = repr((names, name, serials[names, name]))
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "little") | 1
