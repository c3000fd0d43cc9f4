"""What a run found: plain frozen values, times in seconds after the barrier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import TransportTimeoutError
from ..link import LinkStats
from .ledger import Flow


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowResult:
    """One flow: `end` is when its last message was whole at the receiver."""

    flow: Flow
    name: str
    start: float
    end: float | None  # None where it was not finished
    received: int  # bytes opened at the receiver and found right
    delivered: int  # messages

    @property
    def duration(self) -> float | None:
        """From start to end; None where it was not finished."""
        return None if self.end is None else self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class PortResult:
    """One directed port that carried or dropped something."""

    packets: int  # that joined its queue
    bytes: int  # the same, headers of lower layers included
    peak_queue: int  # most bytes ever held
    drops: Mapping[str, int]  # by cause: buffer, loss, blackhole


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Samples at equal intervals."""

    times: tuple[float, ...]
    queue: Mapping[str, tuple[int, ...]]  # by port: bytes held
    received: Mapping[str, tuple[int, ...]]  # by flow: bytes received so far

    def rates(self, flow: str) -> tuple[float, ...]:
        """Bits a second that a flow received between each two samples."""
        bytes_so_far, times = self.received[flow], self.times
        return tuple(
            8 * (bytes_so_far[at + 1] - bytes_so_far[at]) / (times[at + 1] - times[at])
            for at in range(len(times) - 1)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Everything about one run."""

    policy: str
    seed: int
    flows: tuple[FlowResult, ...]
    ports: Mapping[str, PortResult]
    links: Mapping[tuple[str, str], tuple[LinkStats, LinkStats]]
    """By caller and answerer: the statistics of either side, in that order."""
    strays: Mapping[str, int]
    """Packets that reached a host and belonged to no link of it, by cause."""
    series: Series | None
    packets_sent: int
    packets_duplicated: int
    packets_delivered: int
    packets_dropped: int
    packets_in_network: int
    setup: float  # virtual seconds before the barrier
    elapsed: float  # virtual seconds from the barrier to the end of the run
    events: int
    digest: str  # SHA-256 over the trace

    @property
    def unfinished(self) -> tuple[str, ...]:
        """Names of the flows that were not finished by the deadline."""
        return tuple(each.name for each in self.flows if each.end is None)

    @property
    def completion(self) -> float | None:
        """When the last flow ended; None where some did not."""
        ends = [each.end for each in self.flows if each.end is not None]
        return max(ends) if len(ends) == len(self.flows) else None

    @property
    def durations(self) -> tuple[float, ...]:
        """Of the flows that finished, ascending."""
        return tuple(sorted(each.duration for each in self.flows if each.duration is not None))

    @property
    def drops(self) -> Mapping[str, int]:
        """Packets dropped in the network, by cause."""
        found: dict[str, int] = {}
        for port in self.ports.values():
            for cause, count in port.drops.items():
                found[cause] = found.get(cause, 0) + count
        return found


class UnfinishedError(TransportTimeoutError):
    """The deadline passed in virtual time; `result` says how far the flows came, if they began."""

    def __init__(self, text: str, result: Result | None = None) -> None:
        super().__init__(text)
        self.result = result
