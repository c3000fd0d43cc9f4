"""The congestion control of links: in flight what the bottleneck takes in a round trip.

After BBR (draft-ietf-ccwg-bbr) and what is published of SRD (Shalev et al.,
IEEE Micro 2020). The window is the highest delivery rate of the last rounds,
times the lowest round trip, times a gain: whatever the network is, its queue
holds no more than what is under way. Nothing here is a speed or a time of any
particular network; the only time given is how long this host's own peer may
keep an acknowledgement back.

Congestion is what most packets feel. A round trip well above the least its own
path ever had counts as crowded; when more than half of recent samples, and so
of the paths, are crowded, the estimate falls to the present rate. SRD also compares
the rate with what it sends; here acknowledgements release what is sent, so where
the two part the window grows, packets are lost, or they queue. One bad path
among many is the scheduler's business, and neither its delays nor its losses
narrow the window.
"""

from __future__ import annotations

from typing import Final

from ..config import Config
from ..wire.packet import BULK_OVERHEAD
from .congestion import Delivery
from .delivery import MaxFilter
from .paths import PathState

INITIAL_PACKETS: Final = 10  # RFC 6928: what may enter a network of which nothing is known
FLOOR_PACKETS: Final = 4  # BBR's minimum: fewer cannot keep acknowledgements coming
RATE_ROUNDS: Final = 10  # BBR's span of the maximum filter
START_GAIN: Final = 2.89  # BBR's 2/ln 2: while the window doubles, more than this is queue
GAIN: Final = 2.0  # in flight, of what the network holds (BBR): as much again may queue
LEAST_GAIN: Final = 1.25
GROWTH: Final = 1.25  # BBR: in start-up, a round that delivers less than this more is a plateau
PLATEAU_ROUNDS: Final = 3
CROWDED: Final = 2.5  # times a path's least round trip
MEMORY: Final = 1 / 16  # weight of a sample in the averages over all paths
LOSS_BEARABLE: Final = 0.05  # of a round's bytes: chance, not congestion
FALLEN: Final = 0.8  # of the best rate: below that, and on long round trips, for so many rounds,
CROWDED_ROUNDS: Final = 8  # the window is emptied, to look at the route alone
MOST_CROWDED_ROUNDS: Final = 256  # where that showed a queue each time, it is done more rarely
LONGER: Final = 1.25  # an empty window that still meets this many times the least: a longer route
NEVER: Final = float("inf")


