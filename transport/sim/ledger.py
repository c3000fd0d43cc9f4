"""What was to be sent, and what arrived: every byte of every message is checked.

A message is a slice of one pool of random bytes, at a place of its own. So a
piece can be compared with what was sent the moment it is opened, and then its
memory may serve the next: a thousand messages of megabytes need one buffer.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..errors import UsageError
from .events import picoseconds
from .invariants import InvariantError
from .routing import mix

MESSAGE_LIMIT: Final = 1 << 30  # bytes; more goes as several messages
SPREAD: Final = 1 << 18  # places in the pool where messages begin


@dataclass(frozen=True, slots=True)
class Flow:
    """`count` messages of `size` bytes from one endpoint to another, back to back.

    An endpoint is a host, `h3`, or one of several processes that share it, `h3/7`.
    `start` is in seconds after the barrier.

    Raises:
        UsageError: a size, count or time makes no sense, or the flow leads to its sender.
    """

    src: str
    dst: str
    size: int
    start: float = 0.0
    count: int = 1
    name: str = ""

    def __post_init__(self) -> None:
        what = f"flow {self.name or f'{self.src}>{self.dst}'}"
        if self.src == self.dst:
            raise UsageError(f"{what} leads from an endpoint to itself")
        if self.src.partition("/")[0] == self.dst.partition("/")[0]:
            raise UsageError(f"{what} does not leave its host, so no network carries it")
        if not isinstance(self.size, int) or not 1 <= self.size <= MESSAGE_LIMIT:
            raise UsageError(f"{what} must have a size of 1 to {MESSAGE_LIMIT}, got {self.size!r}")
        if not isinstance(self.count, int) or self.count < 1:
            raise UsageError(f"{what} must have a count of 1 or more, got {self.count!r}")
        if not 0 <= self.start < float("inf"):
            raise UsageError(f"{what} must start at 0 s or later, got {self.start}")


class FlowState:
    """A flow under way; times in picoseconds."""

    __slots__ = (
        "_delivered",
        "end",
        "flow",
        "held",
        "index",
        "name",
        "posted",
        "received",
        "undelivered",
    )

    def __init__(self, flow: Flow, index: int, name: str) -> None:
        self.flow = flow
        self.index = index
        self.name = name
        self.posted = 0  # messages given to the link
        self.held = 0  # of these, not sealed whole
        self.received = 0  # bytes opened and found right
        self.undelivered = flow.count
        self.end: int | None = None
        self._delivered = bytearray(flow.count)

    def deliver(self, number: int, time: int) -> None:
        """Message `number` is complete at the receiver.

        Raises:
            InvariantError: it had been delivered before.
        """
        if self._delivered[number]:
            raise InvariantError(f"message {number} of flow {self.name} was delivered twice")
        self._delivered[number] = 1
        self.undelivered -= 1
        if not self.undelivered:
            self.end = time


class Incoming:
    """A message on its way in: what it must contain, and how much of that has come."""

    __slots__ = ("_pool", "_start", "number", "size", "state", "verified")

    def __init__(self, state: FlowState, number: int, pool: bytes, start: int) -> None:
        self.state = state
        self.number = number
        self.size = state.flow.size
        self.verified = 0
        self._pool = pool
        self._start = start

    def verify(self, offset: int, piece: memoryview) -> None:
        """Bytes from `offset` on are said to be in place.

        Raises:
            InvariantError: they are not the sender's.
        """
        size = len(piece)
        # Compares in place; that it does not pass the message's end is the link's to see to.
        if not self._pool.startswith(piece, self._start + offset):
            raise InvariantError(
                f"bytes {offset} to {offset + size} of message {self.number} "
                f"of flow {self.state.name} are not those that were sent"
            )
        self.verified += size
        self.state.received += size

    def complete(self, time: int) -> None:
        """The link says that the message is whole.

        Raises:
            InvariantError: it is not, or it has been whole before.
        """
        if self.verified != self.size:
            raise InvariantError(
                f"message {self.number} of flow {self.state.name} was delivered with "
                f"{self.verified} of {self.size} bytes"
            )
        self.state.deliver(self.number, time)


class Ledger:
    """All flows of a run, what their messages contain, and which are complete."""

    def __init__(self, flows: Sequence[Flow], seed: int) -> None:
        names: dict[str, int] = {}
        self.states: list[FlowState] = []
        for index, flow in enumerate(flows):
            name = flow.name or f"{flow.src}>{flow.dst}"
            count = names[name] = names.get(name, 0) + 1
            self.states.append(FlowState(flow, index, name if count == 1 else f"{name}#{count}"))
        self.unfinished = len(self.states)
        largest = max(flow.size for flow in flows)
        self._pool = random.Random(f"content {seed}").randbytes(largest + SPREAD)
        self._view = memoryview(self._pool)
        self.scratch = memoryview(bytearray(largest))
        """Where large messages are opened, all of them."""

    def content(self, state: FlowState, number: int) -> memoryview:
        """The bytes of a message."""
        start = _place(state, number)
        return self._view[start : start + state.flow.size]

    def expect(self, tag: int, number: int, *, size: int, src: str, dst: str) -> Incoming:
        """A message was announced: what it has to be.

        Raises:
            InvariantError: nobody sent such a message to this endpoint.
        """
        if tag < len(self.states):
            state = self.states[tag]
            flow = state.flow
            if (flow.src, flow.dst, flow.size) == (src, dst, size) and number < state.posted:
                return Incoming(state, number, self._pool, _place(state, number))
        raise InvariantError(
            f"{dst} was announced message {number} of flow {tag} with {size} bytes by {src}, "
            "which was never sent"
        )

    def complete(self, incoming: Incoming, time: int) -> None:
        """A message is whole; see `Incoming.complete`."""
        incoming.complete(time)
        if not incoming.state.undelivered:
            self.unfinished -= 1

    def starts(self) -> list[tuple[int, FlowState]]:
        """When each flow begins, in picoseconds after the barrier."""
        return [(picoseconds(state.flow.start), state) for state in self.states]


def _place(state: FlowState, number: int) -> int:
    """Where in the pool a message begins."""
    return mix(state.index << 32 | number) % SPREAD
