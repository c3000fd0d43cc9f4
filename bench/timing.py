"""Interleaving of measurements, and the medians and ratios made of them.

Invariants: within a round every peer runs every task once; the order of the peers
moves on by one place each round, so that none always runs first or always behind
the same neighbour; a ratio compares two peers in the *same* round, and only the
median of those ratios is reported. Machines drift, rounds are close together.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .errors import BenchError

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to measure: what, at which message size, in which unit."""

    measurement: str
    nbytes: int
    unit: str  # "bytes/s", "messages/s", "s" or "cores"
    better: Better


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The middle and the ends of some values, in the unit of those values."""

    median: float
    min: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one peer brought in one round, in the unit of the task."""

    value: float
    p99: float | None = None  # of the times whose median is the value, where there are many


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One task's values: for each peer one a round, in the order of the rounds."""

    task: Task
    values: Mapping[str, tuple[float, ...]]
    p99: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def summary(self, name: str) -> Summary:
        """Return the summary of `name` over all rounds."""
        return summarise(self.values[name])

    def ratio(self, ours: str, theirs: str) -> Summary:
        """Return the summary of ours divided by theirs, round by round."""
        return summarise(ratios(self.values[ours], self.values[theirs]))


@dataclass(slots=True, kw_only=True)
class Run:
    """Everything that one interleaved run brought: results, and who fell out and why."""

    results: tuple[Result, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)

    def find(self, measurement: str, nbytes: int) -> Result | None:
        """Return the result of one task, None if it was not measured."""
        for result in self.results:
            if (result.task.measurement, result.task.nbytes) == (measurement, nbytes):
                return result
        return None


def summarise(values: Sequence[float]) -> Summary:
    """Return median, minimum and maximum.

    Raises:
        BenchError: there are no values.
    """
    if not values:
        raise BenchError("no values to summarise")
    return Summary(median=statistics.median(values), min=min(values), max=max(values))


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Divide ours by theirs, value by value of the same round.

    Raises:
        BenchError: the two were not measured in the same rounds.
    """
    if len(ours) != len(theirs):
        raise BenchError(f"{len(ours)} rounds cannot be compared with {len(theirs)}")
    return tuple(a / b for a, b in zip(ours, theirs, strict=True))


def rotated(names: Sequence[str], round_number: int) -> tuple[str, ...]:
    """Return the order of the peers in a round: each round begins one place later."""
    if not names:
        return ()
    start = round_number % len(names)
    return (*names[start:], *names[:start])


def interleave(
    names: Sequence[str],
    tasks: Sequence[Task],
    rounds: int,
    measure: Callable[[str, Task], Sample],
    *,
    takes_part: Callable[[str, Task], bool] = lambda _name, _task: True,
    progress: Callable[[int], None] = lambda _round: None,
) -> Run:
    """Call `measure` for every round, task and peer, the peers in rotating order.

    A peer whose measurement raises `BenchError` leaves the run: its values are
    dropped, because rounds of different number cannot be compared, and its reason
    is kept in `Run.failures`.

    Raises:
        BenchError: `rounds` is not positive.
    """
    if rounds < 1:
        raise BenchError(f"at least 1 round is needed, not {rounds}")
    failures: dict[str, str] = {}
    samples: dict[Task, dict[str, list[Sample]]] = {task: {} for task in tasks}
    for round_number in range(rounds):
        progress(round_number)
        for task in tasks:
            for name in rotated(names, round_number):
                if name in failures or not takes_part(name, task):
                    continue
                try:
                    sample = measure(name, task)
                except BenchError as error:
                    failures[name] = f"{task.measurement}, {task.nbytes} bytes: {error}"
                else:
                    samples[task].setdefault(name, []).append(sample)
    left = tuple(name for name in names if name not in failures)
    return Run(
        results=tuple(_result(task, samples[task], left) for task in tasks), failures=failures
    )


def _result(task: Task, samples: Mapping[str, Sequence[Sample]], names: Sequence[str]) -> Result:
    present = [name for name in names if name in samples]
    tails = {name: [each.p99 for each in samples[name] if each.p99 is not None] for name in present}
    return Result(
        task=task,
        values={name: tuple(each.value for each in samples[name]) for name in present},
        p99={name: tuple(tail) for name, tail in tails.items() if tail},
    )
