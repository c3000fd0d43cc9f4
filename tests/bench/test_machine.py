"""The line that says what a figure was measured on."""

from __future__ import annotations

import datetime
import platform

import numpy as np

from bench.machine import describe_machine


def test_the_machine_names_date_processor_and_versions():
    machine = describe_machine()
    assert datetime.datetime.fromisoformat(machine.date).utcoffset() == datetime.timedelta(0)
    assert machine.cores >= 1
    assert machine.versions["numpy"] == np.__version__
    line = machine.line()
    assert "\n" not in line
    for part in (machine.date, machine.cpu, platform.python_version(), f"numpy {np.__version__}"):
        assert part in line
