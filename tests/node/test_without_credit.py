"""A sender whose peer has given no more credit, and who goes on posting without ever waiting."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from support.nodes import PATIENCE, linked, until
from support.shared_memory import wait_for_memory
from transport import Config, Node, PeerLostError
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


def post(a: Node, number: int) -> Work[None]:
    """One more message, at a time when the sender looks at what has come."""
    a._engine._glance_at = 0.0
    return a.isend(np.array([number]), to="b")


def test_credit_that_comes_is_seen_by_who_only_sends(spent) -> None:
    a, b, works = spent
    for number in range(len(works)):
        assert b.recv(source="a", timeout=PATIENCE) == [number]
    until(lambda: post(a, 0).done())
    for work in works:
        work.wait(PATIENCE)


def test_every_work_ends_where_the_peer_leaves(spent) -> None:
    a, b, works = spent
    with a._driver:  # nobody but the sender looks
        b.close(timeout=0.0)
        while "b" not in a._directory.lost:
            works.append(post(a, len(works)))
    until(lambda: all(work.done() for work in works))
    assert isinstance(works[-1].exception(), PeerLostError)
