"""Experiments that are watched over time: fairness, failure and wan.

Their flows are long; what counts is the course of their rates, before and after
something happens. A persistent flow is cut off by the deadline, not missed.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf, nan
from typing import ClassVar, Final

from transport.config import Config
from transport.errors import UsageError
from transport.sim import (
    GBIT,
    Fault,
    Flow,
    Result,
    Simulation,
    Topology,
    leaf_spine,
    star,
    tcp_like,
    wide_area,
)

from .experiment import MICROSECOND, Case, Curve, Experiment, parameter, rate_in_words
from .measures import (
    binned,
    deepest_queue,
    durations,
    goodput,
    jain,
    mean_rate,
    price,
    round_trip,
    thinned,
    total,
)

_SHOWN: Final = 8  # flows whose rates are drawn
_RECOVERED: Final = 0.9  # of the capacity that is left
_HOSTS_FASTER: Final = 10  # than the long line: so that what is too much queues at the router
_NOTICED: Final = 500e-6  # seconds after which a slow path should have been noticed


@dataclass(frozen=True, slots=True, kw_only=True)
class Fairness(Experiment):
    """Persistent incast: how evenly, and how steadily, senders share one receiver.

    They begin one after another, at random, within half of the time that is not counted.
    """

    name: ClassVar[str] = "fairness"
    about: ClassVar[str] = "persistent senders share one receiver: rates over time"

    senders: int = parameter(50, "hosts that send without end")
    size: int = parameter(200_000, "bytes of each message", size=True)
    span: float = parameter(10e-3, "how long, ms", unit=1e-3)
    warmup: float = parameter(2e-3, "beginning that is not counted, ms", unit=1e-3)
    interval: float = parameter(1e-3, "interval of the rates over time, ms", unit=1e-3)

    def cases(self, seed: int) -> tuple[Case, ...]:
        """One case."""
        senders = self.count("senders")
        if not 0 <= self.warmup <= self.span - self.interval or self.interval <= 0:
            raise UsageError("--warmup and one --interval must fit into --span")
        topology = star(senders + 1, rate=self.rate, delay=self.delay, buffer=self.buffer)
        receiver, *others = topology.hosts
        most = int(self.rate * self.span / 8 / self.size) + 1
        share = self.rate / senders
        chance = random.Random(f"fairness {seed}")
        starts = [chance.uniform(0.0, self.warmup / 2) for _ in others]
        ideal = {"jain": 1.0, "jain_least": 1.0, "variation": 0.0, "goodput": self.rate}
        case = Case(
            title=f"persistent incast {senders} to 1, fair share {rate_in_words(share)}",
            network=f"one switch, {senders + 1} hosts; {self.cable}; {self.span * 1e3:g} ms, "
            f"starts within {self.warmup * 500:g} ms, the first {self.warmup * 1e3:g} ms not "
            f"counted, rates over {self.interval * 1e3:g} ms",
            topology=topology,
            flows=tuple(
                Flow(host, receiver, self.size, count=most, start=start)
                for host, start in zip(others, starts, strict=True)
            ),
            config=self.config,
            deadline=self.span,
            metrics=("jain", "jain_least", "variation", "goodput", "queue", "dropped", "repeated"),
            ideal={**ideal, "dropped": 0.0, "repeated": 0.0},
            measure=partial(self._measure, topology=topology),
            curves=self._curves,
            watch=(f"s0>{receiver}",),
            sample_every=self.interval / 10,
            judged_by_samples=True,
            endless=True,
        )
        return (case,)

    def _measure(
        self, result: Result, marked: Result | None, topology: Topology
    ) -> Mapping[str, float]:
        rates = self._rates(result, self.warmup)
        means = [statistics.fmean(each) for each in rates]
        return {
            "jain": jain(means),
            "jain_least": min(jain(column) for column in zip(*rates, strict=True)),
            "variation": statistics.fmean(
                statistics.pstdev(each) / mean if mean else 1.0
                for each, mean in zip(rates, means, strict=True)
            ),
            "goodput": sum(means),
            **price(result, topology),
        }

    def _rates(self, result: Result, start: float) -> list[list[float]]:
        series = result.series
        assert series is not None, "sampled, because the case says how often"
        return [
            binned(series.times, received, self.interval, start, self.span)
            for received in series.received.values()
        ]

    def _curves(self, result: Result) -> tuple[Curve, ...]:
        rates = self._rates(result, 0.0)
        times = tuple((place + 0.5) * self.interval for place in range(len(rates[0])))
        evenness = [jain(column) for column in zip(*rates, strict=True)]
        return (
            *(
                thinned("flows", times, each, label=f"sender {n}")
                for n, each in enumerate(rates[:_SHOWN])
            ),
            thinned("jain", times, evenness),
            *deepest_queue(result),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure(Experiment):
    """One of many paths goes black, or to a tenth of its rate, under full load.

    As many hosts as spines, with uplinks as fast as a host's cable, fill every uplink of
    the first rack. Routing is by path, so that each path of a link has a spine of its
    own. The line that fails is the one that the control's first flow is hashed to.
    """

    name: ClassVar[str] = "failure"
    about: ClassVar[str] = "one of many paths goes black, or slow, under full load"

    rate: float = parameter(25.0 * GBIT, "rate of each cable, Gb/s", unit=float(GBIT))
    routing: str = parameter("spray", "spray: each path has a spine of its own; ecmp: hashed")
    deadline: float = parameter(60.0, "virtual seconds after which a run is given up")
    size: int = parameter(500_000, "bytes of each message", size=True)
    messages: int = parameter(16, "messages of each flow, one after another")
    at: float = parameter(500e-6, "when the path fails, µs after the start", unit=MICROSECOND)
    repair: float = parameter(20e-3, "how long it stays so, ms", unit=1e-3)
    factor: float = parameter(0.1, "rate that is left to the slow path, of 1")
    interval: float = parameter(50e-6, "interval of goodput over time, µs", unit=MICROSECOND)

    def cases(self, seed: int) -> tuple[Case, ...]:
        """Two cases: the line is dead, and the line is slow."""
        paths = self.count("paths", 2)
        count = self.count("messages")
        topology = leaf_spine(
            2,
            paths,
            paths,
            rate=self.rate,
            delay=self.delay,
            buffer=self.buffer,
            routing=self.routing,
        )
        hosts = topology.hosts
        flows = tuple(
            Flow(hosts[n], hosts[paths + n], self.size, count=count) for n in range(paths)
        )
        if self.at + 2 * _NOTICED > 8 * count * self.size / self.rate:
            raise UsageError("--messages of --size must last for a millisecond after --at")
        port = self._port_of_the_control(topology, flows[0], seed)
        until = self.at + self.repair
        dead = Fault.blackhole(port, at=self.at, until=until)
        slow = Fault.degrade(port, self.factor, at=self.at, until=until)
        full = paths * self.rate
        left = full * (paths - 1) / paths
        slowed = left + self.factor * self.rate
        rtt = round_trip([(self.rate, self.delay)] * 4, self.packet, topology.overhead)
        case = Case(
            title=f"one of {paths} paths goes black",
            network=f"2 leaf and {paths} spine switches, {2 * paths} hosts, all uplinks of the "
            f"first rack full; {self.cable}, {self.routing} routing; {port} fails after "
            f"{self.at * 1e6:g} µs for {self.repair * 1e3:g} ms; "
            f"goodput over {self.interval * 1e6:g} µs; round trip {rtt * 1e6:.1f} µs",
            topology=topology,
            flows=flows,
            config=self.config,
            deadline=self.deadline,
            metrics=(
                *("before", "recovery", "after", "standstill", "slowest", "delivered"),
                *("queue", "dropped", "repeated"),
            ),
            ideal={"before": full, "recovery": 0.0, "after": left, "delivered": paths * count},
            measure=partial(self._measure, left=left, port=port, topology=topology),
            curves=partial(_rate_and_queue, width=self.interval),
            faults=(dead,),
            watch=tuple(f"leaf0>spine{n}" for n in range(paths)),
            sample_every=self.interval / 5,
            judged_by_samples=True,
        )
        return case, replace(
            case,
            title=f"one of {paths} paths falls to {self.factor:g} of its rate",
            faults=(slow,),
            mark=self.at + _NOTICED,
            metrics=(*case.metrics[:3], "share", *case.metrics[3:]),
            ideal={**case.ideal, "after": slowed, "share": self.factor * self.rate / slowed},
            measure=partial(self._measure, left=slowed, port=port, topology=topology),
        )

    def _port_of_the_control(self, topology: Topology, flow: Flow, seed: int) -> str:
        """The uplink that the control's first flow takes, found by sending a little over it."""
        probe = Simulation(topology, policy=tcp_like(), seed=seed, config=self.config)
        result = probe.run((replace(flow, size=1000, count=1),), deadline=self.deadline)
        uplinks = {
            name: port for name, port in result.ports.items() if name.startswith("leaf0>spine")
        }
        return max(uplinks, key=lambda name: uplinks[name].bytes)

    def _measure(
        self, result: Result, marked: Result | None, left: float, port: str, topology: Topology
    ) -> Mapping[str, float]:
        series = result.series
        assert series is not None, "sampled, because the case says how often"
        times, received = series.times, total(series.received)
        # Once the first flow is done, less is sent, and that says nothing of the network.
        ends = [result.elapsed if flow.end is None else flow.end for flow in result.flows]
        end = min(ends)
        back = recovered(times, received, self.at, self.interval, _RECOVERED * left, end)
        return {
            "before": mean_rate(times, received, self.at / 2, self.at),
            "recovery": back,
            "after": mean_rate(times, received, self.at + back, end) if back < inf else nan,
            "standstill": max(
                standstill(times, each, finish)
                for each, finish in zip(series.received.values(), ends, strict=True)
            ),
            "slowest": max(durations(result)),
            "share": 0.0 if marked is None else _share(result, marked, port),
            "delivered": sum(flow.delivered for flow in result.flows),
            **price(result, topology),
        }


