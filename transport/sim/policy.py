"""What a link does about congestion, paths and credit: bundles to compare with each other.

A `Policy` says which controller, scheduler and credit pool each link or endpoint
gets, and which settings go with them. `srd` is what ships; `tcp_like` is the
control: one hashed path, a window that losses drive, a minimum time-out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from ..config import Config
from ..link.bottleneck import BottleneckWindow
from ..link.congestion import CongestionController, FixedWindow
from ..link.credit import CreditPool
from ..link.scheduler import Scheduler, Spray
from ..link.tcp import CubicWindow, HashedPath
from ..wire.packet import BULK_OVERHEAD

KIB: Final = 1024
MIB: Final = 1024 * KIB

# A host of a fabric: its network card answers in a microsecond, where a Python process
# takes a millisecond, and packets are of the size of jumbo frames.
FABRIC: Final = Config(
    paths=16,
    packet_payload=8 * KIB,
    eager_limit=4 * KIB,
    window_bytes=4 * MIB,
    window_packets=1024,
    acknowledge_after=1e-6,
    retransmit_min=1e-6,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostView:
    """What a policy may know of the host it runs on."""

    config: Config
    rate: float  # bits a second of the host's line
    random: random.Random  # seeded, of this link or endpoint alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How links behave; each factory is called once for every link or endpoint."""

    name: str
    controller: Callable[[HostView], CongestionController]  # for each side of a link
    scheduler: Callable[[HostView], Scheduler]  # for each side of a link
    credit: Callable[[HostView], CreditPool] | None = None  # for each endpoint; None: unlimited
    overrides: Mapping[str, int | float | bool] = field(default_factory=dict)  # of the config

    def config(self, base: Config) -> Config:
        """The settings that hosts of this policy run with.

        Raises:
            UsageError: a setting is out of its range.
        """
        return replace(base, **self.overrides)  # type: ignore[arg-type]  # checked by Config


def _spray(view: HostView) -> Scheduler:
    return Spray(view.config.packet_payload, start=view.random.randrange(view.config.paths))


def srd(**overrides: int | float | bool) -> Policy:
    """Sprayed paths, a window from rate and round trip, credit from the receiver."""
    return Policy(
        name="srd",
        controller=lambda view: BottleneckWindow(view.config),
        scheduler=_spray,
        credit=lambda view: CreditPool(view.config),
        overrides=overrides,
    )


def fixed(**overrides: int | float | bool) -> Policy:
    """Sprayed paths and a window that never changes: spraying alone, for comparison."""
    return Policy(
        name="fixed",
        controller=lambda view: FixedWindow(view.config.window_bytes, view.config.window_packets),
        scheduler=_spray,
        overrides=overrides,
    )


def tcp_like(**overrides: int | float | bool) -> Policy:
    """One hashed path, CUBIC's window, and the minimum time-out of Linux, 0.2 s."""
    settings: dict[str, int | float | bool] = {"paths": 1, "retransmit_min": 0.2}
    return Policy(
        name="tcp-like",
        controller=lambda view: CubicWindow(
            view.config.packet_payload + BULK_OVERHEAD,
            view.config.window_bytes,
            view.config.window_packets,
        ),
        scheduler=lambda view: HashedPath(),
        overrides={**settings, **overrides},
    )
