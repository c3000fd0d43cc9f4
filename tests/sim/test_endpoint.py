"""Endpoints: calls are answered and repeated, and each end of a link is driven as it asks."""

from __future__ import annotations

import random

from transport.identity import Trust
from transport.link import Link, State
from transport.link.drops import BAD_HELLO, UNKNOWN_LINK
from transport.sim import FABRIC, GBIT, Fault, Faults, Flow, Simulation, fixed, srd, star
from transport.sim import endpoint as endpoint_module
from transport.sim.endpoint import Endpoint
from transport.sim.events import SECOND, Events
from transport.sim.fabric import Fabric
from transport.sim.host import Host, Wire
from transport.sim.ledger import Ledger


class Pair:
    """Two endpoints on a star, without a `Simulation` around them."""

    def __init__(self, secrets=(b"s" * 32, b"s" * 32)):
        self.events = Events()
        fabric = Fabric(star(2), seed=1, events=self.events)
        policy = fixed(paths=2)
        self.completed = 0
        ledger = Ledger([Flow("h0", "h1", 100)], seed=1)
        self.a, self.b = (
            Endpoint(
                name,
                Host(name, fabric.uplink(name), self.events, 66),
                config=policy.config(FABRIC),
                policy=policy,
                ledger=ledger,
                trust=Trust(secret=secret),
                chance=random.Random(name),
                on_complete=self._complete,
            )
            for name, secret in zip(("h0", "h1"), secrets, strict=True)
        )
        self.wires = []
        for index in range(2):
            there = [port.accept for port in fabric.way("h0", "h1", index)]
            back = [port.accept for port in fabric.way("h1", "h0", index)]
            near = Wire(self.a, f"there {index}", [*there, self.b.host.deliver])
            far = Wire(self.b, f"back {index}", [*back, self.a.host.deliver])
            near.twin, far.twin = far, near
            self.wires.append(near)

    def _complete(self):
        self.completed += 1


def test_a_call_is_answered_and_all_paths_join():
    pair = Pair()
    end = pair.a.call(0, "h1", pair.wires)
    assert end.link.state is State.HANDSHAKING
    pair.events.run(SECOND // 1000)
    assert end.established
    other = pair.b.ends["h0"]
    assert other.established
    assert other.link.state is end.link.state is State.OPEN
    assert all(path.usable for path in end.link.paths)
    assert [path.handle for path in other.link.paths] == [wire.twin for wire in pair.wires]


def test_a_caller_without_the_secret_is_not_answered():
    pair = Pair(secrets=(b"s" * 32, b"t" * 32))
    end = pair.a.call(0, "h1", pair.wires)
    pair.events.run(SECOND)
    assert not end.established
    assert pair.b.drops[BAD_HELLO] >= 2  # it was repeated
    assert pair.b.links == {}


def test_packets_of_no_link_are_counted():
    pair = Pair()
    pair.a.call(0, "h1", pair.wires)
    pair.events.run(SECOND // 1000)
    pair.b.links.clear()
    pair.events.run(3 * SECOND)  # heartbeats come
    assert pair.b.drops[UNKNOWN_LINK] > 0


def test_handshakes_that_a_crowd_loses_are_repeated():
    """Forty hosts call one over a slow line with a short queue, so many calls are dropped."""
    callers = [Flow(f"h{index}", "h40", 100) for index in range(40)]
    simulation = Simulation(star(41, rate=GBIT, buffer=19_000), policy=fixed(paths=1), seed=2)
    result = simulation.run(callers, deadline=1.0)
    assert result.drops["buffer"] > 0
    assert result.setup > FABRIC.handshake_retry
    assert result.unfinished == ()


def test_damaged_headers_lead_to_no_link():
    faults = [Fault.impair("h0>s0", Faults(corruption=1.0), until=300e-6)]
    simulation = Simulation(star(2), policy=fixed(paths=2), seed=2, faults=faults)
    result = simulation.run([Flow("h0", "h1", 2_000_000)], deadline=5.0)
    assert result.flows[0].received == 2_000_000
    ((_, answerer),) = result.links.values()
    assert answerer.drops["authentication"] > 0
    assert set(result.strays) <= {"unknown_link", "malformed", "bad_hello"}


def test_links_are_called_when_they_ask_and_not_before(monkeypatch):
    late: list[float] = []
    early: list[float] = []

    class Watched(Link):
        def handle_timeout(self, now):
            due = self.next_timeout()
            (late if now - due > 2e-12 else early if now < due else []).append(now - due)
            super().handle_timeout(now)

    monkeypatch.setattr(endpoint_module, "Link", Watched)
    flows = [Flow("h0", "h1", 500_000, start=3.5), Flow("h1", "h0", 100)]
    Simulation(star(2), policy=srd(paths=2), seed=3).run(flows, deadline=5.0)
    assert late == early == []


def test_what_several_messages_of_a_flow_hold_is_bounded(monkeypatch):
    most = 0

    class Watched(Link):
        held = 0

        def send(self, data, description, *, context, tag):
            nonlocal most
            message = super().send(data, description, context=context, tag=tag)
            self.held += 1
            most = max(most, self.held)
            return message

        def poll_event(self):
            event = super().poll_event()
            if type(event).__name__ == "MessageSealed":
                self.held -= 1
            return event

    monkeypatch.setattr(endpoint_module, "Link", Watched)
    flow = Flow("h0", "h1", 50_000, count=20)
    result = Simulation(star(2), policy=srd(paths=2), seed=3).run([flow], deadline=5.0)
    assert result.flows[0].delivered == 20
    assert most == 2
