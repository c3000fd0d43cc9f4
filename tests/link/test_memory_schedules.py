"""Whatever happens to memory and network, and when: each message arrives once, and nothing stays.

Hypothesis draws what happens: messages of every kind, memory agreed on at any time, a
process that does not run, packets that do not open, ends of the memory, cuts of the network,
fresh keys.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.memory_pair import MemoryPair
from support.side import Side
from transport.config import KIB, Config
from transport.crypto.seal import KeyLimits
from transport.link import State
from transport.path.base import Buffer

PATHS = 2
PIECE = 4 * KIB
SLOTS = 2
SMALL = Config(
    packet_payload=PIECE,
    eager_limit=1 * KIB,
    window_bytes=32 * KIB,
    unexpected_bytes=64 * KIB,
    shared_payload=PIECE,
    shared_slots=SLOTS,
)
SIZES = (0, 100, KIB, KIB + 1, PIECE, PIECE + 1, 9 * PIECE)
SIDES = ("client", "server")
LIMITS = KeyLimits(soft_packets=24, hard_packets=400)  # so that keys change all the time
MOMENTS = (15e-6, 25e-6, 50e-6, 0.2e-3, 1e-3, 2.1e-3, 0.05, 0.25)
"""How long time may pass; all of a schedule is less than the peer's patience."""

sides = st.sampled_from(SIDES)
EVENTS = st.one_of(
    st.tuples(st.just("send"), sides, st.sampled_from(SIZES)),
    st.tuples(st.just("express"), sides, st.sampled_from(SIZES[1:5])),
    st.tuples(st.just("pass"), st.just(""), st.integers(0, 5)),
    st.tuples(st.just("pass"), st.just(""), st.integers(0, len(MOMENTS) - 1)),
    st.tuples(
        st.sampled_from(["freeze", "thaw", "fail", "harm", "up", "renew"]), sides, st.just(0)
    ),
    st.tuples(st.sampled_from(["cut", "restore"]), st.just(""), st.integers(0, PATHS - 1)),
    st.tuples(st.just("agree"), st.just(""), st.just(0)),
)


