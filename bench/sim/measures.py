"""What is read off a run, and the closed forms beside it.

Values are in base units: seconds, bytes, bits a second, or plain numbers. Infinity
stands for what did not happen before the deadline.
"""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isinf

from transport.sim import Result, Topology
from transport.wire.packet import BULK_OVERHEAD

from .experiment import Curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """How a value is printed: `unit` is what one of them is in base units."""

    title: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 1


METRICS = {
    "slowest": Metric(title="slowest flow", unit="µs", scale=1e-6),
    "median": Metric(title="median flow", unit="µs", scale=1e-6),
    "mean": Metric(title="mean of the flows", unit="µs", scale=1e-6),
    "slowdown": Metric(title="slowest flow / ideal", digits=3),
    "jain": Metric(title="Jain index of the flows' rates", digits=3),
    "jain_least": Metric(title="least Jain index of an interval", digits=3),
    "goodput": Metric(title="goodput of all flows", unit="Gb/s", scale=1e9, digits=2),
    "variation": Metric(title="variation of a flow's rate over time", unit="%", scale=0.01),
    "before": Metric(title="goodput before the fault", unit="Gb/s", scale=1e9, digits=2),
    "after": Metric(title="goodput after recovery", unit="Gb/s", scale=1e9, digits=2),
    "recovery": Metric(title="until 90 % of what is left", unit="µs", scale=1e-6),
    "standstill": Metric(title="longest standstill of a flow", unit="µs", scale=1e-6),
    "share": Metric(title="packets by the slow path, once noticed", unit="%", scale=0.01),
    "delivered": Metric(title="messages delivered", digits=0),
    "utilisation": Metric(title="utilisation, from the start", unit="%", scale=0.01),
    "steady": Metric(title="utilisation, after the first second", unit="%", scale=0.01),
    "queue": Metric(title="deepest queue of a switch", unit="KiB", scale=1024.0),
    "dropped": Metric(title="packets dropped", digits=0),
    "repeated": Metric(title="packets repeated", digits=0),
}


# --- closed forms --------------------------------------------------------------------------


def round_trip(cables: Iterable[tuple[float, float]], packet: int, overhead: int) -> float:
    """Seconds of a round trip through an empty network, for a full packet.

    `cables` are rates (bits/s) and delays (s) along the way. Switches store and forward,
    so the packet is serialised on each; the answer's own serialisation is left out.
    """
    bits = 8 * (packet + BULK_OVERHEAD + overhead)
    return sum(2 * delay + bits / rate for rate, delay in cables)


def ideal_time(nbytes: int, rate: float, rtt: float) -> float:
    """Payload over bandwidth, and a round trip: headers are left out, so none can beat it."""
    return 8 * nbytes / rate + rtt


# --- flows ---------------------------------------------------------------------------------


def durations(result: Result) -> list[float]:
    """Completion times in order; infinity for flows that were left."""
    found = (flow.duration for flow in result.flows)
    return sorted(inf if each is None else each for each in found)


def jain(values: Sequence[float]) -> float:
    """Jain's fairness index (DEC-TR-301): 1 where all are equal, 1/n where one has all."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 0.0


def transfer(
    result: Result, marked: Result | None, ideal: float, topology: Topology
) -> dict[str, float]:
    """What is said of flows that end: completion, fairness, and the price of it."""
    times = durations(result)
    arrived = sum(flow.received for flow in result.flows)
    last = times[-1]
    return {
        "slowest": last,
        "median": statistics.median(times),
        "mean": statistics.fmean(times),
        "slowdown": last / ideal,
        "jain": jain([0.0 if isinf(each) else 1 / each for each in times]),
        "goodput": 0.0 if isinf(last) else 8 * arrived / last,
        **price(result, topology),
    }


def switch_ports(topology: Topology) -> tuple[str, ...]:
    """All ports that have a limited buffer: those of switches."""
    hosts = set(topology.hosts)
    return tuple(port for port in topology.ports if port.partition(">")[0] not in hosts)


def price(result: Result, topology: Topology) -> dict[str, float]:
    """Queues, drops and repetitions."""
    ports = (result.ports[name] for name in switch_ports(topology) if name in result.ports)
    return {
        "queue": max((port.peak_queue for port in ports), default=0),
        "dropped": sum(result.drops.values()),
        "repeated": sum(side.retransmissions for pair in result.links.values() for side in pair),
    }


# --- over time -----------------------------------------------------------------------------


def thinned(panel: str, times: Sequence[float], values: Sequence[float], label: str = "") -> Curve:
    """A curve without the points that lie between two equal ones: a line looks the same."""
    last = len(values) - 1
    kept = [
        at
        for at in range(len(values))
        if at in (0, last) or not values[at - 1] == values[at] == values[at + 1]
    ]
    return Curve(
        panel=panel,
        times=tuple(times[at] for at in kept),
        values=tuple(float(values[at]) for at in kept),
        label=label,
    )


def deepest_queue(result: Result) -> tuple[Curve, ...]:
    """The deepest of the sampled queues at each moment, in bytes."""
    series = result.series
    if series is None or not series.queue:
        return ()
    deepest = [max(held) for held in zip(*series.queue.values(), strict=True)]
    return (thinned("queue", series.times, deepest),)


def goodput(result: Result, width: float) -> tuple[Curve, ...]:
    """The goodput of all flows over time, averaged over intervals of `width` seconds."""
    series = result.series
    if series is None:
        return ()
    rates = binned(series.times, total(series.received), width, 0.0, series.times[-1])
    return (thinned("rate", [(place + 0.5) * width for place in range(len(rates))], rates),)


def binned(
    times: Sequence[float], so_far: Sequence[float], width: float, start: float, end: float
) -> list[float]:
    """Rates in bits/s over consecutive intervals, from a running sum of bytes."""
    edges = [start + place * width for place in range(int((end - start) / width + 1e-9) + 1)]
    at = [_value_at(times, so_far, edge) for edge in edges]
    return [8 * (later - earlier) / width for earlier, later in pairwise(at)]


def mean_rate(times: Sequence[float], so_far: Sequence[float], start: float, end: float) -> float:
    """The rate in bits/s from `start` to `end`, from a running sum of bytes."""
    if end <= start:
        return 0.0
    return 8 * (_value_at(times, so_far, end) - _value_at(times, so_far, start)) / (end - start)


def _value_at(times: Sequence[float], values: Sequence[float], time: float) -> float:
    place = bisect_right(times, time)
    if place == 0:
        return 0.0
    if place == len(times):
        return values[-1]
    before, after = times[place - 1], times[place]
    part = (time - before) / (after - before)
    return values[place - 1] + part * (values[place] - values[place - 1])


def total(received: Mapping[str, Sequence[float]]) -> list[float]:
    """The sum over flows of what was received so far, sample by sample."""
    return [float(sum(column)) for column in zip(*received.values(), strict=True)]
