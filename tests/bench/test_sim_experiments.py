"""Small runs of every experiment, with the shipped links, and what must come out of them."""

from __future__ import annotations

from math import isclose

import pytest

from bench.errors import BenchError
from bench.sim.catalogue import EXPERIMENTS
from bench.sim.courses import Failure, Fairness, WideArea
from bench.sim.experiment import parameters
from bench.sim.measures import METRICS
from bench.sim.runner import POLICIES, run_case, run_experiment
from bench.sim.transfers import Burst, Imbalance, Incast, Permutation, Single
from transport.errors import UsageError

SMALL = (
    Single(size=200_000, paths=4),
    Permutation(size=200_000, hosts=16, paths=8),
    Incast(size=200_000, senders=5, paths=4),
    Burst(size=100_000, servers=2, senders=3, paths=4),
    Imbalance(size=200_000, servers=3, spines=6, paths=8),
    Fairness(senders=4, span=2e-3, warmup=0.5e-3, interval=0.5e-3, paths=4),
    Failure(paths=4, messages=12),
    WideArea(rate=20e6, span=3.0),
)
"""Every experiment at a size that takes a second or two."""


def by_name(experiment) -> str:
    return experiment.name


def test_every_experiment_is_tested():
    assert [each.name for each in SMALL] == list(EXPERIMENTS)


@pytest.mark.parametrize("experiment", SMALL, ids=by_name)
def test_an_experiment_runs_to_its_end_and_is_never_better_than_the_ideal(experiment):
    for case in run_experiment(experiment, (3,), tuple(POLICIES)):
        assert case.policies == ("srd", "tcp-like")
        for outcome in case.outcomes:
            context = f"{case.case.title}, {outcome.policy}, seed {outcome.seed}"
            assert outcome.left == (), context
            assert set(case.case.metrics) <= set(outcome.metrics) <= set(METRICS), context
            assert len(outcome.durations) == len(case.case.flows), context
            for name in ("slowest", "slowdown"):
                if name in case.case.ideal:
                    assert outcome.metrics[name] >= case.case.ideal[name], context
            for name in ("goodput", "jain", "utilisation", "steady", "before"):
                if name in case.case.ideal:
                    assert 0 < outcome.metrics[name] <= case.case.ideal[name] * 1.001, context
    assert set(case.case.ideal) <= set(METRICS)


@pytest.mark.parametrize("experiment", [SMALL[1], SMALL[6]], ids=by_name)
def test_the_same_seed_gives_the_same_events_and_another_one_others(experiment):
    case = experiment.cases(5)[-1]
    first, second = (run_case(case, "srd", 5) for _ in range(2))
    assert first == second
    assert run_case(experiment.cases(6)[-1], "srd", 6).digest != first.digest


def test_sampling_changes_nothing_that_happens():
    case = SMALL[2].cases(1)[0]
    plain, sampled = (run_case(case, "srd", 1, sampled=how) for how in (False, True))
    assert plain.metrics == sampled.metrics
    assert plain.durations == sampled.durations
    assert plain.curves == ()
    assert {curve.panel for curve in sampled.curves} == {"queue", "rate"}


def test_the_ideals_are_those_of_the_references():
    # uet-htsim: 160 µs for one flow of 2 MB, 2400 for 15 of them, 20320 for 127, and a round trip.
    for experiment, micro in ((Single(), 160), (Incast(), 2400), (Incast(senders=127), 20320)):
        rtt = experiment.cases(1)[0].ideal["slowest"] - micro * 1e-6
        assert isclose(rtt, 12 * 0.8e-6 + 6 * 8 * 8306 / 100e9)


def test_an_incast_of_the_control_collapses_and_ours_does_not():
    (case,) = run_experiment(Incast(), (1,), tuple(POLICIES))
    ours, control = case.outcomes
    assert ours.metrics["slowdown"] < 1.15
    assert ours.metrics["jain"] >= 0.95
    assert ours.drops == {}
    assert control.metrics["slowest"] > 0.2, "a minimum time-out was waited for"


