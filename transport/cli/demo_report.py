"""What the demonstration prints: sections, aligned rows, and checks that can fail."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

COLUMNS: Final = 100
_LABEL: Final = 18  # columns of a row's label


class Report:
    """Prints as it goes, and remembers whether every check held."""

    def __init__(self) -> None:
        self.passed: list[str] = []
        self.failed: list[str] = []
        self._sections = 0

    def text(self, text: str) -> None:
        """Print a paragraph."""
        print(textwrap.fill(text, COLUMNS), flush=True)

    def section(self, title: str) -> None:
        """Begin a section."""
        self._sections += 1
        print(f"\n{self._sections}  {title}", flush=True)

    def row(self, label: str, value: str) -> None:
        """Print one labelled value, wrapped under itself where it is long."""
        lines = textwrap.wrap(value, COLUMNS - _LABEL - 3, break_on_hyphens=False) or [""]
        print(f"   {label:<{_LABEL}}{lines[0]}".rstrip())
        for line in lines[1:]:
            print(f"   {'':<{_LABEL}}{line}")

    def table(self, rows: Sequence[Sequence[str]], numeric: frozenset[int] = frozenset()) -> None:
        """Print rows in columns; the columns in `numeric` are aligned to the right."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [
                cell.rjust(width) if at in numeric else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            print("   " + "  ".join(cells).rstrip())

    def check(self, claim: str, held: bool, otherwise: str = "") -> None:
        """Print a claim with its verdict, and what is known `otherwise`."""
        (self.passed if held else self.failed).append(claim)
        told = f"{claim}: {otherwise}" if otherwise and not held else claim
        lines = textwrap.wrap(told, COLUMNS - 12, break_on_hyphens=False)
        print(f"   {'ok' if held else 'FAILED':<9}{lines[0]}")
        for line in lines[1:]:
            print(f"   {'':<9}{line}", flush=True)

    def conclude(self, seconds: float) -> int:
        """Print the sum of all checks; return the exit status."""
        total = len(self.passed) + len(self.failed)
        verdict = f"{len(self.failed)} of them FAILED" if self.failed else "all of them ok"
        print(f"\n{total} checks in {seconds:.1f} s, {verdict}", flush=True)
        return 0 if self.passed and not self.failed else 1


def size(nbytes: int) -> str:
    """A number of bytes for people: 256 MiB, 3.6 KiB, 8 B."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if nbytes >= unit:
            return f"{nbytes / unit:.4g} {name}"
    return f"{nbytes} B"


def rate(nbytes: int, seconds: float) -> str:
    """Bytes over time, in GB/s of 10^9 bytes."""
    return f"{nbytes / seconds / 1e9:.2f} GB/s"


def duration(seconds: float | None) -> str:
    """A time for people, in milliseconds or microseconds; None is not known yet."""
    if seconds is None:
        return "not known yet"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"
