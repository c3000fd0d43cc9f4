"""The reference names everything public of the simulator."""

from __future__ import annotations

import dataclasses
import re

import pytest

import transport.sim
from support.markdown import names, read, table
from transport.sim import FlowResult, PortResult, Result, Series, Simulation, Topology
from transport.sim.faults import Fault

TEXT = read("docs/reference/sim.md")


@pytest.mark.parametrize("name", transport.sim.__all__)
def test_public_names_are_in_the_reference(name):
    assert re.search(rf"\b{name}\b", TEXT)


def public(kind):
    """Fields and properties of a class, or the methods of one that is no value."""
    fields = {field.name for field in dataclasses.fields(kind)}
    return fields | {name for name in vars(kind) if not name.startswith("_")}


@pytest.mark.parametrize("kind", [Result, FlowResult, PortResult, Series])
def test_what_a_run_found_is_listed(kind):
    rows = table(TEXT, f"`{kind.__name__}`", "meaning")
    listed = {name.partition("(")[0] for row in rows for name in names(row[0])}
    assert listed == public(kind)


@pytest.mark.parametrize("name", ["blackhole", "degrade", "impair"])
def test_faults_are_listed(name):
    assert callable(getattr(Fault, name))
    assert f"`Fault.{name}(" in TEXT


def test_the_rest_is_mentioned():
    assert {"hosts", "switches", "cables", "routing", "overhead", "ports"} == public(Topology)
    assert all(re.search(rf"\b{name}\b", TEXT) for name in public(Topology))
    assert "`simulation.run(" in TEXT
    assert callable(Simulation.run)
