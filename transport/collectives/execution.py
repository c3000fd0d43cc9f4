"""One rank's part of one operation, as a state machine without sockets, threads or clock.

It carries out a `Schedule` over real memory: cuts regions into pieces, sends and
receives through a `Port`, and reduces each piece as soon as it has come and what it
waits for is done. So while one piece is reduced, the next ones are on the wire.

Every (peer, direction) is a lane. A lane's messages follow each other in the order of
the schedule, at most `Tuning.ahead` of them under way. The first message of a lane opens
it: the port sees to it that both ranks mean the same operation. A first piece of at most
`Tuning.inline` bytes travels with the opening, a larger one follows by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from .scratch import Scratch
from .steps import Buffer, Kind, Region, Schedule, Step
from .tuning import Tuning


class Port(Protocol):
    """How an execution reaches the other ranks. Every call ends once, or never if it fails.

    `then` may be called before `send` or `receive` returns. Messages from one rank are
    received in the order in which they were sent.
    """

    def send(
        self, peer: int, data: memoryview | bytes, then: Callable[[], None], *, opening: bool
    ) -> None:
        """Send; `then` is called when the memory may be reused.

        `opening`: with what the operation is, as the first message to a peer.
        """
        ...

    def opened(self, peer: int, size: int, then: Callable[[memoryview | bytes], None]) -> None:
        """Receive the first message of a peer; `then` gets its bytes, `size` of them, to look at.

        `then` is not called where the peer means another operation.
        """
        ...

    def receive(self, peer: int, into: memoryview, then: Callable[[int], None]) -> None:
        """Receive; `then` is called with the number of bytes that came."""
        ...

    def cut_short(self, peer: int) -> None:
        """A piece had fewer bytes than it must; the execution goes no further."""
        ...


class Area(NamedTuple):
    """A buffer's memory and where its blocks begin; the last bound is its end."""

    data: memoryview
    bounds: Sequence[int]


Combine = Callable[[memoryview, memoryview, memoryview, bool], None]
"""`combine(left, right, out, final)`: reduce, and complete the result where it is final."""