def test_flows_that_are_left_at_the_deadline_are_named():
    case = Single(deadline=100e-6).cases(1)[0]
    outcome = run_case(case, "srd", 1)
    (left,) = outcome.left
    assert left.startswith("h0>h15 (")
    assert left.endswith(" of 2,000,000 bytes)")
    assert outcome.metrics["slowest"] == float("inf")
    assert outcome.metrics["goodput"] == 0.0


def test_a_permutation_leaves_nobody_out_and_follows_from_the_seed():
    experiment = Permutation(hosts=54)
    flows, again, others = (experiment.cases(seed)[0].flows for seed in (1, 1, 2))
    assert flows == again != others
    hosts = {f"h{n}" for n in range(54)}
    assert {flow.src for flow in flows} == {flow.dst for flow in flows} == hosts
    assert not [flow for flow in flows if flow.src == flow.dst]


def test_the_failure_is_on_the_way_of_the_control():
    experiment = SMALL[6]
    black, slow = experiment.cases(2)
    (fault,) = black.faults
    assert fault.port == slow.faults[0].port
    outcome = run_case(black, "tcp-like", 2)
    assert outcome.drops["blackhole"] > 0
    assert outcome.metrics["standstill"] > 0.1


@pytest.mark.parametrize(
    ("experiment", "reason"),
    [
        (Single(rate=0.0), "--rate must be above 0"),
        (Single(rate=float("inf")), "--rate must be a finite number, got inf"),
        (Single(delay=float("nan")), "--delay must be a finite number, got nan"),
        (Single(delay=-1e-6), "--delay must be 0 or more"),
        (Single(size=0), "--size must be at least 1"),
        (Single(buffer=100), "buffer"),
        (Single(paths=0), "--paths must be at least 1"),
        (Single(paths=257), "Config.paths"),
        (Single(packet=100), "Config.packet_payload"),
        (Single(routing="wish"), "routing"),
        (Single(deadline=0.0), "deadline"),
        (Incast(senders=0), "--senders must be at least 1"),
        (Incast(senders=10**9), "--senders must be at most 16384"),
        (Permutation(hosts=100), "--hosts must fill a fat tree"),
        (Imbalance(spines=0), "--spines must be at least 1"),
        (Burst(servers=0), "--servers must be at least 1"),
        (Fairness(span=float("inf")), "--span must be a finite number"),
        (Fairness(span=1e-3), "--warmup and one --interval"),
        (Failure(paths=1), "--paths must be at least 2"),
        (Failure(messages=2), "must last for a millisecond"),
        (Failure(factor=2.0), "factor"),
        (WideArea(loss=1.0), "loss"),
        (WideArea(span=float("nan")), "--span must be a finite number"),
        (WideArea(span=1.0), "--span must be at least 2 s"),
    ],
)
def test_an_impossible_network_is_refused(experiment, reason):
    with pytest.raises(UsageError, match=reason):
        run_experiment(experiment, (1,), ("srd",))


def test_a_violated_invariant_ends_the_run_with_its_case(monkeypatch):
    from bench.sim import runner

    def broken(self, flows, *, deadline, strict):
        raise runner.InvariantError("a nonce was used twice")

    monkeypatch.setattr(runner.Simulation, "run", broken)
    with pytest.raises(BenchError, match=r"single flow .*srd, seed 4: a nonce was used twice"):
        run_experiment(Single(), (4,), ("srd",))


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_every_parameter_is_shown_as_it_is_written(experiment):
    found = list(parameters(experiment))
    assert len(found) >= 6
    for name, default, parameter in found:
        assert parameter.about, name
        parsed = parameter.parse(parameter.show(default))
        same = parsed == default if isinstance(default, (int, str)) else isclose(parsed, default)
        assert same, name
