"""The invariants fire: each is broken by a faulty part put into a whole run."""

from __future__ import annotations

import pytest

from transport.link import Link, MessageArrived, MessagePlaced
from transport.link.congestion import FixedWindow
from transport.link.credit import CreditPool
from transport.sim import Flow, HostView, InvariantError, Policy, Simulation, fixed, srd, star
from transport.sim import endpoint as endpoint_module
from transport.sim.invariants import Nonces, check_conservation, check_credit, check_window
from transport.sim.port import Port, Traffic
from transport.wire.packet import (
    BULK_HEADER,
    FIRST_BULK,
    FIRST_FRAMES,
    FIRST_PAIR,
    FRAMES_HEADER,
    split_pair,
)

LARGE = Flow("h0", "h1", 100_000)
SMALL = Flow("h0", "h1", 1_000)


def run(flow=LARGE, policy=None):
    return Simulation(star(2), policy=policy or fixed(paths=2)).run([flow], deadline=0.1)


def run_with(monkeypatch, link_class, flow=LARGE):
    monkeypatch.setattr(endpoint_module, "Link", link_class)
    return run(flow)


def test_without_a_faulty_part_nothing_fires():
    for flow in (LARGE, SMALL):
        for policy in (fixed(paths=2), srd(paths=2)):
            assert run(flow, policy).unfinished == ()


# --- 1: delivered once, whole, right ----------------------------------------------------


def test_wrong_bytes_are_found(monkeypatch):
    class Scribbler(Link):
        """Damages the last byte of each piece that it places."""

        destination = None

        def accept(self, message, destination):
            self.destination = destination
            return super().accept(message, destination)

        def receive_packet(self, handle, packet, now):
            super().receive_packet(handle, packet, now)
            if packet[0] == FIRST_BULK and self.destination is not None:
                offset = BULK_HEADER.unpack_from(packet)[6]
                self.destination[offset] ^= 1

    with pytest.raises(InvariantError, match="not those that were sent"):
        run_with(monkeypatch, Scribbler)


def test_wrong_bytes_of_small_messages_are_found(monkeypatch):
    class Scribbler(Link):
        def poll_event(self):
            event = super().poll_event()
            if isinstance(event, MessageArrived):
                event.message.payload = bytes(len(event.message.payload))
            return event

    with pytest.raises(InvariantError, match="not those that were sent"):
        run_with(monkeypatch, Scribbler, SMALL)


class Stammerer(Link):
    """Tells of each message twice."""

    last = None

    def poll_event(self):
        if self.last is not None:
            event, self.last = self.last, None
            return event
        event = super().poll_event()
        if isinstance(event, (MessageArrived, MessagePlaced)):
            self.last = event
        return event


@pytest.mark.parametrize("flow", [LARGE, SMALL])
def test_a_second_delivery_is_found(monkeypatch, flow):
    with pytest.raises(InvariantError, match=r"which nobody awaits|delivered twice"):
        run_with(monkeypatch, Stammerer, Flow(flow.src, flow.dst, flow.size, count=2))


def test_an_early_delivery_is_found(monkeypatch):
    class Hasty(Link):
        """Says that a message is whole when it was only accepted."""

        def accept(self, message, destination):
            self._early = MessagePlaced(message)
            return super().accept(message, destination)

        def poll_event(self):
            early, self._early = getattr(self, "_early", None), None
            return early or super().poll_event()

    with pytest.raises(InvariantError, match="delivered with 0 of 100000 bytes"):
        run_with(monkeypatch, Hasty)


def test_a_message_that_is_given_up_is_found(monkeypatch):
    class Decliner(Link):
        def accept(self, message, destination):
            self.decline(message)

    with pytest.raises(InvariantError, match="says that a message was given up"):
        run_with(monkeypatch, Decliner)


# --- 2: windows ---------------------------------------------------------------------------