class Execution:
    """Carries out one schedule. Not thread-safe: its owner holds the engine.

    `finished` is called once, when every step is done: results are complete, and no
    memory is in use any more.
    """

    def __init__(
        self,
        schedule: Schedule,
        areas: Mapping[Buffer, Area],
        combine: Combine,
        port: Port,
        finished: Callable[[], None],
        *,
        scratch: Scratch,
        tuning: Tuning,
        itemsize: int,
    ) -> None:
        self.port = port
        self.scratch = scratch
        self.tuning = tuning
        self.piece = max(1, tuning.piece // itemsize) * itemsize
        self._areas = areas
        self._combine = combine
        self._finished = finished
        self._stirred: deque[_Lane | _Task] = deque()
        self._settling = False
        self._stopped = False
        self._lanes: dict[tuple[int, bool], _Lane] = {}
        self._tasks = [self._task(step) for step in schedule.steps]
        for task, after in zip(self._tasks, schedule.after, strict=True):
            for number, piecewise in after:
                earlier = self._tasks[number]
                task.after.append((earlier, piecewise))
                earlier.dependents.append(task)
        self._left = len(self._tasks)

    def _task(self, step: Step) -> _Task:
        at, size = self._memory(step.at, step.extent)
        other = None if step.other is None else self._memory(step.other, step.extent)[0]
        task = _Task(self, step, at, other, -(-size // self.piece) or 1)
        if step.kind is not Kind.COPY:
            outward = step.kind is Kind.SEND
            lane = self._lanes.get((step.peer, outward))
            if lane is None:
                lane = (_Outward if outward else _Inward)(self, step.peer)
                self._lanes[step.peer, outward] = lane
            lane.tasks.append(task)
            task.lane = lane
        return task

    def _memory(self, region: Region, extent: Region) -> tuple[memoryview, int]:
        """The bytes of a region; `extent` says how many."""
        bounds = self._areas[extent.buffer].bounds
        size = bounds[extent.last] - bounds[extent.first]
        area = self._areas[region.buffer]
        start = area.bounds[region.first]
        return area.data[start : start + size], size

    def start(self) -> None:
        """Begin with everything that waits for nothing."""
        self._stirred.extend(self._lanes.values())
        self._stirred.extend(task for task in self._tasks if task.lane is None)
        self.settle()

    def stop(self) -> None:
        """Go no further; what is under way is the port's to end."""
        self._stopped = True
        self._stirred.clear()

    def stir(self, what: _Lane | _Task) -> None:
        """Look at a lane or task again in the course of `settle`."""
        self._stirred.append(what)

    def settle(self) -> None:
        """Do whatever can be done now. Port calls that end at once do not nest."""
        if self._settling:
            return
        self._settling = True
        try:
            while self._stirred and not self._stopped:
                self._stirred.popleft().advance()
        finally:
            self._settling = False
        if not self._left and not self._stopped:
            self._stopped = True
            self._finished()

    def task_done(self) -> None:
        """One more task is done."""
        self._left -= 1

    def combine(self, task: _Task, received: memoryview, number: int) -> None:
        """Reduce a received piece with its counterpart."""
        at, other = task.piece(task.at, number), task.piece(task.other, number)
        left, right = (received, other) if task.step.received_first else (other, received)
        self._combine(left, right, at, task.step.final)

    def waiting_for(self) -> tuple[int, ...]:
        """The ranks from which something is still to come."""
        return tuple(
            peer for (peer, outward), lane in self._lanes.items() if not outward and lane.open
        )

    def expects(self, peer: int) -> bool:
        """Whether this rank receives from `peer` in this operation at all."""
        return (peer, False) in self._lanes


class _Task:
    """A step under way, in pieces."""

    __slots__ = (
        "_ahead",
        "_arrived",
        "_execution",
        "after",
        "at",
        "dependents",
        "done",
        "lane",
        "other",
        "pieces",
        "posted",
        "step",
    )

    def __init__(
        self,
        execution: Execution,
        step: Step,
        at: memoryview,
        other: memoryview | None,
        pieces: int,
    ) -> None:
        self._execution = execution
        self.step = step
        self.at = at
        self.other = other
        self.pieces = pieces
        self.posted = 0
        self.done = 0  # pieces from the first one on without a gap
        self._ahead: set[int] = set()  # done behind a gap
        self._arrived: dict[int, tuple[memoryview, bool]] = {}  # to be stored, with ours to free
        self.after: list[tuple[_Task, bool]] = []
        self.dependents: list[_Task] = []
        self.lane: _Lane | None = None

    def piece(self, memory: memoryview | None, number: int) -> memoryview:
        """The bytes of one piece."""
        assert memory is not None  # of `other`, only where the step has one
        if self.pieces == 1:
            return memory
        size = self._execution.piece
        return memory[number * size : (number + 1) * size]

    def may(self, number: int) -> bool:
        """Whether everything that this piece has to wait for is done."""
        for earlier, piecewise in self.after:
            need = min(number + 1, earlier.pieces) if piecewise else earlier.pieces
            if earlier.done < need:
                return False
        return True

    def arrived(self, number: int, received: memoryview | bytes, *, borrowed: bool) -> None:
        """A piece lies beside its place; `borrowed` memory goes back to the scratch.

        Other memory may only be looked at now: what has to wait is copied.
        """
        if not borrowed and not self.may(number):
            received = bytes(received)
        self._arrived[number] = memoryview(received), borrowed
        self.advance()

    def advance(self) -> None:
        """Store what has arrived, where that is allowed by now; copy what is to be copied."""
        if self.step.kind is Kind.COPY:
            while self.posted < self.pieces and self.may(self.posted):
                number = self.posted
                self.posted += 1
                self.piece(self.at, number)[:] = self.piece(self.other, number)
                self.complete(number)
            return
        for number in list(self._arrived):
            if not self.may(number):
                continue
            received, borrowed = self._arrived.pop(number)
            if self.step.kind is Kind.COMBINE:
                self._execution.combine(self, received, number)
            else:
                self.piece(self.at, number)[:] = received
            if borrowed:
                self._execution.scratch.give_back(received)
            self.complete(number)

    def complete(self, number: int) -> None:
        """A piece is done; whoever waited for it may go on."""
        if number != self.done:
            self._ahead.add(number)
            return
        self.done += 1
        while self.done in self._ahead:
            self._ahead.discard(self.done)
            self.done += 1
        if self.done == self.pieces:
            self._execution.task_done()
        for task in self.dependents:
            self._execution.stir(task if task.lane is None else task.lane)
            if task._arrived:
                self._execution.stir(task)


class _Lane:
    """The messages to or from one peer, in order."""

    __slots__ = ("_at", "_execution", "_peer", "opened", "tasks", "under_way")

    def __init__(self, execution: Execution, peer: int) -> None:
        self._execution = execution
        self._peer = peer
        self.tasks: list[_Task] = []
        self._at = 0
        self.opened = False
        self.under_way = 0

    @property
    def open(self) -> bool:
        """Whether messages are still to come."""
        return any(task.done < task.pieces for task in self.tasks)

    def next_task(self) -> _Task | None:
        """The task whose piece is the next to be posted, unless enough are under way."""
        if self.under_way >= self._execution.tuning.ahead:
            return None
        while self._at < len(self.tasks):
            task = self.tasks[self._at]
            if task.posted < task.pieces:
                return task
            self._at += 1
        return None

    def inline(self, task: _Task) -> bool:
        """Whether the first piece travels with the opening."""
        first = min(len(task.at), self._execution.piece)
        return first <= self._execution.tuning.inline

    def advance(self) -> None:
        """Post what may be posted."""
        raise NotImplementedError


class _Outward(_Lane):
    __slots__ = ()

    def advance(self) -> None:
        while (task := self.next_task()) is not None:
            opening = not self.opened
            if opening and not self.inline(task):
                # A large first piece follows the opening, which waits for nothing.
                self.opened = True
                self._execution.port.send(self._peer, b"", _nothing, opening=True)
                continue
            if not task.may(task.posted):
                return
            self.opened = True
            number = task.posted
            task.posted += 1
            self.under_way += 1
            piece = task.piece(task.at, number)
            then = partial(self._sent, task, number)
            self._execution.port.send(self._peer, piece, then, opening=opening)

    def _sent(self, task: _Task, number: int) -> None:
        self.under_way -= 1
        task.complete(number)
        self._execution.stir(self)
        self._execution.settle()


class _Inward(_Lane):
    __slots__ = ()

    def advance(self) -> None:
        execution = self._execution
        while (task := self.next_task()) is not None:
            if not self.opened:
                self._open(task)
                continue
            number = task.posted
            piece = task.piece(task.at, number)
            if task.step.kind is Kind.COMBINE:
                into = execution.scratch.take(len(piece))
            elif task.may(number):
                into = piece
            else:
                return
            task.posted += 1
            self.under_way += 1
            execution.port.receive(self._peer, into, partial(self._received, task, number, into))

    def _open(self, task: _Task) -> None:
        """Receive the opening, and the first piece with it where it is small."""
        self.opened = True
        inline = self.inline(task)
        if inline:
            task.posted += 1
        self.under_way += 1
        size = len(task.piece(task.at, 0)) if inline else 0
        then = partial(self._opened, task if inline else None)
        self._execution.port.opened(self._peer, size, then)

    def _opened(self, task: _Task | None, payload: memoryview | bytes) -> None:
        self.under_way -= 1
        if task is not None:
            task.arrived(0, payload, borrowed=False)
        self._execution.stir(self)
        self._execution.settle()

    def _received(self, task: _Task, number: int, into: memoryview, size: int) -> None:
        self.under_way -= 1
        if size != len(into):
            self._execution.stop()
            self._execution.port.cut_short(self._peer)
            return
        if task.step.kind is Kind.COMBINE:
            task.arrived(number, into, borrowed=True)
        else:
            task.complete(number)
        self._execution.stir(self)
        self._execution.settle()


def _nothing() -> None:
    """An opening without a piece needs no follow-up: it has no memory."""
