"""Outcomes as a table for people and as JSON for programs.

Nothing here depends on the machine or the day: the same command prints the same table.
JSON holds base units (seconds, bytes, bits/s) and every run; `SCHEMA` names its version
and changes whenever a reader would have to. What did not happen is null.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, isnan
from pathlib import Path
from typing import Any

from transport.sim import Policy

from ..quantities import format_size
from ..report import aligned
from .experiment import Experiment, parameters
from .measures import METRICS, Metric
from .runner import POLICIES, CaseOutcomes, Outcome

SCHEMA = "sealfabric.bench.sim/1"
MODEL = "Figures of a model in virtual time: computed, not measured on any network."
_NAMED = 5  # flows that are named where some were left
_SUFFIX = {"srd": "ours", "tcp-like": "control"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that one command simulated."""

    experiment: Experiment
    seeds: tuple[int, ...]
    cases: tuple[CaseOutcomes, ...]

    @property
    def complete(self) -> bool:
        """Whether every flow that should have ended has ended."""
        return not any(outcome.left for case in self.cases for outcome in case.outcomes)


def render(report: Report) -> str:
    """Return the whole report as text."""
    parts = [f"{report.experiment.name}: {report.experiment.about}", MODEL]
    for case in report.cases:
        parts += ["", render_case(case, report.seeds)]
    return "\n".join(parts)


def render_case(case: CaseOutcomes, seeds: Sequence[int]) -> str:
    """Return one case as a titled table: a measure a line, ideal and policies as columns."""
    several = len(seeds) > 1
    heads = [f"{name} ({_SUFFIX[name]})" for name in case.policies]
    rows: list[tuple[str, ...]] = [("", "ideal", *heads)]
    for name in case.case.metrics:
        metric = METRICS[name]
        unit = f", {metric.unit}" if metric.unit else ""
        ideal = case.case.ideal.get(name)
        figures = [
            _summary(metric, [each.metrics[name] for each in case.of(policy)])
            for policy in case.policies
        ]
        rows.append((f"{metric.title}{unit}", _value(metric, ideal), *figures))
    lines = [case.case.title, *_wrapped(_model(case)), *aligned(rows)]
    if several:
        lines.append(f"  seeds {_seeds_in_words(seeds)}: median [least, most]")
    else:
        lines.append(f"  seed {seeds[0]}")
    return "\n".join([*lines, *_left_lines(case)])


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as values that `json` can write."""
    experiment = report.experiment
    return {
        "schema": SCHEMA,
        "note": MODEL,
        "experiment": experiment.name,
        "parameters": {
            name: getattr(experiment, name) for name, *_ in parameters(type(experiment))
        },
        "seeds": list(report.seeds),
        "complete": report.complete,
        "cases": [
            {
                "title": each.case.title,
                "network": each.case.network,
                "packet_payload": each.case.config.packet_payload,
                "overhead": each.case.topology.overhead,
                "deadline": each.case.deadline,
                "policies": {name: dict(POLICIES[name]().overrides) for name in each.policies},
                "ideal": dict(each.case.ideal),
                "runs": [_run(outcome) for outcome in each.outcomes],
            }
            for each in report.cases
        ],
    }


def write_json(report: Report, path: Path) -> None:
    """Write the report to `path`, replacing what is there."""
    text = json.dumps(to_json(report), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _run(outcome: Outcome) -> dict[str, Any]:
    return {
        "policy": outcome.policy,
        "seed": outcome.seed,
        "metrics": {name: _finite(value) for name, value in outcome.metrics.items()},
        "durations": [_finite(each) for each in outcome.durations],
        "left": list(outcome.left),
        "drops": dict(outcome.drops),
        "packets": outcome.packets,
        "digest": outcome.digest,
        "curves": [dataclasses.asdict(curve) for curve in outcome.curves],
    }


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


# --- words -----------------------------------------------------------------------------------


def _model(case: CaseOutcomes) -> str:
    config, topology = case.case.config, case.case.topology
    return (
        f"{case.case.network}; packets of {format_size(config.packet_payload)} and "
        f"{topology.overhead} bytes of lower layers; {config.paths} paths a link"
        f"{_control(case)}"
    )


def _control(case: CaseOutcomes) -> str:
    if "tcp-like" not in case.policies:
        return ""
    policy: Policy = POLICIES["tcp-like"]()
    changed: Mapping[str, Any] = policy.overrides
    said = ", ".join(f"{name} {value}" for name, value in sorted(changed.items()))
    return f" (the control: {said})"


def _seeds_in_words(seeds: Sequence[int]) -> str:
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]}-{seeds[-1]}"
    return ", ".join(map(str, seeds))


def _summary(metric: Metric, values: Sequence[float]) -> str:
    median = _value(metric, statistics.median(values))
    if len(values) == 1:
        return median
    return f"{median} [{_value(metric, min(values))}, {_value(metric, max(values))}]"


def _value(metric: Metric, value: float | None) -> str:
    if value is None or isnan(value):
        return "–"  # noqa: RUF001 - an en dash marks the empty place
    if value == inf:
        return "never"
    return f"{value / metric.scale:,.{metric.digits}f}"


def _left_lines(case: CaseOutcomes) -> Iterator[str]:
    for outcome in case.outcomes:
        if not outcome.left:
            continue
        named = ", ".join(outcome.left[:_NAMED])
        more = f" and {len(outcome.left) - _NAMED} more" if len(outcome.left) > _NAMED else ""
        yield (
            f"  LEFT after {case.case.deadline:g} s, {outcome.policy}, seed {outcome.seed}: "
            f"{len(outcome.left)} of {len(outcome.durations)} flows: {named}{more}"
        )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 98, initial_indent="  ", subsequent_indent="  ")
