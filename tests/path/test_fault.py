"""Faults on command: what is asked for happens, as often as asked, the same for each seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import UsageError
from transport.path import Endpoint, FaultInjector, Faults, FaultyPath
from transport.path.base import Buffer

PACKET = bytes(range(256)) * 2


def outcomes(faults: Faults, seed: int = 1, count: int = 4000) -> list[list[tuple[float, bytes]]]:
    injector = FaultInjector(faults, seed)
    return [injector.apply(PACKET) for _ in range(count)]


def test_without_faults_each_packet_passes_once_at_once_and_unchanged() -> None:
    injector = FaultInjector(Faults(), 1)
    assert all(injector.apply(PACKET) == [(0.0, PACKET)] for _ in range(100))
    assert injector.counts == {}


@pytest.mark.parametrize("name", ["loss", "duplication", "reordering", "corruption"])
@pytest.mark.parametrize("value", [0.0, 0.2, 1.0])
def test_each_fault_happens_as_often_as_asked(name: str, value: float) -> None:
    injector = FaultInjector(Faults(**{name: value}), 7)
    results = [injector.apply(PACKET) for _ in range(4000)]
    happened = {
        "loss": sum(not copies for copies in results),
        "duplication": sum(len(copies) == 2 for copies in results),
        "reordering": sum(copies[:1] == [(0.005, PACKET)] for copies in results),
        "corruption": sum(bool(copies) and copies[0][1] != PACKET for copies in results),
    }
    expected = dict.fromkeys(happened, 0)
    expected[name] = round(value * 4000)
    assert happened == pytest.approx(expected, abs=120 if value == 0.2 else 0)
    counted = Counter(injector.counts)
    key = {"loss": "lost", "duplication": "duplicated", "reordering": "reordered"}
    assert counted == {key.get(name, "corrupted"): happened[name]} or not value


def test_corruption_flips_exactly_one_bit() -> None:
    bits = Counter[int]()
    for ((_, copy),) in outcomes(Faults(corruption=1.0)):
        changed = int.from_bytes(copy, "little") ^ int.from_bytes(PACKET, "little")
        assert changed.bit_count() == 1
        bits[changed.bit_length() - 1] += 1
    assert len(bits) > 2000, "anywhere in the packet"


def test_an_empty_packet_cannot_be_corrupted() -> None:
    assert FaultInjector(Faults(corruption=1.0), 1).apply(b"") == [(0.0, b"")]


def test_delays_lie_where_they_were_asked_for() -> None:
    faults = Faults(delay=0.1, jitter=0.05, reordering=0.5, reordering_delay=1.0)
    delays = [copies[0][0] for copies in outcomes(faults)]
    prompt = [delay for delay in delays if delay < 1.0]
    late = [delay for delay in delays if delay >= 1.0]
    assert 0.1 <= min(prompt) <= max(prompt) <= 0.15
    assert 1.1 <= min(late) <= max(late) <= 1.15
    assert len(late) == pytest.approx(2000, abs=150)


def test_a_duplicate_has_a_fate_of_its_own() -> None:
    pairs = outcomes(Faults(duplication=1.0, jitter=0.1, corruption=0.5))
    assert all(len(copies) == 2 for copies in pairs)
    assert any(first != second for first, second in pairs)


def test_a_blackhole_takes_everything_until_it_is_closed() -> None:
    injector = FaultInjector(Faults(), 1)
    injector.blackholed = True
    assert [injector.apply(PACKET) for _ in range(5)] == [[]] * 5
    assert injector.counts == {"lost": 5}
    injector.blackholed = False
    assert injector.apply(PACKET) == [(0.0, PACKET)]


@given(st.integers(0, 1 << 32))
def test_the_same_seed_does_the_same(seed: int) -> None:
    faults = Faults(loss=0.3, duplication=0.3, reordering=0.3, corruption=0.3, jitter=0.1)
    assert outcomes(faults, seed, 30) == outcomes(faults, seed, 30)


def test_copies_do_not_share_the_memory_they_came_from() -> None:
    slot = bytearray(PACKET)
    ((_, copy),) = FaultInjector(Faults(delay=1.0), 1).apply(memoryview(slot))
    slot[:] = bytes(len(slot))
    assert copy == PACKET


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss": -0.1},
        {"loss": 1.1},
        {"duplication": 2.0},
        {"reordering": -1.0},
        {"corruption": float("nan")},
        {"delay": -1.0},
        {"jitter": -0.1},
        {"reordering_delay": -0.1},
    ],
    ids=str,
)
def test_probabilities_and_times_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Faults(**wrong)


class Recorder:
    """A path that remembers what was sent over it."""

    address = "tcp://nowhere"
    connected = True

    def __init__(self, *, delivers: bool = True) -> None:
        self.sent: list[tuple[bytes, bool]] = []
        self.kept = self.closed = 0
        self._delivers = delivers

    @property
    def endpoint(self) -> Endpoint:
        raise NotImplementedError

    def keep(self) -> None:
        self.kept += 1

    def send(self, packet: Buffer, *, stable: bool) -> bool:
        self.sent.append((bytes(packet), stable))
        return self._delivers

    def close(self) -> None:
        self.closed += 1


class Timers:
    """Runs what was asked for later, when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay: float, action: Callable[[], None]) -> None:
        self.waiting.append((delay, action))

    def run(self) -> None:
        for _, action in sorted(self.waiting, key=lambda entry: entry[0]):
            action()
        self.waiting.clear()


def test_a_faulty_path_sends_what_the_injector_leaves() -> None:
    inner, timers = Recorder(), Timers()
    injector = FaultInjector(Faults(loss=0.5), 3)
    path = FaultyPath(inner, injector, timers.call_later)
    results = [path.send(PACKET, stable=True) for _ in range(200)]
    assert all(results), "loss is silent"
    assert len(inner.sent) == 200 - injector.counts["lost"]
    assert all(not stable for _, stable in inner.sent), "a copy has no slot to wait for"
    assert path.address == "tcp://nowhere"
    assert path.connected
    path.keep()
    assert inner.kept == 1


def test_a_faulty_path_says_so_where_nobody_is_there() -> None:
    path = FaultyPath(Recorder(delivers=False), FaultInjector(Faults(), 1), Timers().call_later)
    assert not path.send(PACKET, stable=False)


def test_late_copies_leave_later_in_the_order_of_their_delays() -> None:
    inner, timers = Recorder(), Timers()
    path = FaultyPath(inner, FaultInjector(Faults(jitter=1.0), 3), timers.call_later)
    for index in range(20):
        path.send(bytes([index]), stable=False)
    assert inner.sent == []
    timers.run()
    assert sorted(packet for packet, _ in inner.sent) == [bytes([index]) for index in range(20)]
    assert [packet for packet, _ in inner.sent] != sorted(packet for packet, _ in inner.sent)


def test_after_closing_late_copies_are_lost() -> None:
    inner, timers = Recorder(), Timers()
    path = FaultyPath(inner, FaultInjector(Faults(delay=1.0), 3), timers.call_later)
    path.send(PACKET, stable=False)
    path.close()
    timers.run()
    assert inner.sent == []
    assert inner.closed == 1