class Run:
    """A pair, what was done to it, and what must be true in the end."""

    def __init__(self, agreed: int) -> None:
        self.pair = MemoryPair(paths=PATHS, config=SMALL, join=False, limits=LIMITS)
        self.agreed = 0
        for _ in range(agreed):
            self.agree()
        self.sent: dict[str, list[bytes]] = {name: [] for name in SIDES}
        self.cuts: set[int] = set()
        self.harmless = True

    def side(self, name: str) -> Side:
        return self.pair.client if name == "client" else self.pair.server

    def agree(self) -> None:
        """One more step towards memory in use; none where it has ended already."""
        steps = (self.pair.offer, self.pair.challenge)
        if self.agreed < len(steps) and self.pair.ends[SIDES[1 - self.agreed]].fault is None:
            steps[self.agreed]()
            self.agreed += 1

    def payload(self, name: str, size: int) -> bytes:
        made = random.Random(len(self.sent[name])).randbytes(size)
        self.sent[name].append(made)
        return made

    def harm(self, name: str) -> None:
        """The next packet that this side takes out of memory does not open."""
        end = self.pair.ends[name]

        def flip(packet: Buffer) -> Buffer:
            end.alter = None
            changed = bytearray(packet)
            changed[len(changed) // 2] ^= 1
            return changed

        end.alter = flip

    def cut(self, path: int) -> None:
        if path not in self.cuts:
            self.cuts.add(path)
            self.pair.cut(path)

    def restore(self, path: int) -> None:
        if path in self.cuts:
            self.cuts.remove(path)
            self.pair.restore(path)

    def do(self, what: str, name: str, number: int) -> None:
        pair = self.pair
        self.harmless &= what not in ("fail", "harm", "cut")
        if what == "send":
            self.side(name).send(self.payload(name, number))
        elif what == "express":
            payload = self.payload(name, number)
            if not pair.express(self.side(name), payload):
                self.side(name).send(payload)
        elif what == "pass":
            pair.run(MOMENTS[number])
        elif what in ("cut", "restore"):
            (self.cut if what == "cut" else self.restore)(number)
        elif what == "agree":
            self.agree()
        elif what == "up":
            self.side(name).link.path_up(pair.ends[name], pair.now)
        elif what == "harm":
            self.harm(name)
        elif what == "renew":
            self.side(name).link.renew(pair.now)
        else:
            {"freeze": pair.freeze, "thaw": pair.thaw, "fail": pair.fail}[what](name)

    def end(self, closer: str) -> None:
        """All hindrances end; then so does the link, when everything has arrived."""
        pair = self.pair
        for path in range(PATHS):
            self.restore(path)
        for name in SIDES:
            pair.ends[name].alter = None
            pair.thaw(name)
        pair.settle()
        for side in pair.sides:
            expected = self.sent[pair.other(side.name).name]
            assert side.order == list(range(len(expected)))
            assert Counter(side.payloads) == Counter(expected)
            if self.harmless:
                assert side.stats().retransmissions == 0
                assert side.stats().drops == {}
        # What memory held is given back, or goes with it; what is joined serves on.
        if not any(end.fault for end in pair.ends.values()):
            pair.run(1.0)
            assert [end.free_slots() for end in pair.ends.values()] == [SLOTS, SLOTS]
            assert pair.joined is (self.agreed == 2)
        else:
            pair.advance(until=lambda: all(end.fault for end in pair.ends.values()), limit=30.0)
            assert not any(path.usable for s in pair.sides for path in s.link.paths if path.slots)
        self.side(closer).link.close()
        pair.advance(until=lambda: all(side.failed for side in pair.sides), limit=30.0)
        for side in pair.sides:
            assert side.link.state is State.CLOSED
            assert side.in_flight == 0


@settings(max_examples=150)
@given(agreed=st.integers(0, 2), events=st.lists(EVENTS, max_size=25), closer=sides)
def test_any_schedule(agreed: int, events: list[tuple[str, str, int]], closer: str) -> None:
    run = Run(agreed)
    for event in events:
        run.do(*event)
    run.end(closer)


INPUTS = {
    "a message": [("send", 100)],
    "a pair": [("send", PIECE)],
    "a large message": [("send", 9 * PIECE)],
    "a message at one go": [("express", 100)],
    "it does not run": [("freeze", 0), ("send", 9 * PIECE), ("pass", 7)],
    "memory ends": [("fail", 0)],
    "a packet does not open": [("harm", 0)],
    "memory is called up": [("up", 0)],
    "memory ends and is called up": [("fail", 0), ("up", 0), ("pass", 7)],
    "the network is cut": [("cut", 0), ("cut", 1), ("pass", 7)],
}
BEFORE = {
    "no memory": 0,
    "offered": 1,
    "challenged": 2,
    "joined": 3,
    "full": 4,
    "lost": 5,
}


@pytest.mark.parametrize("name", SIDES)
@pytest.mark.parametrize("given_input", INPUTS)
@pytest.mark.parametrize("before", BEFORE)
def test_every_input_in_every_state(before: str, given_input: str, name: str) -> None:
    run = Run(min(BEFORE[before], 2))
    if BEFORE[before] >= 3:
        run.pair.advance(until=lambda: run.pair.joined)
    if before == "full":
        for each in SIDES:
            run.do("freeze", each, 0)
            for size in (9 * PIECE, *[KIB] * 20):
                run.do("send", each, size)
        run.pair.run(MOMENTS[-2])
    if before == "lost":
        run.do("fail", "client", 0)
        run.pair.run(MOMENTS[-2])
    for what, number in INPUTS[given_input]:
        run.do(what, name, number)
    for each in SIDES:
        run.do("send", each, PIECE + 1)
        run.do("send", each, 10)
    run.end(name)