class Lavish(FixedWindow):
    """Admits whatever is asked."""

    def admits(self, size, in_flight_bytes, in_flight_packets):
        return True


def test_a_window_that_is_not_kept_is_found():
    policy = fixed(paths=2, window_bytes=20_000)
    lavish = Policy(
        name="lavish",
        controller=lambda view: Lavish(view.config.window_bytes, view.config.window_packets),
        scheduler=policy.scheduler,
        overrides=policy.overrides,
    )
    assert run(policy=policy).unfinished == ()
    with pytest.raises(InvariantError, match="the window allowed 20000"):
        run(policy=lavish)


def test_one_packet_is_always_allowed():
    few = {"packets": 2, "most": 2}
    check_window("a link", before=0, in_flight=9000, window=100, **few)
    check_window("a link", before=50, in_flight=100, window=100, **few)
    with pytest.raises(InvariantError, match="101 bytes in flight"):
        check_window("a link", before=50, in_flight=101, window=100, **few)


def test_too_many_packets_are_found():
    policy = fixed(paths=2, window_packets=8)
    lavish = Policy(
        name="lavish",
        controller=lambda view: Lavish(1 << 20, view.config.window_packets),
        scheduler=policy.scheduler,
        overrides=policy.overrides,
    )
    assert run(policy=policy).unfinished == ()
    with pytest.raises(InvariantError, match="9 packets in flight, allowed are 8"):
        run(policy=lavish)


# --- 3: credit ------------------------------------------------------------------------------


class Leaky(CreditPool):
    """Forgets a byte."""

    @property
    def outstanding(self):
        return super().outstanding + 1


def test_credit_that_leaks_is_found():
    leaky = Policy(
        name="leaky",
        controller=srd().controller,
        scheduler=srd().scheduler,
        credit=lambda view: Leaky(view.config),
    )
    with pytest.raises(InvariantError, match="counts 1 bytes as granted and not received"):
        run(policy=leaky)


def test_bytes_that_were_not_granted_are_found(monkeypatch):
    class Generous(Link):
        """Takes what it has not granted, as if the count of it had been lost."""

        def accept(self, message, destination):
            self._message = message
            return super().accept(message, destination)

        def receive_packet(self, handle, packet, now):
            super().receive_packet(handle, packet, now)
            if packet[0] == FIRST_BULK:
                self._message.granted = 10

    with pytest.raises(InvariantError, match="took bytes that it had not granted"):
        run_with(monkeypatch, Generous)


def test_what_is_granted_is_compared_with_what_is_lacking():
    check_credit("a pool", counted=7, granted=7, limit=7)
    with pytest.raises(InvariantError, match=r"a pool counts 7 bytes .* lack 8"):
        check_credit("a pool", counted=7, granted=8, limit=9)


class Overdrawn(CreditPool):
    """Grants more than it says that it may."""

    granting = False

    @property
    def limit(self):
        return 1 << 20 if self.granting else 100

    def changed(self, account):
        self.granting = True
        super().changed(account)
        self.granting = False


def test_credit_that_exceeds_its_limit_is_found():
    overdrawn = Policy(
        name="overdrawn",
        controller=srd().controller,
        scheduler=srd().scheduler,
        credit=lambda view: Overdrawn(view.config),
    )
    # The first message is whole while the second still lacks most of its first grant.
    flows = [Flow("h0", "h1", 10_000), Flow("h0", "h1", 1_000_000)]
    simulation = Simulation(star(2), policy=overdrawn)
    with pytest.raises(InvariantError, match=r"has granted \d+ bytes ahead, at most 6400"):
        simulation.run(flows, deadline=0.1)


# --- 4: conservation --------------------------------------------------------------------------


