"""Flows and the proof of delivery: bad flows are refused, wrong deliveries are found out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import UsageError
from transport.sim import Flow, InvariantError
from transport.sim.ledger import MESSAGE_LIMIT, Ledger


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"dst": "h0"}, "flow h0>h0 leads from an endpoint to itself"),
        ({"dst": "h0/1"}, "does not leave its host"),
        ({"src": "h1/1", "dst": "h1/2"}, "does not leave its host"),
        ({"size": 0}, "size of 1 to 1073741824, got 0"),
        ({"size": -5}, "got -5"),
        ({"size": MESSAGE_LIMIT + 1}, "got 1073741825"),
        ({"size": 1e6}, "got 1000000.0"),
        ({"count": 0}, "count of 1 or more, got 0"),
        ({"start": -1.0}, "start at 0 s or later, got -1.0"),
        ({"start": float("inf")}, "got inf"),
        ({"start": float("nan")}, "got nan"),
        ({"name": "mine", "size": 0}, "flow mine must"),
    ],
)
def test_flows_that_make_no_sense_are_refused(changes, text):
    with pytest.raises(UsageError, match=text):
        Flow(**{"src": "h0", "dst": "h1", "size": 1000, **changes})


def ledger_of(*sizes, count=1):
    ledger = Ledger([Flow("h0", "h1", size, count=count) for size in sizes], seed=1)
    for state in ledger.states:
        state.posted = count
    return ledger


def expect(ledger, tag=0, number=0, **changes):
    size = ledger.states[0].flow.size
    return ledger.expect(tag, number, **{"size": size, "src": "h0", "dst": "h1", **changes})


@given(st.data())
def test_a_message_is_complete_with_all_its_bytes_in_any_order(data):
    size = data.draw(st.integers(1, 5000))
    ledger = ledger_of(size)
    incoming = expect(ledger)
    content = ledger.content(ledger.states[0], 0)
    cuts = sorted({0, size, *data.draw(st.lists(st.integers(0, size), max_size=8))})
    pieces = list(itertools.pairwise(cuts))
    for start, end in data.draw(st.permutations(pieces)):
        assert ledger.unfinished == 1
        incoming.verify(start, memoryview(bytes(content[start:end])))
    ledger.complete(incoming, 17)
    assert ledger.unfinished == 0
    assert ledger.states[0].end == 17
    assert ledger.states[0].received == size


@given(st.integers(0, 999), st.integers(0, 7))
def test_one_wrong_bit_is_found(at, bit):
    ledger = ledger_of(1000)
    content = bytearray(ledger.content(ledger.states[0], 0))
    content[at] ^= 1 << bit
    with pytest.raises(InvariantError, match="bytes 0 to 1000 of message 0 of flow h0>h1"):
        expect(ledger).verify(0, memoryview(content))


def test_bytes_in_the_wrong_place_are_found():
    ledger = ledger_of(1000)
    content = ledger.content(ledger.states[0], 0)
    with pytest.raises(InvariantError, match=r"bytes 1 to 501 .* not those that were sent"):
        expect(ledger).verify(1, content[0:500])


def test_messages_and_flows_differ():
    ledger = ledger_of(4096, 4096, count=3)
    contents = {bytes(ledger.content(state, n)) for state in ledger.states for n in range(3)}
    assert len(contents) == 6


def test_a_message_with_a_gap_is_not_whole():
    ledger = ledger_of(1000)
    incoming = expect(ledger)
    incoming.verify(0, ledger.content(ledger.states[0], 0)[:999])
    with pytest.raises(InvariantError, match="delivered with 999 of 1000 bytes"):
        ledger.complete(incoming, 5)


def test_a_message_is_delivered_once():
    ledger = ledger_of(10, count=2)
    for _ in range(2):
        incoming = expect(ledger, number=1)
        incoming.verify(0, ledger.content(ledger.states[0], 1))
        if incoming.state.undelivered == 2:
            ledger.complete(incoming, 5)
    with pytest.raises(InvariantError, match="message 1 of flow h0>h1 was delivered twice"):
        ledger.complete(incoming, 6)


@pytest.mark.parametrize(
    "changes",
    [
        {"tag": 1},
        {"number": 1},
        {"size": 11},
        {"src": "h2"},
        {"dst": "h0"},
    ],
)
def test_a_message_that_nobody_sent_is_found_out(changes):
    with pytest.raises(InvariantError, match="which was never sent"):
        expect(ledger_of(10), **changes)


def test_flows_of_one_pair_have_names_of_their_own():
    ledger = Ledger([Flow("a", "b", 1), Flow("a", "b", 1), Flow("a", "b", 1, name="x")], seed=1)
    assert [state.name for state in ledger.states] == ["a>b", "a>b#2", "x"]
