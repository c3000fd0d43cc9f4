"""Networks that misbehave: nothing lost, nothing twice, the order kept."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from support.chaos_proxy import ChaosProxy
from support.nodes import PATIENCE, linked, node, together, until
from transport import Config, HandshakeError, Node, TransportTimeoutError
from transport.path import FaultInjector, Faults, FaultyPath
from transport.path.base import CallLater, Path
from transport.path.zeromq import ListenerPath

KIB, MIB = 1024, 1024 * 1024
TENACIOUS = Config(
    shared_memory=False,  # else nothing would cross the networks that misbehave here
    peer_timeout=20.0,
    heartbeat_interval=0.5,
    reconnect_interval=0.01,
    reconnect_interval_max=0.05,
)


class FaultyNetwork:
    """A path filter: every path of every node it is given to suffers the same kind of faults."""

    def __init__(self, faults: Faults, seed: int) -> None:
        self._faults = faults
        self._seed = seed
        self.injectors: list[FaultInjector] = []

    def __call__(self, path: Path, call_later: CallLater) -> Path:
        injector = FaultInjector(self._faults, self._seed + len(self.injectors))
        self.injectors.append(injector)
        return FaultyPath(path, injector, call_later)

    def change(self, faults: Faults) -> None:
        """From now on, on every path, these faults."""
        self._faults = faults
        for injector in self.injectors:
            injector.faults = faults
            injector.blackholed = False

    def heal(self) -> None:
        """No more faults."""
        self.change(Faults())

    def count(self, what: str) -> int:
        """How often it happened, on all paths."""
        return sum(injector.counts[what] for injector in self.injectors)


def content(number: int, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Bytes that no other number has in the same places."""
    start = np.uint32(number * 2654435761 % 2**32)
    words = np.arange(size // 4 + 2, dtype=np.uint32) * np.uint32(2246822519) + start
    return words.view(np.uint8)[:size]


def stream(sender: Node, receiver: Node, sizes: list[int], *, tags: int = 1) -> None:
    """Send messages of these sizes and check that each arrives once, whole and in order."""

    def send() -> None:
        works = []
        for number, size in enumerate(sizes):
            tensor = content(number, size)
            works.append(sender.isend(tensor, to=receiver.name, tag=number % tags))
            if len(works) > 200:
                works.pop(0).wait(120.0)
        for work in works:
            work.wait(120.0)
        sender.flush(receiver.name, timeout=120.0)

    def receive(tag: int) -> None:
        for number in range(tag, len(sizes), tags):
            received = receiver.recv(source=sender.name, tag=tag, timeout=120.0)
            assert len(received) == sizes[number]
            assert np.array_equal(received, content(number, sizes[number]))

    together(send, *(partial(receive, tag) for tag in range(tags)), patience=120.0)
    assert receiver.stats().unclaimed_messages == 0


def mixed_sizes(count: int, seed: int) -> list[int]:
    """Mostly small, some large, all from the seed."""
    random = np.random.default_rng(seed)
    sizes = random.choice([0, 1, 100, 4 * KIB, 33 * KIB], count, p=[0.05, 0.15, 0.55, 0.2, 0.05])
    for at in random.choice(count, count // 200, replace=False):
        sizes[at] = random.integers(200_000, 2_500_000)
    return [int(size) for size in sizes]


# --- packets lost, repeated, reordered, corrupted ---------------------------------------------


@pytest.mark.slow
def test_ten_thousand_messages_through_a_bad_network() -> None:
    faults = Faults(loss=0.02, duplication=0.02, reordering=0.02, corruption=0.02)
    network = FaultyNetwork(faults, seed=11)
    with linked(config=TENACIOUS, path_filter=network) as (a, b):
        stream(a, b, mixed_sizes(10_000, seed=5), tags=3)
        for what in ("lost", "duplicated", "reordered", "corrupted"):
            assert network.count(what) > 0
        drops = b.link("a").stats().drops
        assert drops["replay"] > 0
        assert drops["authentication"] > 0
        assert a.link("b").stats().retransmissions > 0


@pytest.mark.parametrize("seed", range(4))
def test_both_directions_through_a_worse_network(seed: int) -> None:
    faults = Faults(loss=0.08, duplication=0.05, reordering=0.1, corruption=0.03, jitter=0.003)
    network = FaultyNetwork(Faults(), seed=100 * seed)
    with linked(config=TENACIOUS, path_filter=network) as (a, b):
        network.change(faults)
        sizes = mixed_sizes(250, seed=seed)
        together(partial(stream, a, b, sizes), partial(stream, b, a, sizes[::-1]), patience=120.0)
        network.heal()  # so that saying goodbye does not take its time


@pytest.mark.parametrize("seed", range(6))
def test_linking_through_a_bad_network(seed: int) -> None:
    network = FaultyNetwork(Faults(loss=0.15, duplication=0.2, corruption=0.05), seed=1000 * seed)
    config = replace(TENACIOUS, handshake_retry=0.05)  # each attempt starts from its beginning
    with linked(config=config, path_filter=network) as (a, b):
        network.heal()
        stream(a, b, [10, 200_000])


def test_paths_that_fall_silent_are_left_for_the_others() -> None:
    network = FaultyNetwork(Faults(), seed=1)
    with linked(config=TENACIOUS, path_filter=network) as (a, b):
        until(lambda: all(path.state == "usable" for path in a.link("b").stats().paths))
        stream(a, b, [MIB] * 4)
        for injector in network.injectors[1:4]:  # of the paths that "a" dialled
            injector.blackholed = True
        stream(a, b, [MIB] * 8)
        until(lambda: sum(path.suspected for path in a.link("b").stats().paths) == 3)
        assert network.count("lost") > 0
        stream(a, b, [MIB] * 4)
        network.heal()
        until(lambda: not any(path.suspected for path in a.link("b").stats().paths))


def test_a_network_that_carries_nothing_fails_the_call_in_time() -> None:
    network = FaultyNetwork(Faults(loss=1.0), seed=1)
    with node("a", path_filter=network) as a, node("b") as b:
        with pytest.raises(HandshakeError, match="did not link"):
            a.connect(b.addresses, peer="b", timeout=1.0)
        with pytest.raises(TransportTimeoutError):
            b.wait_for("a", timeout=0.1)


# --- connections cut, refused, stalled, slow --------------------------------------------------


@contextmanager
def linked_through(config: Config = TENACIOUS) -> Iterator[tuple[Node, Node, ChaosProxy]]:
    with (
        node("a", config=config) as a,
        node("b", config=config) as b,
        ChaosProxy(b.addresses[0]) as proxy,
    ):
        a.connect(proxy.address, peer="b", timeout=PATIENCE)
        b.wait_for("a", timeout=PATIENCE)
        yield a, b, proxy
        a.close()  # while there is still a way to say goodbye


@pytest.mark.parametrize("direction", ["to the listener", "from the listener", "both"])
def test_connections_cut_again_and_again_in_mid_transfer(direction: str) -> None:
    sizes = [3 * MIB, 100, 40_000, 700_000, 0, 1_300_000, 10] * 8
    with linked_through() as (a, b, proxy):
        finished = threading.Event()

        def cut() -> int:
            cuts = 0
            while not finished.is_set():
                try:
                    proxy.await_bytes(4 * MIB, patience=1.0)
                except AssertionError:
                    continue  # the transfer came to its end
                cuts += proxy.cut(None if cuts % 3 else 2)
            return cuts

        def transfer() -> None:
            try:
                pairs = {"to the listener": [(a, b)], "from the listener": [(b, a)]}
                directions = pairs.get(direction, [(a, b), (b, a)])
                together(
                    *(partial(stream, one, other, sizes) for one, other in directions),
                    patience=90.0,
                )
            finally:
                finished.set()

        cuts, _ = together(cut, transfer, patience=100.0)
        assert isinstance(cuts, int)
        assert cuts >= 8
        # "state": the answer to a challenge over a connection that was cut meanwhile. "early":
        # bytes whose announcement was on such a connection, so that they were repeated first.
        harmless = {"replay", "overlap", "too_old", "state", "early"}
        assert a.link("b").stats().drops.keys() <= harmless
        # Connections given up are forgotten, however many there were.
        gc.collect()
        kept = sum(isinstance(each, ListenerPath) for each in gc.get_objects())
        assert kept <= proxy.accepted


def test_a_transfer_survives_a_time_without_any_connection() -> None:
    with linked_through() as (a, b, proxy):
        receive = b.irecv(source="a")
        sending = a.isend(content(1, 32 * MIB), to="b")
        proxy.await_bytes(2 * MIB)
        proxy.refuse()
        proxy.cut()
        with pytest.raises(TransportTimeoutError):
            receive.wait(1.0)
        proxy.refuse(on=False)
        sending.wait(60.0)
        assert np.array_equal(receive.wait(60.0), content(1, 32 * MIB))


def test_a_transfer_survives_a_stall() -> None:
    with linked_through() as (a, b, proxy):
        receive = b.irecv(source="a")
        sending = a.isend(content(2, 16 * MIB), to="b")
        proxy.await_bytes(MIB)
        proxy.stall()
        with pytest.raises(TransportTimeoutError):
            receive.wait(1.5)
        proxy.stall(on=False)
        sending.wait(60.0)
        assert np.array_equal(receive.wait(60.0), content(2, 16 * MIB))


@pytest.mark.slow
def test_a_slow_network_is_slow_and_nothing_worse() -> None:
    with linked_through() as (a, b, proxy):
        proxy.slow(3 * MIB)
        stream(a, b, [2 * MIB, 100, 2 * MIB])
        proxy.slow(None)


def test_cut_connections_come_back_all_of_them() -> None:
    with linked_through() as (a, b, proxy):
        for _ in range(5):
            proxy.await_connections(4)
            until(lambda: all(path.state == "usable" for path in a.link("b").stats().paths))
            proxy.cut()
            stream(a, b, [10, 100_000])
            stream(b, a, [10, 100_000])


def test_linking_while_connections_are_cut() -> None:
    with (
        node("a", config=TENACIOUS) as a,
        node("b", config=TENACIOUS) as b,
        ChaosProxy(b.addresses[0]) as proxy,
    ):
        proxy.refuse()

        def allow() -> None:
            until(lambda: proxy.accepted == 0)
            with pytest.raises(TransportTimeoutError):
                b.wait_for("a", timeout=0.5)
            proxy.refuse(on=False)
            proxy.await_connections(1)
            proxy.cut()

        together(partial(a.connect, proxy.address, peer="b", timeout=PATIENCE), allow)
        b.wait_for("a", timeout=PATIENCE)
        stream(a, b, [10, 100_000])
        a.close()