def test_a_packet_that_vanishes_is_found(monkeypatch):
    def swallow(self, time, packet, cause):
        """Drops without counting."""

    monkeypatch.setattr(Port, "drop", swallow)
    crowd = [Flow(f"h{index}", "h3", 500_000) for index in range(3)]
    simulation = Simulation(star(4, buffer=20_000), policy=fixed(paths=2))
    with pytest.raises(InvariantError, match=r"are on their way, but \d+ are"):
        simulation.run(crowd, deadline=0.01, strict=False)


def test_conservation_is_arithmetic():
    traffic = Traffic()
    traffic.sent, traffic.duplicated, traffic.delivered, traffic.dropped = 10, 2, 5, 3
    check_conservation(traffic, 4)
    with pytest.raises(InvariantError, match="so 4 are on their way, but 3 are"):
        check_conservation(traffic, 3)


# --- 5: nonces ----------------------------------------------------------------------------------


class Repeater(Link):
    """Gives every packet of frames the number of the first one."""

    first = None

    def poll_transmit(self, now):
        transmit = super().poll_transmit(now)
        if transmit is None or transmit.data[0] != FIRST_FRAMES:
            return transmit
        data = bytearray(transmit.data)
        if self.first is None:
            self.first = data[8:16]
        data[8:16] = self.first
        return transmit._replace(data=data)


def test_a_repeated_number_is_found(monkeypatch):
    with pytest.raises(InvariantError, match=r"used packet number \d+ .* two different packets"):
        run_with(monkeypatch, Repeater)


class PairRepeater(Link):
    """Gives every piece that follows its announcement at once the number of the first one."""

    first = None

    def poll_transmit(self, now):
        transmit = super().poll_transmit(now)
        if transmit is None or transmit.data[0] != FIRST_PAIR:
            return transmit
        data = bytearray(transmit.data)
        _, piece = split_pair(memoryview(data))
        if self.first is None:
            self.first = bytes(piece[8:16])
        piece[8:16] = self.first
        return transmit._replace(data=data)


def test_a_repeated_number_in_a_pair_is_found(monkeypatch):
    with pytest.raises(InvariantError, match=r"used packet number \d+ .* two different packets"):
        run_with(monkeypatch, PairRepeater, Flow("h0", "h1", 6_000, count=20))


def packet(number, tag, epoch=0, generation=0):
    header = FRAMES_HEADER.pack(FIRST_FRAMES, generation, epoch, 7, number)
    return header + bytes([tag]) * 16


def test_numbers_may_come_late_and_again_but_not_with_another_tag():
    nonces = Nonces("a to b")
    for number, tag in ((5, 1), (6, 2), (9, 3), (7, 4), (5, 1), (7, 4), (9, 3)):
        nonces.check(packet(number, tag))
    for epoch, generation in ((1, 0), (0, 1), (1, 1)):
        nonces.check(packet(5, 9, epoch, generation))
    for number, tag in ((6, 3), (7, 5), (9, 4)):
        with pytest.raises(InvariantError, match=f"a to b used packet number {number}"):
            nonces.check(packet(number, tag))
    with pytest.raises(InvariantError, match="packet 4 of generation 0, epoch 0, after"):
        nonces.check(packet(4, 1))


# --- 6: time ----------------------------------------------------------------------------------


def test_a_link_that_stands_still_is_found(monkeypatch):
    class Impatient(Link):
        def next_timeout(self):
            return 0.0

        def handle_timeout(self, now):
            pass

    with pytest.raises(InvariantError, match=r"wants to be called at .* again and again"):
        run_with(monkeypatch, Impatient)


def test_a_policy_is_told_its_host():
    seen: list[HostView] = []

    def controller(view):
        seen.append(view)
        return FixedWindow(view.config.window_bytes, view.config.window_packets)

    policy = Policy(name="seeing", controller=controller, scheduler=fixed().scheduler)
    Simulation(star(2, rate=25e9), policy=policy).run([SMALL], deadline=0.1)
    assert [view.rate for view in seen] == [25e9, 25e9]
    assert len({view.random.random() for view in seen}) == 2