def recovered(
    times: Sequence[float],
    received: Sequence[float],
    start: float,
    width: float,
    wanted: float,
    end: float,
) -> float:
    """Seconds from `start` until the rate is `wanted` bits/s or more again, by `end`.

    Rates are averages over intervals of `width` that begin at a sample. What is sought
    is the first such interval behind the lowest one; 0 where none is below `wanted`,
    infinity where none that follows the lowest reaches it.
    """
    begins = [time for time in times if start <= time <= end - width]
    rates = [mean_rate(times, received, begin, begin + width) for begin in begins]
    if not rates:
        return inf
    if min(rates) >= wanted:
        return 0.0
    lowest = rates.index(min(rates))
    for begin, rate in zip(begins[lowest:], rates[lowest:], strict=True):
        if rate >= wanted:
            return begin - start
    return inf


def standstill(times: Sequence[float], received: Sequence[float], end: float) -> float:
    """The longest time, up to `end`, for which a flow received nothing."""
    longest = since = 0.0
    for at in range(1, len(times)):
        if times[at] > end:
            break
        if received[at] != received[at - 1]:
            longest, since = max(longest, times[at - 1] - since), times[at]
    return max(longest, end - since)


def _share(result: Result, marked: Result, port: str) -> float:
    """Part of the packets of a switch's uplinks that left by one of them after the mark."""
    leaf = port.partition(">")[0]
    after: dict[str, int] = {}
    for name, found in result.ports.items():
        if name.startswith(f"{leaf}>spine"):
            before = marked.ports[name].packets if name in marked.ports else 0
            after[name] = found.packets - before
    everything = sum(after.values())
    return after.get(port, 0) / everything if everything else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WideArea(Experiment):
    """One flow over a long, lossy line."""

    name: ClassVar[str] = "wan"
    about: ClassVar[str] = "one flow over a long line with random loss"

    rate: float = parameter(100e6, "rate of the line, Mb/s", unit=1e6)
    delay: float = parameter(40e-3, "propagation along the line, one way, ms", unit=1e-3)
    loss: float = parameter(0.01, "chance that the line loses a packet, either way")
    buffer: int = parameter(2**20, "buffer of each port of a router", size=True)
    packet: int = parameter(1400, "payload of a packet", size=True)
    paths: int = parameter(4, "paths of a link; the control has one")
    size: int = parameter(10_000_000, "bytes of each message", size=True)
    span: float = parameter(6.0, "how long, s")

    @property
    def config(self) -> Config:
        """Hosts as slow as Python processes: that does not matter here."""
        base = Config()
        return replace(
            base,
            packet_payload=self.packet,
            paths=self.paths,
            eager_limit=1024,
            window_packets=4096,
        )

    def cases(self, seed: int) -> tuple[Case, ...]:
        """One case."""
        if self.span < 2:
            raise UsageError(f"--span must be at least 2 s, got {self.span:g}")
        topology = wide_area(
            rate=self.rate,
            delay=self.delay,
            loss=self.loss,
            buffer=self.buffer,
            host_rate=_HOSTS_FASTER * self.rate,
        )
        sender, receiver = topology.hosts
        most = int(self.rate * self.span / 8 / self.size) + 1
        case = Case(
            title=f"wide area, {rate_in_words(self.rate)}, {2e3 * self.delay:g} ms round trip, "
            f"{100 * self.loss:g} % loss",
            network=f"two hosts at {rate_in_words(_HOSTS_FASTER * self.rate)} behind routers; "
            f"line of {rate_in_words(self.rate)} and {self.delay * 1e3:g} ms, "
            f"{100 * self.loss:g} % random loss either way, {self.buffer:,} bytes of buffer; "
            f"{self.span:g} s",
            topology=topology,
            flows=(Flow(sender, receiver, self.size, count=most),),
            config=self.config,
            deadline=self.span,
            metrics=("utilisation", "steady", "queue", "dropped", "repeated"),
            ideal={"utilisation": 1.0, "steady": 1.0},
            measure=partial(self._measure, topology=topology),
            curves=partial(_rate_and_queue, width=0.1),
            watch=("r0>r1",),
            sample_every=0.02,
            judged_by_samples=True,
            endless=True,
        )
        return (case,)

    def _measure(
        self, result: Result, marked: Result | None, topology: Topology
    ) -> Mapping[str, float]:
        series = result.series
        assert series is not None, "sampled, because the case says how often"
        received = total(series.received)

        def used(start: float) -> float:
            return mean_rate(series.times, received, start, self.span) / self.rate

        return {"utilisation": used(0.0), "steady": used(1.0), **price(result, topology)}


def _rate_and_queue(result: Result, width: float) -> tuple[Curve, ...]:
    return (*goodput(result, width), *deepest_queue(result))
