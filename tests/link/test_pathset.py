"""Paths by index and by handle: proven by a challenge, bound, probed, and never two at once."""

from __future__ import annotations

import pytest

from transport.config import Config
from transport.link.congestion import FixedWindow
from transport.link.drops import STATE, Drop
from transport.link.flight import Flight
from transport.link.paths import PathState
from transport.link.pathset import PathSet
from transport.link.scheduler import Spray
from transport.wire import frames

CONFIG = Config(heartbeat_interval=1.0)


class Spoken:
    """Remembers the frames that were sent over paths."""

    def __init__(self) -> None:
        self.frames: list[tuple[int, frames.Frame]] = []

    def __call__(self, path: PathState, frame: bytes, now: float) -> None:
        path.last_sent = now
        self.frames += [(path.index, each) for each in frames.decode(memoryview(frame))]


def challenges() -> PathSet:
    count = iter(range(1, 100))
    return PathSet(CONFIG, initiator=True, random=lambda size: bytes([next(count)]) * size)


def responder() -> tuple[PathSet, Flight]:
    pathset = PathSet(CONFIG, initiator=False, random=bytes)
    return pathset, Flight(FixedWindow(1000, 10), Spray(1000))


def test_a_path_is_proven_by_its_own_challenge_over_its_own_connection() -> None:
    pathset, spoken = challenges(), Spoken()
    handles = object(), object()
    paths = [pathset.add(handle, "", 0.0) for handle in handles]
    for path in paths:
        pathset.join(path, spoken, 0.0)
    assert spoken.frames == [
        (0, frames.Join(0, b"\x01" * 16)),
        (1, frames.Join(1, b"\x02" * 16)),
    ]
    for frame, handle in (
        (frames.Joined(0, b"\x02" * 16), handles[0]),
        (frames.Joined(0, b"\x01" * 16), handles[1]),
        (frames.Joined(1, b"\x01" * 16), handles[0]),
        (frames.Joined(0, b"\x01" * 16), object()),
    ):
        with pytest.raises(Drop, match=STATE):
            pathset.on_joined(frame, handle)
    assert not any(path.joined for path in paths)
    pathset.on_joined(frames.Joined(0, b"\x01" * 16), handles[0])
    assert [path.joined for path in paths] == [True, False]
    with pytest.raises(Drop, match=STATE):
        pathset.on_joined(frames.Joined(0, b"\x01" * 16), handles[0])


def test_only_the_newest_challenge_counts() -> None:
    pathset, spoken = challenges(), Spoken()
    handle = object()
    path = pathset.add(handle, "", 0.0)
    for _ in range(2):
        pathset.join(path, spoken, 0.0)
    with pytest.raises(Drop):
        pathset.on_joined(frames.Joined(0, b"\x01" * 16), handle)
    pathset.on_joined(frames.Joined(0, b"\x02" * 16), handle)
    assert path.joined


def test_a_handle_leads_to_one_path_and_a_path_over_one_handle() -> None:
    pathset, flight = responder()
    one, other = object(), object()
    assert pathset.bind(0, one, flight, 0.0)
    assert not pathset.bind(0, one, flight, 0.0)
    assert pathset.bind(2, other, flight, 0.0)
    assert [path.usable for path in pathset.all] == [True, False, True]
    assert pathset.bind(2, one, flight, 0.0), "the first path has lost its connection"
    assert pathset.find(one) is pathset.all[2]
    assert pathset.find(other) is None
    assert [path.usable for path in pathset.all] == [False, False, True]
    assert pathset.bind(0, other, flight, 0.0)
    assert [path.usable for path in pathset.all] == [True, False, True]
    assert pathset.find(other) is pathset.all[0]


def test_an_idle_path_is_asked_each_heartbeat_and_a_suspected_one_sooner() -> None:
    pathset, spoken = challenges(), Spoken()
    path = pathset.add(object(), "", 10.0)
    path.joined = True
    assert pathset.due(path, 0.15) == 11.0
    pathset.probe(path, spoken, 11.0)
    assert spoken.frames == [(0, frames.Ping())]
    path.suspect("silent")
    pauses = [pathset.due(path, patience) - path.last_sent for patience in (0.3, 0.6, 1.2)]
    assert pauses == pytest.approx([0.3, 0.6, 1.0])
    path.up = False
    assert pathset.due(path, 0.3) == float("inf")


def test_an_unproven_path_is_challenged_again_by_the_initiator_alone() -> None:
    pathset, spoken = challenges(), Spoken()
    path = pathset.add(object(), "", 10.0)
    assert pathset.due(path, 0.15) == pytest.approx(10.15)
    pathset.probe(path, spoken, 10.15)
    assert spoken.frames == [(0, frames.Join(0, b"\x01" * 16))]
    assert path.suspected
    answering, flight = responder()
    answering.bind(1, object(), flight, 0.0)
    assert answering.due(answering.all[0], 0.15) == float("inf")
