"""A sender whose peer has given no more credit, and who goes on posting without ever waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic, sleep

import numpy as np
import pytest

from support.nodes import PATIENCE, link, linked, node, until
from support.shared_memory import wait_for_memory
from transport import Config, Node, PeerLostError
from transport.link.express import COALESCE_PACKETS
from transport.node import Work

Works = list[Work[None]]


@pytest.fixture(params=["shared memory", "TCP"])
def spent(request) -> Iterator[tuple[Node, Node, Works]]:
    """Two linked nodes, and the messages of "a" that have spent all credit for "b"."""
    shared = request.param == "shared memory"
    with linked(config=Config(unexpected_bytes=262_144, shared_memory=shared)) as (a, b):
        if shared:
            wait_for_memory(a, b)
        outbox = a._directory.link_to("b")._sender.outbox
        works: Works = []
        while not outbox._waiting:
            works.append(a.isend(np.array([len(works)]), to="b"))
        yield a, b, works


def post(a: Node, number: int, to: str) -> Work[None]:
    """One more message, at a time when the sender may look at what has come."""
    a._engine._glance_at = 0.0
    return a.isend(np.array([number]), to=to)


def go_on_posting(a: Node, until_this: Callable[[], bool], to: str = "b") -> Works:
    """Post until something holds, while nobody but the sender looks at what has come."""
    posted: Works = []
    deadline = monotonic() + PATIENCE
    with a._driver:
        while not until_this():
            assert monotonic() < deadline
            posted.append(post(a, len(posted), to))
            sleep(0)  # the other nodes' threads want the interpreter too
    return posted


def test_credit_that_comes_is_seen_by_who_only_sends(spent) -> None:
    a, b, works = spent
    until(lambda: b.stats().unclaimed_messages >= len(works) - 1)
    taken = [b.irecv(source="a") for _ in works]
    go_on_posting(a, works[-1].done)
    assert [work.wait(PATIENCE)[0] for work in taken] == list(range(len(works)))


def test_every_work_ends_where_the_peer_leaves(spent) -> None:
    a, b, works = spent
    with a._driver:
        b.close(timeout=0.0)
        works += go_on_posting(a, lambda: "b" in a._directory.lost)
    until(lambda: all(work.done() for work in works))
    assert isinstance(works[-1].exception(), PeerLostError)


def test_what_comes_from_others_is_seen_by_who_only_sends() -> None:
    """Its messages leave at once and none of them waits, so nothing else makes it look."""
    config = Config(shared_memory=False)
    with linked(config=config) as (a, b), node("c", config=config) as c:
        link(a, c)
        engine = a._engine
        with a._driver:
            b.send(np.array([7]), to="a", timeout=PATIENCE)
            # Few enough that none waits for company, and so far apart that it comes meanwhile.
            for number in range(COALESCE_PACKETS - 4):
                sleep(0.05)
                engine._neglected_at = 0.0
                post(a, number, "c")
                if a.stats().unclaimed_messages:
                    break
            assert a.stats().unclaimed_messages
        assert a.recv(source="b", timeout=PATIENCE) == [7]
