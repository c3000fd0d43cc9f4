"""After fork: the child may not touch the node, and the parent does not notice."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable

import numpy as np
import pytest

from support.nodes import PATIENCE, link, linked, node, until
from transport import Node, UsageError, Work


def in_child(check: Callable[[], None]) -> None:
    """Run `check` in a forked child; fail here with its traceback if it failed there."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        report = b""
        try:
            check()
        except BaseException:
            report = traceback.format_exc().encode()
        os.write(writer, report[:60_000])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        report = pipe.read()
    os.waitpid(pid, 0)
    assert not report, report.decode()


def refuses(call: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match="fork"):
        call()


def test_every_way_to_use_the_node_is_refused_in_the_child() -> None:
    with linked() as (a, b):
        handle = a.link("b")
        pending: Work[object] = a.irecv(source="b", tag=1)
        finished = a.isend(np.zeros(1), to="b", tag=2)
        finished.wait(PATIENCE)
        large = a.isend(np.zeros(1_000_000), to="b", tag=3)

        def check() -> None:
            refuses(lambda: a.send(np.zeros(1), to="b"))
            refuses(lambda: a.isend(np.zeros(1), to="b"))
            refuses(lambda: a.recv(source="b"))
            refuses(lambda: a.irecv(source="b"))
            refuses(lambda: a.probe())
            refuses(lambda: a.flush())
            refuses(lambda: a.link("b"))
            refuses(lambda: a.connect(b.addresses, peer="b"))
            refuses(lambda: a.wait_for("b"))
            refuses(a.stats)
            refuses(handle.stats)
            refuses(lambda: pending.wait(1))
            refuses(pending.cancel)
            refuses(lambda: large.wait(1))
            refuses(large.cancel)
            refuses(lambda: pending.add_done_callback(lambda: None))
            finished.wait(0)
            a.close()
            repr(a)
            repr(pending)

        in_child(check)
        # The parent's node, its sockets and its keys are as they were.
        b.isend(np.array([1]), to="a", tag=1)
        assert np.asarray(pending.wait(PATIENCE)).tolist() == [1]
        b.recv(tag=2, timeout=PATIENCE)
        assert b.recv(tag=3, timeout=PATIENCE).size == 1_000_000
        large.wait(PATIENCE)
        assert a.link("b").stats().drops == b.link("a").stats().drops == {}


def test_a_child_that_exits_normally_does_not_disturb_the_parent() -> None:
    """Here the interpreter of the child runs its own exit, with a copy of the node in it."""
    with linked() as (a, b):
        for tag in range(3):
            pid = os.fork()
            if pid == 0:
                a.close()
                os._exit(0)
            os.waitpid(pid, 0)
            sending = a.isend(np.full(300_000, tag), to="b", tag=tag)
            assert (b.recv(tag=tag, timeout=PATIENCE) == tag).all()
            sending.wait(PATIENCE)


def test_a_child_may_make_a_node_of_its_own() -> None:
    with node("parent") as parent:

        def check() -> None:
            with node("child") as child:
                child.connect(parent.addresses, peer="parent", timeout=PATIENCE)
                child.send(np.arange(5), to="parent", timeout=PATIENCE)
                child.flush(timeout=PATIENCE)

        in_child(check)
        assert parent.recv(source="child", timeout=PATIENCE).tolist() == [0, 1, 2, 3, 4]


def test_a_child_may_use_inproc_of_its_own() -> None:
    with node("a", listen=("inproc://before-fork",)) as a, node("b") as b:
        link(b, a)

        def check() -> None:
            with (
                node("c", listen=("inproc://before-fork",)) as c,
                node("d") as d,
            ):
                link(d, c)
                d.send(np.zeros(3), to="c", timeout=PATIENCE)
                c.recv(timeout=PATIENCE)

        in_child(check)
        _exchange(a, b)


def _exchange(a: Node, b: Node) -> None:
    a.send(np.ones(2), to=b.name, timeout=PATIENCE)
    assert b.recv(timeout=PATIENCE).tolist() == [1, 1]


def test_a_fork_while_another_thread_holds_the_engine() -> None:
    """The child has the lock but not the thread that would release it: it must not hang."""
    with linked() as (a, b):
        work = b.irecv()
        held: list[None] = []

        def fork_inside() -> None:  # a done-callback runs under the lock
            in_child(lambda: refuses(b.stats))
            in_child(lambda: refuses(lambda: b.recv(timeout=1)))
            held.append(None)

        work.add_done_callback(fork_inside)
        a.send(np.zeros(1), to="b")
        work.wait(PATIENCE)
        until(lambda: held)  # an assertion that fails inside would only be logged
