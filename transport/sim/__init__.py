"""A deterministic network simulator whose hosts run the very links that nodes run.

Virtual time, a seed, and real `Link` objects with real sealing: what is measured
here is the shipped code under a modelled network. A figure from it is a model's
figure. Same seed, same run, event for event; docs/reference/sim.md is the API.

    topology    what a network is made of, and the usual ones
    faults      what goes wrong on a line, and when
    policy      what links do about congestion, paths and credit
    simulation  one run
    result      what it found
    ledger      what was to be sent, and the proof that it arrived
    invariants  what must hold in every run
    events      virtual time; trace: its digest
    port        queue and line; fabric: all ports, and the ways through them
    host        network cards, endpoints, links
    sampler     queues and rates over time
"""

from ..path.fault import Faults
from .faults import Fault
from .invariants import InvariantError
from .ledger import Flow
from .policy import FABRIC, HostView, Policy, fixed, srd, tcp_like
from .result import FlowResult, PortResult, Result, Series, UnfinishedError
from .routing import Routes
from .simulation import Simulation
from .topology import GBIT, Cable, Routing, Topology, fat_tree, leaf_spine, star, wide_area

__all__ = [
    "FABRIC",
    "GBIT",
    "Cable",
    "Fault",
    "Faults",
    "Flow",
    "FlowResult",
    "HostView",
    "InvariantError",
    "Policy",
    "PortResult",
    "Result",
    "Routes",
    "Routing",
    "Series",
    "Simulation",
    "Topology",
    "UnfinishedError",
    "fat_tree",
    "fixed",
    "leaf_spine",
    "srd",
    "star",
    "tcp_like",
    "wide_area",
]
