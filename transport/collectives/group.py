"""`Group`: collective operations among the members of a group, over sealed links.

A member's place in the list is its rank. Every member calls the same operations in the
same order, with tensors of the same dtype and size; a header before the first bytes
tells who does not. Results have the same bits on every rank and in every run. See
docs/adr/0021-collectives.md for how operations make progress.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from ..crypto.primitives import X25519_LEN
from ..errors import UsageError
from ..node import Node, Work
from ..tensor.views import destination_view, source_view
from .exchanges import Exchanges
from .membership import DIRECT, USER_TAGS
from .operation import Direct
from .reduction import Kernel
from .reductions import Reductions
from .tuning import Tuning


class Group(Reductions, Exchanges):
    """Collective operations of this node with others.

    `members` are node names, or map them to their addresses; this node is one of them.
    Links are made when an operation first needs them: by a call where the address is
    known, else by waiting for the other's. Groups of the same members and `name` must
    be made in the same order everywhere. An operation that takes longer than `timeout`
    seconds fails. `keys` are public keys by name, as they were announced: a rank whose
    handshake proves another one fails the group. They add to the node's trust.

    Blocking methods return the result; those that begin with `i` begin the operation and
    return its `Work`, and several may be under way. They do not wait for other ranks, but
    for links: the first call that needs some returns when they are made. It raises once no
    further rank was linked for `connect_timeout` seconds, or after the operation's `timeout`.
    Until a `Work` has ended, its tensors must not be touched. Every method may be called from any
    thread, but all members must begin collective operations in the same order.

    A group fails as a whole: once a rank is lost, late, or calls something else, every
    operation on every member ends with an error that names it, and so does every later
    one. With `owns_node` the node is closed with the group.

    Raises:
        UsageError: the node is no member, or a name occurs twice.
    """

    def __init__(
        self,
        node: Node,
        members: Sequence[str] | Mapping[str, str | Sequence[str]],
        *,
        name: str = "",
        timeout: float = 300.0,
        connect_timeout: float = 30.0,
        tuning: Tuning | None = None,
        kernel: Kernel | None = None,
        keys: Mapping[str, bytes] | None = None,
        owns_node: bool = False,
    ) -> None:
        super().__init__(
            node,
            _addresses(members),
            name=name,
            timeout=timeout,
            connect_timeout=connect_timeout,
            tuning=tuning,
            kernel=kernel,
            keys=_checked_keys(keys or {}),
        )
        self._owns_node = owns_node

    def __repr__(self) -> str:
        return f"<Group of {self.size}, rank {self.rank} ({self._node.name!r})>"

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def node(self) -> Node:
        """The node whose links it uses."""
        return self._node

    @property
    def error(self) -> Exception | None:
        """Why the group cannot be used any more; None while it can."""
        failure = self._membership.failure
        return None if failure is None else failure.error

    def close(self) -> None:
        """End the group on this member, and the node where the group owns it.

        Operations under way end with `ClosedError`. Closing twice is allowed.
        """
        self._membership.close()
        if self._owns_node:
            self._node.close()

    # --- messages between two ranks ----------------------------------------------------

    def isend(
        self, array: object, to: int, *, tag: int = 0, timeout: float | None = None
    ) -> Work[None]:
        """Begin `send`."""
        to = self._check_other(to, "to")
        tag = _checked_tag(tag)
        view = source_view(array)
        limit = self.timeout if timeout is None else timeout
        membership = self._membership
        membership.link((to,), self._connect_timeout, limit)
        with membership.channel:
            membership.check()
            membership.check_links((to,))
            what = f"send to {membership.describe(to)} (tag {tag}, {view.spec.nbytes} bytes)"
            direct = Direct(membership, what, to, limit)
            channel = membership.channel
            message = channel.send_tensor(view, to=self.members[to], tag=DIRECT | tag)
            direct.begin(message)
            channel.pump()
        return direct.work

    def send(self, array: object, to: int, *, tag: int = 0, timeout: float | None = None) -> None:
        """Send `array` to rank `to`; returns when its memory may be reused."""
        self.isend(array, to, tag=tag, timeout=timeout).complete(None)

    def irecv(
        self,
        out: object = None,
        source: int | None = None,
        *,
        tag: int = 0,
        timeout: float | None = None,
    ) -> Work[Any]:
        """Begin `recv`; `source` of the ended work is the sender's name."""
        if source is not None:
            source = self._check_other(source, "source")
        tag = _checked_tag(tag)
        destination = None if out is None else destination_view(out)
        limit = self.timeout if timeout is None else timeout
        membership = self._membership
        if source is not None:
            membership.link((source,), self._connect_timeout, limit)
        with membership.channel:
            membership.check()
            # What a rank has delivered before it left may still be taken.
            left = source is not None and membership.has_left(source, DIRECT | tag)
            if source is not None and not left:
                membership.check_links((source,))
            name = "any rank" if source is None else membership.describe(source)
            direct = Direct(membership, f"recv from {name} (tag {tag})", source, limit)
            channel = membership.channel

            def receive() -> Work[Any]:
                peer = None if source is None else self.members[source]
                return channel.receive(destination, source=peer, tag=DIRECT | tag)

            direct.begin(receive(), None if left else receive)
            channel.pump()
        return direct.work

    def recv(
        self,
        out: object = None,
        source: int | None = None,
        *,
        tag: int = 0,
        timeout: float | None = None,
    ) -> Any:
        """Receive from rank `source`, or from any, into `out` or a new array; return it.

        Messages from one rank with one tag are received in the order they were sent.
        """
        return self.irecv(out, source, tag=tag, timeout=timeout).complete(None)

    def rank_of(self, name: str | None) -> int:
        """The rank of a member by its node's name, as in `Work.source`.

        Raises:
            UsageError: no member has this name.
        """
        rank = self._membership.rank_of(name)
        if rank is None:
            raise UsageError(f"{name!r} is not among the members {list(self.members)}")
        return rank

    def _check_other(self, rank: int, what: str) -> int:
        if self._check_rank(rank, what) == self.rank:
            raise UsageError(f"{what} is this rank itself, {rank}")
        return rank


def _addresses(
    members: Sequence[str] | Mapping[str, str | Sequence[str]],
) -> dict[str, tuple[str, ...]]:
    """Addresses by name, in order of rank.

    Raises:
        UsageError: not names, no names, or one of them twice.
    """
    if isinstance(members, str):
        raise UsageError(f"members takes a sequence of names, got the string {members!r}")
    if isinstance(members, Mapping):
        return {
            name: (known,) if isinstance(known, str) else tuple(known)
            for name, known in members.items()
        }
    names = tuple(members)
    if len(set(names)) != len(names) or not names:
        raise UsageError(f"members must be different names, at least one, got {list(names)}")
    return dict.fromkeys(names, ())


def _checked_keys(keys: Mapping[str, bytes]) -> dict[str, bytes]:
    for name, key in keys.items():
        if not isinstance(key, bytes) or len(key) != X25519_LEN:
            raise UsageError(f"the public key of {name!r} must be {X25519_LEN} bytes")
    return dict(keys)


def _checked_tag(tag: int) -> int:
    if type(tag) is not int or not 0 <= tag < USER_TAGS:
        raise UsageError(f"tag must be a whole number in 0..2^62-1, got {tag!r}")
    return tag
