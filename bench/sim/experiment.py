"""What an experiment is: parameters with names, and the cases that they make.

Each field of an experiment made by `parameter` is an option of its command. A case is
one network with its flows and faults, run once for every policy and seed, together
with the closed form of what no transport can beat.
"""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transport.config import Config
from transport.errors import UsageError
from transport.sim import FABRIC, GBIT, Fault, Flow, Result, Topology

from ..quantities import format_size, parse_size

MICROSECOND = 1e-6
MOST = 16_384  # of whatever a run has several of: each host takes about a MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A course over time, for a plot: `values` in base units, at `times` in seconds."""

    panel: str  # "queue", "rate", "flows" or "jain"
    times: tuple[float, ...]
    values: tuple[float, ...]
    label: str = ""  # which of several in the same panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One network, its flows and faults, and how a run of it is judged."""

    title: str
    network: str  # the topology in words
    topology: Topology
    flows: tuple[Flow, ...]
    config: Config
    deadline: float  # virtual seconds
    metrics: tuple[str, ...]  # names from `measures.METRICS`, in the order of the table
    ideal: Mapping[str, float]  # of those with a closed form
    measure: Callable[[Result, Result | None], Mapping[str, float]]
    """Of the whole run, and of the same run cut off at `mark`."""
    curves: Callable[[Result], tuple[Curve, ...]]
    faults: tuple[Fault, ...] = ()
    watch: tuple[str, ...] = ()  # ports whose queues are sampled
    sample_every: float | None = None
    mark: float | None = None  # seconds; what counts is what happens from then on
    judged_by_samples: bool = False  # its measures need the series, whether it is drawn or not
    endless: bool = False  # the deadline ends it by design: no flow is missed then


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """How a field is written on the command line."""

    about: str
    parse: Callable[[str], Any]
    show: Callable[[Any], str]


def parameter(default: Any, about: str, *, unit: float = 1.0, size: bool = False) -> Any:
    """A field of an experiment; `unit` is what one of its option's units is in base units."""
    if size:
        made = Parameter(about=about, parse=parse_size, show=format_size)
    elif isinstance(default, float):
        made = Parameter(
            about=about,
            parse=lambda text: float(text) * unit,
            show=lambda value: f"{value / unit:g}",
        )
    else:
        made = Parameter(about=about, parse=type(default), show=str)
    return field(default=default, metadata={"parameter": made})


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Parameters that all experiments share; `cases` makes them concrete."""

    name: ClassVar[str]
    about: ClassVar[str]

    rate: float = parameter(100.0 * GBIT, "rate of a host's cable, Gb/s", unit=float(GBIT))
    delay: float = parameter(0.8e-6, "propagation along each cable, µs", unit=MICROSECOND)
    buffer: int = parameter(2**20, "buffer of each port of a switch", size=True)
    packet: int = parameter(8192, "payload of a packet", size=True)
    paths: int = parameter(16, "paths of a link; the control has one")

    @abstractmethod
    def cases(self, seed: int) -> tuple[Case, ...]:
        """The cases of this experiment; as many, with the same titles, for every seed.

        Raises:
            UsageError: the parameters make no possible network.
        """

    @property
    def config(self) -> Config:
        """Configuration of the simulated hosts, before a policy changes it."""
        return dataclasses.replace(FABRIC, packet_payload=self.packet, paths=self.paths)

    @property
    def cable(self) -> str:
        """The cables in words."""
        return (
            f"{rate_in_words(self.rate)} and {self.delay * 1e6:g} µs a cable, "
            f"{format_size(self.buffer)} of buffer a port"
        )

    def count(self, name: str, least: int = 1) -> int:
        """The parameter `name`, if there may be as many.

        Raises:
            UsageError: there may not.
        """
        value = self.at_least(name, least)
        if value > MOST:
            raise UsageError(f"--{name} must be at most {MOST}, got {value}")
        return value

    def at_least(self, name: str, least: int) -> int:
        """The parameter `name`, if it is large enough.

        Raises:
            UsageError: it is not.
        """
        value: int = getattr(self, name)
        if value < least:
            raise UsageError(f"--{name} must be at least {least}, got {value}")
        return value

    def check(self) -> None:
        """Refuse what no topology would refuse itself.

        Raises:
            UsageError: a parameter is out of range.
        """
        for name in ("paths", "size"):
            if hasattr(self, name):
                self.at_least(name, 1)
        for name, *_ in parameters(type(self)):
            value = getattr(self, name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"--{name} must be a finite number, got {value}")
        if not self.rate > 0:
            raise UsageError(f"--rate must be above 0, got {self.rate:g} bit/s")
        if not self.delay >= 0:
            raise UsageError(f"--delay must be 0 or more, got {self.delay:g} s")


def parameters(experiment: type[Experiment]) -> Iterator[tuple[str, Any, Parameter]]:
    """Yield name, default and description of each parameter."""
    for each in dataclasses.fields(experiment):
        if "parameter" in each.metadata:
            yield each.name, each.default, each.metadata["parameter"]


def rate_in_words(rate: float) -> str:
    """A rate in bits a second, in the unit that suits it."""
    return f"{rate / GBIT:g} Gb/s" if rate >= GBIT else f"{rate / 1e6:g} Mb/s"
