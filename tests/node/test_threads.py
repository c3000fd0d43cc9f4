"""Several threads at one node: everything arrives, and nobody waits for nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from support.nodes import PATIENCE, link, linked, node, together
from transport import Node, TransportTimeoutError, Work

THREADS = 4
MESSAGES = 200


def size_of(number: int) -> int:
    return (10, 1000, 50_000, 3, 200_000)[number % 5] // 8 + 1


def test_four_threads_send_and_receive_both_ways() -> None:
    with linked() as (a, b):

        def converse(own: Node, peer: Node, thread: int) -> None:
            tag = 10 * thread + (own is a)
            answer_tag = 10 * thread + (own is b)
            for number in range(MESSAGES):
                size = size_of(number + thread)
                sending = own.isend(np.full(size, number), to=peer.name, tag=tag)
                received = own.recv(source=peer.name, tag=answer_tag, timeout=PATIENCE)
                assert len(received) == size
                assert received[0] == received[-1] == number
                sending.wait(PATIENCE)

        together(
            *(
                partial(converse, own, peer, thread)
                for own, peer in ((a, b), (b, a))
                for thread in range(THREADS)
            )
        )
        assert a.stats().unclaimed_messages == b.stats().unclaimed_messages == 0


def test_threads_share_one_tag_and_nothing_comes_twice() -> None:
    with linked() as (a, b):
        taken: list[int] = []

        def send(base: int) -> None:
            for number in range(MESSAGES):
                a.send(np.array([base + number]), to="b", tag=1, timeout=PATIENCE)

        def receive() -> None:
            for _ in range(MESSAGES):
                taken.append(int(b.recv(tag=1, timeout=PATIENCE)[0]))

        together(*(partial(send, 1000 * k) for k in range(3)), receive, receive, receive)
        assert sorted(taken) == sorted(1000 * k + n for k in range(3) for n in range(MESSAGES))


def test_one_thread_waits_in_vain_while_another_completes_thousands() -> None:
    with linked() as (a, b):
        done = threading.Event()

        def wait_in_vain() -> int:
            timeouts = 0
            while not done.is_set():
                with pytest.raises(TransportTimeoutError):
                    b.recv(source="a", tag=99, timeout=0.02)
                timeouts += 1
            return timeouts

        def wait_once_for_long() -> None:
            with pytest.raises(TransportTimeoutError):
                b.recv(source="a", tag=98, timeout=1.0)

        def send() -> None:
            for number in range(3000):
                a.send(np.array([number]), to="b", tag=1, timeout=PATIENCE)

        def receive() -> None:
            for number in range(3000):
                assert b.recv(source="a", tag=1, timeout=PATIENCE)[0] == number
            done.set()

        results = together(wait_in_vain, wait_once_for_long, receive, send)
        assert isinstance(results[0], int)
        assert results[0] > 0


def test_work_of_one_thread_is_waited_for_in_another() -> None:
    with linked() as (a, b):
        works: list[Work[object]] = [b.irecv(source="a", tag=tag) for tag in range(100)]

        def send() -> None:
            for tag in reversed(range(100)):
                a.send(np.full(5000, tag), to="b", tag=tag, timeout=PATIENCE)

        waits: list[Callable[[], object]] = [
            lambda part=part: [work.wait(PATIENCE) for work in works[part::4]]  # type: ignore[misc]
            for part in range(4)
        ]
        together(*waits, send)
        assert all(work.done() for work in works)


def test_flush_waits_for_what_this_node_sent_and_nothing_else() -> None:
    with node("hub") as hub, node("x") as x, node("y") as y:
        link(hub, x)
        link(hub, y)
        for _ in range(50):
            hub.isend(np.zeros(1000), to="x")
        stuck = hub.isend(np.zeros(1_000_000), to="y")  # nobody receives it
        hub.flush("x", timeout=PATIENCE)
        assert x.stats().unclaimed_messages == 50
        with pytest.raises(TransportTimeoutError, match="flush to 'y'"):
            hub.flush(timeout=0.05)

        def receive() -> None:
            y.recv(timeout=PATIENCE)

        together(partial(hub.flush, timeout=PATIENCE), receive)
        assert stuck.done()
        hub.flush(timeout=0)
