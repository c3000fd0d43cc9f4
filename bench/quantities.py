"""Sizes, rates and times as people write them."""

from __future__ import annotations

from .errors import BenchError

_BINARY = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Return bytes from `65536`, `64KiB`, `1 MiB` or `4GiB`.

    Raises:
        BenchError: it is not a whole, positive number of bytes in those units.
    """
    digits = text.strip().rstrip("BbIiKkMmGg ").strip()
    unit = text.strip()[len(digits) :].strip().upper()
    if not digits.isdecimal() or unit not in _BINARY or int(digits) == 0:
        raise BenchError(f"{text!r} is not a size such as 64KiB, 1MiB or 4GiB")
    return int(digits) * _BINARY[unit]


def format_size(nbytes: int) -> str:
    """Return bytes in the largest binary unit that divides them."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if nbytes >= factor and nbytes % factor == 0:
            return f"{nbytes // factor} {unit}"
    return f"{nbytes} B"


def display_unit(unit: str, typical: float) -> tuple[str, float]:
    """Return the unit to print values in, and what to divide them by."""
    if unit == "bytes/s":
        return ("GB/s", 1e9) if typical >= 1e8 else ("MB/s", 1e6)
    if unit == "messages/s":
        return "1000 messages/s", 1e3
    if unit == "cores":
        return "% of a core", 1e-2
    if typical >= 1e-3:
        return "ms", 1e-3
    return "µs", 1e-6
