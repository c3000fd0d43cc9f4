"""Getting off a core: onto another one, seldom, and without a trace; and when that is wanted."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from time import monotonic

import pytest

from support.memory_channels import with_peer
from support.nodes import PATIENCE
from support.shared_memory_peer import HERE, sealer
from support.surroundings import refusing, skip_unless_it_works
from transport.path.cores import HELPED, LONGEST_PAUSE, PAUSE, Cores, cores, current
from transport.path.shared_memory.doorbell import Bell, PeerBell

several = pytest.mark.skipif(len(os.sched_getaffinity(0)) == 1, reason="only one core is allowed")


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_core_is_one_of_those_allowed() -> None:
    assert current() in os.sched_getaffinity(0)


@several
def test_a_thread_moves_and_may_still_run_everywhere() -> None:
    allowed = os.sched_getaffinity(0)
    done: list[bool] = []

    def move() -> None:
        # With the core forbidden for good, it can only be another one afterwards.
        here = min(allowed)
        os.sched_setaffinity(0, {here})
        os.sched_setaffinity(0, allowed)
        mover = Cores()
        done.append(mover.leave() and mover.moves == 1)
        done.append(os.sched_getaffinity(0) == allowed)

    thread = threading.Thread(target=move)
    thread.start()
    thread.join()
    assert done == [True, True]
    assert os.sched_getaffinity(0) == allowed


@several
def test_moves_keep_apart_and_the_more_so_the_less_they_help() -> None:
    clock = Clock()
    mover = Cores(clock)
    assert mover.leave()
    assert not mover.leave(), "it has just moved"
    pauses = []
    for _ in range(8):
        begun = clock.now
        while not mover.leave():
            clock.now += PAUSE / 4
        pauses.append(clock.now - begun)
    assert pauses == sorted(pauses)
    assert pauses[0] < 2 * PAUSE
    assert LONGEST_PAUSE <= pauses[-1] < LONGEST_PAUSE + PAUSE
    clock.now += (HELPED + 1) * LONGEST_PAUSE
    assert mover.leave()
    clock.now += 1.5 * PAUSE
    assert mover.leave(), "the last one did help, so the pause is short again"


def test_who_may_run_on_one_core_only_stays_there() -> None:
    moved: list[bool] = []

    def stay() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        moved.append(Cores().leave())

    thread = threading.Thread(target=stay)
    thread.start()
    thread.join()
    assert moved == [False]


_MOVES = """
from transport.path.cores import FORBIDDEN, Cores
now = 0.0
mover = Cores(lambda: now)
print(mover.leave())
now = FORBIDDEN / 2
print(mover.leave(), mover.moves)
"""


def test_where_that_is_forbidden_nobody_moves() -> None:
    """A sandbox may refuse the call; it was a hint, and is not even asked for again soon."""
    command = refusing("sched_setaffinity")
    skip_unless_it_works(command)
    done = subprocess.run(
        [*command, sys.executable, "-c", _MOVES],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stdout.split() == ["False", "False", "0"], done.stderr


def test_the_bell_tells_from_which_core_it_was_rung() -> None:
    bell, cores_before = Bell(), os.sched_getaffinity(0)
    ringer = PeerBell(os.getpid(), bell.offered)
    try:
        for core in cores_before:
            os.sched_setaffinity(0, {core})
            ringer.ring()
            assert bell.quiet()
            assert bell.rung_from == core & 255
    finally:
        os.sched_setaffinity(0, cores_before)
        ringer.close()
        bell.close()


@several
def test_of_two_on_one_core_one_leaves_it() -> None:
    allowed, begun = os.sched_getaffinity(0), cores.moves
    first = {min(allowed)}
    try:
        os.sched_setaffinity(0, first)  # the peer inherits it
        with with_peer("echo asleep") as (channel, peer):
            if peer.process.pid < os.getpid():
                pytest.skip("process numbers have begun anew: the peer is to leave")
            outgoing, end = sealer(HERE), monotonic() + PATIENCE
            while cores.moves == begun:
                assert monotonic() < end
                assert channel.lie_down()
                channel.send(outgoing.seal_frames(b"x")[1], stable=False)
                select.select([channel.descriptor], [], [], PATIENCE)
                os.sched_setaffinity(0, first)  # where the peer is
                os.sched_setaffinity(0, allowed)
                channel.get_up()
                assert len(list(channel.receive(10, signalled=True))) == 1
    finally:
        os.sched_setaffinity(0, allowed)
