"""The trace's digest: what was noted, in order, however it was cut into blocks."""

from __future__ import annotations

from array import array
from hashlib import sha256

from hypothesis import given
from hypothesis import strategies as st

from transport.sim.trace import BLOCK, Trace

NUMBERS = st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=40)


@given(NUMBERS, st.integers(0, 40))
def test_the_digest_is_that_of_all_numbers(numbers, cut):
    trace = Trace()
    trace.note(*numbers[:cut])
    trace.flush()
    trace.note(*numbers[cut:])
    assert trace.digest() == sha256(array("q", numbers)).hexdigest()


def test_what_was_hashed_takes_no_memory():
    trace, reference = Trace(), sha256()
    for start in range(0, 3 * BLOCK, BLOCK):
        block = array("q", range(start, start + BLOCK))
        trace.note(*block)
        reference.update(block)
        trace.flush()
        assert len(trace.numbers) == 0
    assert trace.digest() == reference.hexdigest()