class BottleneckWindow:
    """A window that follows rate and round trip; see the module's text."""

    __slots__ = (
        "_best_rate",
        "_crowded_rounds",
        "_crowding",
        "_delay",
        "_draining",
        "_floor",
        "_full_rate",
        "_gain",
        "_least",
        "_leasts",
        "_lost",
        "_most",
        "_most_packets",
        "_packet",
        "_patience",
        "_plateau",
        "_rates",
        "_round",
        "_round_ends",
        "_round_rate",
        "_round_size",
        "_round_trip",
        "_starting",
        "_window",
    )

    def __init__(self, config: Config) -> None:
        packet = config.packet_payload + BULK_OVERHEAD
        self._most = config.window_bytes
        self._most_packets = config.window_packets
        self._least = min(FLOOR_PACKETS * packet, self._most)
        self._window = float(min(INITIAL_PACKETS * packet, self._most))
        self._delay = config.acknowledge_after
        self._rates = MaxFilter(RATE_ROUNDS)
        self._packet = packet
        # By path. Of large packets alone: they take longer than a probe, even alone.
        self._leasts: dict[int, float] = {}
        self._floor = 0.0  # least round trip, as the average packet meets it
        self._crowded_rounds = 0
        self._best_rate = 0.0  # since the route was last looked at
        self._patience = CROWDED_ROUNDS
        self._draining = 0  # rounds left of a look at the empty network
        self._crowding = 0.0  # share of recent samples that met a queue
        self._starting = True
        self._full_rate = 0.0
        self._plateau = 0
        self._gain = GAIN
        self._round = 0
        self._round_ends = 0  # the round is over when what was sent by its start has arrived
        self._round_rate = 0.0
        self._round_trip = NEVER  # its least round trip
        self._round_size = self._lost = 0

    @property
    def window_bytes(self) -> int:
        """The present limit."""
        return int(self._window)

    @property
    def rate(self) -> float:
        """Estimated rate of the bottleneck in bytes a second; 0 before the first sample."""
        return self._rates.value

    @property
    def crowding(self) -> float:
        """Share of recent packets, and so of paths, that met a queue: 0 to 1."""
        return self._crowding

    def admits(self, size: int, in_flight_bytes: int, in_flight_packets: int) -> bool:
        """Whether both limits hold; one packet is always admitted."""
        return in_flight_packets == 0 or (
            in_flight_bytes + size <= self._window and in_flight_packets < self._most_packets
        )

    def on_sent(self, path: PathState, size: int, now: float) -> None:
        """Nothing to learn."""

    def on_acknowledged(self, path: PathState, size: int, rtt: float | None, now: float) -> None:
        """Learn what round trips are, and whether this packet met a queue."""
        if rtt is None or 2 * size < self._packet:
            return
        least = self._leasts.get(path.index)
        if least is None or rtt < least:
            self._leasts[path.index] = least = rtt
        if not self._floor:
            self._floor = rtt
        self._floor += MEMORY * (least - self._floor)
        self._round_trip = min(self._round_trip, rtt)
        crowded = 1.0 if rtt > CROWDED * least + self._delay else 0.0
        self._crowding += MEMORY * (crowded - self._crowding)

    def on_lost(self, path: PathState, size: int, sent_at: float) -> None:
        """Count the loss, unless its path alone is to blame."""
        if not path.suspected:
            self._lost += size

    def on_silence(self, now: float) -> bool:
        """Nothing to learn: a peer that stands still is no congestion."""
        return False

    def on_delivery(self, delivery: Delivery, now: float) -> None:
        """Take a rate sample, and set the window anew."""
        self._round_size += delivery.size
        rate = delivery.rate
        if rate is not None:
            self._round_rate = max(self._round_rate, rate)
            if not delivery.limited or rate > self._rates.value:
                self._rates.add(self._round, rate)
        if delivery.delivered_before >= self._round_ends:
            self._end_round(delivery)
        if self._starting:
            # What was delivered may be followed by twice as much: doubles once a round trip.
            most = START_GAIN * self._rates.value * (self._floor + self._delay)
            self._window = min(
                max(self._window, min(self._window + delivery.size, most)), self._most
            )
            return
        if self._draining:
            # The first meets no queue of ours, and if its path is dead the second tells.
            self._window = min(2 * self._packet, self._least)
            return
        aim = self._aim()
        self._window = max(min(aim, self._window + delivery.size), min(self._least, aim))

    def _aim(self) -> float:
        aim = self._gain * self._rates.value * (self._floor + self._delay)
        return min(max(aim, self._least), self._most)

    def _end_round(self, delivery: Delivery) -> None:
        lost, size = self._lost, self._round_size
        rate, trip = self._round_rate, self._round_trip
        self._round += 1
        self._round_ends = delivery.delivered
        self._lost = self._round_size = 0
        self._round_rate, self._round_trip = 0.0, NEVER
        crowded = self._crowding > 0.5
        if self._starting:
            self._look_for_plateau(delivery, crowded)
        elif crowded and rate:
            self._rates.forget_above(rate)
        self._look_for_a_longer_route(delivery, trip)
        self._rates.expire(self._round)
        if lost > LOSS_BEARABLE * (lost + size):
            self._starting = False
            self._gain = max(LEAST_GAIN, self._gain * 0.85)
        else:
            self._gain = min(GAIN, self._gain + 0.05)

    def _look_for_plateau(self, delivery: Delivery, crowded: bool) -> None:
        rate = self._rates.value
        if rate >= self._full_rate * GROWTH:
            self._full_rate, self._plateau = rate, 0
        elif not delivery.limited:
            self._plateau += 1
        if crowded or self._plateau >= PLATEAU_ROUNDS:
            self._starting = False

    def _look_for_a_longer_route(self, delivery: Delivery, trip: float) -> None:
        """Where the rate fell and round trips are long, look whether they are so without a queue.

        Without this a route that became longer would look crowded for ever. `trip` is the
        least round trip of the round that ends. After BBR's ProbeRTT.
        """
        if self._draining:
            self._draining -= 1
            if not self._draining:
                self._judge(trip)
            return
        rate = self._rates.value
        self._best_rate = max(self._best_rate, rate)
        fallen = rate < FALLEN * self._best_rate and self._is_longer(trip)
        if delivery.limited or self._starting or not fallen:
            self._crowded_rounds = 0
            return
        self._crowded_rounds += 1
        if self._crowded_rounds >= self._patience:
            # One round for what is queued to leave, one to measure.
            self._crowded_rounds, self._draining = 0, 2

    def _is_longer(self, trip: float) -> bool:
        return LONGER * self._floor + self._delay < trip < NEVER

    def _judge(self, trip: float) -> None:
        self._best_rate = self._rates.value
        if not self._is_longer(trip):
            self._patience = min(2 * self._patience, MOST_CROWDED_ROUNDS)
            return
        self._patience = CROWDED_ROUNDS
        self._leasts.clear()
        self._floor, self._crowding = trip, 0.0
        self._starting, self._full_rate, self._plateau = True, 0.0, 0
