"""Whom a rank calls, when, and when it gives up: real nodes, and ranks that never answer."""

from __future__ import annotations

import socket
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from support.groups import error_of, grouped, on_all
from support.nodes import node
from transport import Group, PeerLostError
from transport.collectives.meeting import CALLS, Meeting


@contextmanager
def silent_ranks(count):
    """Addresses that accept connections and never say anything, with what was accepted."""
    with ExitStack() as stack:
        listeners = {}
        for number in range(1, count + 1):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=64))
            listener.settimeout(0.0)
            listeners[f"n{number}"] = listener
        yield listeners


def members_of(own, listeners):
    return {own.name: own.addresses} | {
        name: f"tcp://127.0.0.1:{listener.getsockname()[1]}" for name, listener in listeners.items()
    }


def was_called(listener):
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize(("others", "called"), [(12, CALLS), (4, 2), (1, 1)])
def test_the_next_ones_are_called_first_and_only_a_few_at_a_time(others, called):
    """Those in the farther half of the circle have this rank in their nearer one, and call."""
    with silent_ranks(others) as listeners, node("n0") as own:
        with Group(own, members_of(own, listeners), connect_timeout=1.0) as group:
            error = error_of(lambda: group.all_to_all(np.arange(others + 1)))
        assert isinstance(error, PeerLostError)
        assert "rank 1 ('n1') cannot be reached" in str(error)
        names = [name for name, listener in listeners.items() if was_called(listener)]
        assert names == [f"n{number}" for number in range(1, called + 1)]


def test_who_has_failed_to_reach_one_calls_the_others_no_longer():
    with (
        silent_ranks(2) as listeners,
        node("n0") as own,
        Group(own, members_of(own, listeners), connect_timeout=0.5) as group,
    ):
        assert isinstance(error_of(group.barrier), PeerLostError)
        assert not any(own._directory.call_to(name) for name in listeners)


def test_all_pairs_are_linked_at_once():
    with grouped(9) as groups:
        sent = [np.arange(9) + 100 * rank for rank in range(9)]
        got = on_all(groups, lambda group: group.all_to_all(sent[group.rank]).tolist())
        assert got == [[100 * each + rank for each in range(9)] for rank in range(9)]
        assert all(len(group.node.stats().links) == 8 for group in groups)


class Answered:
    """A call that is answered at a time."""

    def __init__(self, clock, at):
        self.done = lambda: clock.now >= at

    def exception(self):
        return None


class Timetable:
    """Ranks that are linked at given times, to be waited for in virtual time."""

    failure = None
    rank = 0

    def __init__(self, times):
        self.now = 0.0
        self.size = len(times) + 1
        self.names = tuple(f"n{rank}" for rank in range(self.size))
        self._times = dict(zip(self.names[1:], times, strict=True))
        self._linked = set()
        self.channel = self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def check(self):
        pass

    def pump(self):
        pass

    addresses = ()  # all have to call, so all are waited for from the start

    def addresses_of(self, rank):
        return self.addresses

    def note_link(self, rank):
        return self.now >= self._times[self.names[rank]]

    def connect(self, addresses, name):
        return Answered(self, self._times[name])

    def give_up(self, work, name, after):
        return PeerLostError(f"{name} after {after}")

    def wait(self, what, timeout):
        ends = [each for each in self._times.values() if self.now < each <= self.now + timeout]
        self.now = min(ends, default=self.now + timeout)
        return what.done()


@pytest.mark.parametrize(
    ("times", "unmet", "ended"),
    [
        ([1, 2, 3], None, 3),
        ([9, 18, 27], None, 27),  # patience begins anew with each rank that is linked
        ([9, 20, 27], (2, "n2 after 10"), 19),
        ([9, 18, 27, 36], (4, "n4 after 10"), 30),  # no more than all may take
        ([99], (1, "n1 after 10"), 10),
    ],
)
def test_patience_begins_anew_with_each_rank_that_is_linked(monkeypatch, times, unmet, ended):
    timetable = Timetable(times)
    monkeypatch.setattr("transport.collectives.meeting.monotonic", lambda: timetable.now)
    result = Meeting(timetable, range(1, timetable.size)).hold(10, 30)
    assert (result and (result[0], str(result[1]))) == unmet
    assert timetable.now == ended


def test_who_calls_before_its_turn_is_noted_and_renews_patience(monkeypatch):
    """Four of the nearer half are called and late; of the farther half, one calls meanwhile."""
    timetable = Timetable([15, 15, 15, 15, 15, 40, 8, 40, 40])
    timetable.addresses = ("somewhere",)
    monkeypatch.setattr("transport.collectives.meeting.monotonic", lambda: timetable.now)
    assert Meeting(timetable, range(1, 10)).hold(10, 30)[0] == 6
    assert timetable.now == 25


def test_who_has_no_address_calls_all_as_its_turn_comes():
    """The others wait for it from the start, also those of its farther half."""
    timetable = Timetable([99, 99, 99])
    timetable.addresses_of = lambda rank: ("somewhere",) if rank else ()
    assert asked(timetable) == ["n1", "n2", "n3"]
    timetable.addresses_of = lambda rank: ("somewhere",)
    assert asked(timetable) == ["n1", "n2"]


def asked(timetable):
    """Whom a rank calls in the beginning."""
    names = []
    connect = Timetable.connect

    def noted(addresses, name):
        names.append(name)
        return connect(timetable, addresses, name)

    timetable.connect = noted
    Meeting(timetable, range(1, timetable.size)).hold(0, 0)
    return names


def test_all_together_may_not_take_longer_than_the_operation():
    with silent_ranks(1) as listeners, node("n0") as own:
        with Group(own, members_of(own, listeners), connect_timeout=60.0) as group:
            error = error_of(lambda: group.barrier(timeout=0.5))
        assert isinstance(error, PeerLostError)
        assert "in 0.5 s" in str(error)
