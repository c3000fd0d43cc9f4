"""The one exception of the benchmarks."""

from __future__ import annotations


class BenchError(Exception):
    """A measurement could not be made; the message says which, by whom and why."""
