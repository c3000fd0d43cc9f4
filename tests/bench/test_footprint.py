"""Resident memory and import time, measured small."""

from __future__ import annotations

import pytest

from bench.errors import BenchError
from bench.footprint import measure_import_time, measure_rss
from bench.peers.worker import peak_resident


def test_memory_is_measured_in_both_processes():
    nbytes = 32 * 2**20
    rss = measure_rss(nbytes, peer="pyzmq", deadline=30.0)
    assert rss["nbytes"] == nbytes
    for role in ("sender", "receiver"):
        own = rss[role]
        assert own["with_tensor"] >= nbytes
        assert 0 < own["idle"] <= own["with_tensor"] <= own["peak"]


def test_a_message_that_cannot_fit_is_refused_before_it_is_made():
    with pytest.raises(BenchError, match="free memory"):
        measure_rss(2**60, peer="pyzmq")


def test_import_times_are_compared():
    timing = measure_import_time(2, "import json", "import socket, ssl")
    assert timing["rounds"] == 2
    assert {"import json", "import socket, ssl"} <= set(timing["statements"])
    assert timing["ratio"]["median"] > 0
    assert timing["ratio_in_use"]["median"] > 0


def test_an_import_that_fails_is_named():
    with pytest.raises(BenchError, match="no_such_module"):
        measure_import_time(1, "import no_such_module", "import json")


def test_the_peak_of_this_process_is_plausible():
    assert 2**22 < peak_resident() < 2**40
