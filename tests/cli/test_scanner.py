"""The search finds plaintext at every alignment, and nothing where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transport.cli.scanner import RUN_SIZE, WireIndex, entropy_bits
from transport.errors import UsageError


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 9), st.integers(0, 5))
@example(0, 0, 0, 0)
def test_a_run_of_sixteen_bytes_is_found_at_every_alignment(before, after, start, split):
    data = noise(RUN_SIZE + 9 + after, seed=1)
    wire = np.concatenate([noise(before, 2), data[start : start + RUN_SIZE], noise(split, 3)])
    match = WireIndex([noise(100, 4), wire]).find_run(data)
    assert match is not None
    assert match.stream == 1
    assert match.found in data.tobytes()
    assert match.found == wire[match.offset : match.offset + RUN_SIZE].tobytes()


@given(st.integers(1, 40), st.integers(1, 9))
def test_a_run_of_fifteen_bytes_is_not_reported(before, start):
    data = noise(RUN_SIZE + 10, seed=1)
    end = start + RUN_SIZE - 1
    wire = np.concatenate([noise(before, 2), data[start:end], noise(40, 3)])
    wire[before - 1] = ~data[start - 1]
    wire[before + end - start] = ~data[end]
    assert WireIndex([wire]).find_run(data) is None


@given(
    st.lists(st.lists(st.integers(0, 1), max_size=80), max_size=3),
    st.lists(st.integers(0, 1), max_size=60),
)
def test_the_search_agrees_with_a_plain_one(streams, data):
    runs = {bytes(data[at : at + RUN_SIZE]) for at in range(len(data) - RUN_SIZE + 1)}
    expected = any(run in bytes(stream) for stream in streams for run in runs)
    index = WireIndex([np.array(stream, np.uint8) for stream in streams])
    match = index.find_run(np.array(data, np.uint8))
    assert (match is not None) is expected
    if match is not None:
        assert match.found in runs
        found_at = bytes(streams[match.stream])[match.offset : match.offset + RUN_SIZE]
        assert found_at == match.found


def test_a_single_run_is_found_in_the_last_bytes_of_a_large_tensor():
    data = noise(9_000_001, seed=5)
    wire = np.concatenate([noise(5_000_003, 6), data[-RUN_SIZE:], noise(77, 7)])
    match = WireIndex([wire]).find_run(data)
    assert match is not None
    assert match.offset == 5_000_003


def test_shared_words_without_a_shared_run_are_not_reported():
    word = np.arange(1, 9, dtype=np.uint8)
    wire = np.concatenate([np.concatenate([word, noise(8, seed)]) for seed in range(500)])
    data = np.concatenate([np.concatenate([word, noise(8, seed)]) for seed in range(500, 900)])
    assert WireIndex([wire]).find_run(data) is None


@pytest.mark.parametrize("text", [b"x", b"tag-text", b"fourteen bytes", b"a name of twenty bytes"])
@pytest.mark.parametrize("before", range(9))
def test_text_of_any_length_is_found_and_only_in_full(text, before):
    quiet = np.zeros(50, np.uint8)
    wire = np.concatenate([quiet[:before], np.frombuffer(text, np.uint8), quiet])
    index = WireIndex([quiet, wire])
    match = index.find_text(text)
    assert match is not None
    assert (match.stream, match.offset, match.found) == (1, before, text)
    assert index.find_text(text + b"!") is None


def test_empty_streams_and_short_data_hold_nothing():
    assert WireIndex([]).find_run(noise(64)) is None
    assert WireIndex([noise(0), noise(7)]).find_run(noise(64)) is None
    assert WireIndex([noise(64)]).find_run(noise(64)[: RUN_SIZE - 1]) is None


def test_a_run_too_short_for_the_index_is_refused():
    with pytest.raises(UsageError, match="at least 15"):
        WireIndex([noise(64)]).find_run(noise(64), run=14)


def test_entropy_is_that_of_the_bytes():
    assert entropy_bits([]) == 0.0
    assert entropy_bits([np.zeros(1000, np.uint8)]) == 0.0
    assert entropy_bits([np.arange(256, dtype=np.uint8)]) == pytest.approx(8.0)
    assert entropy_bits([np.zeros(10, np.uint8), np.ones(10, np.uint8)]) == pytest.approx(1.0)
