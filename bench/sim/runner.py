"""Runs the cases of an experiment under every policy and seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from transport.sim import InvariantError, Policy, Result, Simulation, UnfinishedError, srd, tcp_like

from ..errors import BenchError
from .experiment import Case, Curve, Experiment
from .measures import durations

POLICIES: Mapping[str, Callable[[], Policy]] = {"srd": srd, "tcp-like": tcp_like}
"""What ships first, then the control."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run of a case gave."""

    policy: str
    seed: int
    metrics: Mapping[str, float]
    durations: tuple[float, ...]  # seconds, ascending; infinite for flows that were left
    left: tuple[str, ...]  # flows that were not done at the deadline, each with its bytes
    drops: Mapping[str, int]  # packets by cause
    packets: int  # sent over the simulated network, acknowledgements included
    digest: str  # SHA-256 over all events
    curves: tuple[Curve, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseOutcomes:
    """A case, as the first seed made it, and all of its outcomes."""

    case: Case
    outcomes: tuple[Outcome, ...]

    def of(self, policy: str) -> tuple[Outcome, ...]:
        """The outcomes of one policy, in the order of the seeds."""
        return tuple(each for each in self.outcomes if each.policy == policy)

    @property
    def policies(self) -> tuple[str, ...]:
        """The policies that were run, in order."""
        return tuple(dict.fromkeys(each.policy for each in self.outcomes))


def run_experiment(
    experiment: Experiment,
    seeds: Sequence[int],
    policies: Sequence[str],
    *,
    sampled: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[CaseOutcomes, ...]:
    """Run every case with every seed and policy; `sampled` keeps curves of the first seed.

    Raises:
        UsageError: the parameters make no possible network.
        BenchError: an invariant was violated, or links could not even be made.
    """
    experiment.check()
    by_seed = [experiment.cases(seed) for seed in seeds]
    found: list[list[Outcome]] = [[] for _ in by_seed[0]]
    for seed, cases in zip(seeds, by_seed, strict=True):
        for place, case in enumerate(cases):
            for policy in policies:
                progress(f"{case.title}: {policy}, seed {seed}")
                keep = sampled and seed == seeds[0]
                found[place].append(run_case(case, policy, seed, sampled=keep))
    return tuple(
        CaseOutcomes(case=case, outcomes=tuple(outcomes))
        for case, outcomes in zip(by_seed[0], found, strict=True)
    )


def run_case(case: Case, policy: str, seed: int, *, sampled: bool = False) -> Outcome:
    """Run one case once.

    Raises:
        UsageError: the case makes no possible network.
        BenchError: an invariant was violated, or links could not even be made.
    """
    every = case.sample_every if sampled or case.judged_by_samples else None
    try:
        result = _simulate(case, policy, seed, case.deadline, sample_every=every)
        # The same events up to there: the same seed makes the same run.
        marked = None if case.mark is None else _simulate(case, policy, seed, case.mark)
    except (InvariantError, UnfinishedError) as error:
        raise BenchError(f"{case.title}, {policy}, seed {seed}: {error}") from error
    return Outcome(
        policy=policy,
        seed=seed,
        metrics=dict(case.measure(result, marked)),
        durations=tuple(durations(result)),
        left=() if case.endless else tuple(_left(result)),
        drops=dict(result.drops),
        packets=result.packets_sent,
        digest=result.digest,
        curves=case.curves(result) if sampled else (),
    )


def _simulate(
    case: Case, policy: str, seed: int, deadline: float, *, sample_every: float | None = None
) -> Result:
    simulation = Simulation(
        case.topology,
        policy=POLICIES[policy](),
        seed=seed,
        config=case.config,
        faults=case.faults,
        sample_every=sample_every,
        watch=case.watch,
    )
    return simulation.run(case.flows, deadline=deadline, strict=False)


def _left(result: Result) -> Iterator[str]:
    for each in result.flows:
        if each.end is None:
            whole = each.flow.size * each.flow.count
            yield f"{each.name} ({each.received:,} of {whole:,} bytes)"
