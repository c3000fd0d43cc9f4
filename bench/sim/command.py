"""The command `sealfabric sim EXPERIMENT`: simulate, print, and write what was asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transport.errors import UsageError

from ..errors import BenchError
from .catalogue import EXPERIMENTS
from .experiment import Experiment, parameters
from .plot import check_plot, write_plot
from .report import Report, render, write_json
from .runner import POLICIES, run_experiment

_MOST_SEEDS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the experiments and their options to `parser`; `run` reads what they parse to."""
    commands = parser.add_subparsers(dest="experiment", required=True, metavar="experiment")
    for name, experiment in EXPERIMENTS.items():
        own = commands.add_parser(name, help=experiment.about, description=experiment.__doc__)
        for field, default, parameter in parameters(experiment):
            own.add_argument(
                f"--{field}",
                type=_typed(parameter.parse, field),
                default=default,
                metavar="X",
                help=f"{parameter.about} (default {parameter.show(default)})".replace("%", "%%"),
            )
        _add_common(own)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, metavar="N", help="seed of the run (default 1)")
    parser.add_argument("--seeds", metavar="LIST", help="several seeds, such as 1-5 or 1,3,7")
    parser.add_argument("--only", metavar="POLICY", help=f"one of {', '.join(POLICIES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all runs as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them, .png or .svg")


def run(args: argparse.Namespace) -> int:
    """Simulate what `args` ask for and print it; return the process's exit status.

    0: every flow ended; 1: some were left at the deadline, or a run went wrong; 2: the
    arguments make no sense.
    """
    try:
        plan = _plan(args)
    except (BenchError, UsageError) as error:
        return _fail(error, 2)
    try:
        report = _simulate(plan)
    except UsageError as error:
        return _fail(error, 2)
    except BenchError as error:
        return _fail(error, 1)
    print(render(report))
    try:
        if args.json is not None:
            write_json(report, args.json)
        if args.plot is not None:
            write_plot(report, args.plot)
    except (BenchError, OSError) as error:
        return _fail(error, 1)
    return 0 if report.complete else 1


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of `3`, `1-5` or `1,3,7-9`, in that order, once each.

    Raises:
        BenchError: it is no such list.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise BenchError(f"{text!r} is no list of seeds such as 1-5 or 1,3,7")
        begin, end = int(first), int(last or first)
        if end < begin or end - begin >= _MOST_SEEDS:
            raise BenchError(f"{part.strip()!r} must ascend, over less than {_MOST_SEEDS} seeds")
        seeds += range(begin, end + 1)
    return tuple(dict.fromkeys(seeds))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    experiment: Experiment
    seeds: tuple[int, ...]
    policies: tuple[str, ...]
    sampled: bool


def _plan(args: argparse.Namespace) -> _Plan:
    kind = EXPERIMENTS[args.experiment]
    if args.seed is not None and args.seeds is not None:
        raise BenchError("give --seed or --seeds, not both")
    if args.seed is not None and args.seed < 0:
        raise BenchError(f"--seed must be 0 or more, got {args.seed}")
    seeds: tuple[int, ...] = (1 if args.seed is None else args.seed,)
    if args.seeds is not None:
        seeds = parse_seeds(args.seeds)
    if args.only is not None and args.only not in POLICIES:
        raise BenchError(f"--only must be one of {', '.join(POLICIES)}, got {args.only!r}")
    if args.plot is not None:
        check_plot(args.plot)
    experiment = kind(**{name: getattr(args, name) for name, *_ in parameters(kind)})
    experiment.check()
    return _Plan(
        experiment=experiment,
        seeds=seeds,
        policies=tuple(POLICIES) if args.only is None else (args.only,),
        sampled=args.plot is not None,
    )


def _simulate(plan: _Plan) -> Report:
    return Report(
        experiment=plan.experiment,
        seeds=plan.seeds,
        cases=run_experiment(
            plan.experiment,
            plan.seeds,
            plan.policies,
            sampled=plan.sampled,
            progress=_progress,
        ),
    )


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _fail(error: Exception, status: int) -> int:
    print(f"sim: {' '.join(str(error).split())}", file=sys.stderr)
    return status


def _typed(parse: Callable[[str], Any], name: str) -> Callable[[str], Any]:
    """A parser whose refusals argparse prints as they are."""

    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except BenchError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        except ValueError:
            raise argparse.ArgumentTypeError(f"--{name}: {text!r} is no number") from None

    return parsed
