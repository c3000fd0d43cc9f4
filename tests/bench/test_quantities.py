"""Sizes and units as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.quantities import display_unit, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("65536", 65536),
        ("64B", 64),
        ("64KiB", 65536),
        (" 1 MiB ", 2**20),
        ("256mib", 2**28),
        ("4GiB", 2**32),
    ],
)
def test_sizes_parse(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "0", "KiB", "-1", "1.5MiB", "1 TiB", "1 MB", "one"])
def test_other_sizes_are_refused(text):
    with pytest.raises(BenchError, match="not a size"):
        parse_size(text)


@given(st.integers(1, 2**44))
def test_a_formatted_size_parses_to_itself(nbytes):
    assert parse_size(format_size(nbytes)) == nbytes


def test_units():
    assert display_unit("bytes/s", 5e9) == ("GB/s", 1e9)
    assert display_unit("bytes/s", 5e6) == ("MB/s", 1e6)
    assert display_unit("messages/s", 5e4) == ("1000 messages/s", 1e3)
    assert display_unit("cores", 0.5) == ("% of a core", 1e-2)
    assert display_unit("s", 70e-6) == ("µs", 1e-6)
    assert display_unit("s", 2e-3) == ("ms", 1e-3)
