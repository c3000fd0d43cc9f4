"""What one rank does in a collective operation: steps over blocks, and what waits for what.

A schedule is a pure function of rank and size. It names blocks, not bytes: how many
bytes a block has is decided where it runs, so one schedule serves every tensor. Two
things force an order on steps: messages to one peer leave in the order of the list, as
do those from one peer; and a step waits for the earlier ones whose blocks it needs, or
would overwrite. Everything else may overlap.

Invariants, which the tests hold for every rank and size: messages between two ranks
are sent and received in the same order; nothing waits in a circle, even where a send
ends only once its receive was posted; and the operands of every reduction have a fixed
order, whatever arrives first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from typing import NamedTuple


class Buffer(IntEnum):
    """The memory that a step may name."""

    INPUT = 0  # the caller's, only read
    WORK = 1  # where the result comes to lie
    TEMP = 2  # partial results on their way through this rank


class Region(NamedTuple):
    """The blocks `first` to `last`, which is not included, of one buffer."""

    buffer: Buffer
    first: int
    last: int

    def overlaps(self, other: Region) -> bool:
        """Whether a block is in both; an empty region counts as its first block."""
        return (
            self.buffer is other.buffer
            and self.first < max(other.last, other.first + 1)
            and other.first < max(self.last, self.first + 1)
        )


def block(buffer: Buffer, number: int) -> Region:
    """One block."""
    return Region(buffer, number, number + 1)


class Kind(Enum):
    """What a step does."""

    SEND = auto()  # `at` to `peer`
    PLACE = auto()  # receive from `peer` into `at`
    COMBINE = auto()  # receive from `peer`, reduce with `other`, store at `at`
    COPY = auto()  # `other` to `at`, without any peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of one rank.

    `extent` is the region whose length in bytes the step has; `at` may be a slot that
    is larger. `received_first` says that what was received is the left operand.
    `final` marks the reduction that completes the result in its blocks.
    """

    kind: Kind
    at: Region
    extent: Region
    peer: int = -1
    other: Region | None = None
    received_first: bool = False
    final: bool = False

    def reads(self) -> Iterator[Region]:
        """The regions whose content the step uses."""
        if self.kind is Kind.SEND:
            yield self.at
        elif self.other is not None:
            yield self.other

    def writes(self) -> Iterator[Region]:
        """The region whose content the step changes."""
        if self.kind is not Kind.SEND:
            yield self.at


class After(NamedTuple):
    """A step that must come first; `piecewise`: piece by piece, else as a whole."""

    step: int
    piecewise: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The steps of one rank, and for each the earlier ones that it has to wait for.

    `blocks` is how many blocks a tensor that all ranks have is divided into, `slots` how
    many slots TEMP needs, each with room for the largest block. `peers` are the ranks
    that this one exchanges messages with, in order of first use, `only_from` those of them
    that it sends nothing to. `brief` says that no peer sends or is sent to more than once:
    then small tensors need one packet each way.
    """

    steps: tuple[Step, ...]
    after: tuple[tuple[After, ...], ...]
    blocks: int
    slots: int
    peers: tuple[int, ...]
    only_from: frozenset[int]
    brief: bool


def schedule(steps: list[Step], *, blocks: int) -> Schedule:
    """`steps` with the order that their regions force on them."""
    after = tuple(tuple(_earlier(steps, index)) for index in range(len(steps)))
    regions = [region for step in steps for region in (*step.reads(), *step.writes())]
    lanes = [(step.peer, step.kind is Kind.SEND) for step in steps if step.kind is not Kind.COPY]
    return Schedule(
        steps=tuple(steps),
        after=after,
        blocks=blocks,
        slots=max((each.last for each in regions if each.buffer is Buffer.TEMP), default=0),
        peers=tuple(dict.fromkeys(step.peer for step in steps if step.peer >= 0)),
        only_from=frozenset(peer for peer, _ in lanes) - {peer for peer, out in lanes if out},
        brief=len(set(lanes)) == len(lanes),
    )


def _earlier(steps: list[Step], index: int) -> Iterator[After]:
    step = steps[index]
    for number in range(index):
        clashes = list(_clashes(step, steps[number]))
        if clashes:
            # Pieces are counted from where a region starts.
            piecewise = all(ours.first == theirs.first for ours, theirs in clashes)
            yield After(number, piecewise)


def _clashes(later: Step, earlier: Step) -> Iterator[tuple[Region, Region]]:
    """Pairs of regions that both use and at least one of the two steps changes."""
    for ours in later.writes():
        for theirs in (*earlier.reads(), *earlier.writes()):
            if ours.overlaps(theirs):
                yield ours, theirs
    for ours in later.reads():
        for theirs in earlier.writes():
            if ours.overlaps(theirs):
                yield ours, theirs


def send(peer: int, at: Region, extent: Region | None = None) -> Step:
    """Send a region."""
    return Step(kind=Kind.SEND, peer=peer, at=at, extent=extent or at)


def place(peer: int, at: Region, extent: Region | None = None) -> Step:
    """Receive into a region."""
    return Step(kind=Kind.PLACE, peer=peer, at=at, extent=extent or at)


def combine(
    peer: int,
    at: Region,
    other: Region,
    *,
    received_first: bool,
    final: bool = False,
) -> Step:
    """Receive, reduce with `other`, and store at `at`."""
    return Step(
        kind=Kind.COMBINE,
        peer=peer,
        at=at,
        extent=other,
        other=other,
        received_first=received_first,
        final=final,
    )


def copy(other: Region, at: Region) -> Step:
    """Copy within this rank."""
    return Step(kind=Kind.COPY, at=at, extent=other, other=other)
