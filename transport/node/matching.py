"""Tag matching: which arrived message goes to which posted receive.

A message names source, context and tag; a receive may leave source or tag open.
Messages of one source match in the order they were sent, receives in the order
they were posted. Both sides are indexed by their exact key; order between keys
is kept by serial numbers, so a wildcard looks at the heads only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Arrival(Protocol):
    """A message as the matcher sees it; `serial`, its place in line, is the matcher's to set."""

    source: str
    context: int
    tag: int
    serial: int


class Posted(Protocol):
    """A receive as the matcher sees it; `None` is a wildcard, `serial` the matcher's to set."""

    source: str | None
    context: int
    tag: int | None
    serial: int


A = TypeVar("A", bound=Arrival)
P = TypeVar("P", bound=Posted)


class Matcher(Generic[A, P]):
    """Posted receives and unexpected messages; never both for one key."""

    def __init__(self) -> None:
        self._serial = 0
        self._wildcards = 0  # posted receives that leave source or tag open
        self._posted: dict[tuple[int, str | None, int | None], deque[tuple[int, P]]] = {}
        self._unexpected: dict[tuple[int, str, int], deque[tuple[int, A]]] = {}

    def post(self, receive: P) -> None:
        """Add a receive that nothing here matches yet."""
        key = (receive.context, receive.source, receive.tag)
        self._serial += 1
        if receive.source is None or receive.tag is None:
            self._wildcards += 1
        receive.serial = self._serial
        self._posted.setdefault(key, deque()).append((self._serial, receive))

    def post_again(self, receive: P) -> None:
        """Return a receive whose message came to nothing to its old place in line."""
        key = (receive.context, receive.source, receive.tag)
        if receive.source is None or receive.tag is None:
            self._wildcards += 1
        queue = self._posted.setdefault(key, deque())
        at = 0
        while at < len(queue) and queue[at][0] < receive.serial:
            at += 1
        queue.insert(at, (receive.serial, receive))

    def keep(self, message: A) -> None:
        """Add a message that no receive matches yet."""
        key = (message.context, message.source, message.tag)
        self._serial += 1
        message.serial = self._serial
        self._unexpected.setdefault(key, deque()).append((self._serial, message))

    def receive_for(self, message: A) -> P | None:
        """Take the receive posted first of those that match `message`."""
        return self.receive_of(message.context, message.source, message.tag)

    def receive_of(self, context: int, source: str, tag: int) -> P | None:
        """The same, for a message that is not made yet."""
        exact = (context, source, tag)
        if not self._wildcards:
            return self._take(self._posted, exact) if exact in self._posted else None
        best = None
        for key in (
            exact,
            (context, source, None),
            (context, None, tag),
            (context, None, None),
        ):
            queue = self._posted.get(key)
            if queue is not None and (best is None or queue[0][0] < best[0]):
                best = (queue[0][0], key)
        if best is None:
            return None
        if best[1] is not exact:
            self._wildcards -= 1
        return self._take(self._posted, best[1])

    def message_for(self, receive: P) -> A | None:
        """Take the message that arrived first of those that match `receive`."""
        key = self._first_matching(receive.context, receive.source, receive.tag)
        return None if key is None else self._take(self._unexpected, key)

    def take_exact(self, context: int, source: str, tag: int) -> A | None:
        """Take the message that arrived first of this very source and tag."""
        key = (context, source, tag)
        return self._take(self._unexpected, key) if key in self._unexpected else None

    def peek(self, context: int, source: str | None, tag: int | None) -> A | None:
        """The message that such a receive would take, left in place."""
        key = self._first_matching(context, source, tag)
        return None if key is None else self._unexpected[key][0][1]

    def _first_matching(
        self, context: int, source: str | None, tag: int | None
    ) -> tuple[int, str, int] | None:
        if source is not None and tag is not None:
            exact = (context, source, tag)
            return exact if exact in self._unexpected else None
        best: tuple[int, tuple[int, str, int]] | None = None
        for key, queue in self._unexpected.items():
            if (
                key[0] == context
                and (source is None or key[1] == source)
                and (tag is None or key[2] == tag)
                and (best is None or queue[0][0] < best[0])
            ):
                best = (queue[0][0], key)
        return None if best is None else best[1]

    K = TypeVar("K")
    V = TypeVar("V")

    @staticmethod
    def _take(index: dict[K, deque[tuple[int, V]]], key: K) -> V:
        queue = index[key]
        _, item = queue.popleft()
        if not queue:
            del index[key]
        return item

    def put_back(self, message: A) -> None:
        """Return a message that was taken to its old place in line."""
        key = (message.context, message.source, message.tag)
        self._unexpected.setdefault(key, deque()).appendleft((message.serial, message))

    def remove_posted(self, receive: P) -> bool:
        """Take back a receive; False where it was matched already."""
        key = (receive.context, receive.source, receive.tag)
        removed = self._remove(self._posted, key, receive)
        if removed and (receive.source is None or receive.tag is None):
            self._wildcards -= 1
        return removed

    def remove_unexpected(self, message: A) -> bool:
        """Take back a message; False where it was matched already."""
        return self._remove(
            self._unexpected, (message.context, message.source, message.tag), message
        )

    @staticmethod
    def _remove(index: dict[K, deque[tuple[int, V]]], key: K, item: V) -> bool:
        queue = index.get(key)
        if queue is None:
            return False
        for at, (_, candidate) in enumerate(queue):
            if candidate is item:
                del queue[at]
                if not queue:
                    del index[key]
                return True
        return False

    def waiting(self, context: int) -> list[A]:
        """The unexpected messages of one context."""
        return [
            message
            for (of, _, _), queue in self._unexpected.items()
            if of == context
            for _, message in queue
        ]

    def posted_for(self, source: str) -> Iterator[P]:
        """The receives that only `source` could satisfy."""
        for (_, wanted, _), queue in list(self._posted.items()):
            if wanted == source:
                yield from [receive for _, receive in queue]

    def all_posted(self) -> Iterator[P]:
        """Every receive that waits."""
        for queue in list(self._posted.values()):
            yield from [receive for _, receive in queue]

    def __len__(self) -> int:
        """How many messages wait unexpected."""
        return sum(map(len, self._unexpected.values()))
