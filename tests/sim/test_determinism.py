"""Same seed, same run: event for event, in this process and in others."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.source_tree import PROJECT_ROOT
from transport.sim import (
    Fault,
    Faults,
    Flow,
    Simulation,
    fat_tree,
    fixed,
    srd,
    tcp_like,
)

POLICIES = {
    "srd": lambda: srd(paths=8),
    "fixed": lambda: fixed(paths=8, window_bytes=400_000),
    "tcp_like": tcp_like,
}


def digest(policy: str, seed: int) -> str:
    """A run in which everything happens: crowds, losses, damage, death and repair."""
    faults = [
        Fault.impair("edge0.0>agg0.0", Faults(loss=0.02, duplication=0.02, reordering=0.02)),
        Fault.impair("edge0.1>agg0.1", Faults(corruption=0.05)),
        Fault.blackhole("agg1.0>core0", at=20e-6, until=300e-6),
        Fault.degrade("agg0.1>core3", 0.1, at=10e-6),
    ]
    flows = [
        *(Flow(f"h{index}", "h15", 150_000, start=index * 1e-6) for index in range(6)),
        Flow("h1/3", "h9", 700, count=20),
        Flow("h9", "h1/3", 90_000, count=2),
    ]
    simulation = Simulation(
        fat_tree(4, buffer=200_000),
        policy=POLICIES[policy](),
        seed=seed,
        faults=faults,
        sample_every=50e-6,
    )
    result = simulation.run(flows, deadline=5.0, strict=False)
    ends = [each.end for each in result.flows]
    return f"{result.digest} {result.events} {result.packets_sent} {ends}"


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same_run(policy):
    assert digest(policy, 1) == digest(policy, 1)


def test_another_seed_gives_another_run():
    assert digest("srd", 1) != digest("srd", 2)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_run_in_every_process(policy):
    program = f"import test_determinism; print(test_determinism.digest({policy!r}, 1))"
    tests = PROJECT_ROOT / "tests"
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=PROJECT_ROOT,
            env={
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": f"{PROJECT_ROOT}:{tests}:{tests / 'sim'}",
            },
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        ).stdout.strip()
        for seed in ("1", "22")
    }
    assert printed == {digest(policy, 1)}
