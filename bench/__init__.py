"""Measurements of Sealfabric beside the transports that people use today.

`p2p` runs two processes a peer and `collectives` one a rank, and both interleave the peers
round by round, so that every ratio comes from one run on one machine in one state.
`footprint` measures memory and import time. `sim` computes instead of measuring: it
runs links on a simulated fabric beside a TCP-like control. Nothing here is imported by the
library itself; torch, mpi4py and matplotlib are imported only inside the functions
that need them.
"""

from __future__ import annotations
