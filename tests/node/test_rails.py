"""Several addresses as rails, each a TCP connection of its own, that fail one by one under load."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

from support.chaos_proxy import ChaosProxy, rails
from support.nodes import PATIENCE, node, together, until
from transport import Config, LinkStats, Node, PathStats

MIB = 1024 * 1024
RAILS = 4
BAD = 1
SIZE = 4 * MIB
LOAD = 12  # messages of a transfer one way
SLOW = 2 * MIB  # bytes a second; loopback carries hundreds of times as many

CONFIG = Config(
    paths=RAILS,
    shared_memory=False,
    peer_timeout=20.0,
    heartbeat_interval=0.5,
    reconnect_interval=0.01,
    reconnect_interval_max=0.05,
)


class Rails:
    """Two linked nodes, the proxies of their paths, and what each side says of a path."""

    def __init__(self, caller: Node, answerer: Node, proxies: list[ChaosProxy]) -> None:
        self.caller = caller
        self.answerer = answerer
        self.proxies = proxies
        self._sent = 0

    def stats(self, one: Node) -> LinkStats:
        return one.link((self.answerer if one is self.caller else self.caller).name).stats()

    def path(self, one: Node, rail: int) -> PathStats:
        """The same path has the same number on both sides."""
        address = self.proxies[rail].address
        (index,) = (p.index for p in self.stats(self.caller).paths if p.address == address)
        return self.stats(one).paths[index]

    def suspected(self, one: Node) -> list[int]:
        return [rail for rail in range(RAILS) if self.path(one, rail).suspected]

    def all_in_use(self) -> bool:
        return all(
            path.state == "usable" and not path.suspected
            for one in (self.caller, self.answerer)
            for path in self.stats(one).paths
        )

    def pairs(self, direction: str) -> list[tuple[Node, Node]]:
        to, back = (self.caller, self.answerer), (self.answerer, self.caller)
        return {"to the listener": [to], "from the listener": [back]}.get(direction, [to, back])

    def transfer(self, sender: Node, receiver: Node, count: int = LOAD) -> None:
        """Send `count` messages and compare what arrives with what was sent."""
        self._sent += 1
        seed = self._sent

        def send() -> None:
            works = [
                sender.isend(content(seed, number), to=receiver.name) for number in range(count)
            ]
            for work in works:
                work.wait(60.0)
            sender.flush(receiver.name, timeout=60.0)

        def receive() -> None:
            for number in range(count):
                received = receiver.recv(source=sender.name, timeout=60.0)
                assert np.array_equal(received, content(seed, number))

        together(send, receive, patience=90.0)
        assert receiver.stats().unclaimed_messages == 0


def content(seed: int, number: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Bytes that no other message has in the same places."""
    start = np.uint32((seed * 1009 + number) * 2654435761 % 2**32)
    words = np.arange(SIZE // 4, dtype=np.uint32) * np.uint32(2246822519) + start
    return words.view(np.uint8)


@contextmanager
def linked_over_rails() -> Iterator[Rails]:
    listen = tuple(f"tcp://127.0.0.{1 + rail}:0" for rail in range(RAILS))
    with (
        node("a", config=CONFIG, listen=()) as a,
        node("b", config=CONFIG, listen=listen) as b,
        rails(b.addresses) as proxies,
    ):
        a.connect([proxy.address for proxy in proxies], peer="b", timeout=PATIENCE)
        b.wait_for("a", timeout=PATIENCE)
        linked = Rails(a, b, proxies)
        until(linked.all_in_use)
        yield linked
        for proxy in proxies:
            mend(proxy)
        a.close()  # while there is still a way to say goodbye


def mend(proxy: ChaosProxy) -> None:
    proxy.stall(on=False)
    proxy.refuse(on=False)
    proxy.slow(None)


def cut_for_good(proxy: ChaosProxy) -> None:
    proxy.refuse()
    proxy.cut()


DIRECTIONS = ["to the listener", "from the listener", "both"]


def hit_in_mid_transfer(
    linked: Rails, direction: str, rail: int, harm: Callable[[ChaosProxy], None]
) -> None:
    """Transfer, and do harm to a rail once some of it has passed there."""
    proxy = linked.proxies[rail]
    harmed = threading.Event()

    def do_harm() -> None:
        proxy.await_bytes(MIB)
        harm(proxy)
        harmed.set()

    transfers = [partial(linked.transfer, *pair) for pair in linked.pairs(direction)]
    together(do_harm, *transfers, patience=100.0)
    assert harmed.is_set()


def assert_hardly_used(linked: Rails, sender: Node, receiver: Node, rail: int) -> None:
    """A transfer takes the other rails."""
    before = [linked.path(sender, each).bytes_sent for each in range(RAILS)]
    linked.transfer(sender, receiver)
    more = [linked.path(sender, each).bytes_sent - before[each] for each in range(RAILS)]
    given = more.pop(rail)
    assert given < min(more) / 2, (given, more)


def use_again(linked: Rails, direction: str, rail: int) -> None:
    """Transfer until this rail carries its part once more."""
    until(linked.all_in_use)
    for sender, receiver in linked.pairs(direction):
        before = linked.path(sender, rail).bytes_sent

        def used(sender: Node = sender, receiver: Node = receiver, before: int = before) -> bool:
            linked.transfer(sender, receiver, count=2)
            return linked.path(sender, rail).bytes_sent >= before + MIB

        until(used)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_rail_that_falls_silent_in_mid_transfer(direction: str) -> None:
    with linked_over_rails() as linked:
        for pair in linked.pairs(direction):
            linked.transfer(*pair)  # round trips are known, every rail carries its part
        hit_in_mid_transfer(linked, direction, BAD, ChaosProxy.stall)
        for sender, receiver in linked.pairs(direction):
            silent = linked.path(sender, BAD)
            assert silent.state == "usable"  # nothing was closed
            assert silent.suspected
            assert silent.retransmissions > 0
            assert silent.last_failure is not None
            # A machine that stands still makes good rails late too, for a moment.
            until(lambda sender=sender: linked.suspected(sender) == [BAD])
            assert_hardly_used(linked, sender, receiver, BAD)
        linked.proxies[BAD].stall(on=False)
        use_again(linked, direction, BAD)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_rail_that_is_cut_in_mid_transfer(direction: str) -> None:
    with linked_over_rails() as linked:
        hit_in_mid_transfer(linked, direction, BAD, cut_for_good)
        until(lambda: linked.path(linked.caller, BAD).state != "usable")
        assert linked.path(linked.caller, BAD).last_failure == "connection cut"
        for pair in linked.pairs(direction):
            linked.transfer(*pair)
        linked.proxies[BAD].refuse(on=False)
        use_again(linked, direction, BAD)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_rail_that_turns_slow_in_mid_transfer(direction: str) -> None:
    with linked_over_rails() as linked:
        for pair in linked.pairs(direction):
            linked.transfer(*pair)
        hit_in_mid_transfer(linked, direction, BAD, partial(ChaosProxy.slow, rate=SLOW))
        for sender, receiver in linked.pairs(direction):
            assert_hardly_used(linked, sender, receiver, BAD)
        linked.proxies[BAD].slow(None)
        use_again(linked, direction, BAD)


@pytest.mark.parametrize("towards", ["target", "caller"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_rail_that_carries_one_way_only(direction: str, towards: str) -> None:
    with linked_over_rails() as linked:
        hit_in_mid_transfer(linked, direction, BAD, partial(ChaosProxy.stall, towards=towards))
        for pair in linked.pairs(direction):
            linked.transfer(*pair)
        linked.proxies[BAD].stall(on=False)
        use_again(linked, direction, BAD)


@pytest.mark.parametrize("good", range(RAILS))
def test_one_good_rail_is_enough(good: int) -> None:
    with linked_over_rails() as linked:
        bad = [rail for rail in range(RAILS) if rail != good]
        harms = [ChaosProxy.stall, cut_for_good, partial(ChaosProxy.slow, rate=SLOW)]

        def harm(_: ChaosProxy) -> None:
            for rail, each in zip(bad, harms, strict=True):
                each(linked.proxies[rail])

        hit_in_mid_transfer(linked, "both", good, harm)
        for rail in bad:
            mend(linked.proxies[rail])
        until(linked.all_in_use)


def test_rails_that_fail_one_after_another() -> None:
    with linked_over_rails() as linked:
        for rail in range(RAILS):
            hit_in_mid_transfer(linked, "both", rail, ChaosProxy.stall)
            until(lambda rail=rail: linked.path(linked.caller, rail).suspected)
            linked.proxies[rail].stall(on=False)
            until(linked.all_in_use)


def test_the_statistics_tell_which_path_was_used() -> None:
    with linked_over_rails() as linked:
        linked.transfer(linked.caller, linked.answerer)
        until(linked.all_in_use)
        paths = linked.stats(linked.caller).paths
        assert sorted(p.address for p in paths) == sorted(p.address for p in linked.proxies)
        assert sum(path.share for path in paths) == pytest.approx(1.0)
        for path in paths:
            assert path.share > 0.02
            assert path.rtt is not None
            assert path.rtt_min is not None
            assert 0 < path.rtt_min <= path.rtt
        hit_in_mid_transfer(linked, "to the listener", BAD, ChaosProxy.stall)
        before = linked.path(linked.caller, BAD)
        linked.transfer(linked.caller, linked.answerer)
        after = linked.path(linked.caller, BAD)
        assert before.share > after.share > 0
        assert after.suspected
        assert after.last_failure is not None
        linked.proxies[BAD].stall(on=False)
        use_again(linked, "to the listener", BAD)
        assert linked.path(linked.caller, BAD).last_failure == after.last_failure  # remembered
