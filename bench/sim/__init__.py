"""Experiments on the simulated fabric: what ships, the TCP-like control, and the ideal.

An `Experiment` is a frozen value whose fields are its parameters; `cases(seed)` builds
topologies, flows and faults of it, `runner` runs each of them under each policy, and
`report` and `plot` show what came out. Everything happens in virtual time and follows
from parameters and seed, so a table can be printed again to the last digit. Its figures
are a model's: no network was measured.
"""

from __future__ import annotations
