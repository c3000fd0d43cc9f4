"""Schedules carried out in memory: the real execution of every rank, messages in any order."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from transport.collectives.execution import Area, Execution
from transport.collectives.scratch import Scratch
from transport.collectives.steps import Buffer, Schedule
from transport.collectives.tuning import Tuning

Array = np.ndarray[Any, np.dtype[Any]]


class Wire:
    """Messages between ranks: in order for each pair, and in any order between pairs.

    With `synchronous` a send ends only when it was received, as a large message may;
    else at once, as a small one does.
    """

    def __init__(self, seed: int, *, synchronous: bool) -> None:
        self._random = random.Random(seed)
        self._synchronous = synchronous
        self._sent: dict[tuple[int, int], deque[tuple[bytes, Callable[[], None]]]] = {}
        self._wanted: dict[tuple[int, int], deque[tuple[memoryview, Callable[[int], None]]]] = {}
        self.messages = 0
        self.bytes = 0

    def send(self, pair: tuple[int, int], data: bytes, then: Callable[[], None]) -> None:
        self.messages += 1
        self.bytes += len(data)
        waits = then if self._synchronous else _nothing
        self._sent.setdefault(pair, deque()).append((data, waits))
        if not self._synchronous:
            then()

    def receive(self, pair: tuple[int, int], into: memoryview, then: Callable[[int], None]) -> None:
        self._wanted.setdefault(pair, deque()).append((into, then))

    def deliver_everything(self) -> None:
        """Deliver until nothing can be delivered."""
        while pairs := [pair for pair in self._sent if self._wanted.get(pair)]:
            self._random.shuffle(pairs)
            for pair in pairs:
                self._deliver(pair)

    def _deliver(self, pair: tuple[int, int]) -> None:
        sent, wanted = self._sent[pair], self._wanted[pair]
        data, sender = sent.popleft()
        into, receiver = wanted.popleft()
        for queues, queue in ((self._sent, sent), (self._wanted, wanted)):
            if not queue:
                del queues[pair]  # type: ignore[attr-defined]
        assert len(data) <= len(into), f"{pair}: {len(data)} bytes for {len(into)}"
        into[: len(data)] = data
        for call in self._random.sample([sender, lambda: receiver(len(data))], 2):
            call()

    @property
    def quiet(self) -> bool:
        """Whether no message and no receive is left over."""
        return not self._sent and not self._wanted


class RankPort:
    """The wire as one rank sees it."""

    def __init__(self, wire: Wire, rank: int) -> None:
        self._wire = wire
        self._rank = rank

    def send(
        self, peer: int, data: memoryview | bytes, then: Callable[[], None], *, opening: bool
    ) -> None:
        self._wire.send((self._rank, peer), bytes(data), then)

    def opened(self, peer: int, size: int, then: Callable[[memoryview | bytes], None]) -> None:
        into = memoryview(bytearray(size))
        self._wire.receive((peer, self._rank), into, lambda length: then(into[:length]))

    def receive(self, peer: int, into: memoryview, then: Callable[[int], None]) -> None:
        self._wire.receive((peer, self._rank), into, then)

    def cut_short(self, peer: int) -> None:
        raise AssertionError(f"rank {peer} sent rank {self._rank} too few bytes")


def carry_out(
    schedules: Sequence[Schedule],
    memory: Sequence[Mapping[Buffer, tuple[Array, Sequence[int]]]],
    combine: Callable[[Array, Array, Array, bool], None],
    *,
    seed: int,
    synchronous: bool,
    tuning: Tuning,
    slot: int = 0,
) -> Wire:
    """Run all ranks to their end; `memory` has arrays and bounds in elements, by rank."""
    wire = Wire(seed, synchronous=synchronous)
    finished: list[int] = []
    executions = []
    for rank, schedule in enumerate(schedules):
        dtype = next(iter(memory[rank].values()))[0].dtype if memory[rank] else np.dtype("u1")
        areas = {
            buffer: Area(
                array.reshape(-1).view(np.uint8).data,
                [bound * dtype.itemsize for bound in bounds],
            )
            for buffer, (array, bounds) in memory[rank].items()
        }
        slots = schedule.slots
        room = slot * dtype.itemsize
        areas[Buffer.TEMP] = Area(
            memoryview(bytearray(slots * room)), [room * number for number in range(slots + 1)]
        )

        def reduce(
            left: memoryview,
            right: memoryview,
            out: memoryview,
            final: bool,
            dtype: np.dtype[Any] = dtype,
        ) -> None:
            if len(out):
                views = (np.frombuffer(each, dtype) for each in (left, right, out))
                combine(*views, final)

        executions.append(
            Execution(
                schedule,
                areas,
                reduce,
                RankPort(wire, rank),
                lambda rank=rank: finished.append(rank),  # type: ignore[misc]
                scratch=Scratch(),
                tuning=tuning,
                itemsize=dtype.itemsize,
            )
        )
    order = list(range(len(executions)))
    random.Random(seed).shuffle(order)
    for rank in order:
        executions[rank].start()
    wire.deliver_everything()
    stuck = {
        rank: each.waiting_for() for rank, each in enumerate(executions) if rank not in finished
    }
    assert not stuck, f"ranks that wait for others for ever: {stuck}"
    assert sorted(finished) == list(range(len(executions))), "each rank ends once"
    assert wire.quiet, "messages that nobody received, or receives without a message"
    return wire


def _nothing() -> None:
    pass
