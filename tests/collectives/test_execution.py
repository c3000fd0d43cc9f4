"""The execution of a schedule: order, windows, headers, and what it does not trust."""

from __future__ import annotations

import numpy as np

from transport.collectives.execution import Area, Execution
from transport.collectives.scratch import Scratch
from transport.collectives.steps import Buffer, block, combine, place, schedule, send
from transport.collectives.tuning import Tuning

WORK = Buffer.WORK


class Port:
    """Remembers what is asked of it; the test answers."""

    def __init__(self):
        self.sent, self.openings, self.wanted, self.short = [], [], [], []

    def send(self, peer, data, then, *, opening):
        self.sent.append((peer, bytes(data), then, opening))

    def opened(self, peer, size, then):
        self.openings.append((peer, size, then))

    def receive(self, peer, into, then):
        self.wanted.append((peer, into, then))

    def cut_short(self, peer):
        self.short.append(peer)

    def open(self, data=b""):
        """Answer the oldest opening; its memory is gone right afterwards."""
        _, size, then = self.openings.pop(0)
        assert size == len(data)
        passing = bytearray(data)
        then(memoryview(passing))
        passing[:] = bytes(len(passing))

    def deliver(self, data):
        """Answer the oldest receive."""
        _, into, then = self.wanted.pop(0)
        into[: len(data)] = data
        then(len(data))


def begin(steps, array, **tuning):
    port, finished = Port(), []

    def add(left, right, out, final):
        views = [np.frombuffer(each, array.dtype) for each in (left, right, out)]
        np.add(views[0], views[1], out=views[2])

    execution = Execution(
        schedule(steps, blocks=1),
        {WORK: Area(array.view(np.uint8).data, (0, array.nbytes))},
        add,
        port,
        lambda: finished.append(True),
        scratch=Scratch(),
        tuning=Tuning(**{"piece": 8, "inline": 0, "ahead": 2, **tuning}),
        itemsize=1,
    )
    execution.start()
    return execution, port, finished


def lengths(port):
    return [len(data) for _, data, _, _ in port.sent]


def test_a_small_first_piece_travels_with_the_opening():
    array = np.arange(8, dtype=np.uint8)
    _, port, finished = begin([send(1, block(WORK, 0))], array, inline=8)
    ((peer, data, then, opening),) = port.sent
    assert (peer, data, opening) == (1, array.tobytes(), True)
    assert not finished
    then()
    assert finished == [True]


def test_a_large_tensor_is_sent_in_pieces_with_few_under_way():
    array = np.arange(30, dtype=np.uint8)
    _, port, finished = begin([send(1, block(WORK, 0))], array)
    assert lengths(port) == [0, 8, 8]
    assert [opening for _, _, _, opening in port.sent] == [True, False, False]
    port.sent[1][2]()
    assert lengths(port) == [0, 8, 8, 8]
    for _, _, then, _ in port.sent[2:]:
        then()
    assert lengths(port) == [0, 8, 8, 8, 6]
    port.sent[-1][2]()
    assert finished == [True]
    assert b"".join(data for _, data, _, _ in port.sent[1:]) == array.tobytes()


def test_a_piece_is_sent_on_when_it_has_come():
    array = np.zeros(24, np.uint8)
    _, port, finished = begin([place(0, block(WORK, 0)), send(2, block(WORK, 0))], array)
    assert lengths(port) == [0]
    port.open()
    port.deliver(b"firstone")
    assert [data for _, data, _, _ in port.sent[1:]] == [b"firstone"]
    port.deliver(b"secondon")
    port.deliver(b"thirdone")
    for _, _, then, _ in list(port.sent[1:]):
        then()
    port.sent[-1][2]()
    assert finished == [True]
    assert array.tobytes() == b"firstonesecondonthirdone"


def test_a_place_is_not_overwritten_while_it_is_being_sent():
    array = np.arange(8, dtype=np.uint8)
    steps = [
        send(1, block(WORK, 0)),
        combine(1, block(WORK, 0), block(WORK, 0), received_first=True),
    ]
    _, port, finished = begin(steps, array, inline=8)
    port.open(bytes([1] * 8))
    assert array.tolist() == list(range(8)), "our own bytes are still on their way"
    port.sent[0][2]()
    assert array.tolist() == [value + 1 for value in range(8)]
    assert finished == [True]


def test_a_short_piece_ends_it():
    array = np.zeros(16, np.uint8)
    _, port, finished = begin([place(1, block(WORK, 0))], array)
    port.open()
    port.deliver(b"short")
    assert port.short == [1]
    assert not finished


def test_it_says_whom_it_waits_for():
    array = np.zeros(8, np.uint8)
    execution, port, _ = begin([place(3, block(WORK, 0)), send(2, block(WORK, 0))], array, inline=8)
    assert execution.waiting_for() == (3,)
    assert execution.expects(3)
    assert not execution.expects(2)
    port.open(bytes(8))
    assert execution.waiting_for() == ()


def test_once_stopped_it_does_nothing_more():
    array = np.zeros(8, np.uint8)
    execution, port, finished = begin([send(1, block(WORK, 0))], array, inline=8)
    execution.stop()
    port.sent[0][2]()
    assert not finished
