"""Policies: what each is made of, and whose settings win."""

from __future__ import annotations

import random

import pytest

from transport.config import Config
from transport.errors import UsageError
from transport.link.bottleneck import BottleneckWindow
from transport.link.congestion import FixedWindow
from transport.link.credit import CreditPool
from transport.link.scheduler import Spray
from transport.link.tcp import CubicWindow, HashedPath
from transport.sim import FABRIC, GBIT, Flow, HostView, Simulation, fixed, srd, star, tcp_like


def parts(policy):
    config = policy.config(FABRIC)
    view = HostView(config=config, rate=100 * GBIT, random=random.Random(1))
    credit = policy.credit(view) if policy.credit else None
    return tuple(map(type, (policy.controller(view), policy.scheduler(view), credit)))


def test_what_ships_and_what_it_is_compared_with():
    assert parts(srd()) == (BottleneckWindow, Spray, CreditPool)
    assert parts(tcp_like()) == (CubicWindow, HashedPath, type(None))
    assert parts(fixed()) == (FixedWindow, Spray, type(None))


def test_the_control_has_one_path_and_the_minimum_time_out_of_linux():
    config = tcp_like().config(FABRIC)
    assert (config.paths, config.retransmit_min) == (1, 0.2)
    assert config.packet_payload == FABRIC.packet_payload
    assert tcp_like(retransmit_min=0.001).config(FABRIC).retransmit_min == 0.001


def test_overrides_win_over_the_settings_of_the_run():
    base = Config(paths=3, packet_payload=4096)
    config = srd(paths=7).config(base)
    assert (config.paths, config.packet_payload) == (7, 4096)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match=r"Config\.window_packets"):
        Simulation(star(2), policy=fixed(window_packets=0))


def test_each_link_has_parts_of_its_own():
    made = []

    def controller(view):
        made.append(FixedWindow(view.config.window_bytes, view.config.window_packets))
        return made[-1]

    policy = fixed(paths=1)
    own = type(policy)(name="own", controller=controller, scheduler=policy.scheduler)
    flows = [Flow("h0", "h1", 10), Flow("h0", "h2", 10), Flow("h1", "h0", 10)]
    Simulation(star(3), policy=own).run(flows, deadline=1.0)
    assert len({id(each) for each in made}) == len(made) == 4  # two links of two sides
